"""`molmo2 quantize` as its users meet it: sizes and figures, or one clear line and no folder."""

import json

import pytest

from molmo2_ros.cli.main import main
from molmo2_ros.runtime.engine import NANO, load_engine
from molmo2_ros.runtime.engine_store import EngineStore
from molmo2_ros.runtime.manifest import Manifest

FEW = ("--scenes", "2", "--threads", "1")


def test_accuracy_before_and_after_is_printed_and_kept(tmp_path, capsys):
    out = tmp_path / "out"
    assert main(["quantize", "nano", str(out), "--scheme", "int8", *FEW]) == 0
    printed = capsys.readouterr().out
    assert printed.startswith(f"{out}: molmo2-nano int8, ")
    facts = Manifest.load(out).accuracy
    assert (facts.scenes, facts.seed, facts.largest_drop) == (2, 0, 0.02)
    assert facts.before.keys() == facts.after.keys()
    assert {"pointing_f1", "tracking_f1", "counting_exact"} <= facts.before.keys()
    lines = {line.split()[0]: line.split()[1:] for line in printed.splitlines()[2:]}
    assert lines["pointing_f1"] == [
        f"{side['pointing_f1']:.3f}" for side in (facts.before, facts.after)
    ]
    assert load_engine(out, threads=1).manifest.name == "molmo2-nano int8"


def test_without_accuracy_the_manifest_says_null(tmp_path, capsys):
    out = tmp_path / "out"
    assert main(["quantize", "nano", str(out), "--no-accuracy", "--threads", "1"]) == 0
    assert "accuracy: not measured" in capsys.readouterr().out
    assert json.loads((out / "manifest.json").read_text())["accuracy"] is None


def test_an_installed_engine_is_quantised_by_its_name(tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("MOLMO2_ROS_ENGINES", str(tmp_path / "store"))
    EngineStore().install(NANO, "mine")
    out = tmp_path / "out"
    assert main(["quantize", "mine", str(out), "--no-accuracy", "--threads", "1"]) == 0
    assert "molmo2-nano int4" in capsys.readouterr().out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere", "out"], "no manifest.json in nowhere"),
        (["nano", "out", "--scheme", "int5"], "scheme is 'int5', expected one of"),
        (
            ["nano", "out", "--scheme", "nvfp4", "--for", "tensorrt", "--device-arch", "orin"],
            "orin",
        ),
        (["nano", "out", "--scenes", "0"], "0 scenes and a largest drop of 0.02, expected"),
        (["nano", "out", "--largest-drop", "2"], "expected one scene at least and a share in 0..1"),
    ],
)
def test_bad_input_ends_with_one_clear_line(tmp_path, monkeypatch, capsys, arguments, message):
    monkeypatch.chdir(tmp_path)
    assert main(["quantize", *arguments]) == 2
    error = capsys.readouterr().err
    assert error.startswith("molmo2 quantize: error: ")
    assert message in error
    assert len(error.splitlines()) == 1
    assert list(tmp_path.iterdir()) == []

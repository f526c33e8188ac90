"""`molmo2 doctor` as its users meet it: this machine, engines that cannot run, and plans."""

import json
import re
import shutil

import onnxruntime
import pytest

from molmo2_ros.cli.main import main
from molmo2_ros.runtime.engine import NANO


@pytest.fixture
def run(capsys):
    """Exit code, standard output, standard error of a command."""

    def run_command(*arguments):
        code = main(["doctor", *map(str, arguments)])
        captured = capsys.readouterr()
        return code, captured.out, captured.err

    return run_command


def test_this_machine_runs_the_shipped_engine(run):
    code, out, _ = run("--engine", NANO)
    lines = out.splitlines()
    assert (code == 0) is lines[-1].endswith(" 0 fail")
    told = [line for line in lines if re.match(r"\w+ +engine", line)]
    assert [line.split()[:2] for line in told] == [
        ["ok", "engine"],
        ["ok", "engine.runtime"],
        ["ok", "engine.memory"],
    ]
    assert onnxruntime.__version__ in told[1]
    for cure in (line for line in lines if "->" in line):
        assert lines[lines.index(cure) - 1].startswith(("warn", "fail"))


def test_programs_read_the_same_as_json(run):
    code, out, _ = run("--json", "--engine", NANO)
    told = json.loads(out)
    assert told["can_run"] is (code == 0)
    assert set(told) == {"can_run", "checks", "memory", "machine"}
    names = [check["name"] for check in told["checks"]]
    assert len(names) == len(set(names))
    assert {"system", "gpu", "python", "onnxruntime", "disk", "engine"} <= set(names)
    assert all(set(check) == {"name", "state", "found", "cure"} for check in told["checks"])
    assert {need["model"] for need in told["memory"]} >= {"Molmo2-4B", "molmo2-nano"}
    assert told["machine"]["onnxruntime"]["package"]["version"] == onnxruntime.__version__


def test_an_engine_that_cannot_run_ends_with_code_1(run, tmp_path):
    folder = tmp_path / "engine"
    shutil.copytree(NANO, folder, ignore=shutil.ignore_patterns("checkpoint"))
    (folder / "vision.onnx").unlink()
    code, out, _ = run("--engine", folder)
    assert code == 1
    assert "vision.onnx is missing" in out
    code, out, _ = run("--json", "--engine", tmp_path / "nowhere")
    assert code == 1
    assert json.loads(out)["can_run"] is False


def test_a_plan_says_that_it_is_computed(run):
    code, out, _ = run("--plan", "Molmo2-4B", "--device", "agx-orin", "--precision", "int4")
    assert code == 0
    assert out.startswith(
        "Molmo2-4B in int4 on Jetson AGX Orin 64GB: computed from bytes and arithmetic, not meas"
    )
    (prefill,) = [line for line in out.splitlines() if line.startswith("prefill, 724 tokens")]
    assert prefill.split()[-5:] == ["5.571", "2.76", "131", "arithmetic", "312"]
    assert "135 ms in 10 passes" in out
    assert "fits" in out


def test_a_plan_as_json_has_seconds_and_bytes(run):
    arguments = ("--frames", 16, "--answer-tokens", 50, "--verify-tokens", 6, "--json")
    code, out, _ = run("--plan", "Molmo2-8B", "--device", "agx-thor", *arguments)
    told = json.loads(out)
    assert code == 0
    assert told["label"] == "computed from bytes and arithmetic, not measured"
    assert told["workload"] == {
        "frames": 16,
        "prompt_tokens": 16 * 83 + 60,
        "cached_tokens": 16 * 83 + 60 + 25,
        "answer_tokens": 50,
        "verify_tokens": 6,
        "verify_passes": 10,
    }
    assert list(told["stages"]) == ["vision", "connector", "prefill", "token", "verify"]
    token = told["stages"]["token"]
    assert token["bound_s"] == pytest.approx(token["bytes"] / 273e9)
    assert told["answer_s"]["plain"] == pytest.approx(50 * token["bound_s"])
    assert told["memory"]["fits"] is True


def test_a_plan_of_an_engine_folder_takes_its_own_precision(run):
    code, out, err = run("--plan", NANO, "--device", "orin-nano")
    assert (code, err) == (0, "")
    assert out.startswith("molmo2-nano in float32 on Jetson Orin Nano 8GB")
    assert "prefill, 364 tokens" in out  # eight frames of 36 tokens with two markers, 60 of text


def test_a_model_that_does_not_fit_is_planned_and_said_not_to_fit(run):
    code, out, err = run("--plan", "Molmo2-8B", "--device", "orin-nano")
    assert code == 0
    assert "does not fit" in out
    assert err == "note: Molmo2-8B does not fit into Jetson Orin Nano 8GB\n"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--plan", "Molmo3", "--device", "h100"], "'Molmo3' is no known model and no folder"),
        (["--plan", "Molmo2-4B"], "--plan needs --device, one of orin-nano, orin-nx, agx-orin"),
        (
            ["--plan", "Molmo2-4B", "--device", "xavier"],
            "'xavier' is no known device, expected one",
        ),
        (
            ["--plan", "Molmo2-4B", "--device", "h100", "--precision", "int2"],
            "'int2' is no known precision, expected one of",
        ),
        (
            ["--plan", "Molmo2-4B", "--device", "h100", "--frames", "0"],
            "frames is 0, expected at least 1",
        ),
        (["--device", "h100"], "--device belongs to --plan, which is missing"),
        (["--verify-tokens", "4"], "--verify-tokens belongs to --plan, which is missing"),
    ],
)
def test_bad_input_ends_with_one_line_and_code_2(run, arguments, message):
    code, out, err = run(*arguments)
    assert (code, out) == (2, "")
    assert err.startswith("molmo2 doctor: error: ")
    assert message in err
    assert len(err.splitlines()) == 1

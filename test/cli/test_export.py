"""`molmo2 export` as its users meet it."""

import builtins

import pytest

from molmo2_ros.cli.main import main
from molmo2_ros.runtime.engine import NANO, load_engine
from molmo2_ros.runtime.golden import verify_golden


def test_export_turns_the_shipped_checkpoint_into_an_engine(tmp_path, capsys):
    out = tmp_path / "engine"
    assert main(["export", str(NANO / "checkpoint"), str(out), "--license", "Apache-2.0"]) == 0
    assert capsys.readouterr().out.startswith(f"{out}: checkpoint, fused, opset 23, float32, ")
    engine = load_engine(out, threads=1)
    assert verify_golden(engine) < 1e-3
    assert engine.manifest.source.license == "Apache-2.0"


def test_bad_input_is_one_clear_line(tmp_path, capsys):
    assert main(["export", str(tmp_path / "nothing"), str(tmp_path / "engine")]) == 2
    error = capsys.readouterr().err
    assert error.startswith("molmo2 export: error: ")
    assert "config.json is missing; give a complete Hugging Face folder" in error


def test_help_tells_forms_and_dtypes(capsys):
    with pytest.raises(SystemExit):
        main(["export", "--help"])
    told = capsys.readouterr().out
    for words in ("opset 20: TensorRT 10.3", "owner/name on its hub", "--dtype", "--no-check"):
        assert words in told


def test_export_without_torch_says_how_to_get_it(monkeypatch, tmp_path, capsys):
    usual = builtins.__import__

    def without_torch(name, *arguments, **named):
        if name == "molmo2_ros.engines.export":
            raise ModuleNotFoundError("No module named 'torch'", name="torch")
        return usual(name, *arguments, **named)

    monkeypatch.setattr(builtins, "__import__", without_torch)
    assert main(["export", "some/model", str(tmp_path)]) == 2
    assert (
        'exporting needs torch, which is not installed; `pip install "' in capsys.readouterr().err
    )

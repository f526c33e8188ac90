"""`molmo2 build-engine` as its users meet it, where there is nothing to build with."""

import sys

import pytest

from molmo2_ros.cli.build_engine import _Bars
from molmo2_ros.cli.main import main
from molmo2_ros.runtime.engine import NANO


def run(capsys, *arguments):
    """Exit code, standard output, standard error."""
    try:
        code = main(("build-engine", *map(str, arguments)))
    except SystemExit as exit_:
        code = exit_.code
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def test_help_names_the_options_and_where_to_read_on(capsys):
    code, out, _ = run(capsys, "--help")
    assert code == 0
    for word in (
        "ENGINE_FOLDER",
        "--verify-tokens",
        "--max-frames",
        "--embedding",
        "--rtx-target",
        "--rebuild",
        "docs/engines.md",
    ):
        assert word in out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ([], "the following arguments are required: ENGINE_FOLDER"),
        (["nowhere"], "no manifest.json in nowhere, expected an engine folder"),
        ([NANO, "--embedding", "disk"], "invalid choice: 'disk'"),
        ([NANO, "--max-frames", "many"], "invalid int value: 'many'"),
    ],
)
def test_bad_input_ends_with_one_line_and_code_2(capsys, arguments, message):
    code, out, err = run(capsys, *arguments)
    assert code == 2
    assert out == ""
    assert message in err.splitlines()[-1]
    assert "Traceback" not in err


def test_a_machine_without_tensorrt_is_told_where_it_comes_from(capsys, monkeypatch):
    for name in ("tensorrt", "tensorrt_rtx_libs"):
        monkeypatch.setitem(sys.modules, name, None)
    code, _, err = run(capsys, NANO)
    assert code == 2
    assert "TensorRT or TensorRT-RTX cannot be imported" in err
    assert "tensorrt-rtx-cu13-bindings" in err
    code, _, err = run(capsys, NANO, "--rtx-target", "120")
    assert code == 2
    assert "error: TensorRT-RTX cannot be imported" in err


def test_an_old_tensorrt_is_refused(capsys, monkeypatch):
    from types import ModuleType

    old = ModuleType("tensorrt")
    old.__version__ = "8.6.2"
    monkeypatch.setitem(sys.modules, "tensorrt", old)
    code, _, err = run(capsys, NANO)
    assert code == 2
    assert "TensorRT is 8.6.2, expected 10.3 to 11.x; JetPack 6.0 has 8.6" in err


def test_each_phase_has_a_bar_of_its_own():
    with _Bars() as bars:
        bars.show("decoder: one", 0, 3)
        first = bars._bar
        bars.show("decoder: one", 2, 3)
        assert bars._bar is first
        bars.show("vision: one", 1, 2)
        assert bars._bar is not first
    assert bars._bar is None

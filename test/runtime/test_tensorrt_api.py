"""Which TensorRT there is: missing, broken, too old, and the form that each version is given."""

import ast
import sys
from dataclasses import replace
from pathlib import Path
from types import ModuleType

import pytest

from molmo2_ros.errors import EngineError
from molmo2_ros.runtime.tensorrt_api import (
    Messages,
    find_tensorrt,
    form_for,
    make_logger,
    version_numbers,
)

ROOT = Path(__file__).parents[2]
# What TensorRT 11 no longer has, by comparing the bindings of 10.16 and 11.4.
GONE_IN_11 = {
    "EXPLICIT_BATCH",
    *("FP16", "BF16", "INT8", "FP8", "INT4", "FP4"),  # builder flags
    *("OBEY_PRECISION_CONSTRAINTS", "PREFER_PRECISION_CONSTRAINTS"),
    *("platform_has_fast_fp16", "platform_has_fast_int8", "platform_has_tf32"),
    *("int8_calibrator", "dynamic_range", "set_dynamic_range", "algorithm_selector"),
    *("set_output_type", "precision", "reset_precision"),
    *("device_memory_size", "weight_streaming_budget", "supports_model"),
}


def offer(monkeypatch, version, name="tensorrt"):
    """Put a module of some version in the place of TensorRT."""
    module = ModuleType(name)
    if version is not None:
        module.__version__ = version
    monkeypatch.setitem(sys.modules, name, module)
    return module


@pytest.mark.parametrize(
    ("version", "form"),
    [
        ("10.3.0", "decomposed"),  # JetPack 6.1 and 6.2
        ("10.7.0.23", "decomposed"),
        ("10.13.3.9", "decomposed"),  # JetPack 7.0 and 7.1
        ("10.14.1", "decomposed"),  # knows Attention, not yet RMSNormalization
        ("10.15.1.29", "fused"),
        ("10.16.2.10", "fused"),  # JetPack 7.2
        ("11.4.1", "fused"),
    ],
)
def test_the_form_follows_from_the_version(monkeypatch, version, form):
    offer(monkeypatch, version)
    found = find_tensorrt()
    assert (found.product, found.version, found.form) == ("tensorrt", version, form)
    assert found.title == f"TensorRT {version}"


def test_tensorrt_rtx_counts_its_versions_on_its_own():
    assert form_for("tensorrt_rtx", (1, 7)) == "fused"


@pytest.mark.parametrize("version", ["8.6.2", "10.0.1", "10.2.0"])
def test_an_older_tensorrt_is_refused_with_the_jetpack_that_has_a_newer_one(monkeypatch, version):
    offer(monkeypatch, version)
    with pytest.raises(
        EngineError, match=rf"TensorRT is {version}, expected 10\.3 to 11\.x; JetPack 6\.0 has 8\.6"
    ):
        find_tensorrt()


def test_a_tensorrt_that_nobody_has_tried_is_refused(monkeypatch):
    offer(monkeypatch, "12.0.0")
    with pytest.raises(EngineError, match=r"is 12\.0\.0, expected 10\.3 to 11\.x; install an earl"):
        find_tensorrt()


def test_a_package_that_an_uninstall_left_empty_is_reported(monkeypatch):
    offer(monkeypatch, None)
    with pytest.raises(EngineError, match="tensorrt is an empty package, .*install it again"):
        find_tensorrt()


def test_a_missing_tensorrt_is_reported_with_all_ways_to_one(monkeypatch):
    for name in ("tensorrt", "tensorrt_rtx_libs"):
        monkeypatch.setitem(sys.modules, name, None)
    with pytest.raises(
        EngineError,
        match=r"TensorRT or TensorRT-RTX cannot be imported \(tensorrt: .*; tensorrt_rtx: .*"
        r"python3-libnvinfer.*pip install tensorrt`; .*tensorrt-rtx-cu13-libs",
    ):
        find_tensorrt()
    with pytest.raises(EngineError, match=r"^TensorRT-RTX cannot be .*; `pip install tensorrt-rtx"):
        find_tensorrt("tensorrt_rtx")
    with pytest.raises(EngineError, match=r"^TensorRT cannot be imported \(tensorrt: "):
        find_tensorrt("tensorrt")


def test_tensorrt_comes_before_tensorrt_rtx(monkeypatch):
    offer(monkeypatch, "10.16.2")
    offer(monkeypatch, "1.7.1", "tensorrt_rtx_libs")
    offer(monkeypatch, "1.7.1", "tensorrt_rtx_bindings")
    assert find_tensorrt().product == "tensorrt"
    assert find_tensorrt("tensorrt_rtx").product == "tensorrt_rtx"


@pytest.mark.parametrize(
    ("version", "numbers"),
    [("10.16.2.10", (10, 16, 2, 10)), ("10.3.0.26-1+cuda12.5", (10, 3, 0, 26)), ("11.4", (11, 4))],
)
def test_versions_are_read_as_numbers(version, numbers):
    assert version_numbers(version) == numbers


def test_four_bit_floats_came_with_10_8(host_gpu):
    assert host_gpu.FOUND.has_fp4
    assert not replace(host_gpu.FOUND, version="10.3.0").has_fp4


def test_what_tensorrt_says_is_kept_for_the_error():
    class ILogger:
        pass

    messages = Messages()
    logger = make_logger(type("module", (), {"ILogger": ILogger}), messages)
    assert messages.cause() == "it gave no reason"
    for text in ("one", "two", "three", "four"):
        logger.log("Severity.ERROR", text)
    logger.log("Severity.INFO", "five")
    assert isinstance(logger, ILogger)
    assert messages.cause() == "two; three; four"


def test_no_name_is_used_that_tensorrt_11_lacks():
    files = [*ROOT.glob("molmo2_ros/runtime/tensorrt_*.py"), *ROOT.glob("engines/*tensorrt*.py")]
    assert len(files) >= 8
    named = {
        (path.name, node.attr)
        for path in files
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8")))
        if isinstance(node, ast.Attribute)
    }
    assert ("tensorrt_builder.py", "STRONGLY_TYPED") in named
    assert {pair for pair in named if pair[1] in GONE_IN_11} == set()

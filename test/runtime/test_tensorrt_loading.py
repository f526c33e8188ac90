"""Which plans are taken, left alone, refused or built again when an engine is loaded."""

import json
import logging
import sys

import pytest

from molmo2_ros.errors import EngineError
from molmo2_ros.runtime import tensorrt_loading
from molmo2_ros.runtime.engine import load_engine
from molmo2_ros.runtime.manifest import Manifest, file_entry
from molmo2_ros.runtime.tensorrt_key import (
    PlanMismatchError,
    PlanRecord,
    key_here,
    plan_folder,
)
from molmo2_ros.runtime.tensorrt_loading import load_tensorrt, open_plans, rebuild_plans
from molmo2_ros.runtime.tensorrt_plan import choose_limits


@pytest.fixture
def orin(host_gpu):
    return host_gpu.HostCuda(sm="8.7", driver="12.6")


@pytest.fixture
def planned(engine_folder, host_gpu, orin):
    """An engine folder whose plans fit the Orin, by their record; no TensorRT made them."""
    plans = plan_folder(engine_folder, "tensorrt", "8.7")
    plans.mkdir()
    for name in ("decoder.plan", "vision.plan"):
        (plans / name).write_bytes(b"not a plan")
    manifest = Manifest.load(engine_folder)
    PlanRecord(
        key=key_here(host_gpu.FOUND, orin.gpu(), manifest),
        limits=choose_limits(manifest),
        files={path.name: file_entry(path) for path in plans.iterdir()},
    ).write(plans)
    return engine_folder


def test_a_folder_without_plans_is_onnx_runtime_s(engine_folder, caplog):
    caplog.set_level(logging.INFO)
    assert load_tensorrt(engine_folder) is None
    assert "plans" not in caplog.text


def test_plans_are_left_alone_where_there_is_no_tensorrt(planned, monkeypatch, caplog):
    monkeypatch.setitem(sys.modules, "tensorrt", None)
    engine = load_engine(planned, threads=1)
    assert engine.device in ("cpu", "cuda")
    assert "TensorRT plans in" in caplog.text
    assert "are left alone: TensorRT cannot be imported" in caplog.text


def test_plans_are_left_alone_where_cuda_cannot_be_called(planned, monkeypatch, host_gpu, caplog):
    monkeypatch.setattr(tensorrt_loading, "find_tensorrt", lambda _: host_gpu.FOUND)
    monkeypatch.setitem(sys.modules, "cuda.bindings.runtime", None)
    assert load_tensorrt(planned) is None
    assert "left alone: CUDA cannot be called from Python" in caplog.text
    assert "install `pip install 'cuda-bindings==12.*'` where" in caplog.text


def test_the_cpu_is_asked_for_and_plans_are_not_looked_at(planned, caplog):
    assert load_engine(planned, threads=1, device="cpu").device == "cpu"
    assert "plans" not in caplog.text


def test_plans_of_another_gpu_are_refused(planned, host_gpu):
    thor = host_gpu.HostCuda(sm="11.0", driver="13.0")
    with pytest.raises(
        PlanMismatchError,
        match=r"other GPUs \(tensorrt_sm87\), this one needs tensorrt_sm110: .* build them here",
    ):
        open_plans(planned, host_gpu.FOUND, thor)


def test_plans_of_another_driver_are_refused(planned, host_gpu):
    updated = host_gpu.HostCuda(sm="8.7", driver="13.2")
    with pytest.raises(PlanMismatchError, match=r"spoke CUDA 12\.6, now it speaks 13\.2; build it"):
        open_plans(planned, host_gpu.FOUND, updated)


def test_plans_of_other_graphs_are_refused(planned, host_gpu, orin):
    path = planned / "manifest.json"
    content = json.loads(path.read_text())
    content["files"]["decoder.onnx"]["sha256"] = "0" * 64
    path.write_text(json.dumps(content))
    with pytest.raises(PlanMismatchError, match="the ONNX graphs have changed since"):
        open_plans(planned, host_gpu.FOUND, orin)


def test_an_altered_plan_is_refused_before_tensorrt_sees_it(planned, host_gpu, orin):
    (planned / "tensorrt_sm87" / "decoder.plan").write_bytes(b"not a PLAN")
    with pytest.raises(PlanMismatchError, match=r"decoder\.plan was altered"):
        open_plans(planned, host_gpu.FOUND, orin)


@pytest.fixture
def on_the_orin(monkeypatch, host_gpu, orin):
    """TensorRT and CUDA as on an Orin; what they do beyond naming themselves is not asked for."""
    monkeypatch.setattr(tensorrt_loading, "find_tensorrt", lambda _: host_gpu.FOUND)
    monkeypatch.setattr(tensorrt_loading, "CudaRuntime", lambda: orin)


def test_what_does_not_fit_ends_loading_unless_it_may_be_built_again(
    planned, on_the_orin, monkeypatch, orin, caplog
):
    orin.facts = type(orin.facts)(sm="8.7", driver="12.9", memory_bytes=1 << 33)
    with pytest.raises(PlanMismatchError, match=r"now it speaks 12\.9"):
        load_engine(planned, threads=1)
    asked = []
    monkeypatch.setattr(tensorrt_loading, "rebuild_plans", asked.append)
    with pytest.raises(PlanMismatchError, match=r"now it speaks 12\.9"):  # nothing was built
        load_engine(planned, threads=1, rebuild=True)
    assert asked == [planned]
    assert "Building it again, which takes minutes" in caplog.text


def test_a_rebuild_that_fails_says_what_the_command_said(tmp_path):
    with pytest.raises(
        EngineError, match=r"building the plans of .*nowhere again failed: molmo2 build-engine: err"
    ):
        rebuild_plans(tmp_path / "nowhere")

"""bench_tensorrt.py and PyTorch's kernels, on the host's memory where there is no GPU."""

import argparse
import contextlib
import importlib.util
from pathlib import Path

import numpy as np
import pytest
import torch

from benchmarks import bench_tensorrt, gpu_stages
from benchmarks.torch_kernels import torch_engine
from molmo2_ros.errors import EngineError
from molmo2_ros.runtime.cuda_api import CudaRuntime
from molmo2_ros.runtime.engine import load_engine

NUMPY = {torch.float32: np.float32, torch.float16: np.float16, torch.int64: np.int64}
spec = importlib.util.spec_from_file_location(
    "host_gpu", Path(__file__).parent / "runtime" / "host_gpu.py"
)
host_gpu = importlib.util.module_from_spec(spec)
spec.loader.exec_module(host_gpu)


class CpuCuda(host_gpu.HostCuda):
    """The host's memory; PyTorch on a CPU has nothing to write down."""

    def end_capture(self):
        super().end_capture()
        raise EngineError("cudaStreamEndCapture failed: not on a CPU (CUDA error 1)")


@contextlib.contextmanager
def on_cpu(cuda, dtype=torch.float32):
    """The runtime over PyTorch on this machine's CPU."""

    def at(address, shape, dtype):
        num_bytes = int(np.prod(shape)) * np.dtype(NUMPY[dtype]).itemsize
        view = cuda.at(address, num_bytes).view(NUMPY[dtype]).reshape(shape)
        return torch.from_numpy(view)

    with torch_engine(
        cuda, dtype, device="cpu", at=at, on_stream=lambda _: contextlib.nullcontext()
    ) as engine:
        yield engine


@pytest.fixture(scope="module")
def engine():
    with on_cpu(CpuCuda()) as engine:
        yield engine


@pytest.fixture(scope="module")
def nano():
    return load_engine(threads=1, device="cpu")


def test_without_a_gpu_it_says_so_at_once(capsys):
    try:
        CudaRuntime()
    except EngineError:
        assert bench_tensorrt.main(["--stage-checks", "--json"]) == 2
        printed = capsys.readouterr()
        assert "bench_tensorrt: error: no GPU can be used here" in printed.err
        assert printed.out == ""


def test_every_stage_passes_with_pytorch_in_place_of_tensorrt(engine, nano):
    assert gpu_stages.golden(engine) < 1e-4
    assert gpu_stages.features(engine, nano) < 5e-4
    assert gpu_stages.logits(engine, nano) < 1e-4
    assert gpu_stages.streaming(engine, nano)
    assert gpu_stages.growth(engine, nano) == "[256, 512, 768] columns"
    with pytest.raises(EngineError, match="no pass could be written down"):
        gpu_stages.replays(engine)
    for case in gpu_stages.cases(engine).values():
        case()


def test_the_golden_answer_comes_out_in_half_precision():
    with on_cpu(CpuCuda(), torch.float16) as engine:
        assert gpu_stages.golden_tokens(engine)


def test_memory_is_checked_byte_by_byte():
    class Forgetful(host_gpu.HostCuda):
        def copy_2d(self, target, source, copy):
            pass

    assert gpu_stages.memory(host_gpu.HostCuda())
    with pytest.raises(EngineError, match=r"rows copied on the device: \d+ bytes differ"):
        gpu_stages.memory(Forgetful())


def options(**changed):
    plain = {"kernels": "tensorrt", "stills": 1, "clips": 1, "runs": 1, "threads": 1}
    return argparse.Namespace(**{**plain, **changed})


def test_a_stage_that_fails_does_not_stop_the_others(engine, tmp_path, capsys):
    bench = bench_tensorrt.Bench(options(), CpuCuda(), tmp_path, contextlib.ExitStack())

    def broken():
        raise EngineError("this GPU takes no plans")

    answers = bench.answers
    bench.loaded = engine
    bench.stages = lambda: {"build and load": broken, "answers_equal": answers}
    measured = bench_tensorrt.run(bench, go_on=True)
    assert measured.failed == ["build and load"]
    assert measured.equality["build and load"] == "failed: EngineError: this GPU takes no plans"
    assert measured.equality["answers_equal"] is True
    assert measured.figures["speedup"] > 0
    assert measured.figures["answers"] > 2
    assert "Traceback (most recent call last)" in capsys.readouterr().err
    with pytest.raises(EngineError, match="takes no plans"):
        bench_tensorrt.run(bench, go_on=False)


def test_without_an_engine_each_later_stage_says_so(tmp_path):
    bench = bench_tensorrt.Bench(options(), CpuCuda(), tmp_path, contextlib.ExitStack())
    with pytest.raises(EngineError, match="no engine was loaded, see the stage `build and load`"):
        bench.stages()["times"]()

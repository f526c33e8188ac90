"""What TensorRT-RTX is told of each context, on the host's memory (host_gpu.py)."""

import numpy as np
import pytest

from molmo2_ros.prompt.layout import prefix_bias
from molmo2_ros.runtime.engine import NANO
from molmo2_ros.runtime.golden import verify_golden
from molmo2_ros.runtime.tensorrt_engine import TensorRTEngine
from molmo2_ros.runtime.tensorrt_plan import choose_limits, plan_graphs


@pytest.fixture
def make(nano, host_gpu):
    """An engine of TensorRT-RTX, the HostCuda under it, and its decoder."""

    def make_engine():
        cuda, limits = host_gpu.HostCuda(), choose_limits(nano.manifest)
        engines = {
            plan.name: host_gpu.HostEngine(cuda, plan, str(NANO / plan.onnx))
            for plan in plan_graphs(nano.manifest, limits)
        }
        engine = TensorRTEngine(NANO, nano.manifest, limits, host_gpu.FOUND_RTX, cuda, engines)
        return engine, cuda, engines["decoder"]

    return make_engine


def write(engine, count):
    """Read a text, then write tokens one by one; the last logits."""
    ids = np.arange(20, 50)[None]
    bias = prefix_bias(np.zeros(30, np.bool_))[None, None]
    logits, kv = engine.forward(ids, np.arange(30)[None], bias, engine.empty_kv())
    for number in range(30, 30 + count):
        bias = np.zeros((1, 1, 1, number + 1), np.float32)
        logits, kv = engine.forward(np.array([[7]]), np.array([[number]]), bias, kv)
    return logits


def test_passes_that_come_again_are_compiled_at_once_and_others_behind(make):
    engine, _, decoder = make()
    write(engine, 3)
    told = {
        context.profile.name: context.how.dynamic_shapes_kernel_specialization_strategy
        for context in decoder.contexts
    }
    assert told == {"prefill": "lazy", "decode": "eager"}


def test_contexts_share_what_was_compiled(make):
    engine, _, decoder = make()
    assert verify_golden(engine) < 1e-4
    caches = {id(context.how.cache) for context in decoder.contexts}
    assert len(decoder.contexts) > 2
    assert len(caches) == 1
    assert None not in [context.how.cache for context in decoder.contexts]


def test_a_pass_that_cannot_become_a_cuda_graph_is_run_plainly(make, nano):
    engine, cuda, decoder = make()
    decoder.is_capturable = False
    np.testing.assert_allclose(write(engine, 4), write(nano, 4), atol=1e-4)
    assert "launch" not in cuda.calls
    assert engine.num_replayable == 0


def test_passes_kept_as_cuda_graphs_are_counted(make):
    engine, cuda, _ = make()
    write(engine, 4)
    assert cuda.calls.count("launch") == 3
    assert engine.num_replayable == 1

"""Device memory and the dtypes on it."""

import gc

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from molmo2_ros.errors import EngineError
from molmo2_ros.prompt.layout import HIDDEN
from molmo2_ros.runtime.device_memory import (
    DeviceMemory,
    Staging,
    bias_to_device,
    from_device,
    to_device,
)

FLOATS = st.floats(-1e4, 1e4, width=32)


@pytest.fixture
def cuda(host_gpu):
    return host_gpu.HostCuda()


@given(arrays(np.float32, (3, 4), elements=FLOATS), st.sampled_from(["float32", "float16"]))
def test_values_pass_through_numpy_s_dtypes_as_numpy_rounds_them(array, dtype):
    back = from_device(to_device(array, dtype), dtype)
    np.testing.assert_array_equal(back, array.astype(dtype).astype(np.float32).reshape(-1))


@given(arrays(np.float32, 8, elements=st.floats(width=32, allow_nan=False)))
def test_values_pass_through_bfloat16_as_torch_rounds_them(array):
    import torch

    back = from_device(to_device(array, "bfloat16"), "bfloat16")
    np.testing.assert_array_equal(back, torch.from_numpy(array).bfloat16().float().numpy())


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_hidden_stays_a_number_in_every_dtype(dtype):
    bias = np.array([[0, HIDDEN]], np.float32)
    seen, hidden = from_device(bias_to_device(bias, dtype), dtype)
    assert seen == 0
    assert np.isfinite(hidden)
    assert hidden <= -60_000


def test_indices_keep_their_values():
    assert to_device(np.array([[1, -1]]), "int64").view(np.int64).tolist() == [1, -1]
    assert to_device(np.array([[1, -1]]), "int32").view(np.int32).tolist() == [1, -1]


def test_a_block_is_used_again_when_nobody_holds_it(cuda):
    memory = DeviceMemory(cuda)
    block = memory.block(1000)
    address = block.address
    other = memory.block(1000)
    assert other.address != address
    del block
    gc.collect()
    assert memory.block(900).address == address  # of the same size, to the next 256


def test_what_waits_to_be_used_again_is_given_up_before_memory_runs_out(host_gpu):
    cuda = host_gpu.HostCuda(memory_bytes=4096)
    memory = DeviceMemory(cuda)
    memory.block(3000)
    gc.collect()
    assert memory.num_bytes == 3072
    memory.allocate(4000)
    assert memory.num_bytes == 4096
    with pytest.raises(EngineError, match=r"out of memory.*no room on the GPU for 0\.0 MB beside"):
        memory.allocate(256)


def test_memory_lives_as_long_as_a_block_of_it(cuda):
    memory = DeviceMemory(cuda)
    block = memory.block(100)
    del memory
    gc.collect()
    assert cuda.alive
    del block
    gc.collect()
    assert not cuda.alive


def test_a_place_keeps_its_address_until_a_larger_value_comes(cuda):
    memory = DeviceMemory(cuda)
    staging = Staging(cuda, memory)
    first = staging.upload("ids", np.arange(100, dtype=np.uint8))
    assert staging.upload("ids", np.arange(50, dtype=np.uint8)) == first
    assert staging.place("ids", 200) == first  # half as much again is taken at once
    larger = staging.place("ids", 1000)
    assert larger != first
    assert first not in cuda.alive


def test_what_was_uploaded_comes_back(cuda):
    memory = DeviceMemory(cuda)
    staging = Staging(cuda, memory)
    content = np.random.default_rng(0).integers(0, 255, 777, np.uint8)
    staging.upload("logits", content)
    np.testing.assert_array_equal(staging.download("logits", 777), content)
    assert [array.nbytes for array in cuda.pinned] == [1280]  # one buffer for both ways

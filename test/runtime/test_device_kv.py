"""Keys and values on the device: where columns are copied, and who may write where."""

import gc

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from molmo2_ros.errors import EngineError
from molmo2_ros.runtime.device_kv import DeviceKV, KvLayout, KvPool
from molmo2_ros.runtime.device_memory import DeviceMemory


@pytest.fixture
def cuda(host_gpu):
    return host_gpu.HostCuda()


@pytest.fixture
def pool(cuda):
    return KvPool(cuda, DeviceMemory(cuda), KvLayout(4, 2, 64), 1024)


def test_heads_of_all_layers_are_copied_at_once_where_nothing_is_padded():
    layout = KvLayout(num_tensors=72, num_heads=8, row_bytes=256)  # Molmo2-4B in float16
    (copy,) = layout.copies(1024, 700, 1040, 1024, 12)
    assert (copy.width, copy.height) == (12 * 256, 72 * 8)
    assert (copy.target_offset, copy.target_pitch) == (700 * 256, 1024 * 256)
    assert (copy.source_offset, copy.source_pitch) == (1024 * 256, 1040 * 256)


def test_each_tensor_is_copied_by_itself_where_its_end_is_padded():
    layout = KvLayout(num_tensors=4, num_heads=2, row_bytes=64)
    assert layout.tensor_bytes(17) == 2304  # 2 heads x 17 columns x 64 bytes, to the next 256
    assert layout.offsets(17) == [0, 2304, 4608, 6912]
    copies = layout.copies(16, 3, 17, 16, 1)
    assert [copy.target_offset for copy in copies] == [192, 2240, 4288, 6336]
    assert [copy.source_offset for copy in copies] == [1024, 3328, 5632, 7936]
    assert {copy.height for copy in copies} == {2}


@given(
    st.integers(1, 3),
    st.integers(1, 3),
    st.sampled_from([32, 64, 128, 256]),
    st.integers(1, 12),
    st.data(),
)
def test_copies_bring_exactly_the_columns_that_were_asked_for(
    num_layers, num_heads, row_bytes, columns, data
):
    count = data.draw(st.integers(1, columns))
    start = data.draw(st.integers(0, columns - count))
    target_columns = data.draw(st.integers(count, 14))
    target_start = data.draw(st.integers(0, target_columns - count))
    layout = KvLayout(2 * num_layers, num_heads, row_bytes)
    source = np.random.default_rng(0).integers(1, 255, layout.total_bytes(columns), np.uint8)
    target = np.zeros(layout.total_bytes(target_columns), np.uint8)
    for copy in layout.copies(target_columns, target_start, columns, start, count):
        for row in range(copy.height):
            here = copy.target_offset + row * copy.target_pitch
            there = copy.source_offset + row * copy.source_pitch
            target[here : here + copy.width] = source[there : there + copy.width]

    def tensors(memory, number):
        size = num_heads * number * row_bytes
        return np.array(
            [
                memory[offset : offset + size].reshape(num_heads, number, row_bytes)
                for offset in layout.offsets(number)
            ]
        )

    written = tensors(target, target_columns)
    expected = np.zeros_like(written)
    wanted = tensors(source, columns)[:, :, start : start + count]
    expected[:, :, target_start : target_start + count] = wanted
    np.testing.assert_array_equal(written, expected)


def append(pool, cuda, kv, count, value=1):
    """Append columns that all hold a value, from scratch memory as a pass leaves it."""
    columns = kv.buffer.columns + count
    source = cuda.allocate(pool.layout.total_bytes(columns))
    cuda.at(source, pool.layout.total_bytes(columns))[:] = value
    return pool.append(kv, source, columns, kv.buffer.columns, count)


def test_new_buffers_hold_numbers(pool, cuda):
    kv = pool.empty()
    assert not cuda.at(kv.buffer.address, pool.layout.total_bytes(kv.buffer.columns)).any()


def test_a_cache_is_appended_to_in_place_while_there_is_room(pool, cuda):
    kv = append(pool, cuda, pool.empty(), 100)
    assert (kv.buffer.columns, kv.length) == (512, 100)  # room for an answer
    more = append(pool, cuda, kv, 30)
    assert more.buffer is kv.buffer
    assert (more.length, kv.length) == (130, 100)


def test_a_full_cache_moves_with_what_it_holds(pool, cuda):
    kv = append(pool, cuda, pool.empty(), 500, value=7)
    assert kv.buffer.columns == 768
    moved = append(pool, cuda, kv, 300, value=9)
    assert moved.buffer is not kv.buffer
    assert moved.buffer.columns == 1024
    first_head = cuda.at(moved.buffer.address, 64 * 1024).reshape(1024, 64)
    assert (first_head[:500] == 7).all()
    assert (first_head[500:800] == 9).all()
    assert not first_head[800:].any()


def test_columns_that_somebody_counts_on_are_not_written_over(pool, cuda):
    kv = append(pool, cuda, pool.empty(), 100)
    left = append(pool, cuda, kv, 10, value=3)
    right = append(pool, cuda, kv, 10, value=4)
    assert right.buffer is not left.buffer
    assert cuda.at(left.buffer.address + 105 * 64, 1)[0] == 3
    assert cuda.at(right.buffer.address + 105 * 64, 1)[0] == 4


def test_a_cut_cache_is_appended_to_in_place_once_the_longer_one_is_gone(pool, cuda):
    kv = append(pool, cuda, pool.empty(), 100)
    cut = DeviceKV(kv.buffer, np.arange(60))
    assert append(pool, cuda, cut, 5).buffer is not cut.buffer
    del kv
    gc.collect()
    assert append(pool, cuda, cut, 5).buffer is cut.buffer


def numbered(pool, cuda, count):
    """A cache whose every column holds its own number."""
    kv = pool.empty()
    for number in range(count):
        kv = append(pool, cuda, kv, 1, value=number)
    return kv


def numbers(pool, cuda, kv):
    """What the columns that count hold, the same in every head of every tensor."""
    layout, buffer = pool.layout, kv.buffer
    memory = cuda.at(buffer.address, layout.total_bytes(buffer.columns))
    size = layout.num_heads * buffer.columns * layout.row_bytes
    tensors = np.array(
        [
            memory[offset : offset + size].reshape(layout.num_heads, buffer.columns, -1)
            for offset in layout.offsets(buffer.columns)
        ]
    )
    width = layout.num_tensors * layout.num_heads * layout.row_bytes
    columns = tensors[:, :, kv.columns_P].transpose(2, 0, 1, 3).reshape(kv.length, width)
    assert (columns == columns[:, :1]).all()
    return columns[:, 0].tolist()


def test_moves_bring_runs_of_columns_together(pool):
    kv = DeviceKV(pool.empty().buffer, np.array([0, 1, 4, 5, 6, 9]))
    assert list(kv.moves()) == [(2, 4, 3), (5, 9, 1)]
    assert (kv.length, kv.end) == (6, 10)


@pytest.fixture
def young_heap():
    """What other tests of this process left is not looked through at each collection."""
    gc.collect()
    gc.freeze()
    yield
    gc.unfreeze()


@given(st.sets(st.integers(0, 39)), st.integers(0, 39), st.booleans())
@settings(deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
def test_kept_columns_are_moved_together_and_nothing_that_counts_is_lost(
    host_gpu, young_heap, dropped, length, is_shared
):
    cuda = host_gpu.HostCuda()
    pool = KvPool(cuda, DeviceMemory(cuda), KvLayout(4, 2, 64), 1024)
    whole = numbered(pool, cuda, 40)
    other = DeviceKV(whole.buffer, np.arange(length))  # as the prefix that all questions share
    kept = DeviceKV(whole.buffer, np.array(sorted(set(range(40)) - dropped), np.int64))
    if not is_shared:
        del whole
    gc.collect()
    packed = pool.packed(kept)
    assert packed.columns_P.tolist() == list(range(40 - len(dropped)))
    assert numbers(pool, cuda, packed) == sorted(set(range(40)) - dropped)
    assert numbers(pool, cuda, kept) == sorted(set(range(40)) - dropped)
    assert numbers(pool, cuda, other) == list(range(length))
    if is_shared:
        assert numbers(pool, cuda, whole) == list(range(40))
    elif not dropped or min(dropped) >= length:
        assert packed.buffer is other.buffer  # no second buffer where nobody counts on the rest


def test_buffers_are_used_again_and_only_some_are_kept(pool, cuda):
    kv = append(pool, cuda, pool.empty(), 100)
    address = kv.buffer.address
    del kv
    gc.collect()
    assert append(pool, cuda, pool.empty(), 90).buffer.address == address
    held = [pool.empty() for _ in range(8)]
    assert len({kv.buffer.address for kv in held}) == 8
    del held
    gc.collect()
    append(pool, cuda, pool.empty(), 600)
    unused = [buffer for buffer in pool._buffers if not buffer.handles]
    assert len(unused) <= 5


def test_a_cache_beyond_the_engine_s_limit_is_refused(pool, cuda):
    kv = append(pool, cuda, pool.empty(), 1000)
    assert kv.buffer.columns == 1024
    with pytest.raises(EngineError, match="would hold 1030 tokens, this engine was built for 1024"):
        append(pool, cuda, kv, 30)

"""Features on the device: read by numpy, joined without a copy, placed frame by frame."""

from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from molmo2_ros.runtime.device_features import DeviceFeatures, FeaturePart, place_features

WIDTH = 3


def make(*sizes):
    """Features of several parts, and the memory that they lie in."""
    memory = {}
    parts = []
    for index, size in enumerate(sizes):
        address = 1000 * (index + 1)
        memory[address] = np.random.default_rng(index).normal(size=size * WIDTH).astype(np.float32)
        block = SimpleNamespace(address=address)
        parts.append(FeaturePart(block=block, num_tokens=size))
    reads = []

    def read(address, num_values):
        reads.append(address)
        return memory[address][:num_values]

    return DeviceFeatures(parts, WIDTH, read), memory, reads


def test_numpy_reads_them_as_an_array():
    features, memory, _ = make(2, 1)
    expected = np.concatenate(list(memory.values())).reshape(3, WIDTH)
    assert features.shape == (3, WIDTH)
    assert len(features) == 3
    np.testing.assert_array_equal(features, expected)
    np.testing.assert_array_equal(np.abs(expected - features), np.zeros((3, WIDTH)))
    np.testing.assert_array_equal(np.stack([features, features])[1], expected)
    assert np.asarray(features, np.float64).dtype == np.float64
    with pytest.raises(ValueError, match="on the GPU and cannot be read without a copy"):
        features.__array__(copy=False)


def test_they_are_joined_without_being_read():
    first, _, reads = make(2)
    second, _, _ = make(1)
    joined = np.concatenate([first, second])
    assert isinstance(joined, DeviceFeatures)
    assert joined.shape == (3, WIDTH)
    assert reads == []
    host = np.concatenate([first, np.zeros((1, WIDTH), np.float32)])
    assert isinstance(host, np.ndarray)
    assert reads == [1000]


def test_a_run_of_tokens_is_one_copy():
    features, _, _ = make(2, 1)
    visual = place_features(features, np.array([1, 2, 5]), 7)
    assert visual.copies(row_bytes=10) == [(10, 1000, 20), (50, 2000, 10)]


@given(st.lists(st.integers(1, 5), min_size=1, max_size=4), st.data())
def test_copies_place_every_feature_where_the_host_would(sizes, data):
    features, memory, _ = make(*sizes)
    num_tokens = sum(sizes) + data.draw(st.integers(0, 6))
    indices = np.array(
        sorted(data.draw(st.permutations(range(num_tokens)))[: sum(sizes)]), np.int64
    )
    row_bytes = WIDTH * 4
    placed = np.zeros(num_tokens * row_bytes, np.uint8)
    for offset, source, num_bytes in place_features(features, indices, num_tokens).copies(
        row_bytes
    ):
        start = source // 1000 * 1000
        content = memory[start].view(np.uint8)[source - start : source - start + num_bytes]
        placed[offset : offset + num_bytes] = content
    expected = place_features(np.asarray(features), indices, num_tokens)
    np.testing.assert_array_equal(placed.view(np.float32).reshape(1, num_tokens, WIDTH), expected)

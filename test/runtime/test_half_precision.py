"""Halves: rounding to the nearest, and masks that stay finite."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from molmo2_ros.prompt.layout import HIDDEN
from molmo2_ros.runtime.half_precision import stored, stored_bias

FINITE = st.floats(-(2.0**127), 2.0**127, width=32)


def widened(bits):
    """bfloat16 bits as float32."""
    return (bits.astype(np.uint32) << 16).view(np.float32)


@pytest.mark.parametrize(
    ("value", "bits"),
    [
        (0.0, 0x0000),
        (-0.0, 0x8000),
        (1.0, 0x3F80),
        (-2.5, 0xC020),
        (1.0 + 2**-8, 0x3F80),  # half a step up: to the even one below
        (1.0 + 3 * 2**-8, 0x3F82),  # half a step up: to the even one above
        (1.0 + 2**-8 + 2**-20, 0x3F81),  # more than half
    ],
)
def test_bfloat16_is_rounded_to_the_nearest_ties_to_even(value, bits):
    assert stored(np.array([value], np.float32), "bfloat16").tolist() == [bits]


@given(st.lists(FINITE, min_size=1, max_size=20))
def test_bfloat16_lies_within_half_a_step(values):
    array = np.array(values, np.float32)
    bits = stored(array, "bfloat16")
    assert bits.dtype == np.uint16
    error = np.abs(widened(bits).astype(np.float64) - array)
    assert (error <= np.maximum(np.abs(array) * 2.0**-8, 2.0**-133)).all()


def test_float32_is_handed_on_uncopied():
    array = np.zeros(3, np.float32)
    assert stored(array, "float32") is array
    assert stored_bias(array, "float32") is array


@pytest.mark.parametrize("score", [-40.0, 0.0, 40.0])
def test_hidden_plus_any_score_is_finite_and_weighs_nothing_in_float16(score):
    (bias,) = stored_bias(np.array([HIDDEN], np.float32), "float16")
    total = bias + np.float16(score)
    assert np.isfinite(total)
    assert np.exp(total - np.float16(-40)) == 0
    # The lowest number itself would not do.
    with np.errstate(over="ignore"):
        assert np.isinf(np.finfo(np.float16).min + np.float16(-40))


def test_hidden_is_finite_in_bfloat16():
    bits = stored_bias(np.array([HIDDEN, 0.0], np.float32), "bfloat16")
    assert np.isfinite(widened(bits)).all()
    assert widened(bits)[0] < -1e38
    assert widened(bits)[1] == 0

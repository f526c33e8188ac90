"""How a pass is cut and padded."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from molmo2_ros.errors import EngineError
from molmo2_ros.prompt.layout import HIDDEN
from molmo2_ros.runtime.engine import NANO
from molmo2_ros.runtime.manifest import Manifest
from molmo2_ros.runtime.tensorrt_passes import choose_profile, padded_bias, split_pass
from molmo2_ros.runtime.tensorrt_plan import choose_limits

H = np.float32(HIDDEN)
LIMITS = replace(
    choose_limits(Manifest.load(NANO, verify=False), verify_tokens=12),
    prefill_tokens=50,
    prefill_logits=5,
)


@pytest.mark.parametrize(
    ("num_new", "num_logits", "expected"),
    [
        (1, 1, ("decode", 1, 1)),
        (1, 0, ("decode", 1, 1)),  # logits that nobody wants are computed all the same
        (2, 1, ("verify", 12, 12)),
        (12, 12, ("verify", 12, 12)),
        (13, 1, ("prefill", 13, 1)),
        (40, 0, ("prefill", 40, 1)),
    ],
)
def test_each_width_has_its_profile(num_new, num_logits, expected):
    assert choose_profile(num_new, num_logits, LIMITS) == expected


def test_a_mask_is_spread_over_bucket_and_padding():
    bias = np.array([[0, 0]], np.float32)
    padded = padded_bias(bias, length=1, columns=2, width=2)
    np.testing.assert_array_equal(padded, [[0, H, 0, H], [H, H, H, 0]])


@given(st.integers(0, 6), st.integers(1, 5), st.integers(0, 4), st.integers(0, 3), st.data())
def test_a_spread_mask_shows_what_it_showed_and_nothing_else(length, count, more, pad, data):
    seen = np.array(
        data.draw(
            st.lists(
                st.lists(st.booleans(), min_size=length + count, max_size=length + count),
                min_size=count,
                max_size=count,
            )
        )
    )
    columns, width = length + more, count + pad
    padded = padded_bias(np.where(seen, np.float32(0), H), length, columns, width)
    assert padded.shape == (width, columns + width)
    places = [*range(length), *range(columns, columns + count)]
    np.testing.assert_array_equal(padded[:count, places] == 0, seen)
    rest = np.delete(padded[:count], places, axis=1)
    assert (rest == H).all()
    assert ((padded[count:] == 0).sum(1) == 1).all()  # a padded token sees itself, so it is finite


def causal(count):
    return np.where(np.tri(count, dtype=bool), np.float32(0), H)


def test_a_pass_that_fits_is_one():
    assert split_pass(causal(50), 0, np.array([49]), LIMITS) == [(0, 50)]


def test_a_long_text_is_read_in_pieces():
    assert split_pass(causal(120), 0, np.array([119]), LIMITS) == [(0, 50), (50, 100), (100, 120)]


def test_many_wanted_logits_are_read_in_pieces():
    assert split_pass(causal(20), 0, np.arange(8, 20), LIMITS) == [(0, 13), (13, 18), (18, 20)]


@given(st.integers(1, 130), st.data())
def test_pieces_cover_every_token_and_wanted_logit_once(num_new, data):
    wanted = np.array(sorted(data.draw(st.sets(st.integers(0, num_new - 1)))), np.int64)
    pieces = split_pass(causal(num_new), 0, wanted, LIMITS)
    assert [start for start, _ in pieces] == [0, *(stop for _, stop in pieces[:-1])]
    assert pieces[-1][1] == num_new
    for start, stop in pieces:
        assert 0 < stop - start <= 50
        assert ((wanted >= start) & (wanted < stop)).sum() <= 5


def test_a_clip_whose_tokens_see_each_other_is_not_cut():
    bias = causal(60)
    bias[3, 55] = 0
    with pytest.raises(EngineError, match="a clip of 60 tokens, this engine was built for 50"):
        split_pass(bias, 0, np.array([59]), LIMITS)
    bias = np.concatenate([np.zeros((60, 7), np.float32), causal(60)], axis=1)  # after a past
    assert len(split_pass(bias, 7, np.array([59]), LIMITS)) == 2

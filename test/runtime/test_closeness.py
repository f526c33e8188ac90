"""What counts as near: tolerances, tokens at near ties, and values that are no numbers."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from molmo2_ros.errors import EngineError
from molmo2_ros.runtime.closeness import NUM_PEAKS, Judge, Peaks

JUDGE = Judge(name="tiny", runtime="here", dtype="float16", tolerance=0.1)


def peaked(*rows):
    """Logits of 32 tokens: those given first, all others far below."""
    logits = np.full((len(rows), 32), -9, np.float32)
    for row, values in enumerate(rows):
        logits[row, : len(values)] = values
    return logits


def test_peaks_are_the_highest_in_falling_order():
    logits = np.arange(64, dtype=np.float32).reshape(2, 32)
    peaks = Peaks.of(logits)
    assert peaks.ids_NK.shape == (2, NUM_PEAKS)
    assert peaks.ids_NK[1, :3].tolist() == [31, 30, 29]
    assert peaks.logits_NK[1, :3].tolist() == [63, 62, 61]
    assert peaks.logit(1, 30) == 62
    assert peaks.logit(1, 3) == -np.inf


def test_a_small_vocabulary_is_kept_whole():
    assert Peaks.of(np.zeros((3, 5), np.float32)).ids_NK.shape == (3, 5)


@pytest.mark.parametrize(
    ("reference", "ours", "is_near"),
    [
        ((1.0, 0.5), (1.05, 0.45), True),  # the same token
        ((1.0, 0.85), (0.91, 0.94), True),  # another one, of two that lie 0.15 apart
        ((1.0, 0.81), (0.901, 0.909), True),  # each is wrong by nearly the tolerance
        ((1.0, 0.5), (1.11, 0.5), False),  # too far off
    ],
)
def test_tokens_change_places_only_where_the_reference_nearly_hesitates(reference, ours, is_near):
    def compare():
        JUDGE.peaks(peaked(ours), Peaks.of(peaked(reference)), np.array([0]), "logits")

    if is_near:
        compare()
    else:
        with pytest.raises(EngineError, match="tiny computes wrongly here .here.: the golden exam"):
            compare()


def test_a_token_that_the_reference_ranks_nowhere_is_refused():
    """All that is compared agrees, and a token beside it stands above all."""
    reference = np.linspace(3, 0, 32, dtype=np.float32)[None]
    ours = reference.copy()
    ours[0, 31] = 4
    with pytest.raises(EngineError, match="with token 31, expected 0 .logits, row 0, here"):
        JUDGE.peaks(ours, Peaks.of(reference), np.array([0]), "logits")


def test_another_token_is_refused_where_the_reference_is_sure():
    reference = peaked((1.0, 0.5))
    with pytest.raises(EngineError, match="with token 0, expected 1"):
        JUDGE.peaks(reference, Peaks.of(reference), np.array([1]), "logits")


def test_an_error_at_most_steps_is_refused_though_none_is_large():
    """Rounding is large at few steps, a mistake at all of them."""
    reference = peaked(*[(1.0, 0.0)] * 5)
    rounded, wrong = reference.copy(), reference.copy()
    rounded[2] += 0.09
    wrong += 0.04
    assert JUDGE.peaks(rounded, Peaks.of(reference), np.zeros(5), "logits") < 0.1
    with pytest.raises(EngineError, match=r"at the median step, differ by 0.04, allowed are 0.025"):
        JUDGE.peaks(wrong, Peaks.of(reference), np.zeros(5), "logits")


@pytest.mark.parametrize("value", [np.nan, np.inf, -np.inf])
def test_what_is_no_number_is_called_overflow(value):
    ours = np.zeros((2, 4), np.float32)
    ours[1, 2] = value
    with pytest.raises(EngineError, match=r"1 of 8 values .* are inf or NaN: .* says float16"):
        JUDGE.close(ours, np.zeros((2, 4), np.float32), "features")


def test_half_precision_is_compared_in_float32():
    """65,000 and -65,000 lie 130,000 apart, which float16 calls infinite."""
    ours, expected = np.float16([65000]), np.float16([-65000])
    with pytest.raises(EngineError, match=r"differ by 1\.3e\+05"):
        JUDGE.close(ours, expected, "features")


@given(st.lists(st.floats(-5, 5, width=32), min_size=2, max_size=40), st.floats(-0.0999, 0.0999))
def test_logits_that_are_all_shifted_within_the_tolerance_are_near(values, shift):
    reference = np.array([values], np.float32)
    ours = reference + np.float32(shift)
    chosen = reference.argmax(-1)
    assert JUDGE.peaks(ours, Peaks.of(reference), chosen, "logits") <= 0.1

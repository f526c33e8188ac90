import numpy as np
import pytest

from molmo2_ros.training.metrics import (
    FrameScore,
    ReliabilityBin,
    auroc,
    bootstrap_interval,
    brier_score,
    calibration_error,
    ids_one_to_one,
    instance_at,
    reliability,
    score_frame,
    track_f1,
)

MASK = np.zeros((10, 20), np.uint8)
MASK[2:5, 2:6] = 1  # x 0.1..0.3, y 0.2..0.5
MASK[6:9, 12:18] = 2  # x 0.6..0.9, y 0.6..0.9
ON_1, ON_2, NOWHERE = (0.2, 0.3), (0.7, 0.7), (0.5, 0.05)


def test_instance_at_reads_the_pixel_under_a_point_and_stays_inside():
    assert instance_at(MASK, *ON_1) == 1
    assert instance_at(MASK, 1.0, 1.0) == 0
    assert instance_at(MASK, 0.85, 0.85) == 2


@pytest.mark.parametrize(
    ("points", "wanted", "neutral", "score"),
    [
        ([ON_1], [1], [], (1, 0, 0)),
        ([ON_1, (0.12, 0.22)], [1], [], (1, 1, 0)),  # a second point in the same object is false
        ([ON_2], [1], [], (0, 1, 1)),  # another object
        ([ON_2], [1], [2], (0, 0, 1)),  # a neutral object: neither right nor wrong
        ([], [1, 2], [], (0, 0, 2)),
        ([NOWHERE], [], [], (0, 1, 0)),
        ([ON_2, ON_1], [1, 2], [], (2, 0, 0)),  # order does not matter
    ],
)
def test_score_frame(points, wanted, neutral, score):
    assert score_frame(MASK, points, wanted, neutral) == FrameScore(
        hits=score[0], false_points=score[1], missed=score[2]
    )


def test_track_f1_leaves_out_frames_without_prediction_and_truth():
    empty = FrameScore(hits=0, false_points=0, missed=0)
    right = FrameScore(hits=1, false_points=0, missed=0)
    wrong = FrameScore(hits=0, false_points=1, missed=1)
    half = FrameScore(hits=1, false_points=1, missed=1)  # F1 = 2 / (2 + 1 + 1)
    assert track_f1([right, empty, wrong, half]) == pytest.approx(0.5)
    assert track_f1([empty]) == 1.0


def test_ids_must_be_one_to_one_in_both_directions():
    assert ids_one_to_one([(1, 4), (2, 5), (1, 4)])
    assert not ids_one_to_one([(1, 4), (1, 5)])
    assert not ids_one_to_one([(1, 4), (2, 4)])
    assert ids_one_to_one([])


def test_bootstrap_interval_contains_the_mean_and_shrinks_with_more_values():
    few, many = [0.0, 1.0] * 10, [0.0, 1.0] * 1000
    low, high = bootstrap_interval(few)
    assert low < 0.5 < high
    narrow_low, narrow_high = bootstrap_interval(many)
    assert narrow_high - narrow_low < (high - low) / 5


def test_brier_score_is_the_mean_squared_error_of_probabilities():
    assert brier_score([1.0, 0.5, 0.2], [1, 0, 0]) == pytest.approx((0 + 0.25 + 0.04) / 3)


@pytest.mark.parametrize(
    ("scores", "outcomes", "expected"),
    [
        ([0.1, 0.4, 0.6, 0.9], [0, 0, 1, 1], 1.0),
        ([0.9, 0.6, 0.4, 0.1], [0, 0, 1, 1], 0.0),
        ([0.2, 0.3, 0.1], [0, 1, 1], 0.5),
        ([0.5, 0.5, 0.7], [0, 1, 1], 0.75),  # of two pairs one is a tie
    ],
)
def test_auroc_is_the_share_of_pairs_in_order(scores, outcomes, expected):
    assert auroc(scores, outcomes) == pytest.approx(expected)


@pytest.mark.filterwarnings("error")
def test_auroc_of_one_kind_of_outcome_is_unknown():
    assert np.isnan(auroc([0.2, 0.3], [1, 1]))


FORETOLD, CAME = [0.05, 0.1, 0.15, 0.95], [0, 1, 0, 1]


def test_bins_of_equal_width_hold_their_upper_edge():
    assert reliability(FORETOLD, CAME) == [
        ReliabilityBin(num=2, foretold=pytest.approx(0.075), came=0.5),
        ReliabilityBin(num=1, foretold=0.15, came=0.0),
        ReliabilityBin(num=1, foretold=0.95, came=1.0),
    ]
    assert [entry.num for entry in reliability([0.0, 1.0], [0, 1], num_bins=2)] == [1, 1]


def test_bins_of_equal_mass_hold_equal_numbers():
    assert reliability(FORETOLD, CAME, num_bins=2, equal_mass=True) == [
        ReliabilityBin(num=2, foretold=pytest.approx(0.075), came=0.5),
        ReliabilityBin(num=2, foretold=pytest.approx(0.55), came=0.5),
    ]


def test_calibration_error_weighs_bins_by_their_points():
    assert calibration_error(reliability(FORETOLD, CAME)) == pytest.approx(
        (2 * 0.425 + 0.15 + 0.05) / 4
    )
    rng = np.random.default_rng(0)
    honest = rng.random(50_000)
    assert calibration_error(reliability(honest, rng.random(50_000) < honest)) < 0.01

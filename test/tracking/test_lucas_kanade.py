"""Features that are followed, and those that are not to be believed."""

import cv2
import numpy as np

from molmo2_ros.tracking.lucas_kanade import follow

RNG = np.random.default_rng(3)
PICTURE = cv2.GaussianBlur(RNG.integers(0, 255, (160, 240)).astype(np.uint8), (0, 0), 2)
PICTURE = cv2.normalize(PICTURE, None, 20, 235, cv2.NORM_MINMAX)
SHIFT = (7.5, -3.25)
MOVED = cv2.warpAffine(PICTURE, np.array([[1, 0, SHIFT[0]], [0, 1, SHIFT[1]]]), (240, 160))


def features(*places):
    return np.array([places], np.float32)


def test_features_move_with_the_picture_and_dead_ones_stay():
    start = features((60, 60), (120, 80), (180, 100))
    alive = np.array([[True, True, False]])
    moved, found = follow(PICTURE, MOVED, start, alive)
    assert np.abs(moved[0, :2] - start[0, :2] - SHIFT).max() < 0.1
    assert (moved[0, 2] == start[0, 2]).all()
    assert found.tolist() == [[True, True, False]]


def test_a_feature_that_leaves_or_is_covered_is_not_believed():
    covered = MOVED.copy()
    covered[50:110, 120:175] = RNG.integers(0, 255, (60, 55))
    start = features((237, 60), (145, 80), (60, 60))
    _, found = follow(PICTURE, covered, start, np.ones((1, 3), bool))
    assert found.tolist() == [[False, False, True]]


def test_nothing_to_follow_is_nothing_found():
    start = features((60, 60))
    moved, found = follow(PICTURE, MOVED, start, np.zeros((1, 1), bool))
    assert (moved == start).all()
    assert not found.any()

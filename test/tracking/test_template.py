"""How the picture round a point is compared with what it was."""

import cv2
import numpy as np
import pytest

from molmo2_ros.tracking.template import TEMPLATE_SIDE, likeness, sample_template

RNG = np.random.default_rng(0)
PICTURE = cv2.GaussianBlur(RNG.integers(0, 255, (240, 320)).astype(np.uint8), (0, 0), 3)
PICTURE = cv2.normalize(PICTURE, None, 40, 215, cv2.NORM_MINMAX)
POINT = np.array([[160.0, 120.0]])
ONE = np.ones(1, complex)


def sample(picture, point=POINT, turn=ONE):
    return sample_template(picture, np.asarray(point, float), turn)


def alike(first, second, brighter=0.0):
    return likeness(first, second, np.array([brighter]))[0]


def test_the_same_picture_is_alike_and_another_place_is_not():
    assert alike(sample(PICTURE), sample(PICTURE)) == pytest.approx(1)
    assert alike(sample(PICTURE), sample(PICTURE, [[60.0, 60.0]])) < 0.4


def test_sensor_noise_hardly_counts():
    noisy = np.clip(PICTURE + RNG.normal(0, 6, PICTURE.shape), 0, 255).astype(np.uint8)
    assert alike(sample(PICTURE), sample(noisy)) > 0.9


def test_a_turned_and_grown_picture_is_alike_when_the_template_turns_with_it():
    matrix = cv2.getRotationMatrix2D((160, 120), -40, 1.3)
    turned = cv2.warpAffine(PICTURE, matrix, (320, 240))
    turn = 1.3 * np.exp(1j * np.deg2rad([40.0]))
    assert alike(sample(PICTURE), sample(turned, turn=turn)) > 0.95
    assert alike(sample(PICTURE), sample(turned)) < 0.6


def test_a_blank_spot_stays_alike_until_something_comes():
    blank = np.full((240, 320), 180, np.uint8)
    assert alike(sample(blank), sample(blank)) == pytest.approx(1)
    assert alike(sample(blank), sample(PICTURE)) < 0.2
    other = np.full((240, 320), 90, np.uint8)
    assert alike(sample(blank), sample(other)) == 0


def test_a_change_of_exposure_is_no_change_of_picture():
    bright = cv2.convertScaleAbs(PICTURE, alpha=1.0, beta=40)
    assert alike(sample(PICTURE), sample(bright), brighter=40.0) > 0.95
    assert alike(sample(PICTURE), sample(bright)) < 0.8


def test_points_beyond_the_edge_and_no_points_are_sampled_too():
    assert sample(PICTURE, [[-50.0, 900.0]]).shape == (1, TEMPLATE_SIDE, TEMPLATE_SIDE)
    assert len(sample(PICTURE, np.zeros((0, 2)), np.ones(0, complex))) == 0

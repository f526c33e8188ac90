"""How the picture round a point is compared with what it was."""

import cv2
import numpy as np
import pytest

from molmo2_ros.tracking.template import (
    TEMPLATE_SIDE,
    align,
    likeness,
    sample_colours,
    sample_template,
    search,
    textured,
)

RNG = np.random.default_rng(0)
PICTURE = cv2.GaussianBlur(RNG.integers(0, 255, (240, 320)).astype(np.uint8), (0, 0), 3)
PICTURE = cv2.normalize(PICTURE, None, 40, 215, cv2.NORM_MINMAX)
POINT = np.array([[160.0, 120.0]])
ONE = np.ones(1, complex)


def sample(picture, point=POINT, turn=ONE):
    return sample_template(picture, np.asarray(point, float), turn)


def alike(first, second):
    return likeness(first, second)[0]


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


def test_another_brightness_is_another_picture_unless_the_exposure_explains_it():
    bright = cv2.convertScaleAbs(PICTURE, alpha=1.4)
    assert alike(sample(PICTURE), sample(bright) / np.float32(1.4)) > 0.95
    assert alike(sample(PICTURE), sample(bright)) < 0.8


def test_points_are_drawn_to_their_template_and_turned_with_it():
    matrix = cv2.getRotationMatrix2D((160, 120), -5, 1.05)
    matrix[:, 2] += (2.5, -1.5)
    moved = cv2.convertScaleAbs(cv2.warpAffine(PICTURE, matrix, (320, 240)), alpha=0.8)
    holds = np.ones(1, bool)
    place, turn, alike_there = align(moved, np.array([0.8]), sample(PICTURE), holds, POINT, ONE)
    assert place[0] == pytest.approx([162.5, 118.5], abs=0.3)
    assert turn[0] == pytest.approx(1.05 * np.exp(1j * np.deg2rad(5)), abs=0.02)
    assert alike_there[0] > 0.95


def test_a_point_that_its_template_cannot_hold_stays():
    place, turn, _ = align(
        PICTURE, np.ones(1), sample(PICTURE), np.zeros(1, bool), POINT + 2.0, ONE
    )
    assert place == pytest.approx(POINT + 2.0)
    assert turn == pytest.approx(1)


def test_texture_holds_in_both_directions_or_not_at_all():
    edge = np.repeat(np.where(np.arange(320) < 160, 60, 190), 240).reshape(320, 240).T
    blank = np.full((240, 320), 128) + RNG.normal(0, 1.5, (240, 320))
    pictures = [PICTURE, edge.astype(np.uint8), np.round(blank).astype(np.uint8)]
    assert [bool(textured(sample(p))[0]) for p in pictures] == [True, False, False]


@pytest.mark.parametrize("shift", [(30, -18), (-37, 36), (3, 2)])
def test_a_template_is_found_again_within_the_reach_of_the_search(shift):
    moved = cv2.warpAffine(PICTURE, np.array([[1.0, 0, shift[0]], [0, 1, shift[1]]]), (320, 240))
    half = cv2.resize(moved, (160, 120), interpolation=cv2.INTER_AREA)
    (place,) = search(half, np.ones(1), sample(PICTURE), POINT, ONE)
    assert place == pytest.approx(POINT[0] + shift, abs=2.0)


def test_a_search_beyond_the_edge_finds_nothing():
    half = np.zeros((120, 160), np.uint8)
    far = np.array([[-300.0, 900.0]])
    assert search(half, np.ones(1), sample(PICTURE), far, ONE) == pytest.approx(far)


def test_colours_are_read_between_the_squares():
    colours = np.zeros((2, 2, 3), np.uint8)
    colours[:, 1] = (100, 40, 20)
    middle = sample_colours(colours, np.array([[0.5, 0.5], [-3.0, 0.0]]))
    assert middle[0] == pytest.approx([50, 20, 10], abs=1)
    assert middle[1] == pytest.approx([0, 0, 0])
    assert sample_colours(colours, np.zeros((0, 2))).shape == (0, 3)


def test_points_beyond_the_edge_and_no_points_are_sampled_too():
    assert sample(PICTURE, [[-50.0, 900.0]]).shape == (1, TEMPLATE_SIDE, TEMPLATE_SIDE)
    assert len(sample(PICTURE, np.zeros((0, 2)), np.ones(0, complex))) == 0

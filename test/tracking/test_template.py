"""How the picture round a point is compared with what it was."""

import cv2
import numpy as np
import pytest

from molmo2_ros.tracking.template import (
    TEMPLATE_SIDE,
    Sought,
    align,
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
    return Sought.of(first).held_against(second)[0][0]


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
    sought = Sought.of(sample(PICTURE))
    place, turn, alike_there = align(moved, np.array([0.8]), sought, holds, POINT, ONE)
    assert place[0] == pytest.approx([162.5, 118.5], abs=0.3)
    assert turn[0] == pytest.approx(1.05 * np.exp(1j * np.deg2rad(5)), abs=0.02)
    assert alike_there[0] > 0.95


def test_one_step_is_that_of_gauss_and_newton():
    # The least squares of the differences, weighted, over shift, growth and rotation: worked here
    # by numerical derivatives of the picture itself.
    near = sample(PICTURE, POINT + 0.4)
    sought = Sought.of(sample(PICTURE))
    _, (step,) = sought.held_against(near)
    assert step[:2] == pytest.approx([-0.4, -0.4], abs=0.1)
    assert np.abs(step[2:]).max() < 0.1
    turned = sample(PICTURE, turn=1.02 * np.exp(0.02j * ONE))
    _, (step,) = sought.held_against(turned)
    assert 0.1 * step[2:] == pytest.approx([-0.02, -0.02], abs=0.006)
    assert np.abs(step[:2]).max() < 0.1


def test_likeness_is_contrast_and_structure_of_the_weighted_samples():
    first, second = sample(PICTURE)[0], sample(PICTURE, POINT + 3.0)[0]
    line = np.exp(-0.5 * (2.0 * (np.arange(15) - 7)) ** 2 / 64)
    weight = np.outer(line, line) / np.outer(line, line).sum()
    one, two = (part - (weight * part).sum() for part in (first, second))
    covariance = (weight * one * two).sum()
    contrast = (weight * (one**2 + two**2)).sum()
    expected = (2 * covariance + 30) / (contrast + 30)
    assert alike(first[None], second[None]) == pytest.approx(expected, abs=1e-3)


def test_a_point_that_its_template_cannot_hold_stays():
    place, turn, _ = align(
        PICTURE, np.ones(1), Sought.of(sample(PICTURE)), np.zeros(1, bool), POINT + 2.0, ONE
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


def test_a_search_finds_the_least_weighted_squares():
    half = cv2.resize(PICTURE, (160, 120), interpolation=cv2.INTER_AREA)
    template = sample(PICTURE) + RNG.normal(0, 9, (1, 15, 15)).astype(np.float32)
    # The template is nowhere near: the least of many bad places.
    (place,) = search(half, np.full(1, 0.9), template, POINT + (71.0, -31.0), ONE)
    line = np.exp(-0.5 * (2.0 * (np.arange(15) - 7)) ** 2 / 64)
    weight = np.outer(line, line) / np.outer(line, line).sum()
    column, row = np.round((POINT[0] + (71.5, -30.5)) / 2 - 0.5).astype(int)
    squares = {
        (x, y): (weight * (half[y - 7 : y + 8, x - 7 : x + 8] - 0.9 * template[0]) ** 2).sum()
        for x in range(column - 20, column + 21)
        for y in range(row - 20, row + 21)
    }
    best = np.array(min(squares, key=squares.get))
    assert place == pytest.approx(2 * best + 0.5)


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

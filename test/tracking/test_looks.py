"""Colours round answered points, and how far they are from a known thing's."""

import numpy as np
import pytest

from molmo2_ros.camera.frame import Frame
from molmo2_ros.tracking.answered import AnsweredObject
from molmo2_ros.tracking.grey import GreyBuffer, GreyFrame
from molmo2_ros.tracking.looks import (
    MAX_SIGHTS,
    NUM_SHOWN,
    answered_looks,
    own_colour,
    sample_looks,
    unlikeness,
)

SECOND = 1_000_000_000
RED, BLUE, GREEN = (200.0, 60.0, 50.0), (50.0, 80.0, 200.0), (60.0, 180.0, 60.0)


def grey_of(image, index=0):
    return GreyFrame.of(Frame(image=np.asarray(image, np.uint8), stamp_ns=index * SECOND))


def two_halves(left, right, gain=1.0):
    """A picture of two colours that meet at column 100."""
    image = np.full((160, 200, 3), left, np.float64)
    image[:, 100:] = right
    return np.clip(gain * image, 0, 255)


def sights_of(*samples):
    """One sight, the samples in rows of five; what is not given repeats the last."""
    filled = [*samples, *[samples[-1]] * (25 - len(samples))]
    return {0: np.array(filled, np.float32)}


def uniform(colour):
    return sights_of(colour)


def object_at(*stamped):
    path = {index * SECOND: place for index, place in stamped}
    return AnsweredObject(object_id=1, path=path, points={})


def test_samples_lie_round_the_point_at_one_exposure():
    frame = grey_of(two_halves(RED, BLUE, gain=0.8))
    looks = sample_looks(frame, 0.8, np.array([[50.0, 80.0], [100.0, 80.0]]))
    assert looks.shape == (2, 25, 3)
    assert looks[0] == pytest.approx(np.tile(RED, (25, 1)), abs=2)
    # Columns 92 to 108: two of red, one where they meet, two of blue.
    row = looks[1].reshape(5, 5, 3)[2]
    assert row[:2] == pytest.approx(np.tile(RED, (2, 1)), abs=2)
    assert row[3:] == pytest.approx(np.tile(BLUE, (2, 1)), abs=2)


def test_an_answer_is_looked_at_on_the_newest_of_its_frames():
    buffer = GreyBuffer(60.0)
    for index in range(8):
        buffer.push(grey_of(two_halves(RED, BLUE), index))
    walk = object_at(*((index, (50.0, 80.0)) for index in range(7)), (7, (150.0, 80.0)))
    unseen = object_at((9, (50.0, 80.0)))
    first, second = answered_looks([walk, unseen], buffer)
    assert [stamp // SECOND for stamp in first] == list(range(8 - MAX_SIGHTS, 8))
    assert first[3 * SECOND].mean(axis=0) == pytest.approx(RED, abs=1)
    assert first[7 * SECOND].mean(axis=0) == pytest.approx(BLUE, abs=1)
    assert second == {}


def test_the_exposure_is_taken_out_of_the_looks():
    buffer = GreyBuffer(60.0)
    for index, gain in enumerate((1.0, 0.7)):
        buffer.push(grey_of(two_halves(RED, BLUE, gain), index))
    (looks,) = answered_looks([object_at((0, (50.0, 80.0)), (1, (50.0, 80.0)))], buffer)
    assert looks[SECOND].mean(axis=0) == pytest.approx(looks[0].mean(axis=0), abs=3)


def test_a_thing_has_the_colour_of_most_of_its_sights():
    sights = {stamp: uniform(RED)[0] for stamp in range(3)}
    sights |= {stamp: uniform(BLUE)[0] for stamp in (3, 4)}
    assert own_colour(sights) == pytest.approx(RED)
    assert np.isnan(own_colour({})).all()


def test_what_shows_of_a_half_covered_thing_is_enough():
    colours = np.array([RED])
    shown = unlikeness(colours, [sights_of(*[RED] * NUM_SHOWN, BLUE)])
    hidden = unlikeness(colours, [sights_of(*[RED] * (NUM_SHOWN - 1), BLUE)])
    assert shown[0, 0] == pytest.approx(0, abs=1e-3)
    assert hidden[0, 0] > 50


def test_a_rough_texture_is_as_near_as_its_mean():
    rough = sights_of(*[np.add(RED, 20 * (-1) ** index) for index in range(25)])
    # Each sample is 35 levels off; of the nine in the middle five are brighter, four darker.
    apart = 20 * np.sqrt(3) / 9
    assert unlikeness(np.array([RED]), [rough])[0, 0] == pytest.approx(apart, rel=1e-3)


def test_several_sights_of_an_object_give_their_median():
    seen = {stamp: uniform(colour)[0] for stamp, colour in enumerate((RED, RED, BLUE))}
    assert unlikeness(np.array([RED]), [seen])[0, 0] == pytest.approx(0, abs=1e-3)


def test_unlikeness_is_the_distance_of_colours_and_unknown_where_either_is():
    colours = np.array([RED, GREEN, (np.nan,) * 3])
    unlike_CA = unlikeness(colours, [uniform(RED), {}])
    apart = np.linalg.norm(np.subtract(RED, GREEN))
    assert unlike_CA[:2, 0] == pytest.approx([0, apart], abs=1e-3)
    assert np.isnan(unlike_CA[2, 0])
    assert np.isnan(unlike_CA[:, 1]).all()
    assert unlikeness(np.zeros((0, 3)), [uniform(RED)]).shape == (0, 1)

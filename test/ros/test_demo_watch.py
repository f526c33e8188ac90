"""The demonstration's film and its still."""

import cv2
import numpy as np
import pytest

from molmo2_ros.ros.demo_watch import Film


@pytest.fixture
def film(tmp_path):
    return Film(tmp_path / "demo.mp4", tmp_path / "demo.png")


def grey(level):
    return np.full((48, 64, 3), level, np.uint8)


@pytest.mark.parametrize(
    ("worths", "best"),
    [
        # More questions with a target win over surer ones.
        ([(1, 0.9), (3, 0.4), (2, 0.8)], 1),
        ([(3, 0.4), (3, 0.7), (3, 0.5)], 1),
        # Of equal ones the last.
        ([(2, 0.5), (2, 0.5), (1, 0.9)], 1),
        ([(0, 0.0)], 0),
    ],
)
def test_the_still_is_the_picture_that_was_worth_most(film, tmp_path, worths, best):
    for number, worth in enumerate(worths):
        film.add(grey(40 + 60 * number), number * 100_000_000, worth)
    film.close()
    assert [path.name for path in film.written] == ["demo.mp4", "demo.png"]
    still = cv2.imread(str(tmp_path / "demo.png"))
    assert still.mean() == pytest.approx(40 + 60 * best, abs=1)


def test_a_film_without_pictures_writes_nothing(film):
    film.close()
    assert film.written == []

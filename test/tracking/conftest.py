"""Synthetic camera streams whose true motion is known to a fraction of a pixel."""

import functools

import cv2
import numpy as np
import pytest

from molmo2_ros.camera.frame import Frame

SECOND = 1_000_000_000
WIDTH, HEIGHT = 640, 480


@functools.cache
def texture_of(seed, height=1200, width=1600):
    """A picture with detail at every scale, RGB."""
    rng = np.random.default_rng(seed)
    total = np.zeros((height, width, 3), np.float32)
    for sigma in (1.5, 4, 12, 40):
        layer = cv2.GaussianBlur(
            rng.standard_normal((height, width, 3)).astype(np.float32), (0, 0), sigma
        )
        total += layer / layer.std()
    return np.clip(128 + 22 * total, 0, 255).astype(np.uint8)


class Stream:
    """Views of a textured plane; `matrix_of(t)` maps plane pixels to camera pixels."""

    def __init__(self, matrix_of, *, rate_hz=30.0, seed=0, noise=2.0, draw=None):
        self.texture = texture_of(seed)
        self.matrix_of = matrix_of
        self.rate_hz = rate_hz
        # One field of noise, shifted for each frame: drawing it anew costs more than all the rest.
        self.noise = noise * np.random.default_rng(seed).standard_normal(
            (HEIGHT, WIDTH, 3), np.float32
        )
        self.draw = draw

    def frame(self, index):
        time_s = index / self.rate_hz
        image = cv2.warpAffine(
            self.texture, self.matrix_of(time_s)[:2], (WIDTH, HEIGHT), flags=cv2.INTER_LINEAR
        ).astype(np.float32)
        if self.draw is not None:
            self.draw(image, time_s)
        image += np.roll(self.noise, 7919 * (index + 1))
        return Frame(image=np.clip(image, 0, 255).astype(np.uint8), stamp_ns=round(time_s * SECOND))

    def moved(self, points_px, from_s, to_s):
        """Camera pixels at one time to camera pixels at another."""
        between = self.matrix_of(to_s) @ np.linalg.inv(self.matrix_of(from_s))
        points_px = np.atleast_2d(points_px)
        return points_px @ between[:2, :2].T + between[:2, 2]


def similarity(x_px, y_px, angle_deg=0.0, scale=1.0):
    """Plane to camera: turned and scaled about the camera's centre, then shifted."""
    centre = (WIDTH / 2, HEIGHT / 2)
    turn = np.vstack([cv2.getRotationMatrix2D(centre, angle_deg, scale), [0, 0, 1]])
    shift = np.array([[1, 0, x_px - 400], [0, 1, y_px - 300], [0, 0, 1.0]])
    return turn @ shift


@pytest.fixture(scope="session")
def make_texture():
    return texture_of


@pytest.fixture(scope="session")
def make_stream():
    return Stream


@pytest.fixture(scope="session")
def pan():
    """A camera that shifts at (vx, vy) px/s, turns and zooms."""

    def matrix_of(vx=0.0, vy=0.0, turn_deg_s=0.0, zoom_per_s=0.0):
        return lambda t: similarity(vx * t, vy * t, turn_deg_s * t, 1 + zoom_per_s * t)

    return matrix_of

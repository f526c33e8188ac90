"""Random surfaces (plain, wood, checks, clouds, blotches), mostly greyish as tables are."""

from __future__ import annotations

import cv2
import numpy as np
import numpy.typing as npt


def draw_texture(rng: np.random.Generator, size: int = 256) -> npt.NDArray[np.uint8]:
    """One tileable-enough texture, uint8 [size, size, 3]."""
    first = _surface_colour(rng).astype(np.float32)
    second = np.clip(first * np.float32(rng.uniform(0.6, 1.35)), 0, 1)
    pattern = _PATTERNS[int(rng.integers(len(_PATTERNS)))](rng, size)[..., None]
    grain = np.float32(0.02) * rng.standard_normal((size, size, 1), np.float32)
    texture = first * (1 - pattern) + second * pattern + grain
    return np.asarray(np.clip(texture, 0, 1) * 255, np.uint8)


def _surface_colour(rng: np.random.Generator) -> npt.NDArray[np.float64]:
    # Fully random colours give neon tables: a grey with a little hue, and one in five free.
    grey = rng.uniform(0.15, 0.9) + rng.normal(0, 0.09, 3)
    warm = rng.normal(0, 0.03) * np.array([1, 0, -1])
    free = 0.5 * (rng.uniform(0.1, 0.8, 3) + rng.uniform(0.15, 0.7))
    return free if rng.random() < 0.2 else np.clip(grey + warm, 0.05, 0.95)


def _noise(rng: np.random.Generator, cells: int, size: int) -> npt.NDArray[np.float32]:
    coarse = rng.random((cells, cells), dtype=np.float32)
    return np.asarray(cv2.resize(coarse, (size, size)), np.float32)


def _plain(rng: np.random.Generator, size: int) -> npt.NDArray[np.float32]:
    return np.full((size, size), 0.5, np.float32)


def _wood(rng: np.random.Generator, size: int) -> npt.NDArray[np.float32]:
    across = np.arange(size, dtype=np.float32)[None] / size * float(rng.integers(2, 9))
    wave = 2 * np.pi * (across + np.float32(0.8) * _noise(rng, 5, size))
    return np.asarray(0.5 + 0.5 * np.sin(wave), np.float32)


def _checks(rng: np.random.Generator, size: int) -> npt.NDArray[np.float32]:
    step = np.arange(size) / size
    columns = (step * rng.integers(2, 7)).astype(int)
    rows = (step * rng.integers(2, 7)).astype(int)
    return np.asarray((columns[None] + rows[:, None]) % 2, np.float32)


def _clouds(rng: np.random.Generator, size: int) -> npt.NDArray[np.float32]:
    layers = [_noise(rng, cells, size) / i for i, cells in enumerate((4, 8, 16, 32), 1)]
    return np.asarray(np.sum(layers, axis=0) / 2, np.float32)


def _blotches(rng: np.random.Generator, size: int) -> npt.NDArray[np.float32]:
    return _noise(rng, size // 2, size)


_PATTERNS = (_plain, _wood, _checks, _clouds, _blotches)

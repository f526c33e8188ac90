"""Changes of a rendered clip that keep its truth: mirror, camera shift, time, light, noise."""

from __future__ import annotations

import cv2
import numpy as np
import numpy.typing as npt

from molmo2_ros.simulation.motion import LabelledClip

_BORDER_GREY = 90
_NEAR_SHARE = 0.2  # of stills


def augment_still(clip: LabelledClip, rng: np.random.Generator) -> LabelledClip:
    """A still mirrored, zoomed, shifted and relit at random."""
    clip = _mirror(clip) if rng.random() < 0.5 else clip
    side = clip.frames.shape[2]
    near = rng.random() < _NEAR_SHARE
    zoom = rng.uniform(1.2, 1.8) if near else rng.uniform(0.92, 1.2)
    reach = max(
        0.07, 0.5 * (zoom - 1) if near else 0.0
    )  # a part of the picture, as a crop shows it
    shift = side / 2 * (1 - zoom) + rng.uniform(-reach, reach, 2) * side
    return _relight(_warp(clip, [zoom], [shift]), rng)


def augment_clip(clip: LabelledClip, rng: np.random.Generator, num_frames: int) -> LabelledClip:
    """A part of a rendered clip, at its own or double speed, perhaps mirrored or backwards."""
    total = len(clip.frames)
    stride = 2 if 2 * num_frames - 1 <= total and rng.random() < 0.4 else 1
    start = int(rng.integers(total - stride * (num_frames - 1)))
    chosen = np.arange(start, start + stride * (num_frames - 1) + 1, stride)
    if rng.random() < 0.5:
        chosen = chosen[::-1]
    clip = LabelledClip(
        frames=clip.frames[chosen],
        instances=clip.instances[chosen],
        visible_fraction=clip.visible_fraction[chosen],
        objects=clip.objects,
    )
    return _relight(_mirror(clip) if rng.random() < 0.5 else clip, rng)


def pan_still(clip: LabelledClip, rng: np.random.Generator, num_frames: int) -> LabelledClip:
    """A still under a moving camera: objects leave through the picture's border and come back."""
    clip = _mirror(clip) if rng.random() < 0.5 else clip
    side = clip.frames.shape[2]
    time = np.linspace(0, 1, num_frames)
    zoom = np.exp(rng.normal(0, 0.14) * time + rng.normal(0, 0.06))
    drift = rng.normal(0, 0.04, 2) + np.outer(time, rng.normal(0, 0.2, 2))
    swing = np.outer(np.sin(np.pi * time), rng.normal(0, 0.12, 2))
    shift = side / 2 * (1 - zoom)[:, None] + (drift + swing) * side
    return _relight(_warp(clip, list(zoom), list(shift)), rng)


def _mirror(clip: LabelledClip) -> LabelledClip:
    return LabelledClip(
        frames=clip.frames[:, :, ::-1],
        instances=clip.instances[:, :, ::-1],
        visible_fraction=clip.visible_fraction,
        objects=clip.objects,
    )


def _warp(
    clip: LabelledClip, zooms: list[float], shifts: list[npt.NDArray[np.float64]]
) -> LabelledClip:
    """One frame seen under several zooms and shifts; visible fractions follow the lost pixels."""
    image = np.ascontiguousarray(clip.frames[0])
    mask = np.ascontiguousarray(clip.instances[0])
    side, num = image.shape[0], len(clip.objects)
    before = np.bincount(mask.ravel(), minlength=num + 1)[1:]
    frames, masks, fractions = [], [], []
    for zoom, shift in zip(zooms, shifts, strict=True):
        matrix = np.array([[zoom, 0, shift[0]], [0, zoom, shift[1]]], np.float32)
        frames.append(
            cv2.warpAffine(
                image,
                matrix,
                (side, side),
                flags=cv2.INTER_LINEAR,
                borderMode=cv2.BORDER_CONSTANT,
                borderValue=(_BORDER_GREY,) * 3,
            )
        )
        moved = cv2.warpAffine(
            mask, matrix, (side, side), flags=cv2.INTER_NEAREST, borderMode=cv2.BORDER_CONSTANT
        )
        masks.append(moved)
        after = np.bincount(moved.ravel(), minlength=num + 1)[1:]
        kept = np.minimum(after / np.maximum(before * zoom**2, 1e-6), 1.0)
        fractions.append(clip.visible_fraction[0] * kept)
    return LabelledClip(
        frames=np.stack(frames),
        instances=np.stack(masks),
        visible_fraction=np.stack(fractions).astype(np.float32),
        objects=clip.objects,
    )


def _relight(clip: LabelledClip, rng: np.random.Generator) -> LabelledClip:
    """Other colour gains, one brightness and sensor noise."""
    gain = rng.uniform(0.85, 1.15, 3) * rng.uniform(0.85, 1.25)
    noise = rng.normal(0, rng.uniform(0, 4), clip.frames.shape[1:]).astype(np.float32)
    lit = clip.frames * gain.astype(np.float32) + np.float32(rng.normal(0, 5)) + noise
    return LabelledClip(
        frames=np.clip(lit, 0, 255).astype(np.uint8),
        instances=clip.instances,
        visible_fraction=clip.visible_fraction,
        objects=clip.objects,
    )

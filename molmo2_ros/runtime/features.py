"""Encodes every frame once in its life, while the clip's window slides over it.

Letters as in runtime/engine.py.
"""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np
import numpy.typing as npt

from molmo2_ros.camera.frame import Frame
from molmo2_ros.prompt.crops import CropSettings, ImageGrid, image_patches
from molmo2_ros.prompt.patches import frame_patches, frame_pooling
from molmo2_ros.prompt.query import Detail
from molmo2_ros.runtime.engine import Engine
from molmo2_ros.runtime.manifest import VisionFacts

Kept = TypeVar("Kept")


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ImageFeatures:
    """A still image through the crops path."""

    features_MD: npt.NDArray[np.float32]
    grid: ImageGrid


class FeatureCache:
    """Visual features by frame, exact because the tower reads each frame by itself.

    Args:
        engine: encodes what is not here yet.
        max_frames: frames kept (and with them their images); the least recently used goes first.
    """

    def __init__(self, engine: Engine, max_frames: int = 64) -> None:
        if max_frames < 1:
            raise ValueError(f"max_frames is {max_frames}, expected at least 1")
        self.max_frames = max_frames
        self.num_hits = 0  # frames that a question found encoded
        self.num_encoded = 0
        self.num_encoded_ahead = 0  # of these, before any question asked for them
        self._engine = engine
        vision = engine.manifest.vision
        self._vision = vision
        self._pooling_MW = frame_pooling(
            vision.image_size // vision.patch_size, vision.video_pooling
        )
        self._crops = crop_settings(vision)
        self._frames: OrderedDict[Frame, npt.NDArray[np.float32]] = OrderedDict()
        self._images: OrderedDict[Frame, ImageFeatures] = OrderedDict()

    @property
    def tokens_per_frame(self) -> int:
        """Visual tokens of one video frame."""
        return len(self._pooling_MW)

    def frames(self, frames: Sequence[Frame]) -> npt.NDArray[np.float32]:
        """Features of a clip, float32 [num_frames * M, D], frame by frame."""
        return np.concatenate([self._frame(frame) for frame in frames])

    def images(self, frames: Sequence[Frame]) -> list[ImageFeatures]:
        """Features of still images through the sharper crops path."""
        return [self._image(frame) for frame in frames]

    def encode_ahead(self, frame: Frame, detail: Detail = Detail.FRAMES) -> bool:
        """Encode a frame that a question is going to read, so that it finds it here.

        Returns:
            False where it was here already.
        """
        kept = self._images if detail is Detail.CROPS else self._frames
        if frame in kept:
            return False
        if detail is Detail.CROPS:
            self._image(frame)
        else:
            self._frame(frame)
        self.num_encoded_ahead += 1
        return True

    @property
    def found_share(self) -> float:
        """Share of the frames that questions read which they found encoded, 0 before the first."""
        num_read = self.num_hits + self.num_encoded - self.num_encoded_ahead
        return self.num_hits / num_read if num_read else 0.0

    def clear(self) -> None:
        """Forget all frames, as when another engine takes over."""
        self._frames.clear()
        self._images.clear()

    def _frame(self, frame: Frame) -> npt.NDArray[np.float32]:
        features_MD = self._known(self._frames, frame)
        if features_MD is None:
            vision = self._vision
            patches_NC = frame_patches(frame.upright, vision.image_size, vision.patch_size)
            features_MD = self._engine.encode(patches_NC[None], self._pooling_MW)
            self._keep(self._frames, frame, features_MD)
        return features_MD

    def _image(self, frame: Frame) -> ImageFeatures:
        known = self._known(self._images, frame)
        if known is None:
            cut = image_patches([frame.upright], self._crops)
            features_MD = self._engine.encode(cut.patches_KNC, cut.pooling_MW)
            known = ImageFeatures(features_MD=features_MD, grid=cut.grids[0])
            self._keep(self._images, frame, known)
        return known

    def _known(self, kept: OrderedDict[Frame, Kept], frame: Frame) -> Kept | None:
        entry = kept.get(frame)
        if entry is not None:
            self.num_hits += 1
            kept.move_to_end(frame)
        return entry

    def _keep(self, kept: OrderedDict[Frame, Kept], frame: Frame, entry: Kept) -> None:
        self.num_encoded += 1
        kept[frame] = entry
        if len(kept) > self.max_frames:
            kept.popitem(last=False)


def crop_settings(vision: VisionFacts) -> CropSettings:
    """How an engine cuts still images.

    Raises:
        ConfigError: the manifest's values contradict each other.
    """
    return CropSettings(
        image_size=vision.image_size,
        patch_size=vision.patch_size,
        pooling=vision.image_pooling,
        max_crops=vision.max_crops,
        overlap_margins=vision.overlap_margins,
        use_single_crop_col_tokens=vision.use_single_crop_col_tokens,
    )

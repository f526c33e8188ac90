"""Masks from the points of a track, by SAM 2: what J&F is measured on.

Each answered object is prompted by all of its points, each on its own frame, and followed through
every frame of the clip, forwards from its first point and backwards from it. All objects of an
answer together are one mask, as MeViS has it: the phrase means all of them.

transformers' SAM 2 computes; its weights come from a folder with `model.safetensors`, such as a
download of facebook/sam2.1-hiera-large. The authors prompt SAM 2 with points at 1 fps; how exactly
is not published.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from molmo2_ros.answers.answer import Answer
from molmo2_ros.errors import ConfigError, EngineError
from molmo2_ros.training.data.answers import SAME_S
from molmo2_ros.training.data.example import Annotation, LabelledObject, Media
from molmo2_ros.training.data.media import each_frame
from molmo2_ros.training.evaluation.truth import load_mask
from molmo2_ros.training.metrics.pointing import Mask
from molmo2_ros.training.metrics.segmentation import outline_accuracy, region_similarity

# Of ImageNet, as SAM 2 was trained.
_MEAN, _STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)

Measures = dict[str, tuple[float, ...]]
Prompts = Mapping[int, tuple[float, float]]  # number of the frame -> x, y in 0..1


class Segmenter:
    """SAM 2 for videos.

    Args:
        model: transformers' Sam2VideoModel.
    """

    def __init__(self, model: Any) -> None:
        import torch

        self._torch = torch
        self._device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        self._model = model.to(self._device).eval()
        self._side = int(model.config.image_size)

    def follow(
        self, frames: Sequence[npt.NDArray[np.uint8]], objects: Mapping[int, Prompts]
    ) -> Iterator[dict[int, npt.NDArray[np.float32]]]:
        """Every object of a clip through all of its frames.

        Args:
            frames: uint8 [S, S, 3] RGB of the model's side.
            objects: its points by object.

        Yields:
            for each object its logits by frame, float32 [M, M], a quarter of the side; above 0 is
            the object.
        """
        from transformers import Sam2VideoInferenceSession

        session = Sam2VideoInferenceSession(
            video_height=self._side,
            video_width=self._side,
            inference_device=self._device,
            inference_state_device=self._device,
            dtype=self._torch.float32,
        )
        session.processed_frames = _Prepared(frames, self._torch)  # one at a time, not all
        for key, prompts in objects.items():
            session.reset_tracking_data()
            yield self._follow(session, key, prompts)

    def _follow(
        self, session: Any, key: int, prompts: Prompts
    ) -> dict[int, npt.NDArray[np.float32]]:
        torch, index = self._torch, session.obj_id_to_idx(key)
        for number, (x, y) in sorted(prompts.items()):
            point = torch.tensor([[[[x * self._side, y * self._side]]]], dtype=torch.float32)
            label = torch.ones(1, 1, 1, dtype=torch.int32)
            session.add_point_inputs(index, number, {"point_coords": point, "point_labels": label})
            session.obj_with_new_inputs = [key]
            self._model(session, frame_idx=number)
        found: dict[int, npt.NDArray[np.float32]] = {}
        for reverse in (False, True):
            for output in self._model.propagate_in_video_iterator(session, reverse=reverse):
                found[output.frame_idx] = output.pred_masks[0, 0].float().cpu().numpy()
        return found

    def measure(
        self, folder: Path, annotation: Annotation, media: Media, answer: Answer
    ) -> Measures:
        """J, F and their mean of a track's answer.

        Args:
            folder: of the data set.
            annotation: of a track, with masks; frames with a mask or a hidden point are measured.
            media: its clip.
            answer: of the model.

        Returns:
            nothing where the annotation has no mask.

        Raises:
            DataError: the clip or a mask cannot be read.
        """
        told = told_times(annotation.objects)
        if not told:
            return {}
        times_s, frames, shape = self._frames(folder, media)
        wanted = {t: int(np.argmin(np.abs(np.array(times_s) - t))) for t in told}
        prompts: dict[int, dict[int, tuple[float, float]]] = {}
        for point in answer.points:
            number = int(np.argmin(np.abs(np.array(times_s) - point.time_s)))
            prompts.setdefault(point.object_id, {}).setdefault(number, (point.x, point.y))
        predicted = [np.zeros(shape, np.bool_) for _ in told]
        for followed in self.follow(frames, prompts):
            for index, time_s in enumerate(told):
                if (logits := followed.get(wanted[time_s])) is not None:
                    predicted[index] |= _enlarged(logits, shape)
        return mask_measures(folder, annotation.objects, told, predicted)

    def _frames(
        self, folder: Path, media: Media
    ) -> tuple[list[float], list[npt.NDArray[np.uint8]], tuple[int, int]]:
        times_s, frames, shape = [], [], (0, 0)
        for time_s, image in each_frame(folder, media):
            times_s.append(time_s)
            shape = image.shape[0], image.shape[1]
            frames.append(_squeezed(image, self._side, self._torch))
        return times_s, frames, shape


class _Prepared(dict[int, Any]):
    """Frames as the model reads them, made when one is asked for."""

    def __init__(self, frames: Sequence[npt.NDArray[np.uint8]], torch: Any) -> None:
        super().__init__(dict.fromkeys(range(len(frames))))
        self._frames, self._torch = frames, torch

    def __getitem__(self, number: int) -> Any:
        image = self._frames[number].astype(np.float32) / 255
        scaled = (image - np.array(_MEAN, np.float32)) / np.array(_STD, np.float32)
        return self._torch.from_numpy(scaled.transpose(2, 0, 1))


def _squeezed(image: npt.NDArray[np.uint8], side: int, torch: Any) -> npt.NDArray[np.uint8]:
    """Bilinear with antialiasing, as SAM 2's processor has it."""
    tensor = torch.from_numpy(np.array(image)).permute(2, 0, 1)[None]
    scaled = torch.nn.functional.interpolate(
        tensor, size=(side, side), mode="bilinear", antialias=True, align_corners=False
    )
    squeezed: npt.NDArray[np.uint8] = scaled[0].permute(1, 2, 0).numpy()
    return squeezed


def _enlarged(logits: npt.NDArray[np.float32], shape: tuple[int, int]) -> Mask:
    large = cv2.resize(logits, shape[::-1], interpolation=cv2.INTER_LINEAR)
    return np.asarray(large > 0)


def told_times(objects: Sequence[LabelledObject]) -> list[float]:
    """Where a mask is known, or known not to be; nowhere for objects without any mask."""
    if not any(thing.masks for thing in objects):
        return []
    masked = {round(place, 3) for thing in objects for place, _ in thing.masks}
    hidden = {round(p.time_s or 0.0, 3) for t in objects for p in t.points if not p.visible}
    return sorted(masked | hidden)


def mask_measures(
    folder: Path,
    objects: Sequence[LabelledObject],
    times_s: Sequence[float],
    predicted: Sequence[Mask],
) -> Measures:
    """J, F and their mean over moments of a clip.

    Args:
        folder: of the data set.
        objects: all that is meant; their masks are one.
        times_s: from `told_times`.
        predicted: bool [H, W] at these, of all that was answered.
    """
    regions, outlines = [], []
    for time_s, mask in zip(times_s, predicted, strict=True):
        true = _true_mask(folder, objects, time_s, mask.shape)
        regions.append(region_similarity(mask, true))
        outlines.append(outline_accuracy(mask, true))
    j, f = float(np.mean(regions)), float(np.mean(outlines))
    return {"j_and_f": ((j + f) / 2,), "j_and_f_region": (j,), "j_and_f_outline": (f,)}


def _true_mask(
    folder: Path, objects: Sequence[LabelledObject], time_s: float, shape: tuple[int, ...]
) -> Mask:
    union = np.zeros(shape, np.bool_)
    for thing in objects:
        for place, path in thing.masks:
            if abs(place - time_s) < SAME_S / 10:
                union |= load_mask(folder / path)
    return union


def open_segmenter(folder: Path) -> Segmenter:
    """Load SAM 2.

    Args:
        folder: with config.json and model.safetensors of a SAM 2 for transformers.

    Raises:
        ConfigError: torch or a transformers with SAM 2 is not installed.
        EngineError: the folder holds no such weights.
    """
    try:
        from molmo2_ros.engines.torchvision_ops import declare_missing_ops

        declare_missing_ops()
        from transformers import Sam2VideoModel
    except ImportError as error:
        raise ConfigError(
            f"J&F needs SAM 2 of transformers ({error}), which is not installed; "
            '`pip install "molmo2_ros[training]"` brings it, or leave --sam2 out'
        ) from error
    if not (folder / "model.safetensors").is_file():
        raise EngineError(
            f"no model.safetensors in {folder}, expected the folder of a SAM 2 such as "
            "facebook/sam2.1-hiera-large; fetch it with `hf download`"
        )
    try:
        model = Sam2VideoModel.from_pretrained(folder, use_safetensors=True, local_files_only=True)
    except Exception as error:  # transformers and safetensors raise what they like
        raise EngineError(f"transformers cannot load SAM 2 from {folder}: {error}") from error
    return Segmenter(model)

"""OpenCV's own detectors as labellers: people by HOG, faces and more by Haar cascades.

OpenCV 5 moved both to its extra modules: opencv-contrib-python-headless has them, and OpenCV 4 has.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from molmo2_ros.camera.frame import Frame
from molmo2_ros.errors import ConfigError
from molmo2_ros.training.logs.labellers import MadeLabels, MadePoint

_HOG_STRIDE = (8, 8)
_HOG_SCALE = 1.05
_HOG_MIN_SCORE = 0.3  # of the SVM's margin: below it half of what is found is no person
_HOG_FULL_SCORE = 1.5
_HOG_HEIGHT = 400  # pixels; a smaller picture is enlarged: a person must fill 64x128
_HOG_MAX_HEIGHT = 4000
_HAAR_FULL_NEIGHBOURS = 20
_HAAR_MIN_NEIGHBOURS = 5
_OVERLAP = 0.5  # of the smaller box: more is the same thing
Boxes = npt.NDArray[np.float64]  # [N, 4]: left, top, width, height, pixels


class HogPeople:
    """The pedestrian detector that OpenCV ships.

    Args:
        hog: with the weights for people.
        height: pixels to which the height of a smaller picture is enlarged: people are found from
            about 100 of these pixels on.
    """

    source = "opencv_hog"

    def __init__(self, hog: Any, height: int = _HOG_HEIGHT) -> None:
        self._hog = hog
        self._height = height

    def label(self, frames: Sequence[Frame], phrase: str) -> MadeLabels:
        """Points at the middle of each person, whatever the phrase says."""
        del phrase
        points = []
        for index, frame in enumerate(frames):
            boxes, scores = self._detect(frame.image)
            confidence = np.clip(
                0.5 + 0.5 * (scores - _HOG_MIN_SCORE) / (_HOG_FULL_SCORE - _HOG_MIN_SCORE), 0, 1
            )
            points += _points(index, frame, boxes, confidence)
        return MadeLabels(points=tuple(points))

    def _detect(self, image: npt.NDArray[np.uint8]) -> tuple[Boxes, npt.NDArray[np.float64]]:
        scale = max(1.0, self._height / image.shape[0])
        grey = cv2.cvtColor(image, cv2.COLOR_RGB2GRAY)
        if scale > 1:
            grey = cv2.resize(grey, None, fx=scale, fy=scale, interpolation=cv2.INTER_LINEAR)
        boxes, scores = self._hog.detectMultiScale(
            grey, winStride=_HOG_STRIDE, padding=(8, 8), scale=_HOG_SCALE
        )
        boxes = np.asarray(boxes, np.float64).reshape(-1, 4) / scale
        scores = np.asarray(scores, np.float64).reshape(-1)
        good = scores >= _HOG_MIN_SCORE
        return boxes[good], scores[good]


class HaarCascade:
    """One of OpenCV's cascade files, or one of one's own.

    Args:
        cascade: loaded.
        name: of the file, which becomes part of the source.
    """

    def __init__(self, cascade: Any, name: str) -> None:
        self._cascade = cascade
        self.source = f"opencv_haar_{name}"

    def label(self, frames: Sequence[Frame], phrase: str) -> MadeLabels:
        """Points at the middle of each thing that the cascade was trained on."""
        del phrase
        points = []
        for index, frame in enumerate(frames):
            grey = cv2.cvtColor(frame.image, cv2.COLOR_RGB2GRAY)
            boxes, neighbours = self._cascade.detectMultiScale2(
                grey, scaleFactor=1.1, minNeighbors=_HAAR_MIN_NEIGHBOURS
            )
            boxes = np.asarray(boxes, np.float64).reshape(-1, 4)
            confidence = np.clip(
                np.asarray(neighbours, np.float64).reshape(-1) / _HAAR_FULL_NEIGHBOURS, 0, 1
            )
            points += _points(index, frame, boxes, confidence)
        return MadeLabels(points=tuple(points))


def hog(argument: str) -> HogPeople:
    """Make the people detector.

    Args:
        argument: the height in pixels to which smaller pictures are enlarged, which finds smaller
            people and takes longer; "" for 400.

    Raises:
        ConfigError: the argument is no height, or this OpenCV has no HOG.
    """
    is_height = argument.isascii() and argument.isdigit() and len(argument) < 6
    height = int(argument) if is_height else 0
    if argument and not 128 <= height <= _HOG_MAX_HEIGHT:
        raise ConfigError(
            f"labeller hog was given {argument!r}, expected the height in pixels to which smaller "
            f"pictures are enlarged, 128 to {_HOG_MAX_HEIGHT}, or nothing"
        )
    descriptor = _part_of_opencv("HOGDescriptor")()
    descriptor.setSVMDetector(_part_of_opencv("HOGDescriptor_getDefaultPeopleDetector")())
    return HogPeople(descriptor, height or _HOG_HEIGHT)


def haar(argument: str) -> HaarCascade:
    """Load a cascade.

    Args:
        argument: a file, or the name of one of OpenCV's, such as "frontalface_default"; "" is that.

    Raises:
        ConfigError: this OpenCV has no cascades, there is no such file, or it is none.
    """
    make = _part_of_opencv("CascadeClassifier")
    name = argument or "frontalface_default"
    given = Path(name)
    file = given if given.suffix == ".xml" else cascades_folder() / f"haarcascade_{name}.xml"
    if not file.is_file():
        there = sorted(p.stem.removeprefix("haarcascade_") for p in cascades_folder().glob("*.xml"))
        raise ConfigError(
            f"there is no cascade file {file}; OpenCV's own here: {', '.join(there) or 'none'}. "
            "The wheels of OpenCV 5 bring none: give the path of one, as OpenCV 4, or Debian's "
            "opencv-data in /usr/share/opencv4/haarcascades, have it"
        )
    cascade = make()
    if not cascade.load(str(file)) or cascade.empty():
        raise ConfigError(f"{file} is no cascade that OpenCV can read")
    return HaarCascade(cascade, file.stem.removeprefix("haarcascade_"))


def cascades_folder() -> Path:
    """Where OpenCV's cascade files are: in its wheel, or where Debian puts them."""
    in_wheel = Path(getattr(getattr(cv2, "data", None), "haarcascades", ""))
    system = Path("/usr/share/opencv4/haarcascades")
    return in_wheel if any(in_wheel.glob("*.xml")) or not system.is_dir() else system


def _part_of_opencv(name: str) -> Any:
    part = getattr(cv2, name, None)
    if part is None:
        raise ConfigError(
            f"OpenCV {cv2.__version__} has no {name} in this build: since version 5 it is in the "
            "extra modules. `pip uninstall opencv-python-headless` and `pip install "
            "opencv-contrib-python-headless` bring it (both write the same folder: only one of "
            "them may be installed); OpenCV 4 has it as it is"
        )
    return part


def _points(
    index: int, frame: Frame, boxes: Boxes, confidence: npt.NDArray[np.float64]
) -> list[MadePoint]:
    """The middles of boxes, one for those that lie on each other."""
    made = []
    for row in distinct(boxes, confidence):
        left, top, width, height = boxes[row]
        made.append(
            MadePoint(
                frame=index,
                x=float(np.clip((left + width / 2) / frame.width, 0, 1)),
                y=float(np.clip((top + height / 2) / frame.height, 0, 1)),
                confidence=float(confidence[row]),
            )
        )
    return made


def distinct(boxes: Boxes, confidence: npt.NDArray[np.float64]) -> list[int]:
    """Rows of boxes that are things of their own, the surest first.

    Worked example: boxes (0, 0, 10, 10) and (2, 2, 6, 6): all of the second lies in the first, so
    only the surer of the two is kept.
    """
    kept: list[int] = []
    for row in np.argsort(-confidence, kind="stable"):
        if all(_shared(boxes[row], boxes[other]) < _OVERLAP for other in kept):
            kept.append(int(row))
    return kept


def _shared(one: npt.NDArray[np.float64], other: npt.NDArray[np.float64]) -> float:
    """Area that two boxes share, of the smaller one's."""
    low = np.maximum(one[:2], other[:2])
    high = np.minimum(one[:2] + one[2:], other[:2] + other[2:])
    return float(np.prod(np.clip(high - low, 0, None)) / min(np.prod(one[2:]), np.prod(other[2:])))

"""One training example: pictures, or words alone, and what is asked and known about them.

An example says what is true (objects with points and times, a caption, a reply); the words of the
question and the answer are written later, in any of the styles that Molmo2 was trained in. What it
holds is checked when it is made, so that no reader and no trainer has to check again.
"""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass
from enum import Enum

from molmo2_ros.errors import DataError

HUMAN = "human"  # the source of labels that a person made or corrected
SYNTHETIC = "synthetic"  # rendered scenes: true by construction
MAX_OBJECTS = 1000  # of one annotation
MAX_TEXT = 20_000  # characters of a question, a reply or a caption


class Task(str, Enum):
    """What an annotation asks for."""

    POINT = "point"  # every object, at each time that is annotated
    COUNT = "count"  # the same, with their number
    TRACK = "track"  # the objects through all of the clip
    TRACK_FROM_POINT = "track_from_point"  # one object, from a point that the question gives
    ENDS = "ends"  # the first and the last sight of each object
    REPLY = "reply"  # words, multiple choice among them
    CAPTION = "caption"  # a description

    @property
    def has_objects(self) -> bool:
        """Whether the answer is written from objects and not from `answer`."""
        return self not in (Task.REPLY, Task.CAPTION)

    @property
    def is_track(self) -> bool:
        """Whether the answer follows objects through a clip."""
        return self in (Task.TRACK, Task.TRACK_FROM_POINT)


@dataclass(frozen=True, slots=True, kw_only=True)
class Media:
    """What is looked at: one video, frames of one clip, or one or several still images.

    Paths are relative to the folder of the dataset, or absolute. One of the three is given, or none
    where an example is words alone.

    Args:
        video: a video file.
        frames: image files of one clip, in the order of time, with `times_s`.
        images: still images, in the order in which the question counts them (from 1).
        times_s: of `frames`: seconds, rising; the first may be any.
        start_s: of a video: where the clip begins, seconds from the video's first frame.
        end_s: where it ends; None for the video's end.
        subtitles: of a clip: begin and end in seconds from the clip's first frame, and text.

    Raises:
        DataError: several are given, or times or subtitles that do not fit.
    """

    video: str | None = None
    frames: tuple[str, ...] = ()
    images: tuple[str, ...] = ()
    times_s: tuple[float, ...] = ()
    start_s: float = 0.0
    end_s: float | None = None
    subtitles: tuple[tuple[float, float, str], ...] = ()

    def __post_init__(self) -> None:
        given = [name for name in ("video", "frames", "images") if getattr(self, name)]
        if len(given) > 1:
            raise DataError(
                f"media has {' and '.join(given)}, expected one of video, frames and images, or "
                "none where the example is words alone"
            )
        if self.subtitles and not self.is_clip:
            raise DataError("media has subtitles and no clip, expected video or frames")
        if len(self.times_s) != len(self.frames):
            raise DataError(
                f"media has {len(self.frames)} frames and {len(self.times_s)} times, expected "
                "as many of both"
            )
        for earlier, later in zip(self.times_s, self.times_s[1:], strict=False):
            if not later > earlier:
                raise DataError(f"frame times {earlier:g} and {later:g} s do not rise")
        if not 0 <= self.start_s < (math.inf if self.end_s is None else self.end_s):
            raise DataError(f"clip from {self.start_s} to {self.end_s} s, expected a later end")

    @property
    def is_clip(self) -> bool:
        """Whether points have times; those of still images have the number of their image."""
        return self.video is not None or bool(self.frames)

    @property
    def is_empty(self) -> bool:
        """Whether nothing is looked at."""
        return not self.is_clip and not self.images


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelledPoint:
    """Where an object is at one time, or in one image.

    Args:
        x: 0..1 of the width, from the left.
        y: 0..1 of the height, from the top.
        time_s: in a clip: seconds from its first frame.
        image: among still images: its number, from 1.
        visible: False where the object is known to be hidden or out of the picture there; no
            answer has a point then, and `x`, `y` are ignored.
        visible_fraction: 0..1, how much of it nothing hides, where that is known.

    Raises:
        DataError: a value is out of range.
    """

    x: float = 0.0
    y: float = 0.0
    time_s: float | None = None
    image: int | None = None
    visible: bool = True
    visible_fraction: float | None = None

    def __post_init__(self) -> None:
        if (self.time_s is None) == (self.image is None):
            raise DataError(f"point has time {self.time_s} and image {self.image}, expected one")
        if self.time_s is not None and not 0 <= self.time_s < math.inf:
            raise DataError(
                f"point at {self.time_s} s, expected seconds from the clip's first frame"
            )
        if self.image is not None and self.image < 1:
            raise DataError(f"point in image {self.image}, expected a number from 1")
        if self.visible and not (0 <= self.x <= 1 and 0 <= self.y <= 1):
            raise DataError(
                f"point at x {self.x:g}, y {self.y:g} is outside the picture, expected 0..1 of its "
                "width and height"
            )
        if self.visible_fraction is not None and not 0 <= self.visible_fraction <= 1:
            raise DataError(f"visible_fraction is {self.visible_fraction:g}, expected 0..1")


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelledObject:
    """One thing through all of the media.

    Args:
        points: in the order of time or image; at most one per time and image.
        masks: where its masks are: for each of them the time in seconds or the image's number, and
            the path of an 8-bit PNG whose pixels above 127 are the object's.

    Raises:
        DataError: points that do not rise.
    """

    points: tuple[LabelledPoint, ...]
    masks: tuple[tuple[float, str], ...] = ()

    def __post_init__(self) -> None:
        places = [p.time_s if p.image is None else p.image for p in self.points]
        for earlier, later in zip(places, places[1:], strict=False):
            if not later > earlier:  # type: ignore[operator]
                raise DataError(f"an object's points at {earlier} and {later} do not rise")

    def seen(self) -> Iterator[LabelledPoint]:
        """The points that an answer may have."""
        return (point for point in self.points if point.visible)


@dataclass(frozen=True, slots=True, kw_only=True)
class Annotation:
    """One thing that is known about the media, from which one question and one answer are written.

    Args:
        task: what is asked for.
        label: the words for the objects ("red mug"), as they stand in the answer's tag; empty for
            words and captions.
        objects: what the label means; empty: there are none.
        question: the words to ask in; None: drawn from the task's trained wordings.
        answer: the words of a reply or a caption.
        choices: of multiple choice: all options, of which `answer` is one.
        style: Molmo2's name of the question's style; None: the task's own.
        fps: of tracks: the rate at which the answer is written; None: 2.
        weight: of each answer token; None: as the style has it.
        source: who made the labels: "human", "synthetic", or a labeller's own name. Labels of
            different sources are not mixed unless that is asked for.
        confidence: 0..1, of labels that a machine made.

    Raises:
        DataError: a value that is missing or does not belong to the task.
    """

    task: Task
    label: str = ""
    objects: tuple[LabelledObject, ...] = ()
    question: str | None = None
    answer: str | None = None
    choices: tuple[str, ...] = ()
    style: str | None = None
    fps: float | None = None
    weight: float | None = None
    source: str = HUMAN
    confidence: float | None = None

    def __post_init__(self) -> None:
        if self.task.has_objects:
            if not self.label.strip():
                raise DataError(
                    f"a {self.task.value} annotation without a label, expected its words"
                )
            if self.answer is not None or self.choices:
                raise DataError(
                    f"a {self.task.value} annotation has an answer in words, expected objects alone"
                )
        elif self.answer is None or not self.answer.strip() or self.objects or self.label:
            raise DataError(
                f"a {self.task.value} annotation needs words as its answer, and has no objects"
            )
        if self.choices and self.answer not in self.choices:
            raise DataError(f"the answer {self.answer!r} is none of the choices {self.choices}")
        if len(self.objects) > MAX_OBJECTS:
            raise DataError(f"{len(self.objects)} objects, expected at most {MAX_OBJECTS}")
        for name, text in (
            ("question", self.question),
            ("answer", self.answer),
            ("label", self.label),
        ):
            if text is not None and len(text) > MAX_TEXT:
                raise DataError(f"{name} of {len(text)} characters, expected at most {MAX_TEXT}")
        for name, value in (("fps", self.fps), ("weight", self.weight)):
            if value is not None and not 0 < value < math.inf:
                raise DataError(f"{name} is {value}, expected a number above 0")
        if self.confidence is not None and not 0 <= self.confidence <= 1:
            raise DataError(f"confidence is {self.confidence}, expected 0..1")
        if not self.source:
            raise DataError("source is empty, expected who made the labels")


@dataclass(frozen=True, slots=True, kw_only=True)
class Example:
    """Media and everything that is known about them: a tree whose branches are the annotations.

    Args:
        name: unique in its dataset.
        media: what is looked at; left out where the example is words alone.
        annotations: at least one.
        dialogue: the annotations are the turns of one conversation, in their order.

    Raises:
        DataError: points that do not belong to the media, or a task that needs some and has none.
    """

    name: str
    media: Media = Media()
    annotations: tuple[Annotation, ...]
    dialogue: bool = False

    def __post_init__(self) -> None:
        if not self.name or not self.annotations:
            raise DataError(f"example {self.name!r} has no name or no annotation")
        num_images = len(self.media.images)
        for annotation in self.annotations:
            if self.media.is_empty and annotation.task is not Task.REPLY:
                raise DataError(
                    f"example {self.name}: a {annotation.task.value} annotation and no media, "
                    "expected one of video, frames and images; words alone have replies"
                )
            for point in (p for thing in annotation.objects for p in thing.points):
                if self.media.is_clip != (point.image is None):
                    wanted = "a time" if self.media.is_clip else "an image's number"
                    raise DataError(f"example {self.name}: a point without {wanted}")
                if point.image is not None and point.image > num_images:
                    raise DataError(
                        f"example {self.name}: a point in image {point.image} of {num_images}"
                    )

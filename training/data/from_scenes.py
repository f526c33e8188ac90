"""Simulated tables as a data set: what keeps molmo2-nano's skills alive while it learns others.

A fine-tuning on a robot's own pictures forgets what it is not shown. The scenes, questions and
answers here are those of molmo2-nano's own training (training/scenes.py), in this package's format,
so that a mixture can hold a share of them.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Iterator
from pathlib import Path

import numpy as np

from molmo2_ros.errors import ConfigError
from molmo2_ros.simulation.motion import LabelledClip, sample_clip, sample_still
from molmo2_ros.simulation.world import World
from molmo2_ros.training.data.dataset_writer import DatasetWriter
from molmo2_ros.training.data.example import (
    SYNTHETIC,
    Annotation,
    Example,
    LabelledObject,
    LabelledPoint,
    Media,
    Task,
)
from molmo2_ros.training.held_out import CAMERA_SIZES, FIRST_WORLD, SCENES_PER_WORLD
from molmo2_ros.training.nano.pool import ASPECT_SHARES
from molmo2_ros.training.scenes import (
    Question,
    Sightings,
    clip_questions,
    locate,
    still_questions,
)

CLIP_FRAMES = 8  # molmo2-nano's longest clip
STEP_S = 0.5  # between its frames
STILL_QUESTIONS = 5
_WORLDS_PER_SEED = 10_000
_FIRST_CLIP_WORLD = 5_000  # of a seed
_TASKS = {
    "point": Task.POINT,
    "point_all": Task.POINT,
    "count": Task.COUNT,
    "track": Task.TRACK,
}


def from_scenes(out: Path, *, stills: int, clips: int, seed: int = 0) -> int:
    """Render scenes and write them with their questions; started again, it goes on.

    Args:
        out: folder of the data set.
        stills: scenes of one frame.
        clips: scenes of CLIP_FRAMES frames, half a second apart.
        seed: 0 to 88; different ones share no shape and no texture, and none of them shares one
            with the scenes that models are measured on.

    Returns:
        examples in the data set.

    Raises:
        ConfigError: a number that is out of range.
        DataError: no space is left.
    """
    last_seed = FIRST_WORLD // _WORLDS_PER_SEED - 2
    if not 0 <= seed <= last_seed:
        raise ConfigError(f"seed of scenes is {seed}, expected 0 to {last_seed}")
    most = _FIRST_CLIP_WORLD * SCENES_PER_WORLD
    for name, number in (("stills", stills), ("clips", clips)):
        if not 0 <= number <= most:
            raise ConfigError(f"{number} {name} of one seed, expected 0 to {most}; use more seeds")
    with DatasetWriter(out, name="scenes") as writer:
        for kind, number, num_frames in (("still", stills, 1), ("clip", clips, CLIP_FRAMES)):
            first = _WORLDS_PER_SEED * (seed + 1) + _FIRST_CLIP_WORLD * (num_frames > 1)
            names = [f"{kind}_{seed}_{index:05d}" for index in range(number)]
            missing = [index for index, name in enumerate(names) if name not in writer]
            for place, group in itertools.groupby(missing, lambda i: i // SCENES_PER_WORLD):
                world = World(first + place)  # takes longer to make than a picture
                for index in group:
                    # A scene follows from its numbers alone, whatever was made before it.
                    rng = np.random.default_rng([seed, num_frames, index])
                    _add(writer, names[index], world, rng, num_frames)
        return len(writer)


def _add(
    writer: DatasetWriter, name: str, world: World, rng: np.random.Generator, num_frames: int
) -> None:
    """Draw until there is something to ask."""
    times_s = tuple(STEP_S * number for number in range(num_frames))
    annotations: list[Annotation] = []
    while not annotations:
        clip = _scene(world, rng, num_frames)
        sightings = locate(clip)
        if num_frames == 1:
            questions = still_questions(sightings, rng, STILL_QUESTIONS)
        else:
            # A given point would be drawn anew by whoever writes the answer.
            kinds = ("gap", "track", "several", "absent")
            questions = clip_questions(sightings, times_s, rng, kinds)
        annotations = list(_annotations(questions, sightings, times_s))
    frames = writer.add_frames(name, list(clip.frames))
    media = Media(frames=frames, times_s=times_s)
    writer.add(Example(name=name, media=media, annotations=tuple(annotations)))


def _scene(world: World, rng: np.random.Generator, num_frames: int) -> LabelledClip:
    size = CAMERA_SIZES[int(rng.choice(len(CAMERA_SIZES), p=ASPECT_SHARES))]
    if num_frames == 1:
        return sample_still(world, rng, size=size)
    return sample_clip(world, rng, num_frames, size=size)


def _annotations(
    questions: Iterable[Question], sightings: Sightings, times_s: tuple[float, ...]
) -> Iterator[Annotation]:
    for question in questions:
        yield Annotation(
            task=_TASKS[question.kind],
            label=question.label,
            objects=() if question.absent else tuple(_objects(question, sightings, times_s)),
            question=question.text,
            source=SYNTHETIC,
        )


def _objects(
    question: Question, sightings: Sightings, times_s: tuple[float, ...]
) -> Iterator[LabelledObject]:
    """All things that are meant, with the frames in which an answer leaves them out."""
    shown = {(target.instance, target.frame) for target in question.targets}
    for instance in question.instances:
        yield LabelledObject(
            points=tuple(
                LabelledPoint(
                    x=_coarse(sightings.centre[frame, instance - 1, 0]),
                    y=_coarse(sightings.centre[frame, instance - 1, 1]),
                    time_s=time_s,
                    visible=(instance, frame) in shown,
                )
                for frame, time_s in enumerate(times_s)
            )
        )


def _coarse(value: float) -> float:
    """In hundredths, as molmo2-nano's answers are: a third digit would be noise of the label."""
    return min(round(value * 100), 99) / 100

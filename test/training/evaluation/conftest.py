"""A small data set of rendered scenes, and engines that it is asked of."""

import dataclasses
import shutil

import numpy as np
import pytest

from molmo2_ros.grounder import Grounder
from molmo2_ros.runtime.engine import NANO, load_engine
from molmo2_ros.runtime.manifest import SKILLS, Manifest
from molmo2_ros.training.data.dataset_writer import DatasetWriter
from molmo2_ros.training.data.example import (
    Annotation,
    Example,
    LabelledObject,
    LabelledPoint,
    Media,
    Task,
)
from molmo2_ros.training.held_out import clip_test_questions, held_out_clips, still_test_questions
from molmo2_ros.training.scenes import GONE, UNCLEAR, locate

_TASKS = {"point": Task.POINT, "point_all": Task.POINT, "count": Task.COUNT, "track": Task.TRACK}


def annotation_of(writer, name, clip, sightings, question):
    """A rendered question as a data set has it; None where something unclear is in view."""
    is_clip = len(clip.frames) > 1
    objects = []
    for instance in question.instances:
        points, masks = [], []
        for t, instances in enumerate(clip.instances):
            place = {"time_s": 0.5 * t} if is_clip else {"image": 1}
            state = sightings.state[t, instance - 1]
            if state == UNCLEAR:
                return None
            if state == GONE:
                points.append(LabelledPoint(**place, visible=False))
                continue
            x, y = sightings.centre[t, instance - 1]
            fraction = min(float(clip.visible_fraction[t, instance - 1]), 1.0)
            points.append(LabelledPoint(x=x, y=y, visible_fraction=fraction, **place))
            path = writer.add_mask(f"{name} {question.text} {instance} {t}", instances == instance)
            masks.append((0.5 * t if is_clip else 1.0, path))
        objects.append(LabelledObject(points=tuple(points), masks=tuple(masks)))
    label = question.label if question.kind != "point_all" else f"all {question.label}"
    return Annotation(
        task=_TASKS[question.kind], label=label, objects=tuple(objects), source="synthetic"
    )


def write_scenes(folder, num_stills, num_clips, num_frames=4):
    """Held-out scenes in the package's format, with the questions that the evaluator asks."""
    with DatasetWriter(folder) as writer:
        for is_clip, num, length in ((False, num_stills, 1), (True, num_clips, num_frames)):
            rng = np.random.default_rng(7)
            stamps_s = tuple(0.5 * t for t in range(length))
            for number, clip in enumerate(held_out_clips(3, num, length)):
                name = f"{'clip' if is_clip else 'still'} {number}"
                sightings = locate(clip)
                asked = (
                    clip_test_questions(sightings, stamps_s, rng)
                    if is_clip
                    else still_test_questions(sightings, rng)
                )
                known = [annotation_of(writer, name, clip, sightings, q) for q in asked]
                known = tuple(annotation for annotation in known if annotation is not None)
                paths = writer.add_frames(name, list(clip.frames))
                media = Media(frames=paths, times_s=stamps_s) if is_clip else Media(images=paths)
                if known:
                    writer.add(Example(name=name, media=media, annotations=known))
    return folder


@pytest.fixture(scope="session")
def scenes(tmp_path_factory):
    """Eight stills and three clips of four frames."""
    return write_scenes(tmp_path_factory.mktemp("scenes") / "set", 8, 3)


@pytest.fixture(scope="session")
def nano():
    """The shipped model."""
    return Grounder(load_engine(threads=1))


@pytest.fixture(scope="session")
def able_folder(tmp_path_factory):
    """The shipped weights in an engine that says it can be asked anything.

    What it answers to what it never learned is nothing to measure; the way there is.
    """
    folder = tmp_path_factory.mktemp("able") / "engine"
    shutil.copytree(NANO, folder, ignore=shutil.ignore_patterns("checkpoint"))
    manifest = Manifest.load(folder)
    dataclasses.replace(manifest, skills=tuple(SKILLS), vocabulary=()).write(folder)
    return folder


@pytest.fixture(scope="session")
def able(able_folder):
    """That engine, opened."""
    return Grounder(load_engine(able_folder, threads=1))

"""Held-out scenes: fresh shapes, textures and camera paths, seen by cameras of several formats."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from molmo2_ros.errors import DataError
from molmo2_ros.simulation.motion import LabelledClip, sample_clip, sample_still
from molmo2_ros.simulation.objects import OWN_COLOUR
from molmo2_ros.simulation.world import World
from molmo2_ros.training.nano.pool import ASPECT_SHARES
from molmo2_ros.training.scenes import (
    SEEN,
    Question,
    Sightings,
    absent_thing,
    has_gap,
    still_question,
    track_question,
)

FIRST_WORLD = 900_000  # training worlds have far smaller seeds
SCENES_PER_WORLD = 10
MAX_SCENES = 10_000  # of one seed: the worlds of the next one follow
FIRST_FIT_SEED = 100  # scenes of seeds from here on are for fitting, those before for measuring
CAMERA_SIZES = ((320, 240), (240, 240), (320, 180))  # in the order of ASPECT_SHARES


def held_out_clips(seed: int, num_scenes: int, num_frames: int) -> Iterator[LabelledClip]:
    """Scenes of worlds that training never uses.

    Args:
        seed: any; different seeds share no world.
        num_scenes: MAX_SCENES at most.
        num_frames: 1 for stills, else clips of half-second steps.

    Raises:
        DataError: more scenes than a seed has worlds for.
    """
    if num_scenes > MAX_SCENES:
        raise DataError(
            f"{num_scenes} scenes of one seed, expected {MAX_SCENES} at most; use more seeds"
        )
    rng = np.random.default_rng([seed, num_frames, FIRST_WORLD])
    world = None
    for number in range(num_scenes):
        if number % SCENES_PER_WORLD == 0:
            index = number // SCENES_PER_WORLD
            world = World(FIRST_WORLD + 10_000 * seed + 1_000 * (num_frames > 1) + index)
        assert world is not None
        size = CAMERA_SIZES[int(rng.choice(len(CAMERA_SIZES), p=ASPECT_SHARES))]
        if num_frames == 1:
            yield sample_still(world, rng, size=size)
        else:
            yield sample_clip(world, rng, num_frames, size=size)


def still_test_questions(sightings: Sightings, rng: np.random.Generator) -> list[Question]:
    """About one frame: up to three single things, all of a kind, a count, a pair of absent things.

    The first template of each family is asked: the one that the package itself writes.
    """
    objects = sightings.objects
    seen = [int(j) for j in rng.permutation(np.flatnonzero(sightings.state[0] == SEEN))]
    wanted: list[tuple[str, int, int, bool]] = []
    for j in seen[:3]:
        category, colour = int(objects[j, 0]), int(objects[j, 1])
        wanted.append(("point", category, _maybe(colour, rng), False))
    repeated = [j for j in seen if sum(objects[j, 0] == objects[i, 0] for i in seen) > 1]
    for kind in ("point_all", "count"):
        if kind == "count" and rng.random() < 0.2:
            thing = absent_thing(sightings, rng, hard=False)
            if thing is not None:
                wanted.append((kind, *thing, False))
            continue
        pool = repeated if repeated and rng.random() < 0.6 else seen
        if pool:
            j = pool[int(rng.integers(len(pool)))]
            wanted.append((kind, int(objects[j, 0]), OWN_COLOUR, False))
    wanted += [("point", *thing) for thing in _absent_pair(sightings, rng)]
    asked: list[Question] = []
    for kind, category, colour, hard in wanted:
        question = still_question(sightings, kind, category, colour, None, hard=hard)
        if question is not None and all(q.text != question.text for q in asked):
            asked.append(question)
    return asked


def clip_test_questions(
    sightings: Sightings, stamps_s: tuple[float, ...], rng: np.random.Generator
) -> list[Question]:
    """About a clip: up to three things that are seen, all of a kind, a pair of absent things."""
    objects = sightings.objects
    seen = np.flatnonzero((sightings.state == SEEN).any(0))
    wanted: list[tuple[int, int, bool]] = []
    for j in rng.permutation(seen)[:3]:
        wanted.append((int(objects[j, 0]), _maybe(int(objects[j, 1]), rng), False))
    repeated = [j for j in seen if sum(objects[j, 0] == objects[i, 0] for i in seen) > 1]
    if repeated:
        j = repeated[int(rng.integers(len(repeated)))]
        wanted.append((int(objects[j, 0]), OWN_COLOUR, False))
    wanted += _absent_pair(sightings, rng)
    asked: list[Question] = []
    for category, colour, hard in wanted:
        question = track_question(sightings, stamps_s, category, colour, None, hard=hard)
        if question is not None and all(q.text != question.text for q in asked):
            asked.append(question)
    return asked


def _absent_pair(sightings: Sightings, rng: np.random.Generator) -> list[tuple[int, int, bool]]:
    """A thing of a kind that is nowhere in the scene and a hard one, so that half are hard.

    Returns:
        category, colour and whether it is hard, of two different things; nothing where the scene
        has no hard one (all that is in view comes in one colour) or both draws are the same.
    """
    plain, hard = (absent_thing(sightings, rng, hard=hard) for hard in (False, True))
    if plain is None or hard is None or plain == hard:
        return []
    return [(*plain, False), (*hard, True)]


def gap_share(clips: list[Sightings]) -> float:
    """Share of clips in which a seen object is hidden or gone in some frame."""
    return float(np.mean([has_gap(s) for s in clips])) if clips else 0.0


def _maybe(colour: int, rng: np.random.Generator) -> int:
    """Name the colour seven times of ten, where there is a choice of colours."""
    return colour if rng.random() < 0.7 else OWN_COLOUR

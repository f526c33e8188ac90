"""Stills and clips: reproducible, consistent, and with enough hidden objects to learn from."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from molmo2_ros.simulation.motion import draw_absence, sample_clip, sample_still
from molmo2_ros.simulation.objects import CATEGORIES, OWN_COLOUR
from molmo2_ros.simulation.world import World, draw_categories

SIZE = (48, 48)


@pytest.fixture(scope="module")
def world():
    return World(seed=5, variants=1)


@pytest.fixture(scope="module")
def clips(world):
    rng = np.random.default_rng(0)
    return [sample_clip(world, rng, 5, size=SIZE, aspect=4 / 3) for _ in range(24)]


def test_same_seed_draws_the_same_clip_and_another_seed_another(world):
    first = sample_clip(World(5, 1), np.random.default_rng(3), 3, size=SIZE)
    second = sample_clip(world, np.random.default_rng(3), 3, size=SIZE)
    other = sample_clip(world, np.random.default_rng(4), 3, size=SIZE)
    assert np.array_equal(first.frames, second.frames)
    assert np.array_equal(first.instances, second.instances)
    assert first.objects == second.objects
    assert not np.array_equal(first.frames, other.frames)


def test_still_is_a_clip_of_one_frame(world):
    still = sample_still(world, np.random.default_rng(0), size=(60, 40), num_objects=4)
    assert still.frames.shape == (1, 40, 60, 3)
    assert still.instances.shape == (1, 40, 60)
    assert still.visible_fraction.shape == (1, 4)
    assert len(still.objects) == 4
    assert not still.frames.flags.writeable


def test_mask_and_visible_fraction_agree_in_every_frame(clips):
    for clip in clips:
        for ids, fraction in zip(clip.instances, clip.visible_fraction, strict=True):
            assert ids.max() <= len(clip.objects)
            seen = np.bincount(ids.ravel(), minlength=len(clip.objects) + 1)[1:]
            assert np.array_equal(seen > 0, fraction > 0)
            assert np.all(fraction <= 1)


def test_a_fifth_of_the_sightings_is_hidden(clips):
    # Without such frames a model answers for objects that it does not see.
    hidden = seen = 0
    for clip in clips:
        known = clip.visible_fraction[:, (clip.visible_fraction > 0.05).any(axis=0)]
        hidden += int((known <= 0.05).sum())
        seen += known.size
    assert 0.15 < hidden / seen < 0.35


def test_objects_both_leave_and_come_back(clips):
    comes = goes = 0
    for clip in clips:
        there = clip.visible_fraction > 0.05
        comes += int((~there[:-1] & there[1:]).sum())
        goes += int((there[:-1] & ~there[1:]).sum())
    assert comes > 5
    assert goes > 5


def test_objects_have_colours_that_their_category_comes_in(clips):
    for clip in clips:
        for thing in clip.objects:
            colours = CATEGORIES[thing.category].colours
            assert thing.colour in (colours or (OWN_COLOUR,))


def test_scenes_repeat_a_category_up_to_six_times():
    rng = np.random.default_rng(1)
    counts = [max(np.bincount(draw_categories(rng, 7))) for _ in range(300)]
    assert 0.5 < np.mean(np.array(counts) > 1) < 0.7
    assert max(counts) == 6


@given(num_frames=st.integers(2, 40), seed=st.integers(0, 10_000))
def test_absence_leaves_frames_on_both_sides_of_the_question(num_frames, seed):
    away = draw_absence(np.random.default_rng(seed), num_frames)
    assert away.shape == (num_frames,)
    assert away.min() >= 0
    assert away.max() == 1
    assert (away < 1).any()
    gone = np.flatnonzero(away == 1)
    assert np.array_equal(gone, np.arange(gone[0], gone[-1] + 1))

import numpy as np
import pytest

from molmo2_ros.errors import DataError
from molmo2_ros.training import held_out
from molmo2_ros.training.evaluation.rendered import as_query
from molmo2_ros.training.held_out import (
    clip_test_questions,
    held_out_clips,
    still_test_questions,
)
from molmo2_ros.training.scenes import locate


def test_held_out_scenes_are_the_same_for_a_seed_and_others_for_another():
    first, again, other = (next(held_out_clips(seed, 1, 1)) for seed in (0, 0, 1))
    assert np.array_equal(first.frames, again.frames)
    assert first.frames.shape != other.frames.shape or not np.array_equal(
        first.frames, other.frames
    )


def test_seeds_share_no_world(monkeypatch):
    # A scene of a seed is drawn from one of its worlds; here a world is its number alone.
    monkeypatch.setattr(held_out, "World", lambda number: number)
    monkeypatch.setattr(held_out, "sample_still", lambda world, rng, size: world)
    monkeypatch.setattr(held_out, "sample_clip", lambda world, rng, num_frames, size: world)
    used = [
        set(held_out_clips(seed, held_out.MAX_SCENES, num_frames))
        for seed in (0, 1, held_out.FIRST_FIT_SEED - 1, held_out.FIRST_FIT_SEED)
        for num_frames in (1, 8)
    ]
    assert sum(map(len, used)) == len(set.union(*used)) == 8 * 1000


def test_more_scenes_than_a_seed_has_worlds_for_are_refused():
    with pytest.raises(DataError, match="10001 scenes of one seed, expected 10000 at most"):
        next(held_out_clips(0, held_out.MAX_SCENES + 1, 1))


def test_half_of_the_absent_things_are_hard(make_clip, make_thing):
    boxes = [[(20, 60, 40, 80), (120, 60, 140, 80)]]
    mugs = locate(make_clip([make_thing("mug", "red"), make_thing("mug", "blue")], boxes))
    # A lemon comes in one colour: nothing hard can be made of it, so nothing absent is asked.
    lemon = locate(make_clip([make_thing("lemon")], [boxes[0][:1]]))
    rng = np.random.default_rng(0)
    for _ in range(50):
        for ask in (still_test_questions, lambda s, r: clip_test_questions(s, (0.0,), r)):
            absent = [q for q in ask(mugs, rng) if q.absent and q.kind != "count"]
            assert [q.hard for q in absent] in ([False, True], [])
            assert not any(q.absent and q.kind != "count" for q in ask(lemon, rng))


def test_every_test_question_is_one_that_the_package_itself_asks():
    rng = np.random.default_rng(0)
    kinds = set()
    for clip in held_out_clips(0, 6, 1):
        for question in still_test_questions(locate(clip), rng):
            as_query(question, "q")  # raises where the wording differs
            kinds.add((question.kind, question.absent))
    clip = next(held_out_clips(0, 1, 4))
    for question in clip_test_questions(locate(clip), (0.0, 0.5, 1.0, 1.5), rng):
        as_query(question, "q")
        kinds.add((question.kind, question.absent))
    assert {("point", False), ("point", True), ("count", False), ("track", False)} <= kinds

import numpy as np

from molmo2_ros.training.evaluate import as_query
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

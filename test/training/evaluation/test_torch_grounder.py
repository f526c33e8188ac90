"""transformers' generate() through the same surface gives the answers of the ONNX engine."""

import dataclasses

import pytest

from molmo2_ros.camera.frame import Frame
from molmo2_ros.errors import QueryError
from molmo2_ros.prompt.query import parse_query
from molmo2_ros.runtime.engine import NANO
from molmo2_ros.runtime.manifest import SKILLS
from molmo2_ros.training.evaluation.any_engine import open_any
from molmo2_ros.training.evaluation.rendered import as_clip, as_query, ask_held_out


@pytest.fixture(scope="module")
def under_torch():
    opened = open_any(f"torch:{NANO / 'checkpoint'}", threads=1)
    assert opened.name == "molmo2-nano"  # as the engine around the checkpoint says
    assert opened.pairs_excluded
    return opened.grounder


def test_torch_and_onnx_give_the_same_answers_on_held_out_scenes(under_torch, nano):
    asked = ask_held_out(
        nano, seed=4, num_stills=3, num_clips=1, num_frames=4, progress=lambda s, n, t: s
    )
    num_points = 0
    for scene in asked:
        queries = [as_query(q, str(i)) for i, q in enumerate(scene.questions)]
        theirs = under_torch.answer_all(as_clip(scene.clip), queries)
        for ours, answer in zip(scene.answers, theirs, strict=True):
            assert answer.text == ours.text
            assert answer.timing.num_answer_tokens == ours.timing.num_answer_tokens
            sure = [[p.confidence for p in each.points] for each in (ours, answer)]
            assert sure[1] == pytest.approx(sure[0], abs=1e-3)
            num_points += len(answer.points)
    assert num_points >= 10


def test_images_in_tiles_and_words_are_read_alike_too(under_torch, able, scenes):
    image = next(iter(ask_held_out(
        able, seed=4, num_stills=1, num_clips=0, progress=lambda s, n, t: s
    ))).clip.frames[0]  # fmt: skip
    frames = [Frame(image=image.copy(), stamp_ns=i) for i in range(2)]
    declared = under_torch.model
    under_torch.model = dataclasses.replace(declared, skills=tuple(SKILLS), vocabulary=())
    try:
        for text in ("point: the lemon", "ask: Find the lemon."):
            query = parse_query(text)
            answers = [
                grounder.answer_images(frames, query, max_new_tokens=40)
                for grounder in (able, under_torch)
            ]
            assert answers[0].text == answers[1].text
            assert answers[0].truncated == answers[1].truncated
    finally:
        under_torch.model = declared


def test_an_answer_ends_where_it_is_not_wanted_or_may_not_go_on(under_torch):
    scene = next(iter(ask_held_out(
        under_torch, seed=4, num_stills=1, num_clips=0, progress=lambda s, n, t: s
    )))  # fmt: skip
    clip, query = as_clip(scene.clip), parse_query("point: all mugs")
    assert under_torch.answer(clip, query, max_new_tokens=2).truncated
    cancelled = under_torch.answer(clip, query, cancel=lambda _: True)
    assert cancelled.problems[-1] == "cancelled before its end"
    with pytest.raises(QueryError, match="cannot do 'ask'"):
        under_torch.answer(clip, parse_query("ask: What is it?"))

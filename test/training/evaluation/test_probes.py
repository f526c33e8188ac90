"""Other phrasings and held-out pairs, with answers that are known and with the shipped engine."""

import pytest

from molmo2_ros.answers.answer import read_answer
from molmo2_ros.prompt.query import question_text
from molmo2_ros.training import phrases
from molmo2_ros.training.evaluation.probes import (
    PairProbe,
    PhrasingProbe,
    in_any_words,
    pair_questions,
)
from molmo2_ros.training.evaluation.rendered import AskedScene, as_clip, as_query, ask_held_out
from molmo2_ros.training.evaluation.result import empty_result
from molmo2_ros.training.scenes import locate, still_question

LEFT, RIGHT = (20, 60, 40, 80), (120, 60, 140, 80)
AT_LEFT, AT_RIGHT = "1 180 420", "1 770 420"


def said(scene_or_clip, question, place):
    """An answer by hand: one point, or none."""
    text = "There are none." if place is None else f'<points coords="0.0 {place}">x</points>'
    return read_answer(as_query(question, "q"), text, as_clip(scene_or_clip).frames)


@pytest.fixture
def scene(make_clip, make_thing):
    """A red can, which training leaves out, and a red mug; both found when first asked for."""
    clip = make_clip([make_thing("can", "red"), make_thing("mug", "red")], [[LEFT, RIGHT]])
    sightings = locate(clip)
    things = [(thing.category, thing.colour) for thing in clip.objects]
    questions = tuple(still_question(sightings, "point", *thing, None) for thing in things)
    answers = tuple(said(clip, q, p) for q, p in zip(questions, (AT_LEFT, AT_RIGHT), strict=True))
    return AskedScene(
        clip=clip, sightings=sightings, questions=questions, answers=answers, is_clip=False
    )


def test_the_spread_is_the_greatest_difference_of_an_f1_between_three_phrasings(nano, scene):
    probe = PhrasingProbe(grounder=nano)
    can, mug = scene.questions
    for number in range(3):
        probe.take(number, scene, 0, scene.answers)
        probe.take(number, scene, 1, [said(scene.clip, can, None), scene.answers[1]])
        probe.take(number, scene, 2, scene.answers)
    result = empty_result()
    probe.add_to(result)
    assert result["figures"] == {"phrasing_spread": 0.5}
    assert (result["low"]["phrasing_spread"], result["high"]["phrasing_spread"]) == (0.5, 0.5)
    assert result["cases"]["phrasing_spread"] == 6
    assert result["finer"]["pointing_f1, phrasing 1"] == 1.0
    assert result["finer"]["pointing_f1, phrasing 2"] == 0.5


def test_the_model_reads_each_phrasing_as_it_stands(nano):
    scene = next(
        iter(ask_held_out(nano, seed=4, num_stills=1, num_clips=0, progress=lambda s, n, t: s))
    )
    probe = PhrasingProbe(grounder=nano)
    templates = {"point": phrases.POINT_ONE, "point_all": phrases.POINT_ALL, "count": phrases.COUNT}
    for phrasing in range(3):
        answers = probe.ask(scene, phrasing)
        asked = [question_text(answer.query) for answer in answers]
        assert asked == [templates[q.kind][phrasing].format(x=q.label) for q in scene.questions]
        if not phrasing:  # the one that was asked before, by another way
            assert [a.text for a in answers] == [a.text for a in scene.answers]
            assert [a.count for a in answers] == [a.count for a in scene.answers]
    assert "ask" not in nano.model.skills
    with in_any_words(nano):
        assert "ask" in nano.model.skills


def test_held_out_pairs_and_others_are_compared_in_the_same_pictures(nano, scene):
    probe = PairProbe(grounder=nano)
    asked = pair_questions(scene)
    assert {(question.label, is_held_out) for question, is_held_out in asked} == {
        ("red can", True),
        ("red mug", False),
    }
    for number in range(4):
        for question, is_held_out in asked:
            answer = said(scene.clip, question, None if is_held_out else AT_RIGHT)
            probe.take(number, scene, question, answer, is_held_out)
    result = empty_result()
    probe.add_to(result)
    assert result["figures"] == {
        "seen_pairs_f1": 1.0,
        "held_out_pairs_f1": 0.0,
        "held_out_pairs_gap": 1.0,
    }
    assert result["low"] == result["high"] == result["figures"]  # in every picture the same
    assert result["cases"]["held_out_pairs_gap"] == 4


def test_the_shipped_model_is_asked_about_the_pairs_of_a_scene(nano, scene):
    probe, result = PairProbe(grounder=nano), empty_result()
    probe(0, scene)
    probe.add_to(result)
    assert result["cases"]["held_out_pairs_f1"] == result["cases"]["seen_pairs_f1"] == 1


def test_pictures_without_a_held_out_pair_are_not_asked_about(nano, make_clip, make_thing):
    clip = make_clip([make_thing("mug", "red")], [[LEFT]])
    scene = AskedScene(clip=clip, sightings=locate(clip), questions=(), answers=(), is_clip=False)
    probe, result = PairProbe(grounder=nano), empty_result()
    probe(0, scene)
    probe.add_to(result)
    assert result["figures"] == {}


def test_there_are_three_phrasings_of_each_family_and_the_package_s_own_is_the_first():
    for family in (phrases.POINT_ONE, phrases.POINT_ALL, phrases.COUNT, phrases.TRACK):
        assert len(family) >= 3

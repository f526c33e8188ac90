"""Other phrasings and held-out pairs, with answers that are known and with the shipped engine."""

import pytest

from molmo2_ros.answers.answer import read_answer
from molmo2_ros.training import phrases
from molmo2_ros.training.evaluation.probes import PairProbe, PhrasingProbe, in_any_words
from molmo2_ros.training.evaluation.rendered import AskedScene, as_clip, as_query
from molmo2_ros.training.evaluation.result import empty_result
from molmo2_ros.training.scenes import locate, still_question

LEFT, RIGHT = (20, 60, 40, 80), (120, 60, 140, 80)
AT_LEFT, AT_RIGHT = "1 180 420", "1 770 420"


class Parrot:
    """Answers questions by their words; the grounder's surface as far as the probes use it."""

    def __init__(self, nano, answers):
        self.model, self.answers, self.asked = nano.model, answers, []

    def answer(self, clip, query, *, max_new_tokens=None):
        self.asked.append((query.kind.value, query.words, max_new_tokens))
        place = next(place for words, place in self.answers.items() if words in query.words)
        text = "There are none." if place is None else f'<points coords="0.0 {place}">x</points>'
        return read_answer(query, text, clip.frames)


@pytest.fixture
def scene(make_clip, make_thing):
    """A blue can, which training leaves out, and a red mug, asked for by a parrot."""

    def make(grounder):
        clip = make_clip([make_thing("can", "blue"), make_thing("mug", "red")], [[LEFT, RIGHT]])
        sightings = locate(clip)
        things = [(thing.category, thing.colour) for thing in clip.objects]
        questions = tuple(still_question(sightings, "point", *thing, None) for thing in things)
        answers = tuple(grounder.answer(as_clip(clip), as_query(q, "q")) for q in questions)
        return AskedScene(
            clip=clip, sightings=sightings, questions=questions, answers=answers, is_clip=False
        )

    return make


def test_the_spread_is_the_greatest_difference_of_an_f1_between_three_phrasings(nano, scene):
    parrot = Parrot(nano, {"Find the blue": None, "blue": AT_LEFT, "red": AT_RIGHT})
    probe = PhrasingProbe(grounder=parrot)
    for number in range(3):
        probe(number, scene(parrot))
    result = empty_result()
    probe.add_to(result)
    assert result["figures"] == {"phrasing_spread": 0.5}
    assert (result["low"]["phrasing_spread"], result["high"]["phrasing_spread"]) == (0.5, 0.5)
    assert result["cases"]["phrasing_spread"] == 6
    assert result["finer"]["pointing_f1, phrasing 1"] == 1.0
    assert result["finer"]["pointing_f1, phrasing 2"] == 0.5
    in_words = [words for kind, words, _ in parrot.asked if kind == "ask"]
    assert in_words[:2] == ["Find the blue can.", "Find the red mug."]
    assert in_words[2:4] == ["Where is the blue can?", "Where is the red mug?"]
    assert {limit for kind, _, limit in parrot.asked if kind == "ask"} == {768}


def test_a_model_is_asked_in_any_words_only_while_it_is_measured(nano):
    with in_any_words(nano):
        assert "ask" in nano.model.skills
    assert "ask" not in nano.model.skills


def test_held_out_pairs_and_others_are_compared_in_the_same_pictures(nano, scene):
    parrot = Parrot(nano, {"blue": None, "red": AT_RIGHT})
    probe = PairProbe(grounder=parrot)
    for number in range(4):
        probe(number, scene(parrot))
    result = empty_result()
    probe.add_to(result)
    assert result["figures"] == {
        "seen_pairs_f1": 1.0,
        "held_out_pairs_f1": 0.0,
        "held_out_pairs_gap": 1.0,
    }
    assert set(result["low"]) == set(result["high"]) == set(result["figures"])
    assert result["cases"]["held_out_pairs_gap"] == 4


def test_pictures_without_a_held_out_pair_are_not_asked_about(nano, make_clip, make_thing):
    parrot = Parrot(nano, {"": AT_LEFT})
    clip = make_clip([make_thing("mug", "red")], [[LEFT]])
    scene = AskedScene(clip=clip, sightings=locate(clip), questions=(), answers=(), is_clip=False)
    probe, result = PairProbe(grounder=parrot), empty_result()
    probe(0, scene)
    probe.add_to(result)
    assert parrot.asked == []
    assert result["figures"] == {}


def test_there_are_three_phrasings_of_each_family_and_the_package_s_own_is_the_first():
    for family in (phrases.POINT_ONE, phrases.POINT_ALL, phrases.COUNT, phrases.TRACK):
        assert len(family) >= 3

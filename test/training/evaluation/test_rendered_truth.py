"""Rendered scenes as a data set's truth, by hand."""

import numpy as np
import pytest

from molmo2_ros.answers.answer import read_answer
from molmo2_ros.simulation.objects import CATEGORY_NAMES, OWN_COLOUR
from molmo2_ros.training.evaluation.questions import Kind
from molmo2_ros.training.evaluation.rendered import AskedScene, as_clip, as_query
from molmo2_ros.training.evaluation.rendered_truth import scene_truth, scored_scene
from molmo2_ros.training.scenes import absent_thing, locate, still_question, track_question

LEMON = CATEGORY_NAMES.index("lemon")
LEFT, RIGHT, SMALL = (20, 60, 40, 80), (120, 60, 140, 80), (60, 60, 66, 66)
STAMPS_S = (0.0, 0.5, 1.0, 1.5)


def asked(clip, question, text, *, is_clip):
    answer = read_answer(as_query(question, "q"), text, as_clip(clip).frames)
    return AskedScene(
        clip=clip,
        sightings=locate(clip),
        questions=(question,),
        answers=(answer,),
        is_clip=is_clip,
    )


@pytest.fixture
def track(make_clip, make_thing):
    """A lemon left, away, too small to count, and right."""
    clip = make_clip([make_thing("lemon")], [[LEFT], [None], [SMALL], [RIGHT]])
    question = track_question(locate(clip), STAMPS_S, LEMON, OWN_COLOUR, None)

    def make(coords):
        return asked(clip, question, f'<tracks coords="{coords}">lemon</tracks>', is_clip=True)

    return make


def test_places_are_frames_with_those_in_view_and_those_that_are_gone(track):
    scene = track("0.0 1 180 420")
    truth = scene_truth(scene, scene.questions[0])
    assert [place.at for place in truth.places] == [0.0, 0.5, 1.0, 1.5]
    assert [sorted(place.true) for place in truth.places] == [[1], [], [], [1]]
    assert [sorted(place.hidden) for place in truth.places] == [[], [1], [], []]
    assert truth.places[0].masks[1].sum() == 400
    assert truth.size == pytest.approx(400 / 168**2)
    assert truth.speed is None  # it is never in view twice in a row


def test_speed_and_visible_fraction_are_means_over_the_clip(make_clip, make_thing):
    boxes = [[LEFT], [(37, 60, 57, 80)], [RIGHT]]
    clip = make_clip([make_thing("lemon")], boxes, [[1.0], [0.5], [0.9]])
    question = track_question(locate(clip), STAMPS_S[:3], LEMON, OWN_COLOUR, None)
    truth = scene_truth(asked(clip, question, "There are none.", is_clip=True), question)
    assert truth.visible_fraction == pytest.approx(0.8)
    steps = np.array([17, 83]) / (168 * 2**0.5) / 0.5  # pixels, diagonals, half a second
    assert truth.speed == pytest.approx(steps.mean())


@pytest.mark.parametrize(
    ("coords", "f1", "num_judged"),
    [
        ("0.0 1 180 420;1.5 1 770 420", 1.0, 2),
        ("0.0 1 180 420;1.0 1 375 375;1.5 1 770 420", 1.0, 2),  # on what is too small: neither way
        ("0.0 1 180 420;0.5 1 500 420;1.5 1 770 420", 2 / 3, 3),
    ],
)
def test_the_main_measure_is_that_of_the_table(track, coords, f1, num_judged):
    (one,) = scored_scene(track(coords), "scene 3")
    assert (one.example, one.kind, one.main) == ("scene 3", Kind.TRACKING, "tracking_f1")
    assert one.score == pytest.approx(f1)
    assert len(one.judged) == num_judged
    assert one.said.startswith("<tracks")
    assert one.expected.startswith('<tracks coords="0.0 1')


def test_stills_are_pointed_at_counted_and_denied(make_clip, make_thing):
    clip = make_clip([make_thing("lemon"), make_thing("mug", "red")], [[LEFT, RIGHT]])
    sightings = locate(clip)
    point = still_question(sightings, "point", LEMON, OWN_COLOUR, None)
    (one,) = scored_scene(
        asked(clip, point, '<points coords="0.0 1 180 420">lemon</points>', is_clip=False), "s"
    )
    assert (one.main, one.score, one.judged[0].is_right) == ("pointing_f1", 1.0, True)
    assert len(one.distances) == 1
    count = still_question(sightings, "count", LEMON, OWN_COLOUR, None)
    (one,) = scored_scene(asked(clip, count, "2", is_clip=False), "s")
    assert (one.main, one.score) == ("counting_exact", 0.0)
    thing = absent_thing(sightings, np.random.default_rng(0), hard=False)
    absent = still_question(sightings, "point", *thing, None)
    (one,) = scored_scene(asked(clip, absent, "There are none.", is_clip=False), "s")
    assert (one.main, one.score) == ("absent_accuracy", 1.0)

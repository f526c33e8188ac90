"""Answers of which it is known what they are worth."""

import numpy as np
import pytest

from molmo2_ros.answers.answer import read_answer
from molmo2_ros.camera.frame import Frame
from molmo2_ros.prompt.query import Query, QueryKind
from molmo2_ros.training.data.example import Annotation, Task
from molmo2_ros.training.evaluation.measures import read_choice, words_measures
from molmo2_ros.training.evaluation.questions import Kind
from molmo2_ros.training.evaluation.scoring import score
from molmo2_ros.training.evaluation.truth import Place, Truth

LEFT, RIGHT = (0.2, 0.5), (0.8, 0.5)


def box(left, right):
    mask = np.zeros((50, 100), bool)
    mask[20:30, left:right] = True
    return mask


MASKS = {1: box(10, 30), 2: box(70, 90)}
BOTH = {1: LEFT, 2: RIGHT}


def truth_of(*places, num=2):
    return Truth(places=places, num_objects=num, aspect=2.0)


def place(at, true, hidden=()):
    return Place(at=at, true=true, masks={k: MASKS[k] for k in true}, hidden=frozenset(hidden))


def answered(text, *, stamps=(0.0,), asked=QueryKind.POINT, images=0):
    blank = np.zeros((50, 100, 3), np.uint8)
    frames = [Frame(image=blank, stamp_ns=round(1e9 * t)) for t in stamps]
    if images:
        frames = [Frame(image=blank.copy(), stamp_ns=i) for i in range(images)]
    query = Query(name="q", kind=asked, words="mugs")
    return read_answer(query, text, frames, are_images=bool(images))


def scored(text, truth, kind, *, duration_s=None, step_s=0.5, **said):
    return score(
        answered(text, **said),
        truth,
        kind=kind,
        label="mugs",
        example="e",
        question="?",
        expected="!",
        duration_s=duration_s,
        step_s=step_s,
    )


def measured(one, *names):
    return tuple(round(float(np.mean(one.measures[name])), 4) for name in names)


def points(coords):
    return f'<points coords="{coords}">mugs</points>'


POINTING = ("pointing_f1", "pointing_precision", "pointing_recall", "pointing_hit")


@pytest.mark.parametrize(
    ("text", "measures"),
    [
        (points("1 1 200 500 2 800 500"), (1.0, 1.0, 1.0, 1.0)),
        (points("1 1 200 500"), (0.6667, 1.0, 0.5, 1.0)),
        (points("1 1 200 500 2 500 100"), (0.5, 0.5, 0.5, 0.0)),
        ("There are none.", (0.0, 0.0, 0.0, 0.0)),
    ],
)
def test_one_image_is_scored_by_its_masks(text, measures):
    one = scored(text, truth_of(place(1.0, BOTH)), Kind.POINTING, images=1)
    assert measured(one, *POINTING) == measures
    assert one.score == pytest.approx(measures[0], abs=1e-4)


def test_several_images_are_each_assigned_alone_and_summed():
    truth = truth_of(place(1.0, {1: LEFT}), place(2.0, {2: RIGHT}))
    text = points("1 1 200 500;2 2 200 500")  # the second one lies on nothing in its image
    one = scored(text, truth, Kind.POINTING, images=2)
    assert measured(one, "pointing_f1") == (0.5,)
    assert [judged.is_right for judged in one.judged] == [True, False]
    # The second is paired with the true point of its image, 60 of 112 pixels away.
    assert one.distances == pytest.approx((0.0, 60 / np.hypot(100, 50)))


def test_a_frame_s_stamp_need_not_be_that_of_the_still_that_it_was_made_of():
    one = scored(points("0.0 1 200 500"), truth_of(place(1.0, {1: LEFT}), num=1), Kind.POINTING)
    assert one.score == 1.0


COUNTS = ("counting_exact", "counting_close", "counting_exact_authors")


@pytest.mark.parametrize(
    ("text", "is_video", "measures"),
    [
        ("2", False, (1.0, 1.0, 1.0)),
        ("Counting the <points coords=\"1 1 200 500\">mugs</points> shows a total of 3.", False,
         (0.0, 1.0, 0.0)),
        ("There are none.", True, (0.0, 0.0, 0.0)),
        ("some", True, (0.0, 0.0, 0.0)),
    ],
)  # fmt: skip
def test_counts_are_exact_or_close(text, is_video, measures):
    truth = truth_of(place(1.0, BOTH))
    images, duration_s = (0, 1.0) if is_video else (1, None)
    one = scored(
        text, truth, Kind.COUNTING, asked=QueryKind.COUNT, images=images, duration_s=duration_s
    )
    assert measured(one, *COUNTS) == measures
    assert one.main == "counting_exact"


def test_none_is_a_count_that_the_authors_reader_does_not_have():
    one = scored("There are none.", truth_of(num=0), Kind.COUNTING, asked=QueryKind.COUNT, images=1)
    assert measured(one, *COUNTS) == (1.0, 1.0, 0.0)
    assert "pointing_f1" not in one.measures


@pytest.mark.parametrize(
    ("kind", "name"),
    [(Kind.POINTING, "absent_accuracy"), (Kind.TRACKING, "absent_track")],
)
def test_what_is_absent_is_to_be_denied(kind, name):
    asked = QueryKind.TRACK if kind is Kind.TRACKING else QueryKind.POINT
    for text, value in (("There are none.", 1.0), (points("0.0 1 200 500"), 0.0), ("", 0.0)):
        one = scored(text, truth_of(num=0), kind, asked=asked, duration_s=0.0)
        assert (one.main, one.score) == (name, value)


def tracks(coords):
    return f'<tracks coords="{coords}">mugs</tracks>'


TRACKING = ("tracking_f1", "tracking_precision", "tracking_recall", "hota", "ids_one_to_one")


@pytest.mark.parametrize(
    ("coords", "measures"),
    [
        ("0.0 1 200 500 2 800 500;0.5 1 200 500 2 800 500", (1.0, 1.0, 1.0, 1.0, 1.0)),
        # Ids change places in the second frame: every point is found, each pair half of the time,
        # in one of three frames of the two together. AssA 1/3, DetA 1.
        ("0.0 1 200 500 2 800 500;0.5 2 200 500 1 800 500", (1.0, 1.0, 1.0, 0.5774, 0.0)),
        # One of two in each frame. DetA 2 / 4, AssA 1 (2 of 2 frames of one pair).
        ("0.0 1 200 500;0.5 1 200 500", (0.6667, 1.0, 0.5, 0.7071, 1.0)),
    ],
)
def test_a_track_is_scored_frame_by_frame_and_by_its_ids(coords, measures):
    truth = truth_of(place(0.0, BOTH), place(0.5, BOTH))
    said = {"asked": QueryKind.TRACK, "stamps": (0.0, 0.5)}
    one = scored(tracks(coords), truth, Kind.TRACKING, duration_s=0.5, **said)
    assert measured(one, *TRACKING) == measures


def test_the_authors_recall_divides_by_objects_that_are_not_there():
    truth = truth_of(place(0.0, {1: LEFT}), place(0.5, BOTH))
    said = {"asked": QueryKind.TRACK, "stamps": (0.0, 0.5)}
    text = tracks("0.0 1 200 500;0.5 1 200 500 2 800 500")
    one = scored(text, truth, Kind.TRACKING, duration_s=0.5, **said)
    assert measured(one, "tracking_recall", "tracking_recall_authors") == (1.0, 0.75)


def test_stamps_are_rounded_to_the_answer_s_grid_and_hidden_moments_want_no_point():
    truth = truth_of(place(0.0, {1: LEFT}), place(1.0, {}, hidden=[1]), place(2.0, {}, [1]), num=1)
    said = {"asked": QueryKind.TRACK, "stamps": (0.0, 0.4, 1.1, 2.0)}
    text = tracks("0.4 1 200 500;1.1 1 200 500")  # of 1 a second: 0 and 1
    one = scored(text, truth, Kind.TRACKING, duration_s=2.0, step_s=1.0, **said)
    assert one.measures["hidden_left_out"] == (0.0, 1.0)
    assert measured(one, "tracking_f1") == (0.5,)  # right in the first frame, wrong in the second
    assert {(m.at, m.is_truth) for m in one.marks} == {(0.0, True), (0.0, False), (1.0, False)}


VIDEO = ("video_pointing_f1", "video_pointing_precision", "video_pointing_recall")


def test_a_clip_has_one_assignment_in_time_and_place():
    truth = truth_of(place(0.5, {1: LEFT}), place(1.0, {2: RIGHT}))
    said = {"stamps": (0.0, 0.5, 1.0)}
    for coords, measures in (
        ("0.5 1 200 500;1.0 2 800 500", (1.0, 1.0, 1.0)),
        ("0.5 1 200 500 2 800 500", (0.5, 0.5, 0.5)),  # the second one is not there yet
        ("1.0 1 800 500", (0.6667, 1.0, 0.5)),
    ):
        one = scored(points(coords), truth, Kind.VIDEO_POINTING, duration_s=1.0, **said)
        assert measured(one, *VIDEO) == measures
    # Counting answers have points, too: those of Molmo2-VP come from them.
    text = f"Counting the {points('0.5 1 200 500;1.0 2 800 500')} shows a total of 2."
    one = scored(text, truth, Kind.COUNTING, duration_s=1.0, asked=QueryKind.COUNT, **said)
    assert measured(one, *VIDEO, "counting_exact") == (1.0, 1.0, 1.0, 1.0)


def test_answers_that_are_cut_or_malformed_are_not_valid():
    truth = truth_of(place(1.0, BOTH))
    for text, valid in ((points("1 1 200 500"), 1.0), ('<points coords="1 1 200 500', 0.0)):
        assert scored(text, truth, Kind.POINTING, images=1).measures["format_valid"] == (valid,)


@pytest.mark.parametrize(
    ("text", "index"),
    [("B", 1), ("B.", 1), ("(B)", 1), ("B. a red one", 1), ("A red one.", 1), ("the jar", 0),
     ("C", None), ("maybe", None), ("Because it is red", None)],
)  # fmt: skip
def test_a_choice_is_read_by_its_letter_or_its_words(text, index):
    assert read_choice(text, ("jar", "red one")) == index


def test_short_answers_are_compared_without_case_article_and_punctuation():
    annotation = Annotation(task=Task.REPLY, question="What?", answer="Red mug")
    for text, value in (("a red mug.", 1.0), ("The Red Mug", 1.0), ("mug", 0.0)):
        found = words_measures(Kind.SHORT_ANSWER, annotation, answered(text), True)
        assert found == {"short_answer_exact": (value,)}
    count = Annotation(task=Task.REPLY, question="?", answer="20", style="video_count")
    found = words_measures(Kind.COUNTING, count, answered("22"), True)
    assert found["counting_close"] == (1.0,)  # 1 + 20 // 20 are allowed in a video
    assert words_measures(Kind.COUNTING, count, answered("22"), False)["counting_close"] == (0.0,)

"""From words to the answer about a clip, and the degenerate answers that are named."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from molmo2_ros.answers.answer import MAX_PROBLEMS, read_answer
from molmo2_ros.answers.confidence import WrittenToken
from molmo2_ros.camera.frame import Frame
from molmo2_ros.prompt.query import Query, QueryKind
from molmo2_ros.runtime.manifest import CalibrationFacts, CurveFacts

SECOND = 1_000_000_000


def make_clip(*times_s, images=None):
    return [
        Frame(
            image=np.full((60, 80, 3), 90, np.uint8) if images is None else images[index],
            stamp_ns=7 * SECOND + round(time * SECOND),
        )
        for index, time in enumerate(times_s)
    ]


def make_query(kind):
    return Query(name="q", kind=kind, words="the mug")


def tracks(*groups):
    return f'<tracks coords="{";".join(groups)}">mug</tracks>'


def points(group):
    return f'<points coords="{group}">mug</points>'


TRACK, POINT, COUNT, ASK = (
    make_query(kind) for kind in (QueryKind.TRACK, QueryKind.POINT, QueryKind.COUNT, QueryKind.ASK)
)


def test_track_answer_holds_points_stamps_and_label():
    clip = make_clip(0, 0.5, 1.0)
    answer = read_answer(TRACK, tracks("0.0 1 100 200", "1.0 1 110 200 2 500 500"), clip)
    assert [(p.object_id, p.time_s, p.x, p.y) for p in answer.points] == [
        (1, 0.0, 0.1, 0.2),
        (1, 1.0, 0.11, 0.2),
        (2, 1.0, 0.5, 0.5),
    ]
    assert answer.stamps_ns == (7 * SECOND, 7 * SECOND + SECOND // 2, 8 * SECOND)
    assert answer.label == "mug"
    assert answer.is_track
    assert answer.problems == ()


def test_confidence_of_each_point_comes_from_its_tokens():
    text = tracks("0.0 1 100 200 2 300 400")
    at = text.index("300")
    tokens = [
        WrittenToken(start=0, end=at, probability=0.9),
        WrittenToken(start=at, end=len(text), probability=0.5),
    ]
    answer = read_answer(TRACK, text, make_clip(0), tokens=tokens)
    # The second point's leading tokens were all written within the first span.
    assert [p.score for p in answer.points] == pytest.approx([0.9 * 0.9, 0.9 * 0.5])
    assert [p.confidence for p in answer.points] == [p.score for p in answer.points]


def test_confidence_is_a_probability_where_the_engine_has_a_curve_for_the_tag():
    curves = {
        name: CurveFacts(scores=(0.0, 1.0), probabilities=(level, level), num_points=1)
        for name, level in (("points", 0.25), ("tracks", 0.75))
    }
    calibration = CalibrationFacts(**curves, stills=1, clips=1, seed=100)
    for text, level in ((tracks("0.0 1 100 200"), 0.75), (points("0.0 1 100 200"), 0.25)):
        tokens = [WrittenToken(start=0, end=len(text), probability=0.5)]
        (point,) = read_answer(
            TRACK, text, make_clip(0), tokens=tokens, calibration=calibration
        ).points
        assert point.confidence == level
        assert point.score == pytest.approx(0.25)


def test_points_outside_the_clip_are_dropped_and_named():
    answer = read_answer(TRACK, tracks("0.5 1 100 200", "3.0 1 100 210"), make_clip(0, 0.5))
    assert [p.time_s for p in answer.points] == [0.5]
    assert "stamps 3 lie outside the clip of 0.5 s" in answer.problems[0]


def test_stamp_between_frames_is_kept_and_named():
    answer = read_answer(TRACK, tracks("0.3 1 100 200"), make_clip(0, 0.6))
    assert len(answer.points) == 1
    assert "stamps 0.3 are no frame's" in answer.problems[0]


def test_stamp_of_a_frame_that_prints_rounded_is_no_problem():
    answer = read_answer(TRACK, tracks("0.5 1 100 200", "1.0 1 200 200"), make_clip(0, 0.46, 1.04))
    assert answer.problems == ()


def test_equal_ids_and_equal_places_on_one_frame_are_kept_once():
    answer = read_answer(TRACK, tracks("0.0 1 100 200 1 300 400 2 100 200"), make_clip(0))
    assert [(p.object_id, p.x) for p in answer.points] == [(1, 0.1)]
    assert "id 1 stands twice" in answer.problems[0]
    assert "one place has several ids" in answer.problems[1]


def test_stamps_that_run_backwards_are_named():
    answer = read_answer(TRACK, tracks("0.5 1 100 200", "0.0 1 300 200"), make_clip(0, 0.5))
    assert "stamps run backwards" in answer.problems


def test_an_even_row_of_points_is_named():
    row = " ".join(f"{i} {100 + 20 * i:03d} 300" for i in range(1, 9))
    answer = read_answer(POINT, f'<points coords="0.0 {row}">mugs</points>', make_clip(0))
    assert "8 points at 0 stand in an even row" in answer.problems
    assert len(answer.points) == 8


def test_a_few_uneven_points_are_no_row():
    row = "1 100 300 2 130 300 3 170 310 4 200 280 5 260 300 6 300 300 7 390 300"
    answer = read_answer(POINT, f'<points coords="0.0 {row}">mugs</points>', make_clip(0))
    assert answer.problems == ()


@pytest.mark.parametrize(
    ("num_frames", "is_named", "is_degenerate"),
    [(5, False, False), (6, True, False), (11, True, False), (12, True, True)],
)
def test_a_place_that_is_a_new_thing_on_every_frame_is_named(num_frames, is_named, is_degenerate):
    # Molmo2 paper, appendix H: the same point in every frame.
    clip = make_clip(*(n / 2 for n in range(num_frames)))
    group = ";".join(f"{n / 2} {n + 1} 500 400" for n in range(num_frames))
    answer = read_answer(make_query(QueryKind.POINT), points(group), clip)
    named = f"the place 500 400 is a new thing on each of {num_frames} frames"
    assert (named in answer.problems) == is_named
    assert answer.degenerate == is_degenerate
    # A track is one thing on all of them.
    track = tracks(*(f"{n / 2} 1 500 400" for n in range(num_frames)))
    assert not read_answer(TRACK, track, clip).degenerate


def test_points_over_a_clip_are_counted_through_its_frames():
    text = f"Counting the {points('0.0 1 100 200 2 300 400;1.0 3 500 600')} shows a total of 3."
    answer = read_answer(COUNT, text, make_clip(0, 0.5, 1.0))
    assert answer.count == 3
    assert [(p.object_id, p.time_s) for p in answer.points] == [(1, 0.0), (2, 0.0), (3, 1.0)]
    assert answer.problems == ()


def test_frozen_id_is_named_only_where_the_picture_moved():
    rng = np.random.default_rng(0)
    wide = np.kron(rng.integers(0, 255, (12, 40, 3)), np.ones((10, 10, 1))).astype(np.uint8)
    text = tracks(*(f"{t / 2:.1f} 1 500 500" for t in range(4)))
    times = (0, 0.5, 1.0, 1.5)
    still = make_clip(*times, images=[wide[:, :160].copy() for _ in times])
    moving = make_clip(*times, images=[wide[:, 40 * i : 40 * i + 160].copy() for i in range(4)])
    assert read_answer(TRACK, text, still).problems == ()
    assert read_answer(TRACK, text, moving).problems == (
        "id 1 is frozen on all 4 stamps while the picture moves",
    )


@pytest.mark.parametrize(
    ("query", "text", "count", "problem"),
    [
        (
            COUNT,
            'Counting the <points coords="0.0 1 100 200">x</points> shows a total of 1.',
            1,
            "",
        ),
        # The number that the model states is its answer; the disagreement is named.
        (
            COUNT,
            'Counting the <points coords="0.0 1 100 200">x</points> shows a total of 2.',
            2,
            "states a total of 2 but points to 1",
        ),
        (COUNT, '<points coords="0.0 1 100 200 2 300 400">x</points>', 2, ""),
        (COUNT, "There are none.", 0, ""),
        (COUNT, "3", 3, ""),
        (COUNT, "I am not sure.", None, "has no point"),
        (POINT, '<points coords="0.0 1 100 200">x</points>', None, ""),
        (POINT, "", None, "the answer is empty"),
        (TRACK, "", None, ""),
        (ASK, "A red mug.", None, ""),
    ],
)
def test_count_and_silence(query, text, count, problem):
    answer = read_answer(query, text, make_clip(0))
    assert answer.count == count
    assert problem in "".join(answer.problems)
    assert bool(problem) == bool(answer.problems)


def test_cut_answer_keeps_its_points_and_gives_no_count():
    text = 'Counting the <points coords="0.0 1 100 200 2 300 40'
    answer = read_answer(COUNT, text, make_clip(0), truncated=True)
    assert len(answer.points) == 1
    assert answer.truncated
    assert answer.count is None


def test_partial_answer_is_not_called_truncated():
    answer = read_answer(COUNT, '<points coords="0.0 1 100 200', make_clip(0), partial=True)
    assert answer.partial
    assert not answer.truncated
    assert len(answer.points) == 1


def test_points_on_several_images_carry_the_image_number():
    text = '<points coords="1 1 555 169;3 2 649 154;4 3 100 100">boats</points>'
    answer = read_answer(POINT, text, make_clip(0, 1, 2), are_images=True)
    assert [(p.image_index, p.time_s) for p in answer.points] == [(1, 0.0), (3, 0.0)]
    assert "image numbers 4 are not among the 3 shown" in answer.problems[0]


def test_points_on_one_image_carry_no_image_number():
    text = '<points coords="1 1 555 169">boat</points>'
    answer = read_answer(POINT, text, make_clip(0), are_images=True)
    assert [p.image_index for p in answer.points] == [None]


def test_the_list_of_problems_is_bounded():
    junk = ";".join(f"junk{i}" for i in range(100))
    answer = read_answer(POINT, f'<points coords="{junk}">x</points>', make_clip(0))
    assert len(answer.problems) == MAX_PROBLEMS
    assert answer.problems[-1] == "and 94 more problems"


group = st.lists(st.integers(0, 1200), min_size=1, max_size=9).map(
    lambda numbers: " ".join(f"{n:03d}" for n in numbers)
)
texts = st.one_of(
    st.text(max_size=80),
    st.lists(group, max_size=6).map(lambda groups: tracks(*groups)),
    st.lists(group, max_size=6).map(lambda groups: f'<points coords="{";".join(groups)}">a'),
)


@given(texts, st.sampled_from([TRACK, POINT, COUNT, ASK]), st.booleans(), st.booleans())
def test_no_answer_raises_and_every_point_belongs_to_the_clip(text, query, are_images, partial):
    answer = read_answer(
        query, text, make_clip(0, 0.5, 1.0), are_images=are_images, partial=partial
    )
    for point in answer.points:
        assert 0 <= point.x <= 1
        assert 0 <= point.time_s <= 1.15
    assert len(answer.problems) <= MAX_PROBLEMS

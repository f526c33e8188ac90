"""Foreseen answers: the last one moved on, and the rest of what the model has begun."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from molmo2_ros.answers.answer import read_answer
from molmo2_ros.answers.drafts import (
    AnswerDraft,
    Foreseen,
    RepeatedDraft,
    foresee,
    foresee_first,
)
from molmo2_ros.camera.frame import Frame
from molmo2_ros.prompt.query import parse_query
from molmo2_ros.prompt.tokenizer import PromptTokenizer
from molmo2_ros.runtime.decoding import Draft
from molmo2_ros.runtime.engine import NANO

TOKENIZER = PromptTokenizer(NANO)
TRACK = parse_query("track: the red mug")
STAMPS = ("0.0", "0.5", "1.0")
FORESEEN = Foreseen(
    opening='<tracks coords="',
    stamps=STAMPS,
    points={
        "0.0": {1: (100, 200)},
        "0.5": {1: (110, 210), 2: (500, 300)},
        "1.0": {1: (120, 220)},
    },
    closing='">red mug</tracks>',
    step=10,
)
WHOLE = '<tracks coords="0.0 1 100 200;0.5 1 110 210 2 500 300;1.0 1 120 220">red mug</tracks>'


def frames(*times_s):
    image = np.zeros((8, 8, 3), np.uint8)
    return [Frame(image=image.copy(), stamp_ns=round(t * 1e9)) for t in times_s]


def answer_of(text, *times_s, query=TRACK, **more):
    return read_answer(query, text, frames(*times_s), **more)


def stay(places, to_ns):
    return places


def moved(places, to_ns):
    return {i: (x + 0.05, y) for i, (x, y) in places.items()}


def rest_of(text, foreseen=FORESEEN):
    draft = AnswerDraft(TOKENIZER, foreseen).draft(TOKENIZER.encode_text(text))
    assert draft.parents == tuple(range(-1, len(draft.tokens) - 1))
    return TOKENIZER.decode(draft.tokens)


@pytest.mark.parametrize("length", range(len(WHOLE) + 1))
def test_what_agrees_so_far_goes_on_as_foreseen(length):
    assert rest_of(WHOLE[:length]) == WHOLE[length:]


@pytest.mark.parametrize(
    ("written", "rest"),
    [
        # Another first digit: the nearest number that begins so, in tens as the model writes.
        (
            '<tracks coords="0.0 1 2',
            '00 200;0.5 1 110 210 2 500 300;1.0 1 120 220">red mug</tracks>',
        ),
        (
            '<tracks coords="0.0 1 0',
            '90 200;0.5 1 110 210 2 500 300;1.0 1 120 220">red mug</tracks>',
        ),
        # A frame left out.
        ('<tracks coords="0.0 1 100 200;1', '.0 1 120 220">red mug</tracks>'),
        # The object is not there at first.
        ('<tracks coords="0.5 ', '1 110 210 2 500 300;1.0 1 120 220">red mug</tracks>'),
        # A second point where one was foreseen: near the one before it.
        (
            '<tracks coords="0.0 1 100 200 ',
            '2 100 200;0.5 1 110 210 2 500 300;1.0 1 120 220">red mug</tracks>',
        ),
        (
            '<tracks coords="0.0 1 100 200 2 6',
            '00 200;0.5 1 110 210 2 500 300;1.0 1 120 220">red mug</tracks>',
        ),
        # The end before it was foreseen.
        ('<tracks coords="0.0 1 100 200"', ">red mug</tracks>"),
        ("T", "here are none."),
        ("There are", " none."),
    ],
)
def test_what_differs_is_taken_over_and_the_rest_follows_from_it(written, rest):
    assert rest_of(written) == rest


@pytest.mark.parametrize(
    "written",
    [
        "I see",
        '<tracks coords="7',  # no such stamp
        '<tracks coords="0.0 1 100 200">blue',  # another label
        WHOLE + " and",
    ],
)
def test_nothing_is_drafted_where_nothing_is_foreseen(written):
    assert rest_of(written) == ""


def test_a_frame_of_which_nothing_was_foreseen_shows_what_the_one_before_shows():
    foreseen = replace(FORESEEN, points={"0.0": {1: (100, 200)}})
    assert rest_of('<tracks coords="0.0 1 170 200;0', foreseen) == '.5 1 170 200">red mug</tracks>'


def test_none_foreseen_but_something_written_takes_the_form_of_a_first_answer():
    none = foresee(answer_of("There are none.", 0), STAMPS, [0, 1, 2], stay)
    assert rest_of("", none) == "There are none."
    assert rest_of("<", none).startswith('tracks coords="0.0 1 500 500;0.5 1 500 500')
    assert rest_of("<", none).endswith('">red mug</tracks>')


def test_counts_state_the_points_that_are_written():
    query = parse_query("count: mugs")
    before = answer_of(
        'Counting the <points coords="0.0 1 100 200 2 300 400">mugs</points> shows a total of 2.',
        0,
        query=query,
    )
    foreseen = foresee(before, ("0.0",), [0], stay)
    assert rest_of('Counting the <points coords="0.0 1 100 200"', foreseen) == (
        ">mugs</points> shows a total of 1."
    )
    assert rest_of("", foreseen) == before.text


def test_a_first_answer_has_its_form_and_no_places():
    assert foresee_first(parse_query("ask: Is it open?"), STAMPS) is None
    assert rest_of("", foresee_first(TRACK, ("0.0", "0.5"))) == (
        '<tracks coords="0.0 1 500 500;0.5 1 500 500">red mug</tracks>'
    )
    assert rest_of("", foresee_first(parse_query("count: mugs"), ("0.0",))) == (
        'Counting the <points coords="0.0 1 500 500">mugs</points> shows a total of 1.'
    )


def test_a_slid_window_drops_a_frame_and_moves_the_stamps():
    before = answer_of(WHOLE, 0, 0.5, 1.0)
    # Half a second later: the first frame is gone, the newest is carried from the one at 1.0 s.
    foreseen = foresee(before, STAMPS, [500_000_000, 1_000_000_000, 1_500_000_000], moved)
    assert rest_of("", foreseen) == (
        '<tracks coords="0.0 1 110 210 2 500 300;0.5 1 120 220;1.0 1 170 220">red mug</tracks>'
    )


def test_ids_are_given_anew_by_first_sight_from_left_to_right():
    text = '<tracks coords="0.0 1 100 200;0.5 1 800 200 2 300 300">red mug</tracks>'
    before = answer_of(text, 0, 0.5)
    foreseen = foresee(before, ("0.0", "0.5"), [500_000_000, 1_000_000_000], stay)
    assert rest_of("", foreseen) == (
        '<tracks coords="0.0 1 300 300 2 800 200;0.5 1 300 300 2 800 200">red mug</tracks>'
    )


POINTS_OVER_CLIP = '<points coords="0.0 1 100 200;0.5 2 300 400;1.0 3 500 600">mugs</points>'


@pytest.mark.parametrize(
    ("times_ns", "rest"),
    [
        # The same clip.
        ([0, 500_000_000, 1_000_000_000], POINTS_OVER_CLIP),
        # Half a second later: each stays on its frame, the first is gone, none is new.
        (
            [500_000_000, 1_000_000_000, 1_500_000_000],
            '<points coords="0.0 1 300 400;0.5 2 500 600">mugs</points>',
        ),
        # The newest frame stood between the clip's, and its point is sought on the next, once.
        (
            [500_000_000, 1_200_000_000, 1_700_000_000],
            '<points coords="0.0 1 300 400;0.5 2 550 600">mugs</points>',
        ),
    ],
)
def test_points_over_a_clip_stay_on_their_frames_and_are_numbered_through(times_ns, rest):
    query = parse_query("point[clip]: mugs")
    before = answer_of(POINTS_OVER_CLIP, 0, 0.5, 1.0, query=query)
    assert rest_of("", foresee(before, STAMPS, times_ns, moved)) == rest


@pytest.mark.parametrize("length", range(len(POINTS_OVER_CLIP) + 1))
def test_points_that_agree_so_far_go_on_as_foreseen(length):
    before = answer_of(POINTS_OVER_CLIP, 0, 0.5, 1.0, query=parse_query("point[clip]: mugs"))
    foreseen = foresee(before, STAMPS, [0, 500_000_000, 1_000_000_000], stay)
    assert rest_of(POINTS_OVER_CLIP[:length], foreseen) == POINTS_OVER_CLIP[length:]


@pytest.mark.parametrize(
    ("written", "rest"),
    [
        # One more on the first frame: all later ones get the next number.
        ("0.0 1 100 200 2 150", ' 200;0.5 3 300 400;1.0 4 500 600">mugs</points>'),
        ("0.0 1 100 200 ", '2 100 200;0.5 3 300 400;1.0 4 500 600">mugs</points>'),
        # None there: what was foreseen there does not come any more.
        ("0.5 ", '1 300 400;1.0 2 500 600">mugs</points>'),
        ("0.5 1 320", ' 400;1.0 2 500 600">mugs</points>'),
        ("1.0 1", ' 500 600">mugs</points>'),
        # And one more behind them.
        ("0.5 1 320 400 2 330 410;1.0 ", '3 500 600">mugs</points>'),
        ("0.0 1 100 200;1.0 2 500 600 3", ' 500 600">mugs</points>'),
    ],
)
def test_one_point_more_or_less_moves_the_numbers_of_those_behind_it(written, rest):
    before = answer_of(POINTS_OVER_CLIP, 0, 0.5, 1.0, query=parse_query("point[clip]: mugs"))
    foreseen = foresee(before, STAMPS, [0, 500_000_000, 1_000_000_000], stay)
    assert rest_of(f'<points coords="{written}', foreseen) == rest


def test_a_point_on_a_frame_without_any_is_foreseen_with_the_next_number():
    query = parse_query("point[clip]: mugs")
    before = answer_of('<points coords="0.0 1 100 200">mugs</points>', 0, 0.5, query=query)
    foreseen = foresee(before, ("0.0", "0.5"), [0, 500_000_000], stay)
    assert rest_of('<points coords="0.0 1 100 200;0.5', foreseen) == ' 2 500 500">mugs</points>'
    assert rest_of('<points coords="0.0 1 100 200;0.5 2 3', foreseen) == '90 500">mugs</points>'


def test_a_first_point_over_a_clip_is_foreseen_once():
    query = parse_query("point[clip]: mugs")
    assert rest_of("", foresee_first(query, STAMPS)) == (
        '<points coords="0.0 1 500 500">mugs</points>'
    )


def test_an_object_that_was_hidden_last_is_foreseen_hidden():
    text = '<tracks coords="0.0 1 100 200;0.5 1 110 210">red mug</tracks>'
    foreseen = foresee(answer_of(text, 0, 0.5, 1.0), STAMPS, [0, 500_000_000, 1_500_000_000], moved)
    assert rest_of("", foreseen) == text


def test_a_window_without_any_known_frame_keeps_the_form():
    text = '<tracks coords="0.0 1 100 200">red mug</tracks>'
    foreseen = foresee(answer_of(text, 9.0, 9.5), ("0.0",), [0], stay)
    assert rest_of("", foreseen) == '<tracks coords="0.0 1 500 500">red mug</tracks>'


def test_numbers_are_foreseen_as_fine_as_the_model_writes_them():
    text = '<tracks coords="0.0 1 101 203">red mug</tracks>'
    foreseen = foresee(answer_of(text, 0), ("0.0", "0.1"), [0, 100_000_000], moved)
    assert rest_of("", foreseen) == '<tracks coords="0.0 1 101 203;0.1 1 151 203">red mug</tracks>'
    text = '<tracks coords="0.0 1 110 200">red mug</tracks>'
    foreseen = foresee(answer_of(text, 0), ("0.0", "0.1"), [0, 100_000_000], moved)
    assert rest_of("", foreseen) == '<tracks coords="0.0 1 110 200;0.1 1 160 200">red mug</tracks>'


def test_a_cut_answer_foresees_the_form_alone():
    before = answer_of(WHOLE[:40], 0, 0.5, 1.0, truncated=True)
    assert rest_of("", foresee(before, ("0.0",), [0], stay)) == (
        '<tracks coords="0.0 1 500 500">red mug</tracks>'
    )


def test_all_wrong_digits_are_mended_after_one_pass():
    source = AnswerDraft(TOKENIZER, FORESEEN)
    draft = source.draft([])
    # What the model would write: other digits in the first and the last frame. It saw 120 where
    # it wants 150, so that only the digit 5 tells anything; and 220 where it wants 190.
    said = WHOLE.replace("1 100 200", "1 160 200").replace("1 120 220", "1 150 190")
    chosen = TOKENIZER.encode_text(said)
    assert len(chosen) == len(draft.tokens)
    source.verified([], draft, [*chosen, 2])
    written = TOKENIZER.encode_text('<tracks coords="0.0 1 16')
    mended = said.replace("150 190", "150 190")
    assert (
        TOKENIZER.decode(source.draft(written).tokens) == mended[len('<tracks coords="0.0 1 16') :]
    )


def test_a_wrong_first_digit_leaves_the_number_near_what_was_foreseen():
    source = AnswerDraft(TOKENIZER, replace(FORESEEN, points={"0.0": {1: (400, 200)}}))
    draft = source.draft([])
    chosen = list(draft.tokens)
    place = TOKENIZER.decode(draft.tokens).index("400")
    chosen[[len(TOKENIZER.decode(draft.tokens[:i])) for i in range(len(chosen))].index(place)] = (
        TOKENIZER.encode_text("3")[0]
    )
    source.verified([], draft, [*chosen, 2])
    assert (
        TOKENIZER.decode(source.draft([]).tokens)
        == '<tracks coords="0.0 1 390 200">red mug</tracks>'
    )


@pytest.mark.parametrize(
    ("written", "rest"),
    [
        ([], [1, 2, 3, 4, 2, 3, 9, 5]),
        ([1, 2], [3, 4, 2, 3, 9, 5]),
        # Another first token, the rest as last time.
        ([7, 2, 3], [4, 2, 3, 9, 5]),
        # A word more: of two places that read alike the nearer one, then the longer likeness.
        ([1, 2, 3, 4, 8, 2, 3], [9, 5]),
        ([8, 8, 8, 4, 2, 3], [9, 5]),
        ([7, 8], []),
        ([1, 2, 3, 4, 2, 3, 9, 5], []),
    ],
)
def test_words_are_foreseen_to_be_said_again(written, rest):
    source = RepeatedDraft([1, 2, 3, 4, 2, 3, 9, 5])
    assert source.draft(written) == Draft.line(rest)


def test_words_that_part_are_foreseen_less_far():
    source = RepeatedDraft(range(100, 200))
    draft = source.draft([])
    assert len(draft.tokens) == 100
    # The tenth is another: of the next draft twice the nine before it.
    source.verified([], draft, [*range(100, 109), 7, *range(110, 201)])
    assert source.draft([*range(100, 110)]).tokens == tuple(range(110, 128))
    source.verified([], source.draft([*range(100, 110)]), [7] * 19)
    assert len(source.draft([*range(100, 110)]).tokens) == 8


coordinates = st.integers(0, 1000)
points = st.dictionaries(
    st.sampled_from(STAMPS),
    st.dictionaries(st.integers(1, 12), st.tuples(coordinates, coordinates), max_size=3),
)


@settings(deadline=None, max_examples=400)
@given(
    points=points,
    written=st.one_of(
        st.text(max_size=60),
        st.text(alphabet='<tracks points coords="0.512;>/', max_size=80),
        st.lists(
            st.one_of(st.text(alphabet="0123456789.\u00b2-", max_size=6), st.sampled_from(STAMPS)),
            max_size=8,
        ).map(lambda words: FORESEEN.opening + "0.0 1 " + " ".join(words)),
        st.tuples(
            st.sampled_from([WHOLE, POINTS_OVER_CLIP]),
            st.integers(0, 90),
            st.text(alphabet='0123456789 ;."', max_size=6),
        ).map(lambda cut: cut[0][: cut[1]] + cut[2]),
    ),
    data=st.data(),
)
def test_any_text_and_any_choice_of_the_model_are_survived(points, written, data):
    source = AnswerDraft(TOKENIZER, replace(FORESEEN, points=points, step=1))
    ids = TOKENIZER.encode_text(written)
    draft = source.draft(ids)
    assert isinstance(draft, Draft)
    token = st.integers(0, TOKENIZER.num_tokens - 1)
    num_chosen = len(draft.tokens) + 1
    chosen = data.draw(st.lists(token, min_size=num_chosen, max_size=num_chosen))
    source.verified(ids, draft, chosen)
    source.draft(ids)


@settings(deadline=None)
@given(points=points.filter(lambda drawn: any(drawn.values())), cut=st.integers(0, 120))
def test_a_draft_foresees_the_same_from_any_place_of_itself(points, cut):
    foreseen = replace(FORESEEN, points=points, step=1)
    whole = AnswerDraft(TOKENIZER, foreseen).draft([]).tokens
    rest = AnswerDraft(TOKENIZER, foreseen).draft(whole[:cut]).tokens
    assert (*whole[:cut], *rest) == whole

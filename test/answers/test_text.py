"""Every answer form that Molmo2 writes, whole and cut."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from molmo2_ros.answers.text import parse_answer

POINT_TAG = '<points coords="0.0 1 250 500 2 007 1000">red mugs</points>'
TRACK_TAG = '<tracks coords="0.0 1 635 522;0.5 1 606 490 2 511 124;1.0 2 515 164">mug</tracks>'


def as_rows(text, **options):
    return [
        (point.stamp, point.object_id, round(point.x * 1000), round(point.y * 1000))
        for point in parse_answer(text, **options).points
    ]


@pytest.mark.parametrize(
    ("text", "rows"),
    [
        # One frame, two objects, a coordinate below 100 and the four-digit 1000.
        (POINT_TAG, [(0.0, 1, 250, 500), (0.0, 2, 7, 1000)]),
        # A track whose second object enters late and whose first leaves.
        (
            TRACK_TAG,
            [(0.0, 1, 635, 522), (0.5, 1, 606, 490), (0.5, 2, 511, 124), (1.0, 2, 515, 164)],
        ),
        # Several images: the group is opened by the image's number.
        (
            '<points coords="1 1 555 169;2 3 649 154 4 709 162">boats</points>',
            [(1.0, 1, 555, 169), (2.0, 3, 649, 154), (2.0, 4, 709, 162)],
        ),
        # alt text before the coordinates, as the formatter may write it.
        ('<points alt="a mug" coords="1 1 100 200">mug</points>', [(1.0, 1, 100, 200)]),
        # A self-closing tag, which the authors' reader also takes.
        ('<tracks coords="2.5 1 100 200"/>', [(2.5, 1, 100, 200)]),
        # Words around the tag and two tags in one answer.
        (
            'Here: <points coords="1 1 100 200">cup</points> and '
            '<points coords="1 2 300 400">lid</points>.',
            [(1.0, 1, 100, 200), (1.0, 2, 300, 400)],
        ),
    ],
)
def test_points_are_read_from_every_tag_form(text, rows):
    parsed = parse_answer(text)
    assert as_rows(text) == rows
    assert not parsed.truncated
    assert parsed.problems == ()


@pytest.mark.parametrize("separator", ["\t", ":", ",", ";", "; ", " ,"])
def test_frames_are_split_at_each_separator(separator):
    text = f'<tracks coords="0.0 1 100 200{separator}0.5 1 110 210">mug</tracks>'
    assert as_rows(text) == [(0.0, 1, 100, 200), (0.5, 1, 110, 210)]
    assert parse_answer(text).problems == ()


def test_label_and_kind_are_those_of_the_tag():
    assert parse_answer(POINT_TAG).label == "red mugs"
    assert not parse_answer(POINT_TAG).is_track
    assert parse_answer(TRACK_TAG).is_track


@pytest.mark.parametrize(
    ("text", "count"),
    [
        (f"Counting the {POINT_TAG} shows a total of 2.", 2),
        (f"There are 2 {POINT_TAG}.", 2),
        ('The total number of "mugs" is: 12.', 12),
        ("7", 7),
        (" 7.\n", 7),
        ("There are none.", None),
        ("I see 7 mugs", None),
        ("", None),
    ],
)
def test_stated_count_is_read_from_each_counting_form(text, count):
    assert parse_answer(text).stated_count == count


@pytest.mark.parametrize("text", ["There are none.", "No tracks available.", "there are none"])
def test_nothing_in_words_is_none(text):
    assert parse_answer(text).none


@pytest.mark.parametrize("text", ["", "There are nonetheless two.", POINT_TAG, "A mug."])
def test_other_answers_are_not_none(text):
    parsed = parse_answer(text)
    assert not parsed.none
    assert not parsed.truncated
    assert parsed.problems == ()


def test_number_that_may_still_grow_is_left_out_while_the_model_writes():
    text = '<points coords="0.0 1 250 100'
    assert as_rows(text, complete=False) == []
    assert as_rows(text + "0", complete=False) == [(0.0, 1, 250, 1000)]
    assert as_rows(text + " ", complete=False) == [(0.0, 1, 250, 100)]
    # Only 1000 has four digits, so 105 cannot grow.
    assert as_rows('<points coords="0.0 1 250 105', complete=False) == [(0.0, 1, 250, 105)]


def test_count_that_may_still_grow_is_left_out_while_the_model_writes():
    assert parse_answer("shows a total of 1", complete=False).stated_count is None
    assert parse_answer("shows a total of 12.", complete=False).stated_count == 12
    assert parse_answer("1", complete=False).stated_count is None


def test_spans_name_the_digits_of_each_coordinate():
    for point in parse_answer(TRACK_TAG).points:
        assert int(TRACK_TAG[slice(*point.x_span)]) == round(point.x * 1000)
        assert int(TRACK_TAG[slice(*point.y_span)]) == round(point.y * 1000)


@pytest.mark.parametrize(
    ("text", "problem"),
    [
        ('<points coords="0.0 1 250 1001">a</points>', "above 1000"),
        ('<points coords="0.0 1 25 500">a</points>', "no point at '1 25 500'"),
        ('<points coords="0.0 1 250 5000000">a</points>', "no point at"),
        ('<points coords="0.0 1 250 500 2">a</points>', "no point at '2'"),
        ('<points coords="x 1 250 500">a</points>', "no stamp at"),
        ("<points>mug</points>", "without coordinates"),
        ('<points coords="0.0 1 250 500', "stops inside"),
        ('<points coords="0.0 1 250 500">red mu', "stops inside"),
        ("Look: <poin", "stops inside"),
    ],
)
def test_ungrammatical_parts_are_named(text, problem):
    assert any(problem in found for found in parse_answer(text).problems)


def test_reading_goes_on_behind_an_unreadable_part():
    text = '<points coords="0.0 1 250 xx 2 300 400;junk;0.5 3 100 200">a</points>'
    assert as_rows(text) == [(0.0, 2, 300, 400), (0.5, 3, 100, 200)]


# The formatter and the reader below are Molmo2's own rules (allenai/molmo2 point_formatter.py),
# typed in again as independent witnesses.
def format_groups(groups, separator):
    return separator.join(
        " ".join([stamp, *(f"{i} {x:03d} {y:03d}" for i, x, y in points)])
        for stamp, points in groups
    )


def read_as_the_authors_do(text):
    rows = []
    for coords in re.finditer(r'<(?:points|tracks).*? coords="([0-9\t:;, .]+)"/?>', text):
        for group in re.finditer(r"(?:^|\t|:|,|;)([0-9\.]+) ([0-9\. ]+)", coords.group(1)):
            for point in re.finditer(r"([0-9]+) ([0-9]{3,4}) ([0-9]{3,4})", group.group(2)):
                x, y = int(point.group(2)), int(point.group(3))
                if x <= 1000 and y <= 1000:
                    rows.append((float(group.group(1)), int(point.group(1)), x, y))
    return rows


coordinates = st.integers(0, 1000)
labels = st.text(st.characters(codec="utf-8", exclude_characters="<"), max_size=20).map(str.strip)
stamps = st.integers(0, 600).map(lambda tenth: f"{tenth / 10:.1f}")
group_lists = st.lists(
    st.tuples(
        stamps,
        st.lists(st.tuples(st.integers(1, 60), coordinates, coordinates), min_size=1, max_size=5),
    ),
    min_size=1,
    max_size=6,
)


@given(group_lists, labels, st.sampled_from(["points", "tracks"]), st.sampled_from("\t:,;"))
def test_written_answers_read_back_as_they_were(groups, label, tag, separator):
    text = f'<{tag} coords="{format_groups(groups, separator)}">{label}</{tag}>'
    expected = [(float(stamp), i, x, y) for stamp, points in groups for i, x, y in points]
    parsed = parse_answer(text)
    assert as_rows(text) == expected == read_as_the_authors_do(text)
    assert parsed.label == label
    assert parsed.is_track == (tag == "tracks")
    assert not parsed.truncated
    assert parsed.problems == ()
    assert as_rows(f"Counting the {text} shows a total of {len(expected)}.") == expected


@given(group_lists, labels, st.sampled_from("\t;"))
def test_cut_anywhere_gives_a_growing_prefix_of_the_points(groups, label, separator):
    tag = f'<tracks coords="{format_groups(groups, separator)}">{label}</tracks>'
    text = f"Counting the {tag} shows a total of 3."
    whole = as_rows(text)
    seen = 0
    for length in range(len(text)):
        rows = as_rows(text[:length], complete=False)
        parsed = parse_answer(text[:length], complete=False)
        assert rows == whole[: len(rows)]
        assert len(rows) >= seen
        assert parsed.truncated
        assert parsed.problems == ()
        seen = len(rows)
    assert seen == len(whole)


FRAGMENTS = ["<points", "<tracks", ' coords="', '">', "</points>", "0.0 ", "1 ", "100 ", ";", "\t"]
messy_text = st.one_of(
    st.text(max_size=200),
    st.lists(
        st.one_of(st.sampled_from([*FRAGMENTS, "a total of ", "9" * 5000, "\u0663"]), st.text()),
        max_size=30,
    ).map("".join),
)


@given(messy_text, st.booleans())
def test_no_text_raises_and_points_stay_in_the_frame(text, complete):
    for point in parse_answer(text, complete=complete).points:
        assert 0 <= point.x <= 1
        assert 0 <= point.y <= 1
        assert point.stamp >= 0


@pytest.mark.parametrize("fragment", ["<points", "total number ", ' coords="', "1 100 100 ", "<"])
def test_a_very_long_answer_is_read_without_blowing_up(fragment):
    parse_answer(fragment * (200_000 // len(fragment)), complete=False)

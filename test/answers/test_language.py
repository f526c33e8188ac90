"""What may follow what in an answer, by hand-worked tables."""

import pytest

from molmo2_ros.answers import language
from molmo2_ros.answers.language import Language
from molmo2_ros.prompt.query import QueryKind

POINT, COUNT, TRACK = QueryKind.POINT, QueryKind.COUNT, QueryKind.TRACK
CLIP = ("0.0", "0.5", "1.0", "10.5")
IMAGES = tuple(str(number) for number in range(1, 13))


def make(kind, stamps=CLIP, *, are_images=False, max_label_bytes=99):
    return Language(kind, stamps, are_images=are_images, max_label_bytes=max_label_bytes)


@pytest.mark.parametrize(
    ("kind", "text"),
    [
        (POINT, '<points coords="0.0 1 250 500 2 000 1000;10.5 3 999 100">a mug, b!</points>'),
        (POINT, "There are none."),
        (COUNT, 'Counting the <points coords="0.0 1 250 500">mug</points> shows a total of 1.'),
        (COUNT, '<points coords="0.5 1 250 500 2 001 002">mugs</points>'),
        (COUNT, "There are none."),
        (TRACK, '<tracks coords="0.0 1 111 222 2 333 444;0.5 2 1000 222">\u00e9tui</tracks>'),
        # The second object leaves, the third enters while it is away, and both are there at last.
        (
            TRACK,
            '<tracks coords="0.0 1 111 222 2 333 444;0.5 1 111 222 3 555 666;'
            '1.0 2 333 444 3 555 666">mugs</tracks>',
        ),
        (TRACK, "No tracks available."),
        (TRACK, ""),
    ],
)
def test_an_answer_may_end_where_it_is_whole_and_nowhere_before(kind, text):
    grammar = make(kind)
    state, ends = grammar.start, []
    for at, byte in enumerate(text.encode()):
        if grammar.may_end(state):
            ends.append(at)
        state = grammar.step(state, byte)
        assert state is not None, text.encode()[: at + 1]

    assert grammar.may_end(state)
    assert grammar.following(state) == (b"" if text else grammar.following(grammar.start))
    assert ends == ([0] if kind is TRACK and text else [])  # a track's answer may be empty


# The caret stands over the first byte that nothing legal has there.
@pytest.mark.parametrize(
    ("kind", "marked"),
    [
        (POINT, "^N"),
        (POINT, "There are ^2"),
        (POINT, "^C"),
        (POINT, "<^t"),
        (TRACK, "<^p"),
        (COUNT, "^7"),
        (TRACK, "No tracks available.^ "),
        # Stamps: none of the clip's, twice the same, an earlier one, cut short, written otherwise.
        (POINT, '<points coords="0.^2'),
        (POINT, '<points coords="^2'),
        (POINT, '<points coords="10.5 1 111 222^;'),
        (POINT, '<points coords="1.0 1 111 222;^0'),
        (POINT, '<points coords="1.0 1 111 222;1^.'),
        (TRACK, '<tracks coords="0.0 1 111 222;0.^0'),
        (POINT, '<points coords="1^ '),
        (POINT, '<points coords="^ '),
        (POINT, '<points coords="0.0^;'),
        # Ids: not from 1, left out, given twice, falling, with a leading zero, none at all.
        (POINT, '<points coords="0.0 ^2'),
        (POINT, '<points coords="0.0 1 111 222 ^1'),
        (POINT, '<points coords="0.0 1 111 222 ^3'),
        (POINT, '<points coords="0.0 1 111 222;0.5 ^1'),
        (POINT, '<points coords="0.0 ^0'),
        (POINT, '<points coords="0.0 ^ '),
        (POINT, '<points coords="0.0 1^1'),
        (TRACK, '<tracks coords="0.0 ^2'),
        (TRACK, '<tracks coords="0.0 1 111 222 ^1'),
        (TRACK, '<tracks coords="0.0 1 111 222 2 111 222;0.5 2 111 222 ^1'),
        (TRACK, '<tracks coords="0.0 1 111 222 2 111 222;0.5 ^4'),
        (TRACK, '<tracks coords="0.0 1 111 222;0.5 1^1'),
        # Coordinates: two digits, four that are not 1000, five, a fraction, missing.
        (POINT, '<points coords="0.0 1 11^ '),
        (POINT, '<points coords="0.0 1 100^1'),
        (POINT, '<points coords="0.0 1 111^1'),
        (POINT, '<points coords="0.0 1 1000^0'),
        (POINT, '<points coords="0.0 1 111^.'),
        (POINT, '<points coords="0.0 1 111^;'),
        (POINT, '<points coords="0.0 1 111 222^,'),
        (POINT, '<points coords="0.0 1 111 22^"'),
        (POINT, '<points coords="0.0 1 111 222 ^"'),
        (POINT, '<points coords="^"'),
        # Labels: empty, with marks of their own, too long.
        (POINT, '<points coords="0.0 1 111 222">^<'),
        (POINT, '<points coords="0.0 1 111 222">mug^"'),
        (POINT, '<points coords="0.0 1 111 222">mug^>'),
        (POINT, '<points coords="0.0 1 111 222">' + "m" * 99 + "^m"),
        (POINT, '<points coords="0.0 1 111 222">mug</^t'),
        (POINT, '<points coords="0.0 1 111 222">mug</points>^ '),
        # Totals: another one, none.
        (COUNT, 'Counting the <points coords="0.0 1 111 222">mug</points> shows a total of ^2'),
        (COUNT, 'Counting the <points coords="0.0 1 111 222">mug</points> shows a total of 1^0'),
        (COUNT, 'Counting the <points coords="0.0 1 111 222">mug</points>^.'),
    ],
)
def test_text_is_refused_at_its_first_wrong_byte(kind, marked):
    grammar = make(kind)
    before, wrong = marked.encode().split(b"^")
    state = grammar.run(grammar.start, before)

    assert state is not None
    assert wrong[0] not in grammar.following(state)
    assert grammar.step(state, wrong[0]) is None


def test_images_are_numbered_and_one_number_may_start_another():
    grammar = make(POINT, IMAGES, are_images=True)
    state = grammar.run(grammar.start, b'<points coords="1')

    assert grammar.following(state) == b"012 "
    state = grammar.run(grammar.start, b'<points coords="2 1 111 222;1')
    assert grammar.following(state) == b"012"  # image 1 stands before image 2


def test_track_ids_of_two_digits():
    grammar = make(TRACK)
    points = " ".join(f"{i} 111 222" for i in range(1, 12))
    state = grammar.run(grammar.start, f'<tracks coords="0.0 {points};0.5 '.encode())

    assert grammar.following(state) == b"123456789"
    state = grammar.run(state, b"1")
    assert grammar.following(state) == b"012 "  # 1, 10, 11, or 12 as the next new one
    state = grammar.run(grammar.start, f'<tracks coords="0.0 {points};0.5 10 111 222 '.encode())
    assert grammar.forced(state)[0] == b"1"  # 11 or 12


@pytest.mark.parametrize(
    ("kind", "stamps", "text", "forced"),
    [
        (COUNT, ("0.0",), "C", 'ounting the <points coords="0.0 1 '),
        (POINT, ("0.0",), "<", 'points coords="0.0 1 '),
        (POINT, CLIP, "<", 'points coords="'),
        (POINT, CLIP, "T", "here are none."),
        (POINT, CLIP, '<points coords="0.0 1 111', " "),
        (POINT, CLIP, '<points coords="0.0 1 100', ""),  # or 1000
        (POINT, CLIP, '<points coords="0.0 1 1000', " "),
        (POINT, CLIP, '<points coords="0.0 1 111 222 ', "2 "),
        (POINT, CLIP, '<points coords="1.0 1 111 222;', "10.5 2 "),
        (POINT, CLIP, '<points coords="10.5 1 111 222"', ">"),
        (POINT, CLIP, '<points coords="10.5 1 111 222">mug<', "/points>"),
        (
            COUNT,
            CLIP,
            'Counting the <points coords="0.0 1 111 222">m<',
            "/points> shows a total of 1.",
        ),
        (COUNT, CLIP, '<points coords="0.0 1 111 222">m<', "/points>"),
        (TRACK, CLIP, "", ""),
        (TRACK, CLIP, '<tracks coords="0.0 1 111 222 2 111 222;1.0 2 111 222 ', "3 "),
    ],
)
def test_forced_runs_end_at_the_next_choice(kind, stamps, text, forced):
    grammar = make(kind, stamps)
    state = grammar.run(grammar.start, text.encode())

    assert grammar.forced(state) == (forced.encode(), grammar.run(state, forced.encode()))


def test_without_stamps_only_the_phrases_for_nothing_are_left():
    assert make(POINT, ()).forced(make(POINT, ()).start)[0] == b"There are none."
    assert make(TRACK, ()).following(make(TRACK, ()).start) == b"NT"


@pytest.mark.parametrize("cut", [23, 26, 30, 38])
def test_answers_that_may_go_on_alike_are_in_equal_states(cut):
    """Also while their coordinates, which differ, are being written."""
    grammar = make(POINT)
    texts = [
        f'<points coords="0.0 1 {x} {y};0.5 2 4'.encode()
        for x, y in (("423", "456"), ("789", "999"), ("000", "255"))
    ]
    assert len({text[:cut] for text in texts}) == 3

    assert len({grammar.run(grammar.start, text[:cut]) for text in texts}) == 1
    assert grammar.run(grammar.start, b'<points coords="0.0 1 100') not in (
        grammar.run(grammar.start, text[:25]) for text in texts
    )


@pytest.mark.parametrize(("kind", "most"), [(POINT, 256), (TRACK, 1024)])
def test_after_very_many_points_an_answer_can_only_be_closed(kind, most):
    assert most == (language.MAX_TRACK_POINTS if kind is TRACK else language.MAX_POINTS)
    grammar = make(kind)
    points = " ".join(f"{number} 111 222" for number in range(1, most))
    tag = "tracks" if kind is TRACK else "points"
    state = grammar.run(grammar.start, f'<{tag} coords="0.0 {points}'.encode())

    assert grammar.following(state) == b' ;"'
    state = grammar.run(state, f" {most} 111 222".encode())
    assert grammar.forced(state)[0] == b'">'


def test_stamps_that_print_alike_are_one():
    grammar = make(TRACK, ("0.0", "0.1", "0.1", "0.2"))
    state = grammar.run(grammar.start, b'<tracks coords="0.1 1 111 222;')

    assert grammar.forced(state)[0] == b"0.2 "


@pytest.mark.parametrize(
    ("stamps", "are_images", "message"),
    [
        (("0.0", "0"), False, "stamp '0', expected seconds such as '0.5'"),
        (("0.0", "0.25"), False, "stamp '0.25', expected seconds"),
        (("0.0", "\u0661.0"), False, "expected seconds"),
        (("1.0",), True, "stamp '1.0', expected an image number such as '1'"),
        (("0",), True, "stamp '0', expected an image number"),
        (("0.5", "0.0"), False, r"stamps \['0.5', '0.0'\] do not rise"),
        (("2", "1"), True, "do not rise"),
    ],
)
def test_stamps_that_no_prompt_prints_are_refused(stamps, are_images, message):
    with pytest.raises(ValueError, match=message):
        make(POINT, stamps, are_images=are_images)

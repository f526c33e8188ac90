"""Tokens become text one by one, with the characters that each added."""

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from molmo2_ros.answers.answer import Timing
from molmo2_ros.answers.grammar import AnswerGrammar
from molmo2_ros.answers.writing import (
    LOST_TOKENS,
    AnswerListener,
    AnswerWriter,
    HeardText,
    WrittenText,
)
from molmo2_ros.camera.frame import Frame
from molmo2_ros.prompt.query import parse_query
from molmo2_ros.prompt.tokenizer import PromptTokenizer
from molmo2_ros.runtime.engine import NANO

ANSWER = 'Counting the <points coords="0.0 1 250 500 2 340 1000">red mugs</points> shows 2.'


@pytest.fixture(scope="module")
def tokenizer():
    return PromptTokenizer(NANO)


def write(tokenizer, text):
    written = WrittenText(tokenizer)
    ids = tokenizer.encode_text(text)
    for index, token_id in enumerate(ids):
        written.append(token_id, index / len(ids))
    return written


@pytest.mark.parametrize("text", [ANSWER, "", "Tasse \u676f \U0001f375 fertig", "a  b\n\tc"])
def test_text_and_spans_are_those_of_the_whole(tokenizer, text):
    written = write(tokenizer, text)
    assert written.text == text
    # Tokens that make one character together share its span.
    spans = sorted({(token.start, token.end) for token in written.tokens})
    assert "".join(text[start:end] for start, end in spans) == text
    assert len(written.tokens) == len(tokenizer.encode_text(text))


def test_an_unfinished_character_is_held_back(tokenizer):
    ids = tokenizer.encode_text("\u676f")
    assert len(ids) > 1
    written = WrittenText(tokenizer)
    written.append(ids[0], 0.5)
    assert written.tokens == []
    assert written.text == "\ufffd"
    for token_id in ids[1:]:
        written.append(token_id, 0.5)
    assert written.text == "\u676f"


PIECES = st.lists(st.sampled_from([0xE6, 0x9D, 0xAF, 0xF0, 0x9F, 0xC3, 0xFF, 0x61]), max_size=24)


@given(PIECES)
@example([0xF0, 0x9F, 0xE6, 0x9D])
def test_any_bytes_give_the_text_of_the_whole(tokenizer, pieces):
    """What is no character becomes as many U+FFFD as when all is decoded at once."""
    id_of = {tokenizer.bytes_of(token_id): token_id for token_id in range(tokenizer.num_tokens)}
    ids = [id_of[bytes([piece])] for piece in pieces]
    written = WrittenText(tokenizer)
    for index, token_id in enumerate(ids):
        written.append(token_id, 0.5)
        assert written.text == tokenizer.decode(ids[: index + 1])
    assert all(0 <= t.start <= t.end <= len(written.text) for t in written.tokens)


def test_bytes_that_never_become_a_character_do_not_block_the_rest(tokenizer):
    start = tokenizer.encode_text("\u676f")[0]
    written = WrittenText(tokenizer)
    for token_id in [start] * 9 + tokenizer.encode_text("mug"):
        written.append(token_id, 0.5)
    assert written.text.endswith("mug")
    assert written.tokens[-1].end == len(written.text)


def test_control_tokens_add_nothing(tokenizer):
    written = write(tokenizer, "mug")
    written.append(tokenizer.ids.turn_end, 0.1)
    assert written.text == "mug"
    assert written.tokens[-1].start == written.tokens[-1].end == 3


def test_the_end_of_each_point_is_noticed(tokenizer):
    written = WrittenText(tokenizer)
    ends = []
    for token_id in tokenizer.encode_text(ANSWER):
        written.append(token_id, 1.0)
        if written.may_end_point:
            ends.append(written.text)
    assert any(end.endswith(("1 250 500", "1 250 500 ")) for end in ends)
    assert any(end.endswith("2 340 1000") for end in ends)
    assert not any(end.endswith("points coords") for end in ends)


def written_on(tokenizer, question, text):
    """The answer as far as a writer lets the model write a text, which it gets token by token."""
    query = parse_query(question)
    black = np.zeros((60, 80, 3), np.uint8)
    frames = [Frame(image=black, stamp_ns=500_000_000 * n) for n in range(24)]
    grammar = AnswerGrammar(tokenizer, 576, frozenset({2}))
    automaton = grammar.automaton(query, [f"{n / 2:.1f}" for n in range(24)])
    writer = AnswerWriter(tokenizer, query, frames, automaton=automaton)
    for token_id in tokenizer.encode_text(text):
        writer.append([token_id], [0.5], False)
        if writer.is_degenerate:
            break
    return writer.finish(truncated=False, cancelled=writer.is_degenerate, timing=Timing())


# What the nano really wrote of clips of 24 and 32 frames, three and four times what it was trained
# on: of each the beginning, and what it then goes on with.
STRAYED = [
    ('<tracks coords="1 3  coords="1.4 1 1 3 470 2 1 3 3 1 3 2 3 3 3 1 1 3 3 3', " 3"),
    ('<tracks coords="1.4 1 350 260;1.5 1 340 260 2 640 500  3 3 0', " 3 3 0 3 5 3"),
    ('<tracks coords="1 51 50.4 1 500 310 2 50.4 1 510 310 2 690 3', " 2 1 3 2 1 490 2"),
    # Prose, as of the released models when they are asked for what they cannot count.
    ("Sorry, I can't count that, as", " it is so very, very hard to see"),
]


@pytest.mark.parametrize(("begun", "more"), STRAYED)
def test_what_follows_no_grammar_for_long_is_degenerate(tokenizer, begun, more):
    answer = written_on(tokenizer, "track: the lemon", begun + 400 * more)
    assert answer.degenerate
    assert any("follows no grammar after" in problem for problem in answer.problems)
    assert len(tokenizer.encode_text(answer.text)) < 4 * LOST_TOKENS


def scattered(first, last):
    """Points with ids from `first` to `last` in places without a pattern."""
    places = np.random.default_rng(first).integers(100, 999, (last - first + 1, 2))
    return " ".join(f"{n} {x} {y}" for n, (x, y) in enumerate(places, first))


@pytest.mark.parametrize(
    ("question", "text"),
    [
        # Long, and within its grammar.
        ("point[clip]: mugs", f'<points coords="0.0 {scattered(1, 99)}">mugs</points>'),
        # In the older form with tabs, which no automaton follows and the parser reads.
        (
            "track: mugs",
            f'<tracks coords="0.0 {scattered(1, 40)}\t0.5 {scattered(41, 80)}">mugs</tracks>',
        ),
        # An excuse comes to its end.
        ("count: mugs", "Sorry, I can't count the mugs, as they are too small to see."),
        # Words are long, and have no grammar.
        ("caption: long", "A red mug stands on the table. " * 40),
    ],
    ids=["grammatical", "tabs", "excuse", "caption"],
)
def test_long_answers_that_can_be_read_are_let_go_on(tokenizer, question, text):
    answer = written_on(tokenizer, question, text)
    assert answer.text == text
    assert not answer.degenerate


def test_words_are_told_while_they_are_written():
    seen = []
    text = "The drawer is open, and a red mug stands in it."
    answer = hear(listener("Is the drawer open?", seen=seen), text, size=3)
    assert answer.text == text
    told = [partial.text for partial in seen]
    assert all(partial.partial for partial in seen)
    assert len(told) >= 3
    assert all(text.startswith(part.strip()) for part in told)
    assert told == sorted(told, key=len)


def listener(question, stamps=("0.0",), seen=None, num_frames=1):
    frames = [
        Frame(image=np.zeros((8, 8, 3), np.uint8), stamp_ns=500_000_000 * index)
        for index in range(num_frames)
    ]
    on_partial = None if seen is None else seen.append
    return AnswerListener(parse_query(question), frames, stamps, on_partial=on_partial)


def hear(heard, text, size=1):
    for start in range(0, len(text), size):
        heard.append(text[start : start + size])
    return heard.finish(truncated=False, cancelled=False, timing=Timing())


@pytest.mark.parametrize("size", [1, 2, 5, 1000])
def test_text_that_comes_in_pieces_of_any_size_gives_the_same_answer(size):
    seen = []
    answer = hear(listener("count: red mugs", seen=seen), ANSWER, size)
    assert answer.text == ANSWER
    assert [(point.x, point.y) for point in answer.points] == [(0.25, 0.5), (0.34, 1.0)]
    assert answer.points[0].confidence is None
    assert [len(partial.points) for partial in seen] == ([2] if size == 1000 else [1, 2])


def test_a_tokenized_answer_and_its_text_are_scored_alike(tokenizer):
    ids = tokenizer.encode_text(ANSWER)
    probabilities = [0.5 + index / len(ids) / 2 for index in range(len(ids))]
    writer = AnswerWriter(
        tokenizer,
        parse_query("count: red mugs"),
        [Frame(image=np.zeros((8, 8, 3), np.uint8), stamp_ns=0)],
    )
    heard = listener("count: red mugs")
    for token_id, probability in zip(ids, probabilities, strict=True):
        writer.append([token_id], [probability], False)
        piece = tokenizer.decode_one(token_id)
        heard.append(piece, [(piece, probability)])
    answers = [
        reader.finish(truncated=False, cancelled=False, timing=Timing())
        for reader in (writer, heard)
    ]
    assert answers[0] == answers[1]
    assert answers[0].points[0].score is not None


def test_tokens_that_do_not_add_up_to_their_piece_span_all_of_it():
    heard = HeardText()
    heard.append("ab", [("a", 0.5), ("b", 0.25)])
    heard.append("\u676f", [("\ufffd", 0.9), ("\ufffd", 0.8)])
    heard.append("", [("<|im_end|>", 0.7)])
    assert [(t.start, t.end) for t in heard.tokens] == [(0, 1), (1, 2), (2, 3), (2, 3), (3, 3)]
    assert heard.text == "ab\u676f"


@pytest.mark.parametrize(
    ("question", "text", "strays"),
    [
        ("point: mugs", "I think that " * 60, True),
        ("point: mugs", '<points coords="0.0 1 250 500">' + "mug " * 200, True),  # no such label
        ("point: mugs", '<points coords="0.0 1 250 500">' + "m" * 200, False),
        ("ask: Open?", "I think that " * 60, False),
    ],
)
def test_a_text_that_follows_no_grammar_for_long_is_lost(question, text, strays):
    heard = listener(question)
    for character in text:
        heard.append(character)
    assert heard.is_degenerate is strays
    problems = heard.finish(truncated=False, cancelled=strays, timing=Timing()).problems
    assert any("follows no grammar after" in problem for problem in problems) is strays

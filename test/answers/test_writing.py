"""Tokens become text one by one, with the characters that each added."""

import pytest

from molmo2_ros.answers.writing import WrittenText
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

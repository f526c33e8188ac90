"""Server-sent events to pieces of an answer, and every line that is none."""

import contextlib
import json
import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from molmo2_ros.errors import ServerError
from molmo2_ros.remote.stream import EventReader, Piece, error_text, parse_event


def event(**content):
    return b"data: " + json.dumps(content).encode()


def read(*lines):
    reader = EventReader()
    return [piece for line in lines if (piece := reader.feed(line)) is not None]


def delta(text, **more):
    return event(choices=[{"delta": {"content": text}, **more}])


def test_events_become_pieces_in_order():
    usage = {"prompt_tokens": 57, "completion_tokens": 2}
    pieces = read(
        b": a comment",
        event(choices=[{"delta": {"role": "assistant"}}]),
        b"",
        b"event: message",
        b"id: 4",
        delta("The"),
        b"",
        b"",
        delta("re", finish_reason="stop"),
        b"",
        event(choices=[], usage=usage),
        b"",
        b"data: [DONE]",
        b"",
    )
    assert pieces == [
        Piece(),
        Piece(text="The"),
        Piece(text="re", finish_reason="stop"),
        Piece(num_prompt_tokens=57, num_answer_tokens=2),
    ]


def test_an_event_over_several_lines_is_one():
    assert read(b'data: {"choices":', b'data: [{"delta": {"content": "a"}}]}', b"") == [
        Piece(text="a")
    ]


def test_tokens_come_with_their_probabilities():
    said = {
        "content": [{"token": "4", "logprob": -0.5, "bytes": [52]}, {"token": "2", "logprob": 0}]
    }
    (piece,) = read(delta("42", logprobs=said), b"")
    assert piece.tokens == (("4", pytest.approx(math.exp(-0.5))), ("2", 1.0))


@pytest.mark.parametrize(
    "logprobs",
    [None, [], {"content": None}, {"content": [{"token": "4"}]}, {"content": [{"token": 4}]}]
    + [{"content": [{"token": "4", "logprob": value}]} for value in ("x", 3.0, None)],
)
def test_probabilities_that_are_none_are_left_out(logprobs):
    (piece,) = read(delta("4", logprobs=logprobs), b"")
    assert piece == Piece(text="4")


@pytest.mark.parametrize(
    ("line", "trouble"),
    [
        (b"<html><body>Bad gateway</body></html>", "sent '<html>.*expected a stream of events"),
        (b'{"choices": []}', "expected a stream of events"),
        (b"data: {not json", "expected an event of JSON"),
        (b"data: " + b"[" * 9000, "expected an event of JSON"),
        (b"data: \xff\xfe", "expected an event of JSON"),
        (b"data: [1]", "expected a JSON object"),
        (b'data: {"choices": [4]}', "expected choices with a delta"),
        (b'data: {"choices": {"a": 1}}', "expected choices with a delta"),
        (b'data: {"choices": [{"delta": "x"}]}', "expected choices with a delta"),
        (b'data: {"choices": [{"delta": {"content": 4}}]}', "expected text"),
        (b'data: {"error": {"message": "CUDA out of\\nmemory"}}', "an error: CUDA out of memory"),
        (b'data: {"error": "worker died"}', "an error: worker died"),
    ],
)
def test_what_is_no_event_is_a_clear_error(line, trouble):
    with pytest.raises(ServerError, match=trouble):
        read(line, b"")


@given(st.binary(max_size=200))
def test_any_line_is_read_or_a_server_error(line):
    with contextlib.suppress(ServerError):
        read(line, b"")


@given(st.text(max_size=40))
def test_any_text_comes_through(text):
    piece = parse_event(json.dumps({"choices": [{"delta": {"content": text}}]}).encode())
    assert piece == Piece(text=text)


@pytest.mark.parametrize(
    "content",
    [{"error": {"message": "too long"}}, {"error": "too long"}, {"detail": "too long"}],
)
def test_errors_are_told_in_the_servers_words(content):
    assert error_text(content) == "too long"

"""What a server streams of an answer: lines of server-sent events to pieces of text."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from typing import Any

from molmo2_ros.errors import ServerError
from molmo2_ros.remote.connection import one_line

_FIELDS = (b"event:", b"id:", b"retry:", b":")  # of events; without them nothing is missed
_DONE = "[DONE]"


@dataclass(frozen=True, slots=True, kw_only=True)
class Piece:
    """What one event adds to an answer."""

    text: str = ""
    tokens: tuple[tuple[str, float], ...] = ()  # text and probability, where the server gives them
    finish_reason: str = ""  # "stop" or "length" with the answer's last piece
    num_prompt_tokens: int | None = None  # with the last event, where the server counts them
    num_answer_tokens: int | None = None


class EventReader:
    """Puts the lines of one reply together to pieces."""

    def __init__(self) -> None:
        self._data: list[bytes] = []

    def feed(self, line: bytes) -> Piece | None:
        """Take the next line.

        Args:
            line: without its end.

        Returns:
            what the event that it ends adds; None where no event ends.

        Raises:
            ServerError: it is no line of an event stream, the event is not what chat completions
                send, or the server reports an error in mid-answer.
        """
        if line.startswith(b"data:"):
            self._data.append(line[5:].strip())
        elif line and not line.startswith(_FIELDS):
            raise ServerError(f"sent {_quote(line)}, expected a stream of events")
        if line or not self._data:
            return None
        data, self._data = b"\n".join(self._data), []
        return parse_event(data)


def parse_event(data: bytes) -> Piece | None:
    """Read the data of one event; None for the mark that the stream is done.

    Raises:
        ServerError: as `EventReader.feed`.
    """
    try:
        text = data.decode("utf-8")
        if text == _DONE:
            return None
        content = json.loads(text)
    except (ValueError, RecursionError):
        raise ServerError(f"sent {_quote(data)}, expected an event of JSON") from None
    if not isinstance(content, dict):
        raise ServerError(f"sent {_quote(data)}, expected a JSON object")
    if content.get("error"):
        raise ServerError(f"broke the answer off with an error: {error_text(content)}")
    usage = content.get("usage")
    usage = usage if isinstance(usage, dict) else {}
    choices = content.get("choices") or [{}]
    choice = choices[0] if isinstance(choices, list) else None
    delta = choice.get("delta") or {} if isinstance(choice, dict) else None
    if not isinstance(choice, dict) or not isinstance(delta, dict):
        raise ServerError(f"sent {_quote(data)}, expected choices with a delta")
    piece, reason = delta.get("content") or "", choice.get("finish_reason") or ""
    if not isinstance(piece, str) or not isinstance(reason, str):
        raise ServerError(f"sent {_quote(data)}, expected text")
    return Piece(
        text=piece,
        tokens=_tokens(choice.get("logprobs")),
        finish_reason=reason,
        num_prompt_tokens=_count(usage.get("prompt_tokens")),
        num_answer_tokens=_count(usage.get("completion_tokens")),
    )


def error_text(content: Any) -> str:
    """The words of a server's error object, in whichever of the usual shapes."""
    error = content.get("error", content.get("detail", content)) if isinstance(content, dict) else 0
    message = error.get("message", error) if isinstance(error, dict) else error
    return one_line(str(message))


def _tokens(logprobs: Any) -> tuple[tuple[str, float], ...]:
    """Text and probability of each token; none where any of it is not as expected."""
    entries = logprobs.get("content") if isinstance(logprobs, dict) else None
    found = []
    for entry in entries if isinstance(entries, list) else ():
        text = entry.get("token") if isinstance(entry, dict) else None
        logprob = entry.get("logprob") if isinstance(entry, dict) else None
        if not isinstance(text, str) or not isinstance(logprob, (int, float)):
            return ()
        if math.isnan(logprob) or logprob > 0.01:  # above 0 by rounding only
            return ()
        found.append((text, min(1.0, math.exp(logprob))))
    return tuple(found)


def _count(value: Any) -> int | None:
    return value if isinstance(value, int) and not isinstance(value, bool) and value >= 0 else None


def _quote(data: bytes) -> str:
    return repr(one_line(data.decode("utf-8", "replace"), 60))

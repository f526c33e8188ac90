"""What a server is sent: the bodies of chat completions, with a clip or with still images.

A clip goes as its frames in JPEG, with their times as numbers of tenths of a second: Molmo2 prints
times with one decimal, so that no frame is named otherwise than here. How that is written differs
by server; handshake.py finds out what is understood.
"""

from __future__ import annotations

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from enum import Enum
from typing import Any

from molmo2_ros.camera.clip import stamp_text

_TICKS_HZ = 10  # of the clock in which times are given: one tick a printed decimal
_MARK = "<pictures>"


class ClipForm(Enum):
    """How a clip is written."""

    #: vLLM's sequence of JPEGs with their times beside it (needs --trust-request-mm-kwargs).
    TIMED = "a video of JPEGs with their times"
    #: The same without times, which the server then makes up: of use for single frames.
    UNTIMED = "a video of JPEGs without times"
    #: No clip at all: its newest frame as a still image.
    STILL = "a still image"


@dataclass(frozen=True, slots=True, kw_only=True)
class Ask:
    """One question as it is sent."""

    question: str  # as Molmo2 is asked it (question_text)
    pictures: Sequence[bytes]  # JPEG in base64
    times_s: Sequence[float] | None  # of the frames of a clip; None for still images
    max_tokens: int  # of the answer


def chat_body(ask: Ask, *, model: str, form: ClipForm, is_stream: bool = True) -> bytes:
    """The JSON of one chat completion.

    Args:
        ask: the question and what it is about.
        model: name under which the server offers it; "" for the only one.
        form: how a clip is written.
        is_stream: whether the answer comes token by token.
    """
    more: Mapping[str, Any] = {}
    pictures = [b"data:image/jpeg;base64," + picture for picture in ask.pictures]
    if ask.times_s is None or form is ClipForm.STILL:
        parts = [{"type": "image_url", "image_url": {"url": _MARK}} for _ in pictures]
    else:
        parts = [{"type": "video_url", "video_url": {"url": _MARK}}]
        pictures = [b"data:video/jpeg;base64," + b",".join(ask.pictures)]
        more = _media_arguments(ask.times_s) if form is ClipForm.TIMED else {}
    content = {
        "messages": [{"role": "user", "content": [*parts, {"type": "text", "text": ask.question}]}],
        "max_tokens": ask.max_tokens,
        "temperature": 0.0,
        "stream": is_stream,
        **({"model": model} if model else {}),
        **({"stream_options": {"include_usage": True}, "logprobs": True} if is_stream else {}),
        **more,
    }
    return _with_pictures(content, pictures)


def ticks(times_s: Sequence[float]) -> list[int]:
    """Times of frames in tenths of a second, as Molmo2 prints them."""
    return [round(_TICKS_HZ * float(stamp_text(time_s))) for time_s in times_s]


def _media_arguments(times_s: Sequence[float]) -> dict[str, Any]:
    """Arguments of vLLM's reader of videos; without a number of frames it would read 32."""
    at = ticks(times_s)
    video = {
        "num_frames": -1,
        "fps": _TICKS_HZ,
        "frames_indices": at,
        "total_num_frames": at[-1] + 1,
        "duration": (at[-1] + 1) / _TICKS_HZ,
        "do_sample_frames": False,
    }
    return {"media_io_kwargs": {"video": video}}


def _with_pictures(content: Mapping[str, Any], pictures: Sequence[bytes]) -> bytes:
    """JSON with the pictures put in their places: megabytes that need no escaping.

    Their places come first, before any words that somebody chose.
    """
    text = json.dumps(content)
    before, *rest = text.split(json.dumps(_MARK), len(pictures))
    body = [before.encode()]
    for picture, after in zip(pictures, rest, strict=True):
        body += [b'"', picture, b'"', after.encode()]
    return b"".join(body)

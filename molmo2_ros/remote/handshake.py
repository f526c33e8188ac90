"""Finds out what a server understands: its model, how a clip is written, and whether it is kept.

A server may leave frames out, or number them in its own way, and its answers then speak of times
that no frame has. Nothing in its interface tells, but its count of prompt tokens does: a few tiny
clips are counted, and no token is written.

    one frame at 0.0                  P
    frames at 0.0 and 0.5             P + F         F: tokens of a frame with its time
    frames at 0.0 and 12345.5         more          a longer time takes more tokens in any tokenizer
    N frames, every 0.2 s             P + (N - 1) F otherwise frames were left out
"""

from __future__ import annotations

import base64
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache
from typing import Any

import cv2
import numpy as np

from molmo2_ros.errors import ServerError
from molmo2_ros.remote.connection import one_line
from molmo2_ros.remote.messages import Ask, ClipForm, chat_body

NUM_FRAMES = 34  # of the long probe: one more than vLLM takes where it is not told, and one
FAR_S = 12345.5  # of a frame; more digits than any tokenizer holds in the token of "0"
_STEP_S = 0.2  # a server that samples at 2 frames a second leaves most of them out
_QUESTION = "How many mugs are there?"
_NOT_UNDERSTOOD = (400, 415, 422, 500, 501)

Fetch = Callable[[str, bytes | None], Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class ServerFacts:
    """What was found out."""

    model: str  # name to ask for, "" for the only one
    name: str  # to call it by
    form: ClipForm
    clip_trouble: str = ""  # why it cannot be asked about several frames; "" where it can
    warning: str = ""  # what could not be found out
    tokens_per_frame: int | None = None  # of the prompt, its time included
    max_tokens: int | None = None  # of prompt and answer, as the server says

    @property
    def summary(self) -> str:
        """All of it in one line."""
        trouble = self.clip_trouble or self.warning
        return f"it is sent {self.form.value}" + (f"; {trouble}" if trouble else "")


def shake_hands(fetch: Fetch, wanted_model: str, host: str) -> ServerFacts:
    """Ask a server what it offers, and try out how it reads clips.

    Args:
        fetch: path and body to decoded JSON; raises ServerError.
        wanted_model: name of the model; "" for the only one.
        host: what to call a model that has no name.

    Raises:
        ServerError: it cannot be reached or refuses, offers no such model or several, or takes
            neither video nor images.
    """
    model, max_tokens = _choose_model(fetch, wanted_model)
    probe = _Probe(fetch, model)
    facts = ServerFacts(
        model=model,
        name=model or f"model at {host}",
        form=ClipForm.TIMED,
        max_tokens=max_tokens,
    )
    refusals = []
    for form in ClipForm:
        try:
            one = probe.count([0.0], form)
        except ServerError as error:
            if error.status not in _NOT_UNDERSTOOD:
                raise
            refusals.append(f"{form.value}: {error}")
            continue
        if form is not ClipForm.TIMED:
            trouble = f"it cannot be sent {refusals[0]}"
            return replace(facts, form=form, clip_trouble=trouble)
        return replace(facts, **_kept(probe, one, max_tokens))
    raise ServerError(
        f"{model or 'the model'} at {host} can be sent none of: {'; '.join(refusals)}; expected a "
        "server of a Molmo2"
    )


def _choose_model(fetch: Fetch, wanted: str) -> tuple[str, int | None]:
    """Name of the model and its limit of tokens, as far as the server tells."""
    try:
        reply = fetch("/models", None)
    except ServerError as error:
        if error.status not in _NOT_UNDERSTOOD:
            raise
        return wanted, None  # transformers serve without a cache of models
    entries = reply.get("data") if isinstance(reply, dict) else None
    if not isinstance(entries, list):
        raise ServerError(
            f"/models gave {one_line(repr(reply), 60)}, expected a list of models; is it an "
            "OpenAI-compatible server, and does its URL end in /v1?"
        )
    offered = {
        entry["id"]: entry
        for entry in entries
        if isinstance(entry, dict) and isinstance(entry.get("id"), str)
    }
    names = ", ".join(one_line(name, 60) for name in list(offered)[:8])
    if not wanted and len(offered) > 1:
        raise ServerError(f"the server offers {names}; name one (remote_model, or --model)")
    if wanted and offered and wanted not in offered:
        raise ServerError(f"the server offers {names}, not {wanted}; name one of these")
    name = wanted or next(iter(offered), "")
    limit = offered.get(name, {}).get("max_model_len")
    return name, limit if isinstance(limit, int) and limit > 0 else None


class _Probe:
    """Counts the prompt tokens of clips of grey frames."""

    def __init__(self, fetch: Fetch, model: str) -> None:
        self._fetch = fetch
        self._model = model

    def count(self, times_s: Sequence[float], form: ClipForm) -> int | None:
        """Tokens of a prompt with frames at these times; None where the server does not count."""
        ask = Ask(
            question=_QUESTION,
            pictures=[_grey()] * len(times_s),
            times_s=times_s,
            max_tokens=1,
        )
        body = chat_body(ask, model=self._model, form=form, is_stream=False)
        reply = self._fetch("/chat/completions", body)
        usage = reply.get("usage") if isinstance(reply, dict) else None
        count = usage.get("prompt_tokens") if isinstance(usage, dict) else None
        return count if isinstance(count, int) and count > 0 else None


def _kept(probe: _Probe, one: int | None, max_tokens: int | None) -> dict[str, Any]:
    """Whether a server that takes times keeps all frames, and keeps them apart."""
    two = probe.count([0.0, 0.5], ClipForm.TIMED)
    far = probe.count([0.0, FAR_S], ClipForm.TIMED)
    if one is None or two is None or far is None:
        return {"warning": "it counts no tokens, so that frames left out would not be noticed"}
    per_frame = two - one
    if per_frame <= 0:
        return {"clip_trouble": "it reads one of two frames, whatever it is told; see its log"}
    kept: dict[str, Any] = {"tokens_per_frame": per_frame}
    if far <= two:
        return kept | {
            "clip_trouble": "it numbers frames in its own way and leaves out the times that it is "
            "told; use a vLLM that reads frames_indices (docs/remote.md)"
        }
    num_frames = NUM_FRAMES
    if max_tokens is not None:
        num_frames = min(num_frames, (max_tokens - one) // per_frame)
    many = probe.count([_STEP_S * index for index in range(num_frames)], ClipForm.TIMED)
    num_read = 1 + round(((many or one) - one) / per_frame)
    if num_read != num_frames:
        return kept | {
            "clip_trouble": f"it reads {num_read} of {num_frames} frames: it samples by rules of "
            "its own; start it without (docs/remote.md)"
        }
    return kept


@cache
def _grey() -> bytes:
    """A small grey JPEG in base64."""
    _, data = cv2.imencode(".jpg", np.full((32, 32, 3), 128, np.uint8))
    return base64.b64encode(data.tobytes())

"""One server as a model: what it offers, whether it can be asked now, and what became of requests.

A request is repeated only where the server has not begun to answer it: nobody listened, it closed
the connection before its first word, or it asked to come again later (429, 503). An answer that
breaks off is not asked for anew: on a live camera a newer frame is waiting by then.
"""

from __future__ import annotations

import json
import logging
import os
import random
import time
from collections.abc import Callable
from dataclasses import dataclass
from queue import Empty, SimpleQueue
from typing import Any

from molmo2_ros.asking import ModelFacts
from molmo2_ros.errors import ConfigError, ServerError
from molmo2_ros.remote.address import Address
from molmo2_ros.remote.connection import Broken, Ended, Events, Line, Peer, Refused, one_line
from molmo2_ros.remote.handshake import ServerFacts, shake_hands
from molmo2_ros.remote.stream import error_text
from molmo2_ros.runtime.manifest import SKILLS, SamplingFacts

TOKEN_VARIABLE = "MOLMO2_API_KEY"
POLL_S = 0.05  # how soon cancelling and time limits are noticed

# Of the released family: its training mixture and card (see engines/export.py).
_SAMPLING = SamplingFacts(point_fps=2.0, track_fps=10.0, max_frames=384, max_clip_s=63.0)
# Subtitles stand between the clip and the question, where no chat message can put them.
_SKILLS = tuple(skill for skill in SKILLS if skill != "subtitles")
_WORTH_WAITING = (408, 425, 429, 502, 503, 504)
_FIRST_PAUSE_S, _LONGEST_PAUSE_S = 0.5, 10.0
_LONGEST_AWAY_S = 1.0  # knocking where nobody is burdens nobody, and it may be back at any time
_log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class RemoteSettings:
    """How a server is asked.

    Raises:
        ConfigError: a value is out of range.
    """

    model: str = ""  # name under which the server offers it; "" for its only one
    jpeg_quality: int = 90  # 1 to 100
    frame_size: int = 378  # pixels, side of the square that a clip's frames are sent as; 0: whole
    connect_timeout_s: float = 5.0  # to reach it
    first_token_timeout_s: float = 30.0  # from the request to the answer's first word
    token_timeout_s: float = 10.0  # from one word to the next
    patience_s: float = 0.0  # for which a call waits for a server that is busy or away
    max_requests: int = 4  # under way at once

    def __post_init__(self) -> None:
        limits = {
            "jpeg_quality": (1, 100),
            "frame_size": (0, 4096),
            "connect_timeout_s": (0.1, 600),
            "first_token_timeout_s": (0.1, 3600),
            "token_timeout_s": (0.1, 3600),
            "patience_s": (0, 3600),
            "max_requests": (1, 64),
        }
        for name, (least, most) in limits.items():
            value = getattr(self, name)
            if not least <= value <= most:
                raise ConfigError(f"{name} is {value}, expected {least} to {most}")


class RemoteServer:
    """A server, from its address on; nothing is sent before `connect`.

    Args:
        address: where it is.
        settings: how it is asked.

    Raises:
        ConfigError: MOLMO2_API_KEY holds what no header can hold.
    """

    def __init__(self, address: Address, settings: RemoteSettings) -> None:
        self.address = address
        self.settings = settings
        self.device = str(address)
        token = os.environ.get(TOKEN_VARIABLE) or None
        self.peer = Peer(address, connect_timeout_s=settings.connect_timeout_s, token=token)
        self.facts: ServerFacts | None = None  # None until it has been reached
        self.model = self._model_facts()
        #: What keeps it from being asked, with its cure; "" where nothing does.
        self.trouble = ""
        self.num_retries = 0
        self.num_failures = 0
        self._num_failed = 0  # in a row
        self._ask_again_s = 0.0  # monotonic time before which it is not asked
        if token is not None and not address.is_tls and not address.is_this_machine:
            _log.warning(
                "%s is sent unencrypted to %s, where others on the network can read it; serve "
                "with TLS, and use https://",
                TOKEN_VARIABLE,
                address,
            )

    @property
    def pause_s(self) -> float:
        """Seconds before it should be asked again, 0 where it can be."""
        return max(0.0, self._ask_again_s - time.monotonic())

    @property
    def clip_trouble(self) -> str:
        """Why it cannot be asked about several frames, "" where it can or has not been reached."""
        return "" if self.facts is None else self.facts.clip_trouble

    @property
    def warning(self) -> str:
        """What a user should know of how it reads clips, "" for nothing."""
        return "" if self.facts is None else self.facts.clip_trouble or self.facts.warning

    def connect(self, cancel: Callable[[], bool] = lambda: False) -> ServerFacts:
        """Reach the server, and find out what it understands.

        Args:
            cancel: asked again and again; True gives the server up.

        Raises:
            ServerError: it cannot be reached, refuses, or offers no such model.
        """
        if self.facts is None:

            def fetch(path: str, body: bytes | None) -> Any:
                return self.fetch(path, body, cancel)

            try:
                self.facts = shake_hands(fetch, self.settings.model, self.address.host)
            except ServerError as error:
                self.failed(error)
                raise
            self.model = self._model_facts()
            self.succeeded()
            _log.info("%s offers %s; %s", self.address, self.model.name, self.facts.summary)
        return self.facts

    def fetch(self, path: str, body: bytes | None, cancel: Callable[[], bool]) -> Any:
        """One request whose reply is JSON.

        Args:
            path: below the address' own.
            body: None to GET.
            cancel: as in `connect`.

        Raises:
            ServerError: no such reply; with the status where there is one.
        """
        events: Events = SimpleQueue()
        call = self.peer.call(path, body, events)
        settings = self.settings
        deadline_s = time.monotonic() + settings.connect_timeout_s + settings.first_token_timeout_s
        lines = []
        while True:
            try:
                _, event = events.get(timeout=POLL_S)
            except Empty:
                if cancel():
                    call.abort()
                    raise ServerError(f"{self.address} was given up") from None
                if time.monotonic() > deadline_s:
                    call.abort()
                    raise self._late("no reply", settings.first_token_timeout_s) from None
                continue
            if isinstance(event, Line):
                lines.append(event.data)
            elif isinstance(event, Ended):
                return self._json(b"\n".join(lines))
            else:
                raise self.error_of(event, has_begun=bool(lines))

    def error_of(self, event: Refused | Broken, *, has_begun: bool) -> ServerError:
        """What the end of a request means.

        Args:
            event: how it ended.
            has_begun: whether a part of the answer had come.
        """
        if isinstance(event, Refused):
            return ServerError(
                f"{self.address} {_refusal(event)}",
                status=event.status,
                retry_after_s=event.retry_after_s,
                may_pass=event.status in _WORTH_WAITING,
            )
        if has_begun:
            text = f"{event.what} in mid-answer; see its log, and ask again"
        else:
            text = f"{event.what}; check that the server runs, the URL and the network"
        return ServerError(f"no answer from {self.address}: {text}", may_pass=not has_begun)

    def failed(self, error: ServerError) -> None:
        """Take note: the server is left alone for a while, the longer the more often it failed."""
        self.num_failures += 1
        self._num_failed += 1
        self.trouble = str(error)
        if error.status is None:
            self.facts = None  # whoever answers next may be another
        self._ask_again_s = time.monotonic() + pause_after(error, self._num_failed)

    def succeeded(self) -> None:
        """Take note that it answers."""
        self._num_failed = 0
        self._ask_again_s = 0.0
        self.trouble = ""

    def late(self, *, has_begun: bool) -> ServerError:
        """What it means that the server did not write on in time."""
        settings = self.settings
        if has_begun:
            return self._late("no further word of an answer", settings.token_timeout_s)
        return self._late("no first word of an answer", settings.first_token_timeout_s)

    def _late(self, what: str, timeout_s: float) -> ServerError:
        return ServerError(
            f"{what} from {self.address} in {timeout_s:g} s; it is stuck or has too much to do: "
            "ask less often (answer_rate_hz), or raise the time limit"
        )

    def _json(self, data: bytes) -> Any:
        try:
            return json.loads(data)
        except (ValueError, RecursionError):
            raise ServerError(
                f"{self.address} replied {one_line(data.decode('utf-8', 'replace'), 60)!r}, "
                "expected JSON; is it an OpenAI-compatible server, and does its URL end in /v1?"
            ) from None

    def _model_facts(self) -> ModelFacts:
        name = self.facts.name if self.facts is not None else f"model at {self.address.host}"
        return ModelFacts(name=name, skills=_SKILLS, sampling=_SAMPLING)


def pause_after(error: ServerError, num_failed: int) -> float:
    """Seconds to leave a server alone: as it asked for, else twice as long each time in a row.

    One that is not there at all is looked for about once a second.
    """
    if error.retry_after_s is not None:
        return error.retry_after_s
    is_away = error.status is None and error.may_pass
    longest_s = _LONGEST_AWAY_S if is_away else _LONGEST_PAUSE_S
    pause_s = min(_FIRST_PAUSE_S * 2.0 ** (num_failed - 1), longest_s)
    # Robots that lost one server together should not come back together.
    return pause_s * random.uniform(0.8, 1.2)


def _refusal(event: Refused) -> str:
    """A status other than 200 in words, with its cure."""
    try:
        said = error_text(json.loads(event.said))
    except (ValueError, RecursionError):
        said = one_line(event.said)
    if event.status in (401, 403):
        cure = f"set {TOKEN_VARIABLE} in the environment to the key that it expects"
        return f"refuses the request ({event.status}: {said}); {cure}"
    if 300 <= event.status < 400:
        return (
            f"redirects ({event.status}) to {event.location or 'elsewhere'}, which is not "
            "followed, since a token would go there; give the final URL as the engine"
        )
    if event.status == 404:
        return f"has no such page or model (404: {said}); check that its URL ends in /v1"
    if event.status in _WORTH_WAITING:
        wait = "" if event.retry_after_s is None else f", asks to wait {event.retry_after_s:.0f} s"
        return f"has too much to do ({event.status}: {said}{wait}); ask less often, or add servers"
    return f"refuses the request ({event.status}: {said}); see its log"

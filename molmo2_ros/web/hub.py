"""Between whoever has cameras and those who look: what comes goes to every viewer that wants it."""

from __future__ import annotations

import asyncio
import json
import logging
import time
from collections import Counter, deque
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any

from molmo2_ros.web.outbox import Outbox
from molmo2_ros.web.reviews import Reviews
from molmo2_ros.web.scene import Jpeg, Scene

_log = logging.getLogger(__name__)

MAX_ANSWERS = 32  # that a new viewer is told
_STATUS_PERIOD_S = 1.0
_ERROR = 2  # level of a line of /diagnostics


class TooManyViewersError(Exception):
    """All places are taken."""


class Hub:
    """Keeps the newest of everything, and the viewers' outboxes.

    The `tell_` methods may be called from any thread; all else belongs to the server's event loop.

    Args:
        cameras: names, in the order in which they are shown.
        max_viewers: at most so many look at once.
    """

    def __init__(self, cameras: Sequence[str], max_viewers: int) -> None:
        self.max_viewers = max_viewers
        self.cameras = tuple(cameras)
        self.scenes: dict[str, Scene] = {}  # the newest of each camera
        self.queries: dict[str, dict[str, Any]] = {}  # as on ~/queries, by node
        self.num_told: Counter[str] = Counter()  # how often each node told its queries
        self.statuses: dict[str, list[dict[str, Any]]] = {}  # lines of /diagnostics, by node
        self.answers: deque[str] = deque(maxlen=MAX_ANSWERS)  # whole ones
        self.reviews = Reviews()
        self.num_encoded = 0
        self.num_scenes = 0
        self.viewers: dict[int, Outbox] = {}
        self._next_viewer = 1
        self._waiting: dict[asyncio.Future[Any], Callable[[], Any]] = {}
        self._last_answer: dict[str, Any] | None = None
        self._loop: asyncio.AbstractEventLoop | None = None
        self._encoder = ThreadPoolExecutor(1, "web-encode")
        self._ticker: asyncio.Task[None] | None = None

    def open(self) -> None:
        """Belong to the event loop that runs."""
        self._loop = asyncio.get_running_loop()
        self._ticker = self._loop.create_task(self._tick())

    def close(self) -> None:
        """Take nothing more."""
        if self._ticker is not None:
            self._ticker.cancel()
        self._loop = None
        self._encoder.shutdown(wait=False)

    # ---- from any thread

    def tell_scene(self, scene: Scene) -> None:
        """A camera shows something new."""
        self._call(self._on_scene, scene)

    def tell_queries(self, node: str, queries: dict[str, Any]) -> None:
        """What stands, as on ~/queries."""
        self._call(self._on_queries, node, queries)

    def tell_answer(self, node: str, answer: dict[str, Any]) -> None:
        """An answer, whole or partial, as on ~/answer."""
        self._call(self._on_answer, node, answer)

    def tell_status(self, node: str, lines: list[dict[str, Any]]) -> None:
        """How a node fares: name, level (0 to 2), message and values of each of its parts."""
        self._call(self._on_status, node, lines)

    def tell_recorded(self, review_id: str) -> None:
        """A review has been written down."""
        self._call(self._on_recorded, review_id)

    def _call(self, function: Callable[..., None], *arguments: Any) -> None:
        loop = self._loop
        if loop is None:
            return
        try:
            loop.call_soon_threadsafe(_tolerant, function, *arguments)
        except RuntimeError:  # closed just now
            return

    # ---- in the event loop

    def join(self) -> tuple[int, Outbox]:
        """A new viewer, who is told all that is known.

        Raises:
            TooManyViewersError: all places are taken.
        """
        if len(self.viewers) >= self.max_viewers:
            raise TooManyViewersError
        number, outbox = self._next_viewer, Outbox()
        self._next_viewer += 1
        self.viewers[number] = outbox
        outbox.put_event(_text("hello", protocol=1, viewer=number, cameras=self.cameras_json()))
        for node, queries in self.queries.items():
            text = _json({**queries, "type": "queries", "node": node})
            outbox.put_state(("queries", node), text)
        for answer in self.answers:
            outbox.put_event(answer)
        outbox.put_state("reviews", self._reviews_text())
        outbox.put_state("status", self._status_of(outbox))
        return number, outbox

    def leave(self, number: int) -> None:
        """A viewer is gone."""
        self.viewers.pop(number, None)

    def watch(self, outbox: Outbox, **wanted: Any) -> None:
        """A viewer wants other scenes; it gets the newest ones at once."""
        outbox.watch(**wanted)
        for scene in self.scenes.values():
            outbox.put_scene(scene)

    async def in_thread(self, jpeg: Jpeg) -> bytes:
        """Make a picture beside the event loop."""
        self.num_encoded += 1
        return await asyncio.get_running_loop().run_in_executor(self._encoder, jpeg)

    def reviews_changed(self) -> None:
        """Tell everybody what has been corrected."""
        self._put_state("reviews", self._reviews_text())

    async def until(self, look: Callable[[], Any], patience_s: float) -> Any:
        """Wait for something that comes by an answer, a query or a status.

        Args:
            look: gives what is waited for, or None.
            patience_s: seconds.

        Returns:
            what `look` gave, or None when time is over.
        """
        found = look()
        if found is not None or patience_s <= 0:
            return found
        future: asyncio.Future[Any] = asyncio.get_running_loop().create_future()
        self._waiting[future] = look
        try:
            return await asyncio.wait_for(future, patience_s)
        except asyncio.TimeoutError:
            return None
        finally:
            self._waiting.pop(future, None)

    @property
    def last_answer(self) -> dict[str, Any] | None:
        """The whole answer that came last."""
        return self._last_answer

    def standing(self, node: str) -> dict[str, dict[str, Any]]:
        """The standing queries of a node by name."""
        return {entry["name"]: entry for entry in self.queries.get(node, {}).get("queries", ())}

    def _on_scene(self, scene: Scene) -> None:
        self.num_scenes += 1
        scene.number = self.num_scenes
        before = self.scenes.get(scene.camera)
        self.scenes[scene.camera] = scene
        if before is None or (before.width, before.height) != (scene.width, scene.height):
            self._put_state("cameras", _text("cameras", cameras=self.cameras_json()))
        for outbox in self.viewers.values():
            outbox.put_scene(scene)

    def _on_queries(self, node: str, queries: dict[str, Any]) -> None:
        text = _json({**queries, "type": "queries", "node": node})
        if not all(isinstance(entry["name"], str) for entry in queries["queries"]):
            raise TypeError("a standing query has no name")
        self.queries[node] = queries
        self.num_told[node] += 1
        self._put_state(("queries", node), text)
        self._look()

    def _on_answer(self, node: str, answer: dict[str, Any]) -> None:
        text = _json({**answer, "type": "answer", "node": node})
        key = ("answer", node, answer["query"]["id"])
        if answer["partial"]:
            self._put_state(key, text)
            return
        self._last_answer = answer
        self.answers.append(text)
        for outbox in self.viewers.values():
            outbox.put_event(text, ends=key)
        self._look()

    def _on_status(self, node: str, lines: list[dict[str, Any]]) -> None:
        self.statuses[node] = lines
        self._look()

    def _on_recorded(self, review_id: str) -> None:
        if self.reviews.recorded(review_id):
            self.reviews_changed()

    def _put_state(self, key: Any, text: str) -> None:
        for outbox in self.viewers.values():
            outbox.put_state(key, text)

    def _look(self) -> None:
        for future, look in list(self._waiting.items()):
            found = look()
            if found is not None and not future.done():
                future.set_result(found)

    async def _tick(self) -> None:
        while True:
            await asyncio.sleep(_STATUS_PERIOD_S)
            for outbox in self.viewers.values():
                outbox.put_state("status", self._status_of(outbox))

    def refusals(self, node: str) -> tuple[int, str]:
        """How many queries a node refused so far, and why the last one, by /diagnostics."""
        number, reason = 0, ""
        for line in self.statuses.get(node, ()):
            number += int(line["values"].get("problems_QueryError", 0))
            if line["name"].endswith(": queries") and line["level"] == _ERROR:
                reason = line["message"]
        return number, reason

    def cameras_json(self) -> list[dict[str, Any]]:
        """Name, frame_id and size of each camera; no size yet of one that showed nothing."""
        return [
            {
                "name": name,
                "frame_id": scene.frame_id if (scene := self.scenes.get(name)) else "",
                "width": scene.width if scene else 0,
                "height": scene.height if scene else 0,
            }
            for name in self.cameras
        ]

    def _reviews_text(self) -> str:
        return _text("reviews", reviews=self.reviews.as_json())

    def _status_of(self, outbox: Outbox) -> str:
        latencies_s = sorted(outbox.latencies_s)
        median_s = latencies_s[len(latencies_s) // 2] if latencies_s else None
        return _text(
            "status",
            time_ms=round(time.time() * 1e3, 1),
            viewers=len(self.viewers),
            max_viewers=self.max_viewers,
            drawn_latency_ms=None if median_s is None else round(median_s * 1e3, 1),
            scenes_sent=outbox.num_sent,
            scenes_left_out=outbox.num_replaced,
            events_lost=outbox.num_events_lost,
            nodes=self.statuses,
        )


def _tolerant(function: Callable[..., None], *arguments: Any) -> None:
    """What others publish may be anything: what cannot be told is left out."""
    try:
        function(*arguments)
    except (KeyError, TypeError, ValueError, AttributeError) as error:
        _log.warning("left out, as it cannot be told: %s: %s", type(error).__name__, error)


def _text(kind: str, /, **content: Any) -> str:
    return _json({**content, "type": kind})


def _json(told: Mapping[str, Any]) -> str:
    return json.dumps(told, ensure_ascii=False, allow_nan=False, separators=(",", ":"))

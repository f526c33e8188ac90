"""A camera and a model in this process as what the page is about: no ROS needed."""

from __future__ import annotations

import json
import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

from molmo2_ros.anchors import Anchors, places_of
from molmo2_ros.answer_json import QueryState, answer_json, queries_json
from molmo2_ros.answers.answer import Answer
from molmo2_ros.asking import AnyGrounder
from molmo2_ros.camera.clip import Clip, ClipBuffer, PushResult
from molmo2_ros.camera.encodings import encode_jpeg
from molmo2_ros.camera.frame import Frame
from molmo2_ros.camera.playback import Playback
from molmo2_ros.corrections import PictureName, Review
from molmo2_ros.errors import DataError, ImageError, Molmo2Error, QueryError
from molmo2_ros.prompt.query import Query, asked_once, parse_query
from molmo2_ros.query_commands import apply_text
from molmo2_ros.scheduler import Counts, Demand, Outcome, Scheduler
from molmo2_ros.standing import StandingQueries, StandingQuery
from molmo2_ros.tracking.target import Target
from molmo2_ros.tracking.tracker import Tracker
from molmo2_ros.web.hub import Hub
from molmo2_ros.web.review_store import ReviewStore
from molmo2_ros.web.scene import Mark, Scene

_log = logging.getLogger(__name__)

NODE = "molmo2"
JPEG_QUALITY = 80
MAX_QUERIES = 16
MAX_WAITING_QUESTIONS = 8
_CLIP_S, _CLIP_FRAMES, _CLIP_FPS = 5.0, 128, 8.0
_ANSWER_PATIENCE_S = 5.0  # an answer may take so long and still be carried to now
_MAX_AGE_S, _MIN_QUALITY = 3.0, 0.2  # of what is shown
_STATE_PERIOD_S = 1.0
_AFTER_A_PROBLEM_S = 1.0
_WAIT_S = 0.2
_END_PATIENCE_S = 10.0


class LocalBackend:
    """Plays a source at its pace and asks a model about it, in two threads.

    Args:
        camera: its name.
        playback: of the source.
        grounder: nobody else uses it.
        queries: that stand at first.
        store: where corrections are written, None for nowhere.
    """

    def __init__(
        self,
        camera: str,
        playback: Playback,
        grounder: AnyGrounder,
        queries: Sequence[Query],
        store: ReviewStore | None,
    ) -> None:
        self.nodes = (NODE,)
        self.cameras = (camera,)
        self._playback = playback
        self._grounder = grounder
        self._store = store
        self._hub: Hub | None = None
        self._clip = ClipBuffer(_CLIP_S, _CLIP_FRAMES, keep_fps=_CLIP_FPS)
        self._tracker = Tracker(buffer_s=_CLIP_S + _ANSWER_PATIENCE_S)
        self._standing = StandingQueries(MAX_QUERIES)
        self._anchors = Anchors()
        self._news = threading.Event()
        self._closing = threading.Event()
        self._lock = threading.Lock()  # guards the five below
        self._scheduler: Scheduler[int] = Scheduler()
        self._questions: deque[Query] = deque()
        self._refusals: dict[int, str] = {}
        self._problem = ""
        self._frame_times: deque[float] = deque(maxlen=64)
        self._last: Answer | None = None
        self._told_s = 0.0  # when state and status were told last
        for query in queries:
            grounder.check(query)
            self._standing.add(query, time.monotonic())
        self._threads = [
            threading.Thread(target=self._run, args=(step,), name=name, daemon=True)
            for name, step in (("camera", self._follow), ("answer", self._answer))
        ]

    def start(self, hub: Hub) -> None:
        """Begin to play and to answer."""
        self._hub = hub
        for thread in self._threads:
            thread.start()

    def close(self) -> None:
        """End both threads."""
        self._closing.set()
        self._news.set()
        for thread in self._threads:
            thread.join(_END_PATIENCE_S)
        self._playback.close()

    # ---- requests of viewers

    def ask(self, node: str, text: str) -> None:
        """See Backend."""
        query = asked_once(parse_query(text))
        self._grounder.check(query)
        with self._lock:  # guards _questions
            if len(self._questions) >= MAX_WAITING_QUESTIONS:
                raise QueryError(
                    f"{len(self._questions)} questions wait already, expected at most "
                    f"{MAX_WAITING_QUESTIONS}; wait for an answer before asking again"
                )
            self._questions.append(query)
        self._news.set()

    def query(self, node: str, text: str) -> None:
        """See Backend."""
        gone = apply_text(self._standing, text, time.monotonic(), self._grounder.check)
        self._let_go(gone)
        self._tell_queries()
        self._news.set()

    def review(self, review: Review) -> None:
        """See Backend."""
        if self._store is None:
            raise DataError(
                "corrections are written nowhere; start `molmo2 web` with --corrections FOLDER"
            )
        self._store.write(review)
        if self._hub is not None and not review.retracted:
            self._hub.tell_recorded(review.id)

    def keep(self, picture: PictureName) -> None:
        """See Backend."""
        if self._store is not None:
            self._store.keep(picture.stamp_ns)

    # ---- the camera's thread

    def _follow(self) -> None:
        frame = self._playback.next_frame(loop=True)
        if frame is None:
            self._closing.wait(_WAIT_S)
            return
        arrived_s = time.time()
        if self._clip.push(frame) is PushResult.REPEATED:
            return
        targets = [t for t in self._tracker.update(frame) if _is_shown(t)]
        if self._store is not None:
            self._store.remember(frame)
        with self._lock:  # guards _scheduler and _frame_times
            self._scheduler.frame_arrived(self.cameras[0], frame.stamp_ns, time.monotonic())
            self._frame_times.append(time.monotonic())
            self._problem = ""
        self._news.set()
        assert self._hub is not None
        self._hub.tell_scene(scene_of(self.cameras[0], NODE, frame, targets, arrived_s))

    # ---- the model's thread

    def _answer(self) -> None:
        self._news.clear()
        self._tell_now_and_then()
        newest = self._clip.newest
        if newest is None:
            self._news.wait(_WAIT_S)
            return
        self._let_go(self._standing.expire(time.monotonic()))
        question = self._next_question()
        if question is not None:
            self._answer_free(question)
            return
        batch = self._next_batch()
        if batch:
            self._answer_standing(batch)
        else:
            self._news.wait(_WAIT_S)

    def _next_question(self) -> Query | None:
        with self._lock:  # guards _questions
            return self._questions.popleft() if self._questions else None

    def _next_batch(self) -> list[StandingQuery]:
        now_s = time.monotonic()
        standing = {entry.id: entry for entry in self._standing.all(now_s)}
        with self._lock:  # guards _scheduler and _refusals
            self._refusals = {i: why for i, why in self._refusals.items() if i in standing}
            self._scheduler.set_demands(
                {
                    entry.id: Demand(
                        camera=self.cameras[0],
                        reads=(self._grounder.sampling(entry.query), entry.query.detail),
                        rate_hz=entry.query.terms.rate_hz,
                        priority=entry.query.terms.priority,
                        expires_s=entry.expires_s,
                    )
                    for entry in standing.values()
                    if not entry.paused and entry.id not in self._refusals
                },
                now_s,
            )
            ids = self._scheduler.next(now_s)
        self._anchors.keep(standing)
        return [standing[query_id] for query_id in ids if query_id in standing]

    def _answer_free(self, query: Query) -> None:
        clip = self._grounder.clip_for(self._clip, query)
        answer = self._grounder.answer(
            clip,
            query,
            on_partial=lambda partial: self._tell_answer(partial, 0, clip),
            cancel=lambda _: self._closing.is_set(),
        )
        self._tell_answer(answer, 0, clip)

    def _answer_standing(self, batch: list[StandingQuery]) -> None:
        clip = self._grounder.clip_for(self._clip, batch[0].query)
        ids: dict[Query, int] = {}
        for entry in batch:
            try:
                ids[self._anchors.asked(entry.query, entry.id, clip)] = entry.id
            except QueryError as error:
                with self._lock:  # guards _refusals
                    self._refusals[entry.id] = str(error)
        if not ids:
            return
        with self._lock:  # guards _scheduler
            self._scheduler.asked(ids.values(), clip.stamps_ns[-1], time.monotonic())
        outcomes = dict.fromkeys(ids.values(), Outcome.CANCELLED)

        def on_final(answer: Answer) -> None:
            if not self._is_over(ids[answer.query]):
                outcomes[ids[answer.query]] = Outcome.ANSWERED
                self._tell_answer(answer, ids[answer.query], clip)

        try:
            self._grounder.answer_all(
                clip,
                list(ids),
                on_partial=lambda partial: self._tell_answer(partial, ids[partial.query], clip),
                on_final=on_final,
                cancel=lambda query: self._is_over(ids[query]),
            )
        finally:
            with self._lock:  # guards _scheduler
                for query_id, outcome in outcomes.items():
                    self._scheduler.ended(query_id, outcome, time.monotonic())

    def _is_over(self, query_id: int) -> bool:
        standing = {entry.id for entry in self._standing.all(time.monotonic()) if not entry.paused}
        return self._closing.is_set() or query_id not in standing

    def _tell_answer(self, answer: Answer, query_id: int, clip: Clip) -> None:
        newest = clip.frames[-1]
        rows = self._tracker.measure(answer, query_id) if query_id else ()
        if not answer.partial:
            self._last = answer
            if answer.query.seed is not None:
                self._anchors.learn(query_id, places_of(rows, newest.width, newest.height))
        told: dict[str, Any] = json.loads(
            answer_json(
                answer,
                rows,
                query_id=query_id,
                frame_id=newest.frame_id,
                width=newest.width,
                height=newest.height,
            )
        )
        assert self._hub is not None
        self._hub.tell_answer(NODE, told)

    # ---- what both tell

    def _let_go(self, gone: Sequence[StandingQuery]) -> None:
        for entry in gone:
            self._tracker.forget(entry.id)
        if gone:
            self._tell_queries()

    def _tell_now_and_then(self) -> None:
        now_s = time.monotonic()
        if now_s - self._told_s >= _STATE_PERIOD_S:
            self._told_s = now_s
            self._tell_queries()
            assert self._hub is not None
            self._hub.tell_status(NODE, self._status())

    def _tell_queries(self) -> None:
        now_s = time.monotonic()
        with self._lock:  # guards _scheduler and _refusals
            rates_hz, counts = self._scheduler.rates_hz(now_s), self._scheduler.counts
            refusals = dict(self._refusals)
        standing = self._standing.all(now_s)
        told: dict[str, Any] = json.loads(
            queries_json(
                standing,
                {
                    entry.id: QueryState(
                        rate_hz=rates_hz.get(entry.id, 0.0),
                        counts=counts.get(entry.id, Counts()),
                        refused=refusals.get(entry.id),
                    )
                    for entry in standing
                },
                now_s,
                default_rate_hz=0.0,
                is_active=True,
                engine=self._grounder.model.name,
                skills=self._grounder.model.skills,
            )
        )
        if self._hub is not None:
            self._hub.tell_queries(NODE, told)

    def _status(self) -> list[dict[str, Any]]:
        now_s = time.monotonic()
        with self._lock:  # guards the five
            recent = [time_s for time_s in self._frame_times if now_s - time_s < 3.0]
            rates_hz = sum(self._scheduler.rates_hz(now_s).values())
            problem = self._problem
        values: dict[str, Any] = {"answers_rate_hz": rates_hz, **self._grounder.facts()}
        if self._last is not None:
            timing = self._last.timing
            values["last_encode_s"] = timing.encode_s
            values["last_prefill_s"] = timing.prefill_s
            values["last_decode_s"] = timing.decode_s
        return [
            _line(
                "camera",
                2 if problem else 0,
                problem or "ok",
                {
                    "rate_hz": (len(recent) - 1) / 3.0 if len(recent) > 1 else 0.0,
                    "frames_dropped": self._playback.num_skipped,
                },
            ),
            _line("engine", 0, "answering", values),
            _line("queries", 0, f"{len(self._standing.all(now_s))} standing", {}),
        ]

    def _run(self, step: Callable[[], None]) -> None:
        while not self._closing.is_set():
            try:
                step()
            except Molmo2Error as error:
                _log.error("%s", error)
                if isinstance(error, ImageError):
                    with self._lock:  # guards _problem
                        self._problem = str(error)
                    self._playback.close()
                self._closing.wait(_AFTER_A_PROBLEM_S)
            except Exception:
                _log.exception("a bug; it goes on with the next frame")
                self._closing.wait(_AFTER_A_PROBLEM_S)


def scene_of(
    camera: str, node: str, frame: Frame, targets: Sequence[Target], arrived_s: float
) -> Scene:
    """A frame with its targets as it is shown.

    Args:
        camera: its name.
        node: who carries the targets.
        frame: the picture.
        targets: on this very frame.
        arrived_s: when it came, seconds since the epoch.
    """
    return Scene(
        camera=camera,
        frame_id=frame.frame_id,
        stamp_ns=frame.stamp_ns,
        width=frame.width,
        height=frame.height,
        marks=[
            Mark(
                node=node,
                query_id=target.query_id,
                track_id=target.track_id,
                u=target.u,
                v=target.v,
                xyz_m=target.point_m,
                age_s=target.age_s,
                quality=target.quality,
                confidence=target.confidence,
                measured=target.measured,
            )
            for target in targets
        ],
        nodes=(node,),
        jpeg=lambda: encode_jpeg(frame.image, JPEG_QUALITY),
        arrived_s=arrived_s,
    )


def _is_shown(target: Target) -> bool:
    return target.age_s <= _MAX_AGE_S and target.quality >= _MIN_QUALITY


def _line(part: str, level: int, message: str, values: dict[str, Any]) -> dict[str, Any]:
    return {
        "name": f"{NODE}: {part}",
        "level": level,
        "message": message,
        "values": {key: _shown(value) for key, value in values.items()},
    }


def _shown(value: object) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)

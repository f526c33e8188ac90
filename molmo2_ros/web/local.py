"""A camera and a model in this process as what the page is about: no ROS needed."""

from __future__ import annotations

import logging
import threading
import time
from collections import deque
from collections.abc import Callable, Sequence
from typing import Any

from molmo2_ros.answer_json import answer_payload, queries_payload
from molmo2_ros.answer_loop import ANSWER_PATIENCE_S, AnswerLoop, AnswerTerms, AskedCamera
from molmo2_ros.answers.answer import Answer
from molmo2_ros.asking import AnyGrounder
from molmo2_ros.camera.clip import ClipBuffer, PushResult
from molmo2_ros.camera.encodings import encode_jpeg
from molmo2_ros.camera.frame import Frame
from molmo2_ros.camera.playback import Playback
from molmo2_ros.corrections import PictureName, Review
from molmo2_ros.errors import DataError, ImageError, Molmo2Error
from molmo2_ros.prompt.query import Query, parse_query
from molmo2_ros.query_commands import apply_text
from molmo2_ros.standing import StandingQueries
from molmo2_ros.tracking.target import Target, shown
from molmo2_ros.tracking.tracker import Tracker
from molmo2_ros.web.hub import Hub
from molmo2_ros.web.review_store import ReviewStore
from molmo2_ros.web.scene import Mark, Scene

_log = logging.getLogger(__name__)

NODE = "molmo2"
JPEG_QUALITY = 80
MAX_QUERIES = 16
_CLIP_S, _CLIP_FRAMES, _CLIP_FPS = 5.0, 128, 8.0
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
        self._tracker = Tracker(buffer_s=_CLIP_S + ANSWER_PATIENCE_S)
        self._standing = StandingQueries(MAX_QUERIES)
        asked = AskedCamera(
            name=camera,
            clip=self._clip,
            tracker=self._tracker,
            queries=self._standing,
            sink=self,
            problems=self,
        )
        self._loop = AnswerLoop(
            grounder=grounder, cameras=[asked], terms=AnswerTerms, problems=self
        )
        self._closing = threading.Event()
        self._lock = threading.Lock()  # guards the two below
        self._problem = ""
        self._frame_times: deque[float] = deque(maxlen=64)
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
        self._loop.stop()
        for thread in self._threads:
            thread.join(_END_PATIENCE_S)
        self._playback.close()

    # ---- requests of viewers

    def ask(self, node: str, text: str) -> None:
        """See Backend."""
        query = parse_query(text)
        self._grounder.check(query)
        self._loop.ask(self.cameras[0], query)

    def query(self, node: str, text: str) -> None:
        """See Backend."""
        gone = apply_text(self._standing, text, time.monotonic(), self._grounder.check)
        self._loop.queries_changed(self.cameras[0], gone)
        self._tell_queries()

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
        targets = shown(self._tracker.update(frame), _MAX_AGE_S, _MIN_QUALITY)
        if self._store is not None:
            self._store.remember(frame)
        with self._lock:  # guards _problem and _frame_times
            self._frame_times.append(time.monotonic())
            self._problem = ""
        self._loop.on_frame(self.cameras[0], frame)
        assert self._hub is not None
        self._hub.tell_scene(scene_of(self.cameras[0], NODE, frame, targets, arrived_s))

    # ---- the model's thread

    def _answer(self) -> None:
        self._tell_now_and_then()
        gone = self._standing.expire(time.monotonic())
        if gone:
            self._loop.queries_changed(self.cameras[0], gone)
            self._tell_queries()
        self._loop.step()

    def publish_answer(
        self,
        answer: Answer,
        rows: Sequence[Target],
        query_id: int,
        frame: Frame,
        *,
        refused: bool = False,
    ) -> None:
        """See AnswerSink."""
        told = answer_payload(answer, rows, query_id, frame, refused=refused)
        assert self._hub is not None
        self._hub.tell_answer(NODE, told)

    def forget(self, query_id: int) -> None:
        """See AnswerSink."""

    def report(self, place: str, error: Molmo2Error) -> None:
        """See Problems."""
        _log.error("%s: %s", place, error)

    def count(self, kind: type[Molmo2Error]) -> None:
        """See Problems."""

    # ---- what both tell

    def _tell_now_and_then(self) -> None:
        now_s = time.monotonic()
        if now_s - self._told_s >= _STATE_PERIOD_S:
            self._told_s = now_s
            self._tell_queries()
            assert self._hub is not None
            self._hub.tell_status(NODE, self._status())

    def _tell_queries(self) -> None:
        now_s = time.monotonic()
        told = queries_payload(
            self._standing.all(now_s),
            self._loop.states(self.cameras[0]),
            now_s,
            default_rate_hz=0.0,
            is_active=True,
            engine=self._grounder.model.name,
            skills=self._grounder.model.skills,
        )
        if self._hub is not None:
            self._hub.tell_queries(NODE, told)

    def _status(self) -> list[dict[str, Any]]:
        now_s = time.monotonic()
        with self._lock:  # guards _frame_times and _problem
            recent = [time_s for time_s in self._frame_times if now_s - time_s < 3.0]
            problem = self._problem
        rates_hz = sum(state.rate_hz for state in self._loop.states(self.cameras[0]).values())
        values = {"answers_rate_hz": rates_hz, **self._loop.facts()}
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


def _line(part: str, level: int, message: str, values: dict[str, Any]) -> dict[str, Any]:
    return {
        "name": f"{NODE}: {part}",
        "level": level,
        "message": message,
        "values": {key: _shown(value) for key, value in values.items()},
    }


def _shown(value: object) -> str:
    return f"{value:.3g}" if isinstance(value, float) else str(value)

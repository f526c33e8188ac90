"""Owns the engine in a thread: asks the queries in turn about the newest clip."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable

from rclpy.context import Context

from molmo2_ros.answers.answer import Answer
from molmo2_ros.camera.clip import Clip, ClipBuffer
from molmo2_ros.camera.frame import Frame
from molmo2_ros.errors import AnswerError, QueryError
from molmo2_ros.grounder import Grounder
from molmo2_ros.prompt.query import Query
from molmo2_ros.ros.diagnostics import ProblemLog, RateMeter
from molmo2_ros.ros.parameters import GroundingParameters
from molmo2_ros.ros.queries import StandingQueries, StandingQuery
from molmo2_ros.ros.results import Results
from molmo2_ros.ros.worker import Worker
from molmo2_ros.scheduler import Scheduler
from molmo2_ros.tracking.tracker import Tracker

MAX_WAITING_QUESTIONS = 8
FREE_QUESTION_ID = 0
_UNLIMITED_HZ = 1000.0  # as often as the engine can
_WAIT_S = 0.5
_STOP_PATIENCE_S = 30.0


class Answering:
    """Between the clip and ~/answer.

    Free questions come first. A standing query is asked as soon as the camera has a newer frame;
    those that read the same frames are asked together, so that the clip is read once for them.

    Args:
        grounder: asks the model; nobody else uses it.
        clip: of the camera.
        tracker: gets every answer, and turns its points into targets.
        queries: what stands.
        results: where answers are published.
        parameters: the newest snapshot.
        problems: takes note of what cannot be asked.
        context: of the node.
    """

    def __init__(
        self,
        *,
        grounder: Grounder,
        clip: ClipBuffer,
        tracker: Tracker,
        queries: StandingQueries,
        results: Results,
        parameters: Callable[[], GroundingParameters],
        problems: ProblemLog,
        context: Context,
    ) -> None:
        self._grounder = grounder
        self._clip = clip
        self._tracker = tracker
        self._queries = queries
        self._results = results
        self._parameters = parameters
        self._problems = problems
        self._scheduler: Scheduler[int] = Scheduler()
        self._news = threading.Event()
        self._lock = threading.Lock()  # guards _questions, _refusals, _rates_hz and the counts
        self._num_new_frames = 0  # since the last batch was chosen
        self._num_frames_skipped = 0
        self._questions: deque[Query] = deque()
        self._refusals: dict[int, str] = {}  # by query id
        self._rates_hz: dict[int, float] = {}
        self._asked_ns: dict[int, int] = {}  # by query id: the newest frame it was asked about
        self._last: Answer | None = None
        self._answer_rate = RateMeter()
        self._worker = Worker("answer", self._step, problems, context)

    def start(self) -> None:
        """Begin to answer."""
        self._worker.start()

    def stop(self) -> bool:
        """End the answer that is being written, and the thread.

        Returns:
            False where the engine did not come to an end in time.
        """
        self._news.set()
        return self._worker.stop(_STOP_PATIENCE_S)

    def on_frame(self) -> None:
        """The clip has a newer frame."""
        with self._lock:  # guards the counts
            self._num_new_frames += 1
        self._news.set()

    def check(self, query: Query) -> None:
        """Refuse what the model cannot answer.

        Raises:
            QueryError: says what it can.
        """
        self._grounder.check(query)

    def ask(self, query: Query) -> None:
        """Take a free question.

        Raises:
            QueryError: too many wait already.
        """
        with self._lock:  # guards _questions
            if len(self._questions) >= MAX_WAITING_QUESTIONS:
                raise QueryError(
                    f"{len(self._questions)} questions wait already, expected at most "
                    f"{MAX_WAITING_QUESTIONS}; wait for ~/answer before asking again"
                )
            self._questions.append(query)
        self._news.set()

    def forget(self, query_id: int) -> None:
        """Let the targets of a query go that stands no more."""
        self._tracker.forget(query_id)
        self._results.forget(query_id)
        self._news.set()

    @property
    def rates_hz(self) -> dict[int, float]:
        """Answers a second by query id."""
        with self._lock:  # guards _rates_hz
            return dict(self._rates_hz)

    @property
    def refusals(self) -> dict[int, str]:
        """Why the model cannot be asked, by query id."""
        with self._lock:  # guards _refusals
            return dict(self._refusals)

    def facts(self) -> dict[str, object]:
        """What the engine did, for diagnostics."""
        features = self._grounder.features
        with self._lock:  # guards the counts
            num_skipped = self._num_frames_skipped
        facts: dict[str, object] = {
            "frames_skipped": num_skipped,
            "answers": self._answer_rate.count,
            "answers_rate_hz": self._answer_rate.rate_hz,
            "frames_encoded": features.num_encoded,
            "frames_found_encoded": features.num_hits,
        }
        if self._last is not None:
            timing = self._last.timing
            facts["last_encode_s"] = timing.encode_s
            facts["last_prefill_s"] = timing.prefill_s
            facts["last_decode_s"] = timing.decode_s
            facts["last_prompt_tokens"] = timing.num_prompt_tokens
            facts["last_answer_tokens"] = timing.num_answer_tokens
            facts["last_truncated"] = self._last.truncated
        return facts

    def _step(self) -> None:
        self._news.clear()
        with self._lock:  # guards _questions
            question = self._questions.popleft() if self._questions and len(self._clip) else None
        if question is not None:
            self._answer_free(question)
            return
        batch = self._next_batch()
        if batch:
            self._answer_standing(batch)
        else:
            self._news.wait(_WAIT_S)

    def _next_batch(self) -> list[StandingQuery]:
        """The query whose turn it is, with all that read the same frames."""
        newest = self._clip.newest
        if newest is None:
            return []
        standing = {
            entry.id: entry for entry in self._queries.all() if self._is_askable(entry, newest)
        }
        rate_hz = self._parameters().answer_rate_hz or _UNLIMITED_HZ
        self._scheduler.set_rates(dict.fromkeys(standing, rate_hz))
        first = self._scheduler.next(time.monotonic())
        if first is None or self._asked_ns.get(first) == newest.stamp_ns:
            return []
        sampling = self._grounder.sampling(standing[first].query)
        return [
            entry
            for entry in standing.values()
            if self._grounder.sampling(entry.query) == sampling
            and self._asked_ns.get(entry.id) != newest.stamp_ns
        ]

    def _is_askable(self, entry: StandingQuery, newest: Frame) -> bool:
        if entry.id in self._refusals:
            return False
        try:
            self._grounder.check(entry.query)
        except QueryError as error:
            # It will never be answered by this engine: said once, not at every frame.
            with self._lock:  # guards _refusals
                self._refusals[entry.id] = str(error)
            self._problems.report("query", error)
            self._results.publish_refusal(entry.query, entry.id, str(error), newest)
            return False
        return True

    def _answer_standing(self, batch: list[StandingQuery]) -> None:
        ids = {entry.query: entry.id for entry in batch}
        with self._lock:  # guards the counts
            self._num_frames_skipped += max(0, self._num_new_frames - 1)
            self._num_new_frames = 0
        clip = self._grounder.clip_for(self._clip, batch[0].query)
        answers = self._grounder.answer_all(
            clip,
            list(ids),
            on_partial=lambda answer: self._publish(answer, ids[answer.query], clip),
            cancel=lambda _: self._worker.is_stopping,
        )
        if self._worker.is_stopping:
            return
        now_s = time.monotonic()
        for answer in answers:
            query_id = ids[answer.query]
            self._asked_ns[query_id] = clip.stamps_ns[-1]
            self._scheduler.answered(query_id, now_s)
            self._publish(answer, query_id, clip)
        with self._lock:  # guards _rates_hz
            self._rates_hz = dict(self._scheduler.rates_hz)

    def _answer_free(self, query: Query) -> None:
        clip = self._grounder.clip_for(self._clip, query)
        try:
            answer = self._grounder.answer(
                clip,
                query,
                on_partial=lambda answer: self._publish(answer, FREE_QUESTION_ID, clip),
                cancel=lambda _: self._worker.is_stopping,
            )
        except QueryError as error:
            self._problems.report("query", error)
            # Who asked reads ~/answer, not our log.
            self._results.publish_refusal(query, FREE_QUESTION_ID, str(error), clip.frames[-1])
            return
        if not self._worker.is_stopping:
            self._publish(answer, FREE_QUESTION_ID, clip)

    def _publish(self, answer: Answer, query_id: int, clip: Clip) -> None:
        # A partial answer too: its first point is carried while the model still writes.
        rows = self._tracker.measure(answer, query_id) if query_id else ()
        self._results.publish_answer(answer, rows, query_id, clip.frames[-1])
        if answer.partial:
            return
        self._last = answer
        self._answer_rate.tick()
        if answer.problems:
            self._problems.count(AnswerError)

"""Owns the engine in a thread: asks the queries in turn about the newest clip."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from typing import TypeVar

from rclpy.context import Context

from molmo2_ros.anchors import Anchors, places_of
from molmo2_ros.answer_json import QueryState
from molmo2_ros.answers.answer import Answer
from molmo2_ros.asking import AnyGrounder
from molmo2_ros.camera.clip import Clip, ClipBuffer, Sampling
from molmo2_ros.camera.frame import Frame
from molmo2_ros.errors import AnswerError, Molmo2Error, QueryError
from molmo2_ros.prompt.query import Detail, Query, asked_once
from molmo2_ros.ros.diagnostics import ProblemLog, RateMeter
from molmo2_ros.ros.pace import Pace
from molmo2_ros.ros.parameters import GroundingParameters
from molmo2_ros.ros.results import Results
from molmo2_ros.ros.worker import Worker
from molmo2_ros.scheduler import Counts, Demand, Outcome, Scheduler, Upcoming
from molmo2_ros.standing import StandingQueries, StandingQuery
from molmo2_ros.tracking.tracker import Tracker

Key = TypeVar("Key", bound=Hashable)

MAX_WAITING_QUESTIONS = 8
FREE_QUESTION_ID = 0
_CAMERA = "image"  # the only one of this node
_WAIT_S = 0.5
_STOP_PATIENCE_S = 30.0


@dataclass(frozen=True, slots=True)
class Reads:
    """Which frames a query reads, and by which of Molmo2's visual paths."""

    sampling: Sampling
    detail: Detail


def frames_ahead(
    upcoming: Iterable[Upcoming[Key]], reads: Mapping[Key, Reads], clip: ClipBuffer
) -> Iterator[tuple[Frame, Detail]]:
    """Frames of the clip that queries will read when they fall due, the soonest query first.

    Args:
        upcoming: from the scheduler.
        reads: what each of these reads.
        clip: of the camera.
    """
    for coming in upcoming:
        wanted = reads[coming.key]
        for frame in clip.foresee(wanted.sampling, coming.num_frames, coming.period_s):
            yield frame, wanted.detail


class Answering:
    """Between the clip and ~/answer.

    Free questions come next, taking turns with the standing ones where several wait. The scheduler
    says which standing queries are asked about the newest clip; those that read the same frames are
    asked together, so that the clip is read once for them. An answer ends at the model's next step
    when its query stands no more or its deadline has passed.

    Where nothing is due, frames that a query is going to read are encoded ahead, one at a time.

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
        grounder: AnyGrounder,
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
        self._news = threading.Event()
        self._lock = threading.Lock()  # guards the four below
        self._scheduler: Scheduler[int] = Scheduler()  # by query id
        self._questions: deque[Query] = deque()
        self._reads: dict[int, Reads] = {}  # by query id, of those that the model can be asked
        self._refusals: dict[int, str] = {}  # by query id
        # Held while something is published about a query: nothing is once it stands no more.
        self._publishing = threading.Lock()
        self._model = grounder.model  # as it was when _reads and _refusals were found out
        self._anchors = Anchors()
        self._was_free = False  # the last question was a free one
        self._last: Answer | None = None
        self._answer_rate = RateMeter()
        self.pace = Pace()
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

    def on_frame(self, frame: Frame) -> None:
        """The clip has a newer frame."""
        with self._lock:  # guards _scheduler
            self._scheduler.frame_arrived(_CAMERA, frame.stamp_ns, time.monotonic())
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
            QueryError: too many wait already, or it has terms, which only a standing one can have.
        """
        asked_once(query)
        with self._lock:  # guards _questions
            if len(self._questions) >= MAX_WAITING_QUESTIONS:
                raise QueryError(
                    f"{len(self._questions)} questions wait already, expected at most "
                    f"{MAX_WAITING_QUESTIONS}; wait for ~/answer before asking again"
                )
            self._questions.append(query)
        self._news.set()

    def queries_changed(self, gone: Sequence[StandingQuery]) -> None:
        """Ask what stands now, end the answers of what does not, and let its targets go.

        Args:
            gone: what stands no more. Nothing is published about it once this returns.
        """
        self._update_demands()
        with self._publishing:
            for entry in gone:
                self._tracker.forget(entry.id)
                self._results.forget(entry.id)
        self._news.set()

    @property
    def states(self) -> dict[int, QueryState]:
        """How the standing queries fare, by id."""
        with self._lock:  # guards _scheduler and _refusals
            rates_hz = self._scheduler.rates_hz(time.monotonic())
            counts = self._scheduler.counts
            refusals = dict(self._refusals)
        return {
            query_id: QueryState(
                rate_hz=rates_hz.get(query_id, 0.0),
                counts=counts.get(query_id, Counts()),
                refused=refusals.get(query_id),
            )
            for query_id in {*counts, *refusals}
        }

    def facts(self) -> dict[str, object]:
        """What the engine did, for diagnostics."""
        with self._lock:  # guards _scheduler
            counts, num_expired = self._scheduler.total, self._scheduler.num_expired
            num_skipped = sum(self._scheduler.num_frames_skipped.values())
        facts: dict[str, object] = {
            "frames_skipped": num_skipped,
            "answers": self._answer_rate.count,
            "answers_rate_hz": self._answer_rate.rate_hz,
            "asked": counts.num_asked,
            "answered": counts.num_answered,
            "late": counts.num_late,
            "cancelled": counts.num_cancelled,
            "missed": counts.num_missed,
            "expired": num_expired,
            "usual_s": self.pace.usual_s,
            "running_s": self.pace.running_s,
            **self._grounder.facts(),
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
        pause_s = self._grounder.pause_s
        if pause_s > 0:
            # Once the engine can be asked again, it is about the frames of then.
            self._news.wait(min(pause_s, _WAIT_S))
            return
        self._grounder.constrained = self._parameters().constrained
        batch = self._next_batch()
        question = None if batch and self._was_free else self._next_question()
        self._was_free = question is not None
        if question is not None or batch:
            self.pace.began()
            try:
                if question is not None:
                    self._answer_free(question)
                else:
                    self._answer_standing(batch)
            finally:
                self.pace.ended()
        elif not self._encode_ahead():
            with self._lock:  # guards _scheduler
                wait_s = self._scheduler.wait_s(time.monotonic())
            self._news.wait(_WAIT_S if wait_s is None else min(wait_s, _WAIT_S))

    def _next_question(self) -> Query | None:
        with self._lock:  # guards _questions
            return self._questions.popleft() if self._questions and len(self._clip) else None

    def _next_batch(self) -> list[StandingQuery]:
        """The query whose turn it is, with those that read the same frames."""
        newest = self._clip.newest
        if newest is None:
            return []
        standing = {entry.id: entry for entry in self._queries.all(time.monotonic())}
        self._notice_another_model()
        for entry in standing.values():
            self._learn_reads(entry, newest)
        self._update_demands()
        with self._lock:  # guards _scheduler
            ids = self._scheduler.next(time.monotonic())
        # One that was asked anew just as its time was over may have come after the look at them.
        return [standing[query_id] for query_id in ids if query_id in standing]

    def _notice_another_model(self) -> None:
        """What could be asked before may not be now, where a server came back as another."""
        if self._grounder.model is self._model:
            return
        self._model = self._grounder.model
        with self._lock:  # guards _reads and _refusals
            self._reads = {}
            self._refusals = {}

    def _learn_reads(self, entry: StandingQuery, newest: Frame) -> None:
        """Find out once which frames a query reads, or that this engine cannot be asked it."""
        if entry.id in self._reads or entry.id in self._refusals:
            return
        try:
            self._grounder.check(entry.query)
        except QueryError as error:
            self._refuse(entry, error, newest)
            return
        reads = Reads(self._grounder.sampling(entry.query), entry.query.detail)
        with self._lock:  # guards _reads
            self._reads[entry.id] = reads

    def _update_demands(self) -> None:
        """Tell the scheduler what stands, as far as it can be asked."""
        parameters = self._parameters()
        with self._lock:  # guards _scheduler, _reads and _refusals
            now_s = time.monotonic()
            # Read under the lock: an older list must not come after a newer one.
            standing = {entry.id: entry for entry in self._queries.all(now_s)}
            self._reads = {i: reads for i, reads in self._reads.items() if i in standing}
            self._refusals = {i: text for i, text in self._refusals.items() if i in standing}
            demands = {}
            for query_id, reads in self._reads.items():
                if standing[query_id].paused:
                    continue
                terms = standing[query_id].query.terms
                demands[query_id] = Demand(
                    camera=_CAMERA,
                    reads=reads,
                    rate_hz=terms.rate_hz or parameters.answer_rate_hz or None,
                    priority=terms.priority,
                    expires_s=standing[query_id].expires_s,
                )
            self._scheduler.set_demands(demands, now_s)
        self._anchors.keep(standing)

    def _answer_standing(self, batch: list[StandingQuery]) -> None:
        clip = self._grounder.clip_for(self._clip, batch[0].query)
        ids = self._asked_about(batch, clip)
        stopped: dict[int, Outcome] = {}

        def cancel(query: Query) -> bool:
            outcome = self._why_stop(ids[query])
            if outcome is not None:
                stopped[ids[query]] = outcome
            return outcome is not None

        with self._lock:  # guards _scheduler
            # What was removed meanwhile is not asked.
            ids = {
                query: query_id for query, query_id in ids.items() if query_id in self._scheduler
            }
            self._scheduler.asked(ids.values(), clip.stamps_ns[-1], time.monotonic())
        if not ids:
            return
        outcomes = dict.fromkeys(ids.values(), Outcome.CANCELLED)

        def publish_final(answer: Answer) -> None:
            query_id = ids[answer.query]
            outcomes[query_id] = stopped.get(query_id, Outcome.ANSWERED)
            if outcomes[query_id] is Outcome.LATE:
                answer = self._cut(answer)
            self._publish_standing(answer, query_id, clip)

        try:
            self._grounder.answer_all(
                clip,
                list(ids),
                on_partial=lambda answer: self._publish_standing(answer, ids[answer.query], clip),
                on_final=publish_final,
                cancel=cancel,
            )
        finally:
            with self._lock:  # guards _scheduler
                for query_id, outcome in outcomes.items():
                    self._scheduler.ended(query_id, outcome, time.monotonic())

    def _asked_about(self, batch: list[StandingQuery], clip: Clip) -> dict[Query, int]:
        """The queries as they are put about a clip, with their ids."""
        ids: dict[Query, int] = {}
        for entry in batch:
            try:
                ids[self._anchors.asked(entry.query, entry.id, clip)] = entry.id
            except QueryError as error:
                self._refuse(entry, error, clip.frames[-1])
                self._update_demands()
        return ids

    def _refuse(self, entry: StandingQuery, error: QueryError, newest: Frame) -> None:
        """Ask a query no more, and say once why."""
        with self._lock:  # guards _reads and _refusals
            self._reads.pop(entry.id, None)
            self._refusals[entry.id] = str(error)
        self._problems.report("query", error)
        self._results.publish_refusal(entry.query, entry.id, str(error), newest)

    def _why_stop(self, query_id: int) -> Outcome | None:
        if self._worker.is_stopping:
            return Outcome.CANCELLED
        with self._lock:  # guards _scheduler
            self._scheduler.deadline_s = self._parameters().answer_deadline_s or None
            return self._scheduler.why_stop(query_id, time.monotonic())

    def _answer_free(self, query: Query) -> None:
        clip = self._grounder.clip_for(self._clip, query)
        asked_s = time.monotonic()
        is_late = False

        def cancel(_: Query) -> bool:
            nonlocal is_late
            deadline_s = self._parameters().answer_deadline_s
            is_late = deadline_s > 0 and time.monotonic() - asked_s > deadline_s
            return is_late or self._worker.is_stopping

        try:
            answer = self._grounder.answer(
                clip,
                query,
                on_partial=lambda answer: self._publish(answer, FREE_QUESTION_ID, clip),
                cancel=cancel,
            )
        except QueryError as error:
            self._problems.report("query", error)
            # Who asked reads ~/answer, not our log.
            self._results.publish_refusal(query, FREE_QUESTION_ID, str(error), clip.frames[-1])
            return
        if not self._worker.is_stopping:
            self._publish(self._cut(answer) if is_late else answer, FREE_QUESTION_ID, clip)

    def _cut(self, answer: Answer) -> Answer:
        """An answer that was ended by its deadline, with the reason."""
        deadline_s = self._parameters().answer_deadline_s
        return replace(
            answer, problems=(*answer.problems, f"past answer_deadline_s = {deadline_s:g}")
        )

    def _publish_standing(self, answer: Answer, query_id: int, clip: Clip) -> None:
        """Publish what is said about a query, unless it stands no more."""
        with self._publishing:
            if self._why_stop(query_id) is not Outcome.CANCELLED:
                self._publish(answer, query_id, clip)

    def _publish(self, answer: Answer, query_id: int, clip: Clip) -> None:
        # A partial answer too: its first point is carried while the model still writes.
        rows = self._tracker.measure(answer, query_id) if query_id else ()
        self._results.publish_answer(answer, rows, query_id, clip.frames[-1])
        if answer.partial:
            return
        if answer.query.seed is not None:
            size = clip.frames[-1].width, clip.frames[-1].height
            self._anchors.learn(query_id, places_of(rows, *size))
        self._last = answer
        self._answer_rate.tick()
        if answer.problems:
            self._problems.count(AnswerError)

    def _encode_ahead(self) -> bool:
        """Encode one frame that a query will read when it falls due, the soonest first.

        Returns:
            False if there is none.
        """
        with self._lock:  # guards _scheduler and _reads
            upcoming = self._scheduler.upcoming(time.monotonic())
            reads = dict(self._reads)
        try:
            return any(
                self._grounder.encode_ahead(frame, detail)
                for frame, detail in frames_ahead(upcoming, reads, self._clip)
            )
        except Molmo2Error as error:
            self._problems.report("answer", error)
            return False

"""Asks one model about one camera or several, in turn: what stands, and what is asked once."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Hashable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import Protocol, TypeVar

from molmo2_ros.anchors import Anchors, places_of
from molmo2_ros.answer_json import QueryState
from molmo2_ros.answers.answer import Answer
from molmo2_ros.asking import AnyGrounder
from molmo2_ros.camera.clip import Clip, ClipBuffer, Sampling
from molmo2_ros.camera.frame import Frame
from molmo2_ros.errors import AnswerError, Molmo2Error, QueryError
from molmo2_ros.pace import Pace
from molmo2_ros.prompt.query import Detail, Query, asked_once
from molmo2_ros.scheduler import Counts, Demand, Outcome, Scheduler, Upcoming
from molmo2_ros.standing import StandingQueries, StandingQuery
from molmo2_ros.tracking.target import Target
from molmo2_ros.tracking.tracker import Tracker

Key = TypeVar("Key", bound=Hashable)
QueryKey = tuple[str, int]  # name of the camera, id of the query

MAX_WAITING_QUESTIONS = 8  # about one camera
FREE_QUESTION_ID = 0
ANSWER_PATIENCE_S = 5.0  # an answer may take so long and still be carried to now
_WAIT_S = 0.5


@dataclass(frozen=True, slots=True, kw_only=True)
class AnswerTerms:
    """On which terms the model is asked now.

    Args:
        deadline_s: an answer that takes longer is cut off; 0 for never.
        constrained: answers always follow the grammar.
        partial_share: of the time that an answer takes, so much may go into carrying its first
            points to now while the model still writes; 0 tells whole answers only.
    """

    deadline_s: float = 0.0
    constrained: bool = False
    partial_share: float = 0.2


class AnswerSink(Protocol):
    """Gets what is said about one camera, from the thread of the loop."""

    def publish_answer(
        self,
        answer: Answer,
        rows: Sequence[Target],
        query_id: int,
        frame: Frame,
        *,
        refused: bool = False,
    ) -> None:
        """Take an answer, whole or partial.

        Args:
            answer: what the model said.
            rows: its points as targets.
            query_id: FREE_QUESTION_ID for a question that is asked once.
            frame: the newest of the answer's clip.
            refused: there is no answer; its only problem says why.
        """

    def forget(self, query_id: int) -> None:
        """Let go what is kept about a query that stands no more; from any thread."""


class Problems(Protocol):
    """Takes note of what went wrong."""

    def report(self, place: str, error: Molmo2Error) -> None:
        """Something at a place: query, answer."""

    def count(self, kind: type[Molmo2Error]) -> None:
        """Something that is told elsewhere."""


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class AskedCamera:
    """A camera that questions are about.

    Args:
        name: its own among those of a loop.
        clip: its frames; whoever pushes one calls `AnswerLoop.on_frame` next.
        tracker: gets every answer, and turns its points into targets.
        queries: what stands.
        sink: gets the answers.
        problems: takes note of what cannot be asked.
        default_rate_hz: answers a second of queries that name no rate; 0 for as many as can be.
    """

    name: str
    clip: ClipBuffer
    tracker: Tracker
    queries: StandingQueries
    sink: AnswerSink
    problems: Problems
    default_rate_hz: Callable[[], float] = lambda: 0.0


@dataclass(frozen=True, slots=True)
class Reads:
    """Which frames a query reads, and by which of Molmo2's visual paths."""

    sampling: Sampling
    detail: Detail


@dataclass(slots=True, eq=False)
class _Room:
    """What the loop knows of one camera."""

    camera: AskedCamera
    anchors: Anchors = field(default_factory=Anchors)
    reads: dict[int, Reads] = field(default_factory=dict)  # of those that the model can be asked
    refusals: dict[int, str] = field(default_factory=dict)
    # Held while something is published about a query: nothing is once it stands no more.
    publishing: threading.Lock = field(default_factory=threading.Lock)


def frames_ahead(
    upcoming: Iterable[Upcoming[Key]],
    reads: Mapping[Key, Reads],
    clip_of: Callable[[Key], ClipBuffer],
) -> Iterator[tuple[Frame, Detail]]:
    """Frames held now that queries will read when they fall due, the soonest query first.

    Args:
        upcoming: from the scheduler.
        reads: what each of these reads.
        clip_of: the camera's.
    """
    for coming in upcoming:
        wanted = reads[coming.key]
        clip = clip_of(coming.key)
        for frame in clip.foresee(wanted.sampling, coming.num_frames, coming.period_s):
            yield frame, wanted.detail


class AnswerLoop:
    """Between the cameras' clips and the answers.

    Free questions come next, taking turns with the standing ones where several wait. The scheduler
    says which standing queries of which camera are asked about its newest clip; those that read the
    same frames are asked together, so that the clip is read once for them. An answer ends at the
    model's next step when its query stands no more or its deadline has passed.

    Where nothing is due, frames that a query is going to read are encoded ahead, one at a time.

    One thread steps; all else may be called from any.

    Args:
        grounder: asks the model; nobody else uses it.
        cameras: at least one.
        terms: as they are now.
        problems: takes note of a model that fails.
        clock: seconds that only run forward; those of all `queries`.

    Raises:
        ValueError: two cameras have one name.
    """

    def __init__(
        self,
        *,
        grounder: AnyGrounder,
        cameras: Sequence[AskedCamera],
        terms: Callable[[], AnswerTerms],
        problems: Problems,
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        self._rooms = {camera.name: _Room(camera) for camera in cameras}
        if len(self._rooms) != len(cameras):
            raise ValueError(f"cameras {[c.name for c in cameras]}, expected a name for each")
        self._grounder = grounder
        self._terms = terms
        self._problems = problems
        self._clock = clock
        self._news = threading.Event()
        self._stopping = threading.Event()
        self._lock = threading.Lock()  # guards the two below, and reads and refusals of the rooms
        self._scheduler: Scheduler[QueryKey] = Scheduler()
        self._questions: deque[tuple[str, Query]] = deque()  # with the names of their cameras
        self._model = grounder.model  # as it was when reads and refusals were found out
        self._was_free = False  # the last question was a free one
        self._last: Answer | None = None
        self._carry_s = 0.0  # that it took to carry the last answer to now
        self.pace = Pace()

    def stop(self) -> None:
        """End the answer that is being written, and any later one, at the model's next step."""
        self._stopping.set()
        self._news.set()

    def on_frame(self, camera: str, frame: Frame) -> None:
        """A clip has a newer frame."""
        with self._lock:  # guards _scheduler
            self._scheduler.frame_arrived(camera, frame.stamp_ns, self._clock())
        self._news.set()

    def check(self, query: Query) -> None:
        """Refuse what the model cannot answer.

        Raises:
            QueryError: says what it can.
        """
        self._grounder.check(query)

    def ask(self, camera: str, query: Query) -> None:
        """Take a free question.

        Raises:
            QueryError: too many wait already, or it has terms, which only a standing one can have.
        """
        asked_once(query)
        with self._lock:  # guards _questions
            num_waiting = sum(name == camera for name, _ in self._questions)
            if num_waiting >= MAX_WAITING_QUESTIONS:
                raise QueryError(
                    f"{num_waiting} questions wait already, expected at most "
                    f"{MAX_WAITING_QUESTIONS}; wait for their answers before asking again"
                )
            self._questions.append((camera, query))
        self._news.set()

    def queries_changed(self, camera: str, gone: Sequence[StandingQuery] = ()) -> None:
        """Ask what stands now, end the answers of what does not, and let its targets go.

        Args:
            camera: whose queries changed.
            gone: what stands no more. Nothing is published about it once this returns.
        """
        self._update_demands()
        room = self._rooms[camera]
        with room.publishing:
            for entry in gone:
                room.camera.tracker.forget(entry.id)
                room.camera.sink.forget(entry.id)
        self._news.set()

    def states(self, camera: str) -> dict[int, QueryState]:
        """How a camera's standing queries fare, by id."""
        with self._lock:  # guards _scheduler and refusals
            rates_hz = self._scheduler.rates_hz(self._clock())
            counts = self._scheduler.counts
            refusals = dict(self._rooms[camera].refusals)
        known = {query_id for name, query_id in counts if name == camera}
        return {
            query_id: QueryState(
                rate_hz=rates_hz.get((camera, query_id), 0.0),
                counts=counts.get((camera, query_id), Counts()),
                refused=refusals.get(query_id),
            )
            for query_id in {*known, *refusals}
        }

    def facts(self) -> dict[str, object]:
        """What the model did, for diagnostics."""
        with self._lock:  # guards _scheduler
            counts, num_expired = self._scheduler.total, self._scheduler.num_expired
            num_skipped = sum(self._scheduler.num_frames_skipped.values())
        facts: dict[str, object] = {
            "frames_skipped": num_skipped,
            "asked": counts.num_asked,
            "answered": counts.num_answered,
            "late": counts.num_late,
            "cancelled": counts.num_cancelled,
            "missed": counts.num_missed,
            "expired": num_expired,
            "usual_s": self.pace.usual_s,
            "running_s": self.pace.running_s,
            "last_carry_s": self._carry_s,
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

    def step(self) -> None:
        """Ask what is due, or encode a frame ahead; where there is neither, wait a little."""
        self._news.clear()
        pause_s = self._grounder.pause_s
        if pause_s > 0:
            # Once the engine can be asked again, it is about the frames of then.
            self._news.wait(min(pause_s, _WAIT_S))
        elif not self.answer_due() and not self._encode_ahead():
            with self._lock:  # guards _scheduler
                wait_s = self._scheduler.wait_s(self._clock())
            self._news.wait(_WAIT_S if wait_s is None else min(wait_s, _WAIT_S))

    def answer_due(self) -> bool:
        """Ask the model what is due now.

        Returns:
            False if nothing is.

        Raises:
            Molmo2Error: the model could not be asked.
        """
        self._grounder.constrained = self._terms().constrained
        batch = self._next_batch()
        question = None if batch and self._was_free else self._next_question()
        self._was_free = question is not None
        if question is None and batch is None:
            return False
        self.pace.began()
        try:
            if question is not None:
                self._answer_free(*question)
            elif batch is not None:
                self._answer_standing(*batch)
        finally:
            self.pace.ended()
        return True

    def _next_question(self) -> tuple[_Room, Query] | None:
        """The oldest question about a camera that has frames."""
        with self._lock:  # guards _questions
            for index, (name, query) in enumerate(self._questions):
                room = self._rooms[name]
                if room.camera.clip.newest is not None:
                    del self._questions[index]
                    return room, query
        return None

    def _next_batch(self) -> tuple[_Room, list[StandingQuery]] | None:
        """The query whose turn it is, with those that read the same frames of its camera."""
        self._notice_another_model()
        now_s = self._clock()
        for room in self._rooms.values():
            newest = room.camera.clip.newest
            standing = {entry.id: entry for entry in room.camera.queries.all(now_s)}
            room.anchors.keep(standing)
            if newest is not None:
                for entry in standing.values():
                    self._learn_reads(room, entry, newest)
        self._update_demands()
        with self._lock:  # guards _scheduler
            keys = self._scheduler.next(self._clock())
        if not keys:
            return None
        room = self._rooms[keys[0][0]]
        # One that was asked anew just as its time was over may have come after the look at them.
        standing = {entry.id: entry for entry in room.camera.queries.all(self._clock())}
        entries = [standing[query_id] for _, query_id in keys if query_id in standing]
        return (room, entries) if entries else None

    def _notice_another_model(self) -> None:
        """What could be asked before may not be now, where a server came back as another."""
        if self._grounder.model is self._model:
            return
        self._model = self._grounder.model
        with self._lock:  # guards reads and refusals
            for room in self._rooms.values():
                room.reads = {}
                room.refusals = {}

    def _learn_reads(self, room: _Room, entry: StandingQuery, newest: Frame) -> None:
        """Find out once which frames a query reads, or that this model cannot be asked it."""
        if entry.id in room.reads or entry.id in room.refusals:
            return
        try:
            self._grounder.check(entry.query)
        except QueryError as error:
            self._refuse(room, entry, error, newest)
            return
        reads = Reads(self._grounder.sampling(entry.query), entry.query.detail)
        with self._lock:  # guards reads
            room.reads[entry.id] = reads

    def _update_demands(self) -> None:
        """Tell the scheduler what stands, as far as it can be asked."""
        demands: dict[QueryKey, Demand] = {}
        with self._lock:  # guards _scheduler, reads and refusals
            now_s = self._clock()
            for name, room in self._rooms.items():
                # Read under the lock: an older list must not come after a newer one.
                standing = {entry.id: entry for entry in room.camera.queries.all(now_s)}
                room.reads = {i: reads for i, reads in room.reads.items() if i in standing}
                room.refusals = {i: text for i, text in room.refusals.items() if i in standing}
                rate_hz = room.camera.default_rate_hz()
                for query_id, reads in room.reads.items():
                    entry = standing[query_id]
                    if entry.paused:
                        continue
                    demands[name, query_id] = Demand(
                        camera=name,
                        reads=reads,
                        rate_hz=entry.query.terms.rate_hz or rate_hz or None,
                        priority=entry.query.terms.priority,
                        expires_s=entry.expires_s,
                    )
            self._scheduler.set_demands(demands, now_s)

    def _answer_standing(self, room: _Room, batch: list[StandingQuery]) -> None:
        name = room.camera.name
        clip = self._grounder.clip_for(room.camera.clip, batch[0].query)
        ids = self._asked_about(room, batch, clip)
        stopped: dict[int, Outcome] = {}

        def cancel(query: Query) -> bool:
            outcome = self._why_stop((name, ids[query]))
            if outcome is not None:
                stopped[ids[query]] = outcome
            return outcome is not None

        with self._lock:  # guards _scheduler
            # What was removed meanwhile is not asked.
            ids = {query: i for query, i in ids.items() if (name, i) in self._scheduler}
            keys = [(name, query_id) for query_id in ids.values()]
            self._scheduler.asked(keys, clip.stamps_ns[-1], self._clock())
        if not ids:
            return
        outcomes = dict.fromkeys(ids.values(), Outcome.CANCELLED)
        began_s, spent_s = time.perf_counter(), 0.0

        def publish_partial(answer: Answer) -> None:
            nonlocal spent_s
            now_s = time.perf_counter()
            # A model that writes fast would wait for what its next word makes worthless.
            most_s = self._terms().partial_share * (now_s - began_s)
            if spent_s + self._carry_s <= most_s:
                self._publish_standing(room, answer, ids[answer.query], clip)
                spent_s += time.perf_counter() - now_s

        def publish_final(answer: Answer) -> None:
            query_id = ids[answer.query]
            outcomes[query_id] = stopped.get(query_id, Outcome.ANSWERED)
            if outcomes[query_id] is Outcome.LATE:
                answer = self._cut(answer)
            self._publish_standing(room, answer, query_id, clip)

        try:
            self._grounder.answer_all(
                clip,
                list(ids),
                on_partial=publish_partial,
                on_final=publish_final,
                cancel=cancel,
            )
        finally:
            with self._lock:  # guards _scheduler
                for query_id, outcome in outcomes.items():
                    self._scheduler.ended((name, query_id), outcome, self._clock())

    def _asked_about(self, room: _Room, batch: list[StandingQuery], clip: Clip) -> dict[Query, int]:
        """The queries as they are put about a clip, with their ids."""
        ids: dict[Query, int] = {}
        for entry in batch:
            try:
                ids[room.anchors.asked(entry.query, entry.id, clip)] = entry.id
            except QueryError as error:
                self._refuse(room, entry, error, clip.frames[-1])
                self._update_demands()
        return ids

    def _refuse(self, room: _Room, entry: StandingQuery, error: QueryError, newest: Frame) -> None:
        """Ask a query no more, and say once why."""
        with self._lock:  # guards reads and refusals
            room.reads.pop(entry.id, None)
            room.refusals[entry.id] = str(error)
        self._publish_refusal(room, entry.query, entry.id, error, newest)

    def _publish_refusal(
        self, room: _Room, query: Query, query_id: int, error: QueryError, newest: Frame
    ) -> None:
        room.camera.problems.report("query", error)
        # Who asked reads the answers, not our log.
        refusal = Answer(query=query, text="", stamps_ns=(newest.stamp_ns,), problems=(str(error),))
        room.camera.sink.publish_answer(refusal, (), query_id, newest, refused=True)

    def _why_stop(self, key: QueryKey) -> Outcome | None:
        if self._stopping.is_set():
            return Outcome.CANCELLED
        with self._lock:  # guards _scheduler
            self._scheduler.deadline_s = self._terms().deadline_s or None
            return self._scheduler.why_stop(key, self._clock())

    def _answer_free(self, room: _Room, query: Query) -> None:
        clip = self._grounder.clip_for(room.camera.clip, query)
        asked_s = self._clock()
        is_late = False

        def cancel(_: Query) -> bool:
            nonlocal is_late
            deadline_s = self._terms().deadline_s
            is_late = deadline_s > 0 and self._clock() - asked_s > deadline_s
            return is_late or self._stopping.is_set()

        try:
            answer = self._grounder.answer(
                clip,
                query,
                on_partial=lambda partial: self._publish(room, partial, FREE_QUESTION_ID, clip),
                cancel=cancel,
            )
        except QueryError as error:
            self._publish_refusal(room, query, FREE_QUESTION_ID, error, clip.frames[-1])
            return
        if not self._stopping.is_set():
            self._publish(room, self._cut(answer) if is_late else answer, FREE_QUESTION_ID, clip)

    def _cut(self, answer: Answer) -> Answer:
        """An answer that was ended by its deadline, with the reason."""
        deadline_s = self._terms().deadline_s
        return replace(
            answer, problems=(*answer.problems, f"past answer_deadline_s = {deadline_s:g}")
        )

    def _publish_standing(self, room: _Room, answer: Answer, query_id: int, clip: Clip) -> None:
        """Publish what is said about a query, unless it stands no more."""
        key = room.camera.name, query_id
        if self._why_stop(key) is Outcome.CANCELLED:
            return
        # It takes long, and whoever takes a query away must not wait for it.
        began_s = time.perf_counter()
        rows = room.camera.tracker.measure(answer, query_id)
        self._carry_s = time.perf_counter() - began_s
        with room.publishing:
            if self._why_stop(key) is not Outcome.CANCELLED:
                self._publish(room, answer, query_id, clip, rows)
            elif all(entry.id != query_id for entry in room.camera.queries.all(self._clock())):
                room.camera.tracker.forget(query_id)  # it may have gone just before

    def _publish(
        self,
        room: _Room,
        answer: Answer,
        query_id: int,
        clip: Clip,
        rows: Sequence[Target] = (),
    ) -> None:
        camera, newest = room.camera, clip.frames[-1]
        camera.sink.publish_answer(answer, rows, query_id, newest)
        if answer.partial:
            return
        if answer.query.seed is not None:
            room.anchors.learn(query_id, places_of(rows, newest.width, newest.height))
        self._last = answer
        if answer.problems:
            camera.problems.count(AnswerError)

    def _encode_ahead(self) -> bool:
        """Encode one frame that a query will read when it falls due, the soonest first.

        Returns:
            False if there is none.
        """
        with self._lock:  # guards _scheduler and reads
            upcoming = self._scheduler.upcoming(self._clock())
            reads = {
                (name, query_id): wanted
                for name, room in self._rooms.items()
                for query_id, wanted in room.reads.items()
            }
        coming = frames_ahead(upcoming, reads, lambda key: self._rooms[key[0]].camera.clip)
        try:
            return any(self._grounder.encode_ahead(frame, detail) for frame, detail in coming)
        except Molmo2Error as error:
            self._problems.report("answer", error)
            return False

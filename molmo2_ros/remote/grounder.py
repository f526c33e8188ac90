"""Asks a model on a server: the surface of Grounder, with the engine elsewhere.

Each question is a request of its own, several at once; the server batches them, and keeps what it
has read of a clip if it can. Requests wait in threads, but all that is made of their answers
happens in the caller's thread.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from queue import Empty, SimpleQueue

from molmo2_ros.answers.answer import Answer, Timing
from molmo2_ros.answers.writing import AnswerListener, OnPartial
from molmo2_ros.asking import (
    ModelFacts,
    OnFinal,
    check_query,
    sampling_for,
    stamps_of,
    text_about,
    token_limit,
)
from molmo2_ros.camera.clip import Clip, ClipBuffer, Sampling
from molmo2_ros.camera.frame import Frame
from molmo2_ros.errors import ConfigError, QueryError, ServerError
from molmo2_ros.prompt.query import Detail, Query, Span
from molmo2_ros.prompt.subtitles import Subtitle
from molmo2_ros.remote.connection import Call, Ended, Event, Events, Line
from molmo2_ros.remote.handshake import ServerFacts
from molmo2_ros.remote.messages import Ask, ClipForm, chat_body
from molmo2_ros.remote.pictures import PictureCache
from molmo2_ros.remote.server import POLL_S, RemoteServer, pause_after
from molmo2_ros.remote.stream import EventReader, Piece


@dataclass(slots=True, kw_only=True, eq=False)
class _Asked:
    """One question on its way."""

    query: Query
    frames: tuple[Frame, ...]
    ask: Ask
    listener: AnswerListener
    timing: Timing  # what making the pictures cost
    call: Call | None = None
    events: EventReader = field(default_factory=EventReader)
    num_tries: int = 0
    not_before_s: float = 0.0
    started_s: float = 0.0
    first_s: float | None = None  # when the answer's first word came
    deadline_s: float = 0.0  # for the next word
    is_whole: bool = False  # its last word came
    is_cut: bool = False  # by the limit of tokens
    num_prompt_tokens: int = 0
    num_answer_tokens: int | None = None  # as the server counts


class RemoteGrounder:
    """A model on a server that points, counts, tracks and answers.

    Confidences are raw scores, where the server gives the probabilities of tokens, else None.

    Args:
        server: from `open_model`.
    """

    def __init__(self, server: RemoteServer) -> None:
        settings = server.settings
        self.server = server
        self.num_answers = 0
        self.num_degenerate = 0
        self._pictures = PictureCache(quality=settings.jpeg_quality, frame_size=settings.frame_size)

    @property
    def constrained(self) -> bool:
        """Whether answers always follow the grammar: never, a server is not told it."""
        return False

    @constrained.setter
    def constrained(self, wanted: bool) -> None:
        refuse_constrained(wanted)

    @property
    def model(self) -> ModelFacts:
        """What the model can do; another object once more is known of it."""
        return self.server.model

    @property
    def pause_s(self) -> float:
        """Seconds for which asking would be in vain, 0 where it would not."""
        return self.server.pause_s

    def facts(self) -> dict[str, object]:
        """Requests, retries, failures, bytes and pictures so far, by name."""
        traffic, server = self.server.peer.traffic, self.server
        return {
            "answers_degenerate": self.num_degenerate,
            "requests": traffic.num_requests,
            "requests_retried": server.num_retries,
            "requests_failed": server.num_failures,
            "connections": traffic.num_connections,
            "bytes_sent": traffic.bytes_sent,
            "bytes_received": traffic.bytes_received,
            "frames_encoded": self._pictures.num_encoded,
            "frames_found_encoded": self._pictures.num_hits,
        }

    def check(self, query: Query, *, num_images: int = 0, has_subtitles: bool = False) -> None:
        """Refuse what the model, or this server, cannot answer.

        Args, raises: as `Grounder.check`.
        """
        check_query(self.model, query, num_images=num_images, has_subtitles=has_subtitles)
        trouble = self.server.clip_trouble
        if query.span is Span.CLIP and not num_images and trouble:
            raise QueryError(
                f"{query.words!r} is asked about several frames, and of {self.model.name} it was "
                f"found that {trouble}; ask about the newest frame (point, count, ask[crops])"
            )

    def sampling(self, query: Query) -> Sampling:
        """How a window of frames is sampled for a question (see clip_for)."""
        return sampling_for(self.model, query)

    def clip_for(self, buffer: ClipBuffer, query: Query) -> Clip:
        """Choose the frames of a live camera that a question is about (see Grounder.clip_for)."""
        return buffer.sample(self.sampling(query))

    def encode_ahead(self, frame: Frame, detail: Detail) -> bool:
        """Make the picture of a frame that a question is going to read.

        Returns:
            False where it was made already.
        """
        if (frame, detail) in self._pictures:
            return False
        self._pictures.picture(frame, detail)
        return True

    def answer(
        self,
        clip: Clip,
        query: Query,
        *,
        on_partial: OnPartial | None = None,
        cancel: Callable[[Query], bool] | None = None,
        max_new_tokens: int | None = None,
        subtitles: Sequence[Subtitle] = (),
    ) -> Answer:
        """Ask one question about a clip.

        Args: as `Grounder.answer`.

        Raises:
            QueryError: the model or the server cannot answer it.
            ServerError: the server cannot be reached, refuses, is too slow, or breaks off.
        """
        return self.answer_all(
            clip,
            [query],
            on_partial=on_partial,
            cancel=cancel,
            max_new_tokens=max_new_tokens,
            subtitles=subtitles,
        )[0]

    def answer_all(
        self,
        clip: Clip,
        queries: Sequence[Query],
        *,
        on_partial: OnPartial | None = None,
        on_final: OnFinal | None = None,
        cancel: Callable[[Query], bool] | None = None,
        max_new_tokens: int | None = None,
        subtitles: Sequence[Subtitle] = (),
    ) -> list[Answer]:
        """Ask several questions about one clip, as many at once as the settings allow.

        Args, raises: as `answer`. Where one fails the others are answered all the same, which
            `on_final` tells; then its error is raised.

        Returns:
            answers in the order of the queries.
        """
        facts = self._connect(cancel, queries)
        for query in queries:
            self.check(query, has_subtitles=bool(subtitles))
        asked = []
        for query in queries:
            frames = clip.frames[-1:] if query.span is Span.NEWEST else clip.frames
            are_images = query.detail is Detail.CROPS or facts.form is ClipForm.STILL
            asked.append(self._asked(query, frames, are_images, on_partial, max_new_tokens))
        return _Round(self, facts, asked, on_final, cancel).run()

    def answer_images(
        self,
        frames: Sequence[Frame],
        query: Query,
        *,
        on_partial: OnPartial | None = None,
        cancel: Callable[[Query], bool] | None = None,
        max_new_tokens: int | None = None,
    ) -> Answer:
        """Ask about still images, each sent whole; points name their image.

        Args, raises: as `answer`, and `frames` as in `Grounder.answer_images`.
        """
        facts = self._connect(cancel, [query])
        self.check(query, num_images=len(frames))
        asked = self._asked(query, tuple(frames), True, on_partial, max_new_tokens)
        return _Round(self, facts, [asked], None, cancel).run()[0]

    def _connect(
        self, cancel: Callable[[Query], bool] | None, queries: Sequence[Query]
    ) -> ServerFacts:
        """Reach the server, waiting for it as long as the settings have patience."""
        server = self.server
        until_s = time.monotonic() + server.settings.patience_s

        def is_given_up() -> bool:
            return cancel is not None and all(map(cancel, queries))

        while True:
            while (pause_s := server.pause_s) > 0:
                if time.monotonic() + pause_s > until_s:
                    raise ServerError(server.trouble, may_pass=True)
                if is_given_up():
                    raise ServerError(f"{server.address} was given up before it could be asked")
                time.sleep(min(POLL_S, pause_s))
            try:
                return server.connect(is_given_up)
            except ServerError as error:
                if not error.may_pass or time.monotonic() + server.pause_s > until_s:
                    raise
            server.num_retries += 1

    def _asked(
        self,
        query: Query,
        frames: tuple[Frame, ...],
        are_images: bool,
        on_partial: OnPartial | None,
        max_new_tokens: int | None,
    ) -> _Asked:
        started_s, encoded_before = time.perf_counter(), self._pictures.num_encoded
        detail = Detail.CROPS if are_images else Detail.FRAMES
        pictures = [self._pictures.picture(frame, detail) for frame in frames]
        timing = Timing(
            encode_s=time.perf_counter() - started_s,
            num_frames_encoded=self._pictures.num_encoded - encoded_before,
        )
        ask = Ask(
            question=text_about(query, frames, are_images),
            pictures=pictures,
            times_s=None if are_images else Clip(frames).times_s,
            max_tokens=max_new_tokens or token_limit(query, len(frames)),
        )
        listener = AnswerListener(
            query,
            frames,
            stamps_of(query, frames, are_images),
            are_images=are_images,
            on_partial=on_partial,
        )
        return _Asked(query=query, frames=frames, ask=ask, listener=listener, timing=timing)


class _Round:
    """Questions that are asked together: sent, listened to, repeated or given up."""

    def __init__(
        self,
        grounder: RemoteGrounder,
        facts: ServerFacts,
        asked: Sequence[_Asked],
        on_final: OnFinal | None,
        cancel: Callable[[Query], bool] | None,
    ) -> None:
        self._grounder = grounder
        self._server = grounder.server
        self._facts = facts
        self._asked = asked
        self._on_final = on_final
        self._cancel = cancel
        self._until_s = time.monotonic() + self._server.settings.patience_s
        self._events: Events = SimpleQueue()
        self._waiting = list(asked)
        self._running: dict[Call, _Asked] = {}
        self._answers: dict[_Asked, Answer] = {}
        self._error: ServerError | None = None

    def run(self) -> list[Answer]:
        """Ask and listen until each question is answered or has failed.

        Raises:
            ServerError: of the first that failed.
        """
        try:
            while self._waiting or self._running:
                self._send()
                self._listen()
                self._watch()
        finally:
            for call in self._running:
                call.abort()
        if self._error is not None:
            raise self._error
        return [self._answers[asked] for asked in self._asked]

    def _send(self) -> None:
        """Begin with questions whose time has come, as far as there is room."""
        settings = self._server.settings
        now_s = time.monotonic()
        due = [asked for asked in self._waiting if asked.not_before_s <= now_s]
        for asked in due[: settings.max_requests - len(self._running)]:
            self._waiting.remove(asked)
            body = chat_body(asked.ask, model=self._facts.model, form=self._facts.form)
            asked.started_s = time.monotonic()
            asked.deadline_s = (
                asked.started_s + settings.connect_timeout_s + settings.first_token_timeout_s
            )
            asked.call = self._server.peer.call("/chat/completions", body, self._events)
            asked.num_tries += 1
            self._running[asked.call] = asked

    def _listen(self) -> None:
        """Take all that came, waiting a little for the first of it."""
        timeout_s: float | None = POLL_S
        while True:
            try:
                call, event = self._events.get(block=timeout_s is not None, timeout=timeout_s)
            except Empty:
                return
            timeout_s = None
            asked = self._running.get(call)
            if asked is not None:  # else it was given up meanwhile
                self._take(asked, event)

    def _take(self, asked: _Asked, event: Event) -> None:
        try:
            if isinstance(event, Line):
                piece = asked.events.feed(event.data)
                if piece is not None:
                    self._hear(asked, piece)
            elif isinstance(event, Ended) and asked.is_whole:
                self._finish(asked)
            elif isinstance(event, Ended):
                raise ServerError("ended the answer before its end")
            else:
                has_begun = asked.first_s is not None
                self._fail(asked, self._server.error_of(event, has_begun=has_begun))
        except ServerError as error:
            self._fail(asked, self._misbehaved(str(error)))

    def _hear(self, asked: _Asked, piece: Piece) -> None:
        now_s = time.monotonic()
        asked.deadline_s = now_s + self._server.settings.token_timeout_s
        asked.num_prompt_tokens = piece.num_prompt_tokens or asked.num_prompt_tokens
        asked.num_answer_tokens = piece.num_answer_tokens or asked.num_answer_tokens
        if piece.text or piece.tokens:
            if asked.first_s is None:
                asked.first_s = now_s
                self._server.succeeded()
            asked.listener.append(piece.text, piece.tokens)
        if piece.finish_reason:
            asked.is_whole = True
            asked.is_cut = piece.finish_reason == "length"
        elif asked.listener.num_tokens > asked.ask.max_tokens and not asked.is_whole:
            asked.is_cut = True  # the server does not heed the limit
            self._finish(asked)
        elif asked.listener.is_degenerate and not asked.is_whole:
            self._finish(asked, cancelled=True)

    def _watch(self) -> None:
        """End what is wanted no more or late."""
        now_s = time.monotonic()
        for asked in [*self._running.values(), *self._waiting]:
            if self._cancel is not None and self._cancel(asked.query):
                self._finish(asked, cancelled=True)
        for asked in list(self._running.values()):
            if now_s < asked.deadline_s:
                continue
            if asked.is_whole:
                self._finish(asked)  # only the server's counts are missing
            else:
                self._fail(asked, self._server.late(has_begun=asked.first_s is not None))

    def _misbehaved(self, what: str) -> ServerError:
        return ServerError(f"{self._server.address} {what}; see its log, and ask again")

    def _fail(self, asked: _Asked, error: ServerError) -> None:
        """Ask again later where that can help and time is left, else give up."""
        self._give_up(asked)
        pause_s = pause_after(error, asked.num_tries)
        if error.may_pass and time.monotonic() + pause_s <= self._until_s:
            self._server.num_retries += 1
            asked.not_before_s = time.monotonic() + pause_s
            asked.events = EventReader()
            self._waiting.append(asked)
            return
        self._server.failed(error)
        self._error = self._error or error
        self._waiting.clear()  # the others would fare no better

    def _finish(self, asked: _Asked, *, cancelled: bool = False) -> None:
        self._give_up(asked)
        if not cancelled and self._has_lost_frames(asked):
            what = (
                f"read {asked.num_prompt_tokens} tokens for {len(asked.frames)} frames of "
                f"{self._facts.tokens_per_frame} each: some were left out"
            )
            self._fail(asked, self._misbehaved(what))
            return
        now_s = time.monotonic()
        started_s, first_s = asked.started_s or now_s, asked.first_s or now_s
        counted = asked.num_answer_tokens
        timing = Timing(
            encode_s=asked.timing.encode_s,
            prefill_s=first_s - started_s,
            decode_s=now_s - first_s,
            num_prompt_tokens=asked.num_prompt_tokens,
            num_answer_tokens=asked.listener.num_tokens if counted is None else counted,
            num_frames_encoded=asked.timing.num_frames_encoded,
        )
        answer = asked.listener.finish(truncated=asked.is_cut, cancelled=cancelled, timing=timing)
        self._grounder.num_answers += 1
        self._grounder.num_degenerate += answer.degenerate
        self._answers[asked] = answer
        if self._on_final is not None:
            self._on_final(answer)

    def _has_lost_frames(self, asked: _Asked) -> bool:
        """Whether the server read fewer frames than it was sent, as far as its count tells."""
        per_frame, count = self._facts.tokens_per_frame, asked.num_prompt_tokens
        if asked.ask.times_s is None or per_frame is None or not count:
            return False
        return count < (len(asked.frames) - 1) * per_frame

    def _give_up(self, asked: _Asked) -> None:
        """Listen to it no more."""
        if asked.call is not None and self._running.pop(asked.call, None) is not None:
            asked.call.abort()
        elif asked in self._waiting:
            self._waiting.remove(asked)


def refuse_constrained(wanted: bool) -> None:
    """Say that a server cannot be held to the grammar of answers.

    Raises:
        ConfigError: it is wanted.
    """
    if wanted:
        raise ConfigError(
            "constrained is true and the engine is a server, which is not told the grammar of "
            "answers; set constrained to false, or use an engine folder"
        )

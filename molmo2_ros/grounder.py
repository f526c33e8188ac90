"""Asks a model about clips: the one place where camera, prompt, runtime and answers meet."""

from __future__ import annotations

import time
from collections import OrderedDict
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache

import numpy as np

from molmo2_ros.answers.answer import Answer, Timing
from molmo2_ros.answers.grammar import AnswerAutomaton, AnswerGrammar
from molmo2_ros.answers.writing import AnswerWriter, OnPartial
from molmo2_ros.asking import (
    ModelFacts,
    OnFinal,
    check_query,
    model_facts,
    sampling_for,
    stamps_of,
    text_about,
    token_limit,
)
from molmo2_ros.camera.clip import Clip, ClipBuffer, Sampling
from molmo2_ros.camera.frame import Frame
from molmo2_ros.prompt.layout import clip_prefix, images_prefix, question_suffix
from molmo2_ros.prompt.query import Detail, Query, Span
from molmo2_ros.prompt.subtitles import Subtitle
from molmo2_ros.prompt.tokenizer import PromptTokenizer
from molmo2_ros.runtime.decoding import Generation, Guide, Prefix, generate, prefill
from molmo2_ros.runtime.engine import Engine
from molmo2_ros.runtime.features import FeatureCache
from molmo2_ros.tracking.foresight import Foresight

MAX_FRAMES = 128  # whose features are kept
MAX_QUESTIONS = 64  # whose tokens and last answers are kept
MAX_PREFIXES = 2  # a point query's newest frame and a track's clip take turns on a live camera


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Read:
    """Frames that the model has read, ready for questions."""

    frames: tuple[Frame, ...]
    are_images: bool
    prefix: Prefix
    timing: Timing  # what reading cost


class Grounder:
    """A model that points, counts, tracks and answers.

    Frames are encoded once in their life and each clip is read once, however many questions are
    asked about it. Use from one thread at a time.

    Args:
        engine: from `load_engine`.
        max_frames: frames whose features are kept.
        drafted: read ahead what an answer will probably say; the answers are the same without.
        constrained: let the model write only what the answer grammar allows, so that every answer
            can be read; without it the model's own choice stands, whatever it is.
    """

    def __init__(
        self,
        engine: Engine,
        *,
        max_frames: int = MAX_FRAMES,
        drafted: bool = True,
        constrained: bool = False,
    ) -> None:
        self.engine = engine
        self.model: ModelFacts = model_facts(engine.manifest)
        self.drafted = drafted
        self.constrained = constrained
        self.num_answers = 0
        self.num_degenerate = 0  # answers in which the model lost the thread
        self.num_passes = 0  # of the decoder over questions and answers
        self.num_drafted = 0  # tokens read ahead
        self.num_accepted = 0  # of these: what the model would have written
        self.features = FeatureCache(engine, max_frames)
        self._tokenizer = PromptTokenizer(engine.folder)
        self._foresight = Foresight(self._tokenizer, MAX_QUESTIONS)
        # Standing queries ask the same again and again.
        tokenizer = self._tokenizer  # no way back to self: the engine must go with its last user
        self._suffix = lru_cache(MAX_QUESTIONS)(
            lambda question: question_suffix(tokenizer, question).ids
        )
        manifest = engine.manifest
        self._grammar = AnswerGrammar(
            self._tokenizer, manifest.text.vocab_size, manifest.tokens.eos_ids
        )
        self._known: OrderedDict[tuple[tuple[Frame, ...], bool, tuple[Subtitle, ...]], _Read] = (
            OrderedDict()
        )

    pause_s = 0.0  # an engine of this machine can always be asked

    def facts(self) -> dict[str, object]:
        """What it did so far, for diagnostics: counts and shares by name."""
        features = self.features
        return {
            "answers_degenerate": self.num_degenerate,
            "passes_per_answer": self.num_passes / max(self.num_answers, 1),
            "drafts_accepted_share": self.num_accepted / max(self.num_drafted, 1),
            "frames_encoded": features.num_encoded,
            "frames_encoded_ahead": features.num_encoded_ahead,
            "frames_found_encoded": features.num_hits,
            "frames_found_encoded_share": features.found_share,
        }

    def encode_ahead(self, frame: Frame, detail: Detail) -> bool:
        """Encode a frame that a question is going to read; False where it was encoded already."""
        return self.features.encode_ahead(frame, detail)

    def check(self, query: Query, *, num_images: int = 0, has_subtitles: bool = False) -> None:
        """Refuse what the model cannot answer.

        Args:
            query: what would be asked.
            num_images: how many still images it would be asked about; 0 for a clip.
            has_subtitles: whether it would read subtitles, too.

        Raises:
            QueryError: the model lacks a skill or a word; says what it has. Or no model could:
                images have no time, and subtitles belong to questions in words about a clip.
        """
        check_query(self.model, query, num_images=num_images, has_subtitles=has_subtitles)

    def clip_for(self, buffer: ClipBuffer, query: Query) -> Clip:
        """Choose the frames of a live camera that a question is about.

        Tracks read the window as densely as the model was trained to, questions in words at its
        rate for them; pointing and counting are about now and read the newest frame alone, unless
        the query asks about the whole clip.

        Raises:
            ImageError: the buffer is empty.
        """
        return buffer.sample(self.sampling(query))

    def sampling(self, query: Query) -> Sampling:
        """How a window of frames is sampled for a question (see clip_for)."""
        return sampling_for(self.model, query)

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

        Args:
            clip: what is asked about; a query whose span is its newest frame reads that only.
            query: the question.
            on_partial: gets the answer so far with each further point, or some more words.
            cancel: asked before each step about each question; True ends its answer with what there
                is.
            max_new_tokens: limit of the answer's length; None for one that suits the kind.
            subtitles: what was said during the clip, in seconds from its first frame.

        Raises:
            QueryError: the model cannot answer it, or the clip is longer than it can read.
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
        """Ask several questions about one clip; it is read once for all, and they decode together.

        Args, raises: as `answer`. One question that cannot be answered refuses all. `on_final` gets
            each answer when it is whole, while longer ones are still being written.

        Returns:
            answers in the order of the queries.
        """
        for query in queries:
            self.check(query, has_subtitles=bool(subtitles))
        rows_by_reading: dict[tuple[bool, int], list[int]] = {}
        for row, query in enumerate(queries):
            num_frames = 1 if query.span is Span.NEWEST else len(clip)
            reading = query.detail is Detail.CROPS, num_frames
            rows_by_reading.setdefault(reading, []).append(row)
        answers: dict[int, Answer] = {}
        for (are_images, num_frames), rows in rows_by_reading.items():
            asked = [queries[row] for row in rows]
            read = self._prefix(clip.frames[-num_frames:], are_images, tuple(subtitles))
            given = self._ask(read, asked, on_partial, on_final, cancel, max_new_tokens)
            answers.update(zip(rows, given, strict=True))
        return [answers[row] for row in range(len(queries))]

    def answer_images(
        self,
        frames: Sequence[Frame],
        query: Query,
        *,
        on_partial: OnPartial | None = None,
        cancel: Callable[[Query], bool] | None = None,
        max_new_tokens: int | None = None,
    ) -> Answer:
        """Ask about still images, each read in full detail; points name their image.

        Args:
            frames: one or several images, in the order in which they are numbered.
            query: the question; its detail is taken as `crops`.
            on_partial: as in `answer`.
            cancel: as in `answer`.
            max_new_tokens: as in `answer`.

        Raises:
            QueryError: the model cannot answer it, or cannot read so many images.
        """
        self.check(query, num_images=len(frames))
        prefix = self._prefix(tuple(frames), True, ())
        return self._ask(prefix, [query], on_partial, None, cancel, max_new_tokens)[0]

    def _ask(
        self,
        read: _Read,
        queries: Sequence[Query],
        on_partial: OnPartial | None,
        on_final: OnFinal | None,
        cancel: Callable[[Query], bool] | None,
        max_new_tokens: int | None,
    ) -> list[Answer]:
        suffixes = [
            self._suffix(text_about(query, read.frames, read.are_images)) for query in queries
        ]
        writers = [
            AnswerWriter(
                self._tokenizer,
                query,
                read.frames,
                are_images=read.are_images,
                calibration=self.model.calibration,
                automaton=self._automaton(query, read),
                on_partial=on_partial,
            )
            for query in queries
        ]

        def is_over(row: int) -> bool:
            return writers[row].is_degenerate or (cancel is not None and cancel(queries[row]))

        answers: dict[int, Answer] = {}
        started = time.perf_counter()

        def on_end(row: int, generation: Generation) -> None:
            timing = replace(
                read.timing,
                decode_s=time.perf_counter() - started,
                num_prompt_tokens=read.prefix.num_tokens + len(suffixes[row]),
                num_answer_tokens=len(generation.ids),
                num_passes=generation.num_passes,
                num_drafted=generation.num_drafted,
                num_accepted=generation.num_accepted,
            )
            answer = writers[row].finish(
                truncated=generation.truncated, cancelled=generation.cancelled, timing=timing
            )
            self._count(answer, generation)
            self._foresight.learn(answer, read.frames, generation.ids)
            answers[row] = answer
            if on_final is not None:
                on_final(answer)

        generate(
            self.engine,
            read.prefix,
            suffixes,
            max_new_tokens=[
                max_new_tokens or token_limit(query, len(read.frames)) for query in queries
            ],
            guides=[self._guide(query, read) for query in queries],
            on_tokens=lambda row, *written: writers[row].append(*written),
            on_end=on_end,
            cancel=is_over,
        )
        return [answers[row] for row in range(len(queries))]

    def _count(self, answer: Answer, generation: Generation) -> None:
        self.num_answers += 1
        self.num_degenerate += answer.degenerate
        self.num_passes += generation.num_passes
        self.num_drafted += generation.num_drafted
        self.num_accepted += generation.num_accepted

    def _guide(self, query: Query, read: _Read) -> Guide:
        """What is known of an answer before it is written: its grammar, and the last one."""
        if not (self.drafted or self.constrained):
            return Guide()
        stamps = stamps_of(query, read.frames, read.are_images)
        # Several images have no order in time in which an answer could be moved on.
        drafts = None
        if self.drafted and stamps and (not read.are_images or len(stamps) == 1):
            drafts = self._foresight.draft(query, read.frames[-len(stamps) :], stamps)
        return Guide(
            automaton=self._automaton(query, read), constrained=self.constrained, drafts=drafts
        )

    def _automaton(self, query: Query, read: _Read) -> AnswerAutomaton:
        stamps = stamps_of(query, read.frames, read.are_images)
        return self._grammar.automaton(query, stamps, read.are_images)

    def _prefix(
        self, frames: tuple[Frame, ...], are_images: bool, subtitles: tuple[Subtitle, ...]
    ) -> _Read:
        """The clip as the model has read it, now or before."""
        key = (frames, are_images, subtitles)
        known = self._known.get(key)
        if known is not None:
            self._known.move_to_end(key)
            return replace(known, timing=Timing())
        started = time.perf_counter()
        encoded_before = self.features.num_encoded
        if are_images:
            images = self.features.images(frames)
            prompt = images_prefix(
                self._tokenizer,
                [image.grid for image in images],
                use_single_crop_col_tokens=self.engine.manifest.vision.use_single_crop_col_tokens,
            )
            features_MD = np.concatenate([image.features_MD for image in images])
        else:
            features_MD = self.features.frames(frames)
            times_s = Clip(frames).times_s
            prompt = clip_prefix(
                self._tokenizer, times_s, self.features.tokens_per_frame, subtitles
            )
        encode_s = time.perf_counter() - started
        prefix = prefill(self.engine, prompt, features_MD)
        timing = Timing(
            encode_s=encode_s,
            prefill_s=prefix.prefill_s,
            num_frames_encoded=self.features.num_encoded - encoded_before,
        )
        read = _Read(frames=frames, are_images=are_images, prefix=prefix, timing=timing)
        self._known[key] = read
        if len(self._known) > MAX_PREFIXES:
            self._known.popitem(last=False)
        return read

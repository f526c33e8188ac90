"""transformers' own Molmo2 as it generates, asked like any other engine.

What the other engines are compared with: the checkpoint itself, its prompt laid out by this
package, decoded greedily by `generate()`. The clip is read anew for each question.

Letters: S tokens, M visual tokens.
"""

from __future__ import annotations

import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import torch

from molmo2_ros.answers.answer import Answer, Timing
from molmo2_ros.answers.grammar import AnswerGrammar
from molmo2_ros.answers.writing import AnswerWriter, OnPartial
from molmo2_ros.asking import (
    ModelFacts,
    OnFinal,
    check_query,
    model_facts,
    sampling_for,
    stamps_of,
    token_limit,
)
from molmo2_ros.camera.clip import Clip, ClipBuffer, Sampling
from molmo2_ros.camera.frame import Frame
from molmo2_ros.engines.checkpoint import (
    load_checkpoint,
    read_config,
    text_facts,
    token_facts,
    vision_facts,
)
from molmo2_ros.engines.export import Description
from molmo2_ros.engines.hub import find_checkpoint
from molmo2_ros.errors import ConfigError
from molmo2_ros.prompt.layout import join, question_suffix
from molmo2_ros.prompt.query import Detail, Query, Span, question_text
from molmo2_ros.prompt.subtitles import Subtitle
from molmo2_ros.prompt.tokenizer import PromptTokenizer
from molmo2_ros.runtime.manifest import FILE_NAME, Manifest
from molmo2_ros.training.recipe.messages import TreeWriter, Visual


class TorchGrounder:
    """A checkpoint that points, counts, tracks and answers.

    Args:
        checkpoint: a folder, or a name of the Hugging Face hub.
        dtype: "float32" or "bfloat16".
        threads: of torch on the CPU; None for its own choice.

    Raises:
        EngineError: it is no Molmo2 that transformers loads.
        ConfigError: another dtype.
    """

    constrained = False
    pause_s = 0.0

    def __init__(
        self, checkpoint: str | Path, *, dtype: str = "float32", threads: int | None = None
    ) -> None:
        if dtype not in ("float32", "bfloat16"):
            raise ConfigError(f"dtype is {dtype!r}, expected float32 or bfloat16")
        if threads is not None:
            torch.set_num_threads(threads)
        self.folder = find_checkpoint(checkpoint)
        self.device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
        loaded: Any = load_checkpoint(self.folder)
        self._model = loaded.to(self.device, getattr(torch, dtype))
        self._tokenizer = PromptTokenizer(self.folder)
        config = read_config(self.folder)
        self._writer = TreeWriter(self._tokenizer, vision_facts(self.folder, config))
        eos_ids = token_facts(self.folder, self._model).eos_ids
        self._eos_ids = sorted(eos_ids)
        self._grammar = AnswerGrammar(self._tokenizer, text_facts(config).vocab_size, eos_ids)
        self.model: ModelFacts = _facts(self.folder)
        self.num_answers = 0

    def facts(self) -> dict[str, object]:
        """What it did so far."""
        return {"answers": self.num_answers}

    def check(self, query: Query, *, num_images: int = 0, has_subtitles: bool = False) -> None:
        """Refuse what the model cannot answer (see Grounder.check)."""
        check_query(self.model, query, num_images=num_images, has_subtitles=has_subtitles)

    def sampling(self, query: Query) -> Sampling:
        """How a window of frames is sampled for a question."""
        return sampling_for(self.model, query)

    def clip_for(self, buffer: ClipBuffer, query: Query) -> Clip:
        """Choose the frames of a live camera that a question is about (see Grounder.clip_for)."""
        return buffer.sample(self.sampling(query))

    def encode_ahead(self, frame: Frame, detail: Detail) -> bool:
        """Nothing is kept from one question to the next."""
        return False

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
        """Ask one question about a clip (see Grounder.answer)."""
        self.check(query, has_subtitles=bool(subtitles))
        frames = clip.frames[-1:] if query.span is Span.NEWEST else clip.frames
        if query.detail is Detail.CROPS:
            visual = self._writer.images([frame.image for frame in frames])
        else:
            times_s = Clip(frames).times_s
            visual = self._writer.clip([f.image for f in frames], times_s, subtitles)
        are_images = query.detail is Detail.CROPS
        return self._ask(visual, frames, are_images, query, on_partial, cancel, max_new_tokens)

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
        """Ask several questions about one clip, one after the other (see Grounder.answer_all)."""
        for query in queries:
            self.check(query, has_subtitles=bool(subtitles))
        answers = []
        for query in queries:
            answer = self.answer(
                clip,
                query,
                on_partial=on_partial,
                cancel=cancel,
                max_new_tokens=max_new_tokens,
                subtitles=subtitles,
            )
            answers.append(answer)
            if on_final is not None:
                on_final(answer)
        return answers

    def answer_images(
        self,
        frames: Sequence[Frame],
        query: Query,
        *,
        on_partial: OnPartial | None = None,
        cancel: Callable[[Query], bool] | None = None,
        max_new_tokens: int | None = None,
    ) -> Answer:
        """Ask about still images (see Grounder.answer_images)."""
        self.check(query, num_images=len(frames))
        visual = self._writer.images([frame.image for frame in frames])
        return self._ask(visual, tuple(frames), True, query, on_partial, cancel, max_new_tokens)

    @torch.inference_mode()
    def _ask(
        self,
        visual: Visual,
        frames: tuple[Frame, ...],
        are_images: bool,
        query: Query,
        on_partial: OnPartial | None,
        cancel: Callable[[Query], bool] | None,
        max_new_tokens: int | None,
    ) -> Answer:
        text = question_text(query, len(frames) if are_images else 1)
        prompt = join(visual.prefix, question_suffix(self._tokenizer, text))
        writer = AnswerWriter(
            self._tokenizer,
            query,
            frames,
            are_images=are_images,
            calibration=self.model.calibration,
            automaton=self._grammar.automaton(
                query, stamps_of(query, frames, are_images), are_images
            ),
            on_partial=on_partial,
        )
        listener = _Listener(writer, self._eos_ids, query, cancel)
        started_s = time.perf_counter()
        limit = max_new_tokens or token_limit(query, len(frames))
        self._model.generate(
            **self._arguments(visual, prompt.ids, prompt.is_visual),
            do_sample=False,
            max_new_tokens=limit,
            eos_token_id=self._eos_ids,
            logits_processor=[listener.see],
            stopping_criteria=[listener.hear],
        )
        self.num_answers += 1
        timing = Timing(
            decode_s=time.perf_counter() - started_s,
            num_prompt_tokens=len(prompt.ids),
            num_answer_tokens=listener.num_tokens,
            num_passes=listener.num_tokens + listener.has_ended,
            num_frames_encoded=len(frames),
        )
        return writer.finish(
            truncated=not listener.has_ended and listener.num_tokens >= limit,
            cancelled=listener.is_stopped,
            timing=timing,
        )

    def _arguments(self, visual: Visual, ids_S: Any, is_visual_S: Any) -> dict[str, Any]:
        """What transformers' Molmo2 takes: all views as one image of M tokens (recipe/batch.py)."""
        patches = torch.from_numpy(visual.patches_KNC)
        tensors = {
            "input_ids": torch.from_numpy(ids_S)[None],
            "attention_mask": torch.ones(1, len(ids_S), dtype=torch.int64),
            "mm_token_type_ids": torch.from_numpy(is_visual_S).long()[None],
            "pixel_values": patches.to(self._model.dtype),
            "image_token_pooling": torch.from_numpy(visual.windows_MW),
            "image_grids": torch.tensor([[len(visual.windows_MW), 1, 0, 0]]),
        }
        return {name: tensor.to(self.device) for name, tensor in tensors.items()}


class _Listener:
    """Hands each token with its probability on, and ends what is wanted no more."""

    def __init__(
        self,
        writer: AnswerWriter,
        eos_ids: Sequence[int],
        query: Query,
        cancel: Callable[[Query], bool] | None,
    ) -> None:
        self._writer, self._eos_ids = writer, set(eos_ids)
        self._query, self._cancel = query, cancel
        self._probabilities: torch.Tensor | None = None
        self.num_tokens = 0
        self.has_ended = self.is_stopped = False

    def see(self, _ids: torch.Tensor, logits_1V: torch.Tensor) -> torch.Tensor:
        """Note the logits before the next token is chosen."""
        self._probabilities = logits_1V[0].float().softmax(-1)
        return logits_1V

    def hear(self, ids_1S: torch.Tensor, _scores: Any, **_: Any) -> torch.Tensor:
        """Take the token that was chosen; true ends the answer."""
        token = int(ids_1S[0, -1])
        self.has_ended = token in self._eos_ids
        if not self.has_ended:
            assert self._probabilities is not None
            self.num_tokens += 1
            self._writer.append([token], [float(self._probabilities[token])], False)
            is_unwanted = self._cancel is not None and self._cancel(self._query)
            self.is_stopped = self._writer.is_degenerate or is_unwanted
        return torch.full((1,), self.has_ended or self.is_stopped, device=ids_1S.device)


def _facts(checkpoint: Path) -> ModelFacts:
    """Of the engine that the checkpoint lies in, as molmo2-nano's does; else the released ones'."""
    if (checkpoint.parent / FILE_NAME).exists():
        return model_facts(Manifest.load(checkpoint.parent, verify=False))
    released = Description(name=checkpoint.resolve().name)
    return ModelFacts(name=released.name, skills=released.skills, sampling=released.sampling)

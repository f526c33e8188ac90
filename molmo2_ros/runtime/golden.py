"""The golden example of an engine folder: one clip and question whose answer is known.

An engine that loads can still compute wrongly: a faulty kernel of a runtime or driver, a graph with
a mistake, half precision that overflows. One that reproduces here what the reference computed does
not, as far as one example can tell. What is compared, and what only that would show:

- visual features of a frame, some of their windows padded: patches, pooling, normalisation;
- logits after the question: mask, positions and layers, and that the cache is read in its order;
- logits after each token of the answer, read in passes of many widths, one token by one among them:
  verifying a draft computes what decoding does;
- the same once more from the middle of the answer, after the cache was cut and beside a wrong token
  that nobody may see: what decoding does with a draft that fails;
- logits after a text whose second half stands at the last positions: a table of angles that is too
  short, of another base, or rounded.

Not seen: positions that are all moved alike. Attention knows distances only, so that they change
nothing.
"""

from __future__ import annotations

import zipfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from molmo2_ros.errors import EngineError
from molmo2_ros.prompt.layout import Prompt, clip_prefix, question_suffix
from molmo2_ros.prompt.patches import clip_patches, clip_pooling
from molmo2_ros.prompt.tokenizer import PromptTokenizer
from molmo2_ros.runtime.closeness import Judge, Peaks
from molmo2_ros.runtime.engine import Engine
from molmo2_ros.runtime.examination import Examination
from molmo2_ros.runtime.manifest import REBUILD, GoldenFacts, VisionFacts

GOLDEN_FILE = "golden.npz"


def _none(dtype: Any, *shape: int) -> Any:
    return field(default_factory=lambda: np.zeros(shape, dtype))


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Golden:
    """A clip, a question, and what the reference model computes; what is empty is not compared.

    Letters: T frames, N tokens of the answer, V vocabulary, K highest logits, F visual tokens.
    """

    frames: npt.NDArray[np.uint8]  # [T, H, W, 3] RGB
    times_s: npt.NDArray[np.float64]  # [T], seconds from the first frame
    question: str
    tokens: npt.NDArray[np.int64] = _none(np.int64, 0)  # [N], without the ending one, perhaps cut
    logits: npt.NDArray[np.float32] = _none(np.float32, 0)  # [V], after the prompt's last token
    # The highest after the prompt and each token of the answer, in falling order: [1 + N, K].
    step_ids: npt.NDArray[np.int64] = _none(np.int64, 0, 0)
    step_logits: npt.NDArray[np.float32] = _none(np.float32, 0, 0)
    # The highest after BOS and question without the clip, at `late_positions`: [1, K].
    late_ids: npt.NDArray[np.int64] = _none(np.int64, 0, 0)
    late_logits: npt.NDArray[np.float32] = _none(np.float32, 0, 0)
    features: npt.NDArray[np.float32] = _none(np.float32, 0, 0)  # [F, D] of `probe_pooling`

    @property
    def steps(self) -> Peaks:
        """Highest logits along the answer; none a step where an older export kept none."""
        if not len(self.step_ids):
            num_steps = 1 + len(self.tokens)
            nothing = np.zeros((num_steps, 0))
            return Peaks(ids_NK=nothing.astype(np.int64), logits_NK=nothing.astype(np.float32))
        return Peaks(ids_NK=self.step_ids, logits_NK=self.step_logits)

    @property
    def late(self) -> Peaks:
        """Highest logits at the last positions."""
        return Peaks(ids_NK=self.late_ids, logits_NK=self.late_logits)

    @staticmethod
    def load(path: Path) -> Golden:
        """Read an npz file.

        Raises:
            EngineError: it is missing, cut off, or lacks an array.
        """
        try:
            with np.load(path, allow_pickle=False) as arrays:
                content = {name: arrays[name] for name in arrays.files}
            golden = Golden(**{**content, "question": str(content["question"])})
            golden.check()
        except (OSError, ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile) as error:
            raise EngineError(
                f"{path} is not a golden example ({error}); expected an npz with frames, times_s "
                f"and question; {REBUILD}"
            ) from error
        return golden

    def check(self) -> None:
        """Refuse arrays that contradict each other, before arithmetic meets them.

        Raises:
            ValueError: names the array.
        """
        num_steps = 1 + len(self.tokens)
        facts = {
            "frames": self.frames.ndim == 4 and self.frames.dtype == np.uint8,
            "times_s": self.times_s.shape == self.frames.shape[:1],
            "tokens": self.tokens.ndim == 1 and self.tokens.dtype.kind == "i",
            "step_logits": self.step_logits.shape == self.step_ids.shape,
            "step_ids": len(self.step_ids) in (0, num_steps) and self._fits(self.step_ids),
            "late_logits": self.late_logits.shape == self.late_ids.shape,
            "late_ids": len(self.late_ids) in (0, 1) and self._fits(self.late_ids),
            "features": self.features.ndim == 2,
        }
        wrong = [name for name, is_right in facts.items() if not is_right]
        if wrong:
            raise ValueError(f"{', '.join(wrong)} of another shape or type than the rest")

    def _fits(self, ids_NK: npt.NDArray[np.int64]) -> bool:
        """Whether these are tokens of the vocabulary that `logits` has."""
        is_inside = (ids_NK >= 0) & (ids_NK < len(self.logits))
        return ids_NK.ndim == 2 and ids_NK.dtype.kind == "i" and bool(is_inside.all())

    def save(self, path: Path) -> None:
        """Write an npz file."""
        arrays: dict[str, Any] = {name: np.asarray(getattr(self, name)) for name in self.__slots__}
        np.savez_compressed(path, **arrays)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class ClipInputs:
    """A clip and one question as the two graphs read them."""

    patches_KNC: npt.NDArray[np.float32]
    pooling_MW: npt.NDArray[np.int64]
    token_grid: tuple[int, int]  # visual tokens (down, across) of one frame
    prefix: Prompt
    suffix: Prompt


def clip_inputs(
    vision: VisionFacts,
    tokenizer: PromptTokenizer,
    frames: Sequence[npt.NDArray[np.uint8]] | npt.NDArray[np.uint8],
    times_s: Sequence[float] | npt.NDArray[np.float64],
    question: str,
) -> ClipInputs:
    """Patches, pooling and tokens of a clip, without any cache."""
    grid = vision.image_size // vision.patch_size
    down, across = (-(-grid // pool) for pool in vision.video_pooling)
    return ClipInputs(
        patches_KNC=clip_patches(list(frames), vision.image_size, vision.patch_size),
        pooling_MW=clip_pooling(len(frames), grid, vision.video_pooling),
        token_grid=(down, across),
        prefix=clip_prefix(tokenizer, [float(time) for time in times_s], down * across),
        suffix=question_suffix(tokenizer, question),
    )


def verify_golden(engine: Engine) -> float:
    """Let an engine compute its golden example.

    Returns:
        The largest absolute error of a logit.

    Raises:
        EngineError: there is no example, or the engine computes something else; says what.
    """
    facts = engine.manifest.golden
    if facts is None:
        raise EngineError(
            f"{engine.folder} has no golden example, so that nothing proves it; give it one with "
            f"`python -m molmo2_ros.engines.golden {engine.folder} --checkpoint CHECKPOINT`, or "
            f"{REBUILD}"
        )
    return examine(engine, Golden.load(engine.folder / facts.file), facts)


def examine(engine: Engine, golden: Golden, facts: GoldenFacts) -> float:
    """Let an engine compute an example, and compare.

    What must agree: the features within `feature_tolerance` of the largest one; all logits within
    `logit_tolerance`, and along the answer a quarter of it at the median step; at each step the
    reference's token, unless the reference's own logits of the two lie less than twice the
    tolerance apart. Half precision and quantised weights have wider tolerances; nothing is left out
    for them.

    Args:
        engine: the candidate.
        golden: what the reference computes.
        facts: the tolerances.

    Returns:
        The largest absolute error of a logit.

    Raises:
        EngineError: the engine computes something else; says what.
    """
    manifest = engine.manifest
    tokenizer = PromptTokenizer(engine.folder)
    examination = Examination(
        engine=engine,
        golden=golden,
        inputs=clip_inputs(
            manifest.vision, tokenizer, golden.frames, golden.times_s, golden.question
        ),
        judge=Judge(
            name=manifest.name,
            runtime=engine.runtime,
            dtype=manifest.dtype,
            tolerance=facts.logit_tolerance,
        ),
    )
    return examination.run(facts.feature_tolerance)

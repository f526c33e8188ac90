"""The golden example of an engine folder: one clip and question whose answer is known.

An engine that loads can still compute wrongly (a runtime or driver with a faulty kernel); one that
reproduces the reference's logits and tokens does not.
"""

from __future__ import annotations

import zipfile
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
import numpy.typing as npt

from molmo2_ros.errors import EngineError
from molmo2_ros.prompt.layout import Prompt, clip_prefix, question_suffix, suffix_bias
from molmo2_ros.prompt.patches import clip_patches, clip_pooling
from molmo2_ros.prompt.tokenizer import PromptTokenizer
from molmo2_ros.runtime.decoding import Prefix, generate, prefill
from molmo2_ros.runtime.engine import Engine
from molmo2_ros.runtime.manifest import REBUILD, VisionFacts

GOLDEN_FILE = "golden.npz"


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Golden:
    """A clip, a question, and what the reference model answers."""

    frames: npt.NDArray[np.uint8]  # [T, H, W, 3] RGB
    times_s: npt.NDArray[np.float64]  # [T], seconds from the first frame
    question: str
    tokens: npt.NDArray[np.int64] = field(  # the answer without its ending token, perhaps cut off
        default_factory=lambda: np.zeros(0, np.int64)
    )
    logits: npt.NDArray[np.float32] = field(  # [V], after the prompt's last token
        default_factory=lambda: np.zeros(0, np.float32)
    )

    @staticmethod
    def load(path: Path) -> Golden:
        """Read an npz file.

        Raises:
            EngineError: it is missing, cut off, or lacks an array.
        """
        try:
            with np.load(path, allow_pickle=False) as arrays:
                content = {name: arrays[name] for name in arrays.files}
            return Golden(**{**content, "question": str(content["question"])})
        except (OSError, ValueError, KeyError, TypeError, EOFError, zipfile.BadZipFile) as error:
            raise EngineError(
                f"{path} is not a golden example ({error}); expected an npz with frames, times_s "
                f"and question; {REBUILD}"
            ) from error

    def save(self, path: Path) -> None:
        """Write an npz file."""
        np.savez_compressed(
            path,
            frames=self.frames,
            times_s=self.times_s,
            question=np.array(self.question),
            tokens=self.tokens,
            logits=self.logits,
        )


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
    """Let an engine answer its golden example.

    Returns:
        The largest error of the logits.

    Raises:
        EngineError: there is no example, or the engine gives other logits or tokens.
    """
    manifest = engine.manifest
    if manifest.golden is None:
        raise EngineError(f"{engine.folder} has no golden example; export the checkpoint again")
    golden = Golden.load(engine.folder / manifest.golden.file)
    inputs = clip_inputs(
        manifest.vision,
        PromptTokenizer(engine.folder),
        golden.frames,
        golden.times_s,
        golden.question,
    )
    features_MD = engine.encode(inputs.patches_KNC, inputs.pooling_MW)
    prefix = prefill(engine, inputs.prefix, features_MD)
    error = float(np.abs(_first_logits(engine, prefix, inputs.suffix) - golden.logits).max())
    tolerance = manifest.golden.logit_tolerance
    if not error <= tolerance:
        raise EngineError(
            f"{manifest.name} computes wrongly here: the golden example's logits differ by "
            f"{error:.2g}, allowed are {tolerance:.2g}; try another version of the runtime, or "
            f"{REBUILD}"
        )
    if not len(golden.tokens):
        return error  # the first token is too near its rival to be held to
    limit = len(golden.tokens)
    (answer,) = generate(engine, prefix, [inputs.suffix.ids], max_new_tokens=limit)
    if answer.ids != tuple(golden.tokens.tolist()):
        raise EngineError(
            f"{manifest.name} answers its golden example with tokens {answer.ids}, expected "
            f"{tuple(golden.tokens.tolist())}; try another version of the runtime, or {REBUILD}"
        )
    return error


def _first_logits(engine: Engine, prefix: Prefix, suffix: Prompt) -> npt.NDArray[np.float32]:
    """Logits [V] after the prompt's last token."""
    logits_BLV, _ = engine.forward(
        suffix.ids[None],
        prefix.num_tokens + np.arange(len(suffix))[None],
        suffix_bias(len(suffix), prefix.num_tokens)[None, None],
        prefix.kv,
    )
    logits_V: npt.NDArray[np.float32] = logits_BLV[0, 0]
    return logits_V

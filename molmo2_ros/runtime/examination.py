"""What a golden example asks of an engine, part by part.

Letters as in runtime/engine.py; N tokens of the answer.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import numpy.typing as npt

from molmo2_ros.prompt.layout import HIDDEN, Prompt, prefix_bias, suffix_bias
from molmo2_ros.prompt.patches import frame_pooling
from molmo2_ros.runtime.closeness import Judge, Peaks
from molmo2_ros.runtime.decoding import prefill
from molmo2_ros.runtime.engine import KV, Engine
from molmo2_ros.runtime.manifest import VisionFacts

if TYPE_CHECKING:
    from molmo2_ros.runtime.golden import ClipInputs, Golden

_WIDTHS = (1, 1, 1, 1, 2, 4, 12)  # tokens of the passes that read the answer; the rest in one
_NUM_FEATURES = 8


def probe_pooling(vision: VisionFacts) -> npt.NDArray[np.int64]:
    """Windows of one frame, every second one with its last patch left out, int64 [M, W]."""
    grid = vision.image_size // vision.patch_size
    windows_MW = frame_pooling(grid, vision.video_pooling)
    if windows_MW.shape[1] > 1:
        windows_MW[1::2, -1] = -1
    return windows_MW


def kept_features(features_MD: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Those of a few visual tokens, from the first to the last: at 4B's width 80 kB, not 800."""
    rows = np.linspace(0, len(features_MD) - 1, _NUM_FEATURES).round().astype(np.intp)
    kept_FD: npt.NDArray[np.float32] = features_MD[rows]
    return kept_FD


def late_text(bos_id: int, suffix: Prompt) -> npt.NDArray[np.int64]:
    """BOS and the question without the clip, [S]."""
    return np.concatenate([[bos_id], suffix.ids]).astype(np.int64)


def late_positions(num_tokens: int, max_positions: int) -> npt.NDArray[np.int64]:
    """The first half of a text at the first positions, the rest at the last ones.

    Worked example: 5 tokens and 100 positions give [0, 1, 97, 98, 99].
    """
    positions_S = np.arange(num_tokens)
    positions_S[num_tokens // 2 :] += max_positions - num_tokens
    return positions_S


def read_text(
    engine: Engine, ids_S: npt.NDArray[np.int64], start: int, kv: KV
) -> tuple[npt.NDArray[np.float32], KV]:
    """Logits [S, V] after each token of a text behind `start` others, and the grown cache."""
    logits_1SV, kv = engine.forward(
        ids_S[None],
        (start + np.arange(len(ids_S)))[None],
        suffix_bias(len(ids_S), start)[None, None],
        kv,
        logit_indices_L=np.arange(len(ids_S)),
    )
    return logits_1SV[0], kv


def probe_features(engine: Engine, patches_KNC: npt.NDArray[np.float32]) -> npt.NDArray[np.float32]:
    """Kept features of the first frame through `probe_pooling`."""
    windows_MW = probe_pooling(engine.manifest.vision)
    # An engine may keep them on its device, where numpy reads them.
    return kept_features(np.asarray(engine.encode(patches_KNC[:1], windows_MW)))


def late_logits(engine: Engine, suffix: Prompt) -> npt.NDArray[np.float32]:
    """Logits [1, V] after `late_text`."""
    ids_S = late_text(engine.manifest.tokens.bos_id, suffix)
    positions_S = late_positions(len(ids_S), engine.manifest.text.max_positions)
    bias_SS = prefix_bias(np.zeros(len(ids_S), np.bool_))
    logits_11V, _ = engine.forward(
        ids_S[None], positions_S[None], bias_SS[None, None], engine.empty_kv()
    )
    logits_1V: npt.NDArray[np.float32] = logits_11V[0]
    return logits_1V


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Examination:
    """An engine before its golden example."""

    engine: Engine
    golden: Golden
    inputs: ClipInputs
    judge: Judge

    def run(self, feature_tolerance: float) -> float:
        """Compare all parts that the example has.

        Args:
            feature_tolerance: largest error of a visual feature, as a share of the largest one.

        Returns:
            The largest absolute error of a logit.

        Raises:
            EngineError: a part differs.
        """
        if len(self.golden.features):
            self._features(feature_tolerance)
        features_MD = self.engine.encode(self.inputs.patches_KNC, self.inputs.pooling_MW)
        prefix = prefill(self.engine, self.inputs.prefix, features_MD)
        suffix_S = self.inputs.suffix.ids
        logits_SV, kv = read_text(self.engine, suffix_S, prefix.num_tokens, prefix.kv)
        error = self.judge.close(logits_SV[-1], self.golden.logits, "logits")
        num_read = prefix.num_tokens + len(suffix_S)
        errors = [error, *self._answer(logits_SV[-1:], num_read, kv)]
        if len(self.golden.late_ids):
            late = self.golden.late
            logits_1V = late_logits(self.engine, self.inputs.suffix)
            errors.append(self.judge.peaks(logits_1V, late, late.ids_NK[:, 0], "late logits"))
        return max(errors)

    def _features(self, tolerance: float) -> None:
        expected = self.golden.features
        self.judge.close(
            probe_features(self.engine, self.inputs.patches_KNC),
            expected,
            "visual features",
            tolerance * float(np.abs(expected).max()),
        )

    def _answer(self, first_1V: npt.NDArray[np.float32], num_read: int, kv: KV) -> list[float]:
        """The reference's answer, read behind the question in passes of several widths."""
        tokens_N = self.golden.tokens
        logits, at = [first_1V], 0
        for width in (*_WIDTHS, len(tokens_N)):
            read_S = tokens_N[at : at + width]
            if len(read_S):
                logits_SV, kv = read_text(self.engine, read_S, num_read + at, kv)
                logits.append(logits_SV)
                at += len(read_S)
        logits_NV = np.concatenate(logits)
        errors = [self._steps(logits_NV, 0, "logits along the answer")]
        if at > 1:
            errors.append(self._after_cut(num_read, kv))
        return errors

    def _after_cut(self, num_read: int, kv: KV) -> float:
        """The answer's second half once more: cache cut, a wrong token beside the first right one.

        Worked example: of five tokens a b c d e the cache keeps a b; the pass reads x c d e, where
        x stands at c's position, sees a b and is seen by nobody.
        """
        half = len(self.golden.tokens) // 2
        right = self.golden.tokens[half:]
        wrong = (right[:1] + 1) % self.engine.manifest.text.vocab_size
        start = num_read + half
        places_S = np.concatenate([[0], np.arange(len(right))])
        bias_ST = suffix_bias(len(places_S), start)
        bias_ST[1:, start] = HIDDEN
        logits_1LV, _ = self.engine.forward(
            np.concatenate([wrong, right])[None],
            (start + places_S)[None],
            bias_ST[None, None],
            self.engine.keep_kv(kv, np.arange(start)),
            logit_indices_L=np.arange(1, len(places_S)),
        )
        return self._steps(logits_1LV[0], half + 1, "logits after a cut of the cache")

    def _steps(self, logits_NV: npt.NDArray[np.float32], first: int, what: str) -> float:
        """Compare from a step of the answer on."""
        steps = self.golden.steps
        expected = Peaks(ids_NK=steps.ids_NK[first:], logits_NK=steps.logits_NK[first:])
        return self.judge.peaks(logits_NV, expected, self.golden.tokens[first:], what)

"""How an engine answers its golden example, and how sure it is of each token.

A quantised engine computes in other roundings on each device. Its example therefore has a tolerance
of its own, and ends before the first token that the tolerance could turn into another one.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from molmo2_ros.errors import EngineError
from molmo2_ros.prompt.layout import suffix_bias
from molmo2_ros.prompt.tokenizer import PromptTokenizer
from molmo2_ros.runtime.decoding import prefill
from molmo2_ros.runtime.engine import Engine
from molmo2_ros.runtime.golden import Golden, clip_inputs

MAX_TOKENS = 48
LEAST_TOLERANCE = 1e-3
# Of the standard deviation of the reference's logits. Products in int8 cost 0.1 to 0.3 on
# molmo2-nano, products in float16 0.01; a wrong layer or scale costs 1 and more.
FLOAT16_SHARE, LARGEST_SHARE = 0.05, 0.5


class GoldenRun:
    """One engine's reading of the example: logits after the prompt at once, tokens on demand.

    Args:
        engine: what reads.
        golden: clip and question.
    """

    def __init__(self, engine: Engine, golden: Golden) -> None:
        self._engine = engine
        inputs = clip_inputs(
            engine.manifest.vision,
            PromptTokenizer(engine.folder),
            golden.frames,
            golden.times_s,
            golden.question,
        )
        features_MD = engine.encode(inputs.patches_KNC, inputs.pooling_MW)
        prefix = prefill(engine, inputs.prefix, features_MD)
        self._kv, self._num_read = prefix.kv, prefix.num_tokens
        self.logits_V = self._read(inputs.suffix.ids)

    def _read(self, ids_S: npt.NDArray[np.int64]) -> npt.NDArray[np.float32]:
        """Logits [V] after some more tokens."""
        logits_BLV, self._kv = self._engine.forward(
            ids_S[None],
            self._num_read + np.arange(len(ids_S))[None],
            suffix_bias(len(ids_S), self._num_read)[None, None],
            self._kv,
        )
        self._num_read += len(ids_S)
        return logits_BLV[0, -1]

    def sure_tokens(self, tolerance: float) -> tuple[int, ...]:
        """The answer up to its end, or to the first token whose rival is nearer than 2 tolerances.

        Two engines within the tolerance of each other write these tokens alike.
        """
        tokens: list[int] = []
        logits_V = self.logits_V
        while len(tokens) < MAX_TOKENS:
            rival, best = np.argsort(logits_V)[-2:]
            is_end = int(best) in self._engine.manifest.tokens.eos_ids
            if is_end or logits_V[best] - logits_V[rival] <= 2 * tolerance:
                break
            tokens.append(int(best))
            logits_V = self._read(np.array([best]))
        return tuple(tokens)


def tolerance_of(reference: GoldenRun, engine: Engine, example: Golden) -> float:
    """How far logits may lie from the reference's: twice what they do here, or float16's share.

    Args:
        reference: the example, read by the reference engine.
        engine: what is judged.
        example: clip and question.

    Raises:
        EngineError: the engine computes something else than the reference.
    """
    spread = float(reference.logits_V.std())
    error = float(np.abs(GoldenRun(engine, example).logits_V - reference.logits_V).max())
    if not error <= LARGEST_SHARE * spread:
        raise EngineError(
            f"{engine.folder} computes wrongly here: its logits differ by {error:.3g} from those "
            f"of the same weights in plain operators, allowed are {LARGEST_SHARE * spread:.3g}; "
            "try another version of onnxruntime, or another block"
        )
    return max(LEAST_TOLERANCE, FLOAT16_SHARE * spread, 2 * error)

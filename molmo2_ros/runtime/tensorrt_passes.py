"""How the decoder's work is cut into passes of the shapes that an engine was built for.

Letters as in runtime/engine.py.
"""

from __future__ import annotations

import numpy as np
import numpy.typing as npt

from molmo2_ros.errors import EngineError
from molmo2_ros.prompt.layout import HIDDEN
from molmo2_ros.runtime.tensorrt_plan import Limits


def choose_profile(num_new: int, num_logits: int, limits: Limits) -> tuple[str, int, int]:
    """The profile for a pass, the tokens that it reads (padded), and its rows of logits."""
    if num_new == 1 and num_logits <= 1:
        return "decode", 1, 1
    if num_new <= limits.verify_tokens and num_logits <= limits.verify_tokens:
        return "verify", limits.verify_tokens, limits.verify_tokens
    return "prefill", num_new, max(num_logits, 1)


def split_pass(
    bias_ST: npt.NDArray[np.float32],
    num_past: int,
    indices_L: npt.NDArray[np.int64],
    limits: Limits,
) -> list[tuple[int, int]]:
    """First and last token of each of the passes that do the work of one.

    One, unless it has more tokens or more wanted logits than the engine was built for; then it is
    read in several, which is the same where no token sees a later one.

    Raises:
        EngineError: it is too long, and tokens see later ones, as those of a clip do.
    """
    num_new = len(bias_ST)
    pieces: list[tuple[int, int]] = []
    start = 0
    while start < num_new:
        stop = min(start + limits.prefill_tokens, num_new)
        ahead = np.sort(indices_L[indices_L >= start])
        if len(ahead) > limits.prefill_logits:
            stop = min(stop, int(ahead[limits.prefill_logits]))
        if stop < num_new and (bias_ST[start:stop, num_past + stop :] > HIDDEN / 2).any():
            raise too_long(num_new, limits)
        pieces.append((start, stop))
        start = stop
    return pieces


def padded_bias(
    bias_ST: npt.NDArray[np.float32], length: int, columns: int, width: int
) -> npt.NDArray[np.float32]:
    """The mask over a whole bucket of past columns and a padded width of new tokens.

    A padded token sees itself alone: a row that sees nothing at all may overflow to no number,
    which the next layer's keys would carry to everyone.

    Worked example: one token after a past of one, in a bucket of two, padded to two tokens: the row
    [0, 0] becomes [0, H, 0, H], and the padding's row is [H, H, H, 0].
    """
    count = len(bias_ST)
    padded = np.full((width, columns + width), HIDDEN, np.float32)
    padded[:count, :length] = bias_ST[:, :length]
    padded[:count, columns : columns + count] = bias_ST[:, length:]
    padding = np.arange(count, width)
    padded[padding, columns + padding] = 0
    return padded


def padded(values: npt.NDArray[np.int64], width: int) -> npt.NDArray[np.int64]:
    """`values` and zeros behind them."""
    padded = np.zeros(width, np.int64)
    padded[: len(values)] = values
    return padded


def too_long(num_tokens: int, limits: Limits) -> EngineError:
    """The error for more tokens than fit into one pass, where they cannot be read in several."""
    return EngineError(
        f"a clip of {num_tokens} tokens, this engine was built for {limits.prefill_tokens} (clips "
        f"of {limits.max_frames} frames); ask about fewer frames, or build it again with more "
        "--max-frames"
    )

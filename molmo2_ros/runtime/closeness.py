"""How near a computed result lies to its reference, and which differences rounding explains.

Letters: N results of one kind, K kept values of each, V vocabulary.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from molmo2_ros.errors import EngineError
from molmo2_ros.runtime.manifest import REBUILD

NUM_PEAKS = 16  # a 152k vocabulary whole would be 30 MB for an answer of 48 tokens
# Rounding is large at few steps and small at most (molmo2-nano in float16: 0.14 once, 0.01 at the
# median), a mistake is large at all of them.
_TYPICAL_SHARE = 1 / 4


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Peaks:
    """The highest logits of N distributions, highest first."""

    ids_NK: npt.NDArray[np.int64]
    logits_NK: npt.NDArray[np.float32]

    @staticmethod
    def of(logits_NV: npt.NDArray[np.float32]) -> Peaks:
        """Keep `NUM_PEAKS` of each row."""
        ids_NK = np.argsort(-logits_NV, axis=-1, kind="stable")[:, :NUM_PEAKS].astype(np.int64)
        return Peaks(ids_NK=ids_NK, logits_NK=np.take_along_axis(logits_NV, ids_NK, axis=-1))

    def logit(self, row: int, token: int) -> float:
        """A token's logit in a row, -inf where it is not among those that were kept."""
        found = self.logits_NK[row][self.ids_NK[row] == token]
        return float(found[0]) if len(found) else -np.inf


@dataclass(frozen=True, slots=True, kw_only=True)
class Judge:
    """Refuses what an engine computes where it lies too far from the reference."""

    name: str  # of the engine
    runtime: str  # what computed
    dtype: str  # of the engine's activations
    tolerance: float  # largest absolute error of a logit

    def close(
        self,
        ours: npt.NDArray[Any],
        expected: npt.NDArray[Any],
        what: str,
        tolerance: float | None = None,
    ) -> float:
        """The largest absolute error.

        Args:
            ours: of any shape.
            expected: of the same shape.
            what: for messages, "logits ... after each token".
            tolerance: of the error; None for that of logits.

        Raises:
            EngineError: another shape, a value that is not finite, or an error above the tolerance.
        """
        tolerance = self.tolerance if tolerance is None else tolerance
        if ours.shape != expected.shape:
            raise EngineError(
                f"{self._who}: the golden example's {what} have shape {ours.shape}, expected "
                f"{expected.shape}; {REBUILD}"
            )
        self._finite(ours, what)
        # float16 and bfloat16 would round, or overflow, in the difference.
        errors = np.abs(ours.astype(np.float32) - expected.astype(np.float32))
        error = float(errors.max(initial=0.0))
        if not error <= tolerance:
            raise EngineError(
                f"{self._who}: the golden example's {what} differ by {error:.2g}, allowed are "
                f"{tolerance:.2g}; try another version of the runtime, or {REBUILD}"
            )
        return error

    def peaks(
        self,
        ours_NV: npt.NDArray[np.float32],
        expected: Peaks,
        chosen_N: npt.NDArray[np.int64],
        what: str,
    ) -> float:
        """The largest error among the reference's highest logits, and the same choice of tokens.

        Of several rows the typical one, by its largest error, must keep a quarter of the tolerance.
        A token may differ only where the reference itself nearly hesitates: two logits that are
        each wrong by the tolerance change places where they lie less than twice it apart.

        Args:
            ours_NV: all logits.
            expected: the reference's highest.
            chosen_N: the reference's tokens, N or fewer where it chose no more.
            what: for messages.

        Raises:
            EngineError: as `close`, or another token.
        """
        self._finite(ours_NV, what)
        ours_NK = np.take_along_axis(ours_NV, expected.ids_NK, axis=-1)
        error = self.close(ours_NK, expected.logits_NK, what)
        if ours_NK.size and len(ours_NK) > 1:
            middle = np.argsort(np.abs(ours_NK - expected.logits_NK).max(-1))[len(ours_NK) // 2]
            self.close(
                ours_NK[middle],
                expected.logits_NK[middle],
                f"{what}, at the median step,",
                self.tolerance * _TYPICAL_SHARE,
            )
        for row, (ours, theirs) in enumerate(zip(ours_NV.argmax(-1), chosen_N, strict=False)):
            gap = expected.logit(row, int(theirs)) - expected.logit(row, int(ours))
            if ours != theirs and not abs(gap) < 2 * self.tolerance:
                raise EngineError(
                    f"{self.name} answers its golden example with token {ours}, expected {theirs} "
                    f"({what}, row {row}, {self.runtime}); try another version of the runtime, or "
                    f"{REBUILD}"
                )
        return error

    def _finite(self, ours: npt.NDArray[Any], what: str) -> None:
        num_bad = ours.size - int(np.isfinite(ours).sum())
        if num_bad:
            raise EngineError(
                f"{self._who}: {num_bad} of {ours.size} values of the golden example's {what} are "
                f"inf or NaN: activations overflow half precision (the engine says {self.dtype}), "
                "or a kernel is faulty; use an engine in bfloat16 or float32, or try another "
                "version of the runtime"
            )

    @property
    def _who(self) -> str:
        return f"{self.name} computes wrongly here ({self.runtime})"

"""Which answered point is which carried target: ids that outlive the answers' own numbering.

Letters: C carried targets, A answered objects.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
import numpy.typing as npt
from scipy.optimize import linear_sum_assignment

Path = Mapping[int, tuple[float, float]]  # stamp in ns -> pixels


def distances(carried: Sequence[Path], answered: Sequence[Path]) -> npt.NDArray[np.float64]:
    """Mean distance in pixels over the stamps that both paths have, [C, A]; inf without any."""
    distance_CA = np.full((len(carried), len(answered)), np.inf)
    for row, was in enumerate(carried):
        for column, said in enumerate(answered):
            shared = [np.subtract(was[stamp], xy) for stamp, xy in said.items() if stamp in was]
            if shared:
                distance_CA[row, column] = np.linalg.norm(shared, axis=1).mean()
    return distance_CA


def assign(
    distance_CA: npt.NDArray[np.float64], gate_px: float | npt.NDArray[np.float64]
) -> list[tuple[int, int]]:
    """Pair targets and answers one to one so that the sum of distances is least.

    Args:
        distance_CA: pixels, inf where a pair is out of the question.
        gate_px: a pair must be nearer than this; a number or one per target [C].

    Returns:
        pairs of rows and columns; far pairs are left out and do not pull near ones apart.
    """
    gate_C1 = np.broadcast_to(np.asarray(gate_px, np.float64), len(distance_CA))[:, None]
    relative_CA = np.minimum(distance_CA / gate_C1, 1.0)
    rows, columns = linear_sum_assignment(relative_CA)
    return [
        (int(row), int(column))
        for row, column in zip(rows, columns, strict=True)
        if relative_CA[row, column] < 1.0
    ]

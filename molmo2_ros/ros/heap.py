"""Gives memory that is free back to the system, which glibc does late and in part."""

from __future__ import annotations

import ctypes

PERIOD_S = 5.0


def trim_heap() -> None:
    """Return what malloc holds and nobody uses; takes some 20 ms at 0.7 GB, without Python's lock.

    Pictures and a model's intermediate results come and go in many sizes and threads. Left alone,
    two cameras of VGA wander by a tenth within minutes, above what they need by another tenth.
    Another C library than glibc has nothing to be called.
    """
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)

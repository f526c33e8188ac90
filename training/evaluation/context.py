"""Where and with what figures were made, and how far the making of them has come."""

from __future__ import annotations

import platform
import subprocess
import sys
import time
from collections.abc import Iterable
from typing import TypeVar

import numpy as np
from tqdm import tqdm

Item = TypeVar("Item")


def show_progress(items: Iterable[Item], total: int, title: str) -> Iterable[Item]:
    """A bar on stderr."""
    bar: Iterable[Item] = tqdm(items, total=total, desc=title, file=sys.stderr)
    return bar


def git_commit() -> str:
    """Hash of the checked-out commit; empty outside a repository."""
    done = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=False)
    return done.stdout.strip()


def context() -> dict[str, object]:
    """Commit, date, machine and versions, for JSON."""
    import cv2
    import onnxruntime

    return {
        "commit": git_commit(),
        "date": time.strftime("%Y-%m-%d"),
        "machine": {"cpu": platform.processor() or platform.machine()},
        "versions": {
            "python": platform.python_version(),
            "numpy": np.__version__,
            "opencv": cv2.__version__,
            "onnxruntime": onnxruntime.__version__,
        },
    }

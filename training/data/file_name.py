"""Any name as the name of a file: what a data set calls its examples leads nowhere else."""

from __future__ import annotations

import hashlib
import re

_MAX_PLAIN = 100  # characters that are kept


def safe_name(name: str) -> str:
    """A file's name for any name: the same each time, and another one for another name.

    A name of letters, digits, '.', '_' and '-' stays as it is; of any other these are kept, and
    ten digits of its SHA-256 follow.
    """
    plain = re.sub(r"[^A-Za-z0-9._-]+", "_", name)[:_MAX_PLAIN].lstrip(".")
    if plain and plain == name:
        return plain
    return f"{plain}-{hashlib.sha256(name.encode('utf-8')).hexdigest()[:10]}"

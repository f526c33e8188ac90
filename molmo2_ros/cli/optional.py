"""Parts of the command that need what most users do without: ROS, or a package of an extra."""

from __future__ import annotations

import importlib
from typing import Any

from molmo2_ros.errors import ConfigError


def import_part(module: str, *, needed_by: str, cure: str) -> Any:
    """A module that imports something optional.

    Args:
        module: its full name.
        needed_by: what the user wrote.
        cure: how to get what is missing.

    Raises:
        ConfigError: something is not installed.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ConfigError(
            f"{needed_by} needs {error.name or error}, which is not installed here: {cure}"
        ) from error

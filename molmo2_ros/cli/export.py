"""`molmo2 export`: a checkpoint becomes an engine folder."""

from __future__ import annotations

import argparse
from typing import Any

from molmo2_ros.engines.export_command import DESCRIPTION, EPILOG, add_arguments, run
from molmo2_ros.errors import EngineError


def add_parser(commands: Any) -> None:
    """Add `export` to the command line."""
    parser = commands.add_parser(
        "export",
        help="turn a Molmo2 checkpoint into an engine folder",
        description=DESCRIPTION,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_arguments(parser)
    parser.set_defaults(run=_run)


def _run(options: argparse.Namespace) -> None:
    try:
        run(options)
    except ImportError as error:
        raise EngineError(
            f"exporting needs {error.name or error}, which is not installed; "
            '`pip install "molmo2_ros[training]"` brings it'
        ) from error

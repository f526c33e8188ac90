"""`molmo2 top`: a running node in a terminal."""

from __future__ import annotations

import argparse
from typing import Any

from molmo2_ros.cli.optional import import_part

_DESCRIPTION = """\
Shows running nodes in a terminal: a line for each stage from the camera to the points, the queries
that stand and how they fare, the answers as they come. It listens to /diagnostics and to ~/queries
and ~/answer of the grounding nodes, in the ROS domain of this shell.
"""
_EPILOG = """\
examples:
  molmo2 top
  molmo2 top --node /left/grounding --node /right/grounding
  molmo2 top --once          print it and end: 0 for well, 1 for an error or no node
"""


def add_parser(commands: Any) -> None:
    """Add `top` to the command line."""
    parser = commands.add_parser(
        "top",
        help="watch running nodes in a terminal",
        description=_DESCRIPTION,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--node", action="append", help="grounding node; may be given again")
    parser.add_argument("--once", action="store_true", help="print once, as without a terminal")
    parser.add_argument(
        "--wait", type=float, default=5.0, metavar="S", help="for a node, with --once (5)"
    )
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Find the view by its name: of all commands this one alone needs ROS.

    Raises:
        ConfigError: ROS or the terminal's library is missing.
    """
    view = import_part(
        "molmo2_ros.ros.top",
        needed_by="molmo2 top",
        cure='source ROS 2, and `pip install "molmo2_ros[top]"`',
    )
    return int(view.run(options))

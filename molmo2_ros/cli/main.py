"""The command `molmo2`: its subcommands, and how errors reach the user."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from importlib.metadata import PackageNotFoundError, version
from typing import Any

from molmo2_ros.cli import (
    ask,
    bag,
    build_engine,
    data,
    doctor,
    engine,
    export,
    quantize,
    top,
    train,
    verify,
    web,
)
from molmo2_ros.errors import Molmo2Error

EXIT_BAD_INPUT = 2  # argparse's own code for wrong arguments
EXIT_INTERRUPTED = 130  # as shells report SIGINT
_EPILOG = """\
examples:
  molmo2 ask table.mp4 "Track the red mug" --out tracked.mp4
  molmo2 ask photo.jpg "How many mugs are there?"
  molmo2 ask frames/ "Point to the lemon" --json
  molmo2 doctor

`molmo2 COMMAND --help` tells more of a command.
"""


class CommandParser(argparse.ArgumentParser):
    """A command's own arguments.

    Args:
        any_order: words may stand before, between and behind the options.
    """

    def __init__(self, *args: Any, any_order: bool = False, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self._any_order = any_order

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> Any:
        """As argparse; the command line hands a command's arguments to it here."""
        if not self._any_order:
            return super().parse_known_args(args, namespace)
        self._any_order = False  # argparse's own way for any order comes back here
        try:
            return self.parse_known_intermixed_args(args, namespace)
        finally:
            self._any_order = True


def build_parser() -> argparse.ArgumentParser:
    """All of the command line."""
    parser = argparse.ArgumentParser(
        prog="molmo2",
        description="Ask videos and pictures in plain language; get points, tracks, counts, words.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--version", action="version", version=f"molmo2_ros {_version()}")
    commands = parser.add_subparsers(
        dest="command", metavar="COMMAND", required=True, parser_class=CommandParser
    )
    ask.add_parser(commands)
    bag.add_parser(commands)
    build_engine.add_parser(commands)
    quantize.add_parser(commands)
    export.add_parser(commands)
    verify.add_parser(commands)
    engine.add_parser(commands)
    doctor.add_parser(commands)
    data.add_parser(commands)
    top.add_parser(commands)
    train.add_parser(commands)
    web.add_parser(commands)
    return parser


def main(arguments: Sequence[str] | None = None) -> int:
    """Entry point.

    Args:
        arguments: without the program's name; None for those of the process.

    Returns:
        0, what the command returns, or 2 after one line on stderr that says what was wrong with
            the input.
    """
    options = build_parser().parse_args(arguments)
    status = 0
    try:
        status = options.run(options) or 0
        sys.stdout.flush()
    except Molmo2Error as error:
        print(f"molmo2 {options.command}: error: {error}", file=sys.stderr)
        return EXIT_BAD_INPUT
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED
    except BrokenPipeError:
        # Whoever read the output (`| head`) has seen enough; Python would complain at exit.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
    return status


def _version() -> str:
    try:
        return version("molmo2_ros")
    except PackageNotFoundError:
        return "(source tree)"


if __name__ == "__main__":
    raise SystemExit(main())

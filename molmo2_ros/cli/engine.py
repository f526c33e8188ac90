"""`molmo2 engine`: engines by name, and the way back to the one before."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from molmo2_ros.runtime.engine_store import EngineStore, Installed

_DESCRIPTION = """\
Keep a robot's engines under names that nodes and `molmo2 ask` take as `engine`: a new one is
copied, must reproduce its golden example on this machine, and only then becomes the current one.
`rollback` returns to the one before. A node takes the current one when it is configured next.
"""
_EPILOG = """\
examples:
  molmo2 engine install runs/retrained/engine yard
  ros2 launch molmo2_ros grounding.launch.xml engine:=yard
  molmo2 engine rollback yard
"""


def add_parser(commands: Any) -> None:
    """Add `engine` to the command line."""
    parser = commands.add_parser(
        "engine",
        help="install engines by name, and go back to the one before",
        description=_DESCRIPTION,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "--store", type=Path, metavar="DIR", help="where engines are kept (MOLMO2_ROS_ENGINES)"
    )
    verbs = parser.add_subparsers(dest="verb", metavar="VERB", required=True)
    install = verbs.add_parser("install", help="copy an engine, prove it, make it the current one")
    install.add_argument("folder", type=Path, metavar="FOLDER", help="of the engine")
    install.add_argument("name", metavar="NAME")
    install.add_argument("--keep", type=int, default=3, metavar="N", help="versions (default: 3)")
    rollback = verbs.add_parser("rollback", help="return to the version before")
    rollback.add_argument("name", metavar="NAME")
    verbs.add_parser("list", help="what is installed")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> None:
    """Install, go back, or list.

    Raises:
        EngineError: as `EngineStore`.
    """
    store = EngineStore(options.store)
    if options.verb == "install":
        _tell(store.install(options.folder, options.name, keep=options.keep))
    elif options.verb == "rollback":
        _tell(store.rollback(options.name))
    else:
        for name in store.names():
            _tell(store.find(name))


def _tell(installed: Installed) -> None:
    *before, current = installed.history
    back = f"; before it {', '.join(reversed(before))}" if before else ""
    print(f"{installed.name}: {current}{back}\n  {installed.folder}")

"""`molmo2 bag`: answers about a recorded camera, written into a copy of the bag."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from molmo2_ros.cli.optional import import_part
from molmo2_ros.runtime.engine import DEVICES

_DESCRIPTION = """\
Copies a bag and adds what a grounding node says about its camera: points on every frame, tracks
and answers, under the node's own topics, stamped as the images are. It reads as fast as the model
answers, and two runs write the same. In the bag's time an answer takes none: it is about the frame
with which it is written.
"""
_EPILOG = """\
examples:
  molmo2 bag monday.mcap monday_points.mcap --query "point: the red mug"
  molmo2 bag bags/monday out --topic /front/image --query "track: the lemon" --rate 1
  molmo2 bag in out --query "[5 hz] count: mugs" --overlay --engine engines/molmo2-4b
"""


def add_parser(commands: Any) -> None:
    """Add `bag` to the command line."""
    parser = commands.add_parser(
        "bag",
        help="answer questions about a rosbag2, into a copy of it",
        description=_DESCRIPTION,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("source", type=Path, metavar="IN", help="a bag's folder, or .mcap or .db3")
    parser.add_argument("out", type=Path, metavar="OUT", help="a new folder, or a new .mcap file")
    parser.add_argument(
        "--query", action="append", required=True, metavar='"kind: words"', help="may be repeated"
    )
    parser.add_argument("--topic", default="", help="camera of a bag that has several")
    parser.add_argument("--camera-info", default="", metavar="TOPIC", help="default: beside it")
    parser.add_argument("--depth", default="", metavar="TOPIC", help="registered to the camera")
    parser.add_argument("--depth-info", default="", metavar="TOPIC", help="default: beside depth")
    parser.add_argument(
        "--rate",
        type=float,
        default=2.0,
        metavar="HZ",
        help="answers to each query a second of the bag's time (2); 0 for one on every frame",
    )
    parser.add_argument("--name", default="grounding", help="node whose topics are written")
    parser.add_argument("--rotation", type=int, choices=(0, 90, 180, 270), default=0)
    parser.add_argument("--overlay", action="store_true", help="write the overlay, too")
    parser.add_argument("--constrained", action="store_true", help="answers follow the grammar")
    parser.add_argument("--engine", metavar="DIR|URL", default="nano", help="default: molmo2-nano")
    parser.add_argument("--device", choices=DEVICES, default="auto", help="default: auto")
    parser.add_argument("--threads", type=int, metavar="N", help="CPU threads of the model")
    parser.add_argument("--json", action="store_true", help="print what was done as JSON")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Replay; ROS is looked for only now.

    Raises:
        ConfigError: ROS or the package rosbags is missing.
        Molmo2Error: the bag, a topic, a query or the engine cannot be used.
    """
    replay = import_part(
        "molmo2_ros.ros.bag_replay",
        needed_by="molmo2 bag",
        cure='source ROS 2, and `pip install "molmo2_ros[recorder]"`',
    )
    return int(replay.run(options))

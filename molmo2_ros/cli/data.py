"""`molmo2 data`: training data sets, made and looked at."""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from molmo2_ros.errors import ConfigError
from molmo2_ros.runtime.engine import engine_folder

_FROM_BAG = """\
Makes data sets of bags: OUT/train and OUT/held_out, cut by time. Pictures are sampled, those in
which nothing changed are dropped, and clips are labelled, those first that were hard for the model
that ran. Run again after a break, it goes on where it was. Only clips with labels are examples;
clips.jsonl in each set lists all clips, the hardest first. OUT/logs holds what was made of each
bag, and OUT/report.json what was left out and why.
"""
_FROM_BAG_EPILOG = """\
examples:
  molmo2 data from-bag drive_1/ data/ --topic /camera/image_raw
  molmo2 data from-bag drive_*/ data/ --topic /camera/image_raw --label hog:person --workers 4
  molmo2 data from-bag drive_1/ data/ --topic /image --label "teacher=http://gpu:8000:red mug"

A labeller is hog[=HEIGHT], haar[=CASCADE], teacher=ENGINE, one of an installed package, or
module:attribute.
With RAY_ADDRESS in the environment the bags are shared out over that cluster.
"""


def add_parser(commands: Any) -> None:
    """Add `data` to the command line."""
    parser = commands.add_parser("data", help="make training data sets, and look at them")
    kinds = parser.add_subparsers(dest="data_command", metavar="COMMAND", required=True)
    _add_from_bag(kinds)
    _add_from_scenes(kinds)
    _add_convert(kinds)
    _add_view(kinds)


def _add_from_scenes(kinds: Any) -> None:
    parser = kinds.add_parser(
        "from-scenes",
        help="render simulated tables as a data set",
        description="Renders what molmo2-nano was trained on, with its questions: a share of it in "
        "the mixture of a fine-tuning keeps what the model knew. Started again, it goes on.",
    )
    parser.add_argument("out", type=Path, help="folder of the data set")
    parser.add_argument("--stills", type=int, default=1000, help="scenes of one frame (1000)")
    parser.add_argument("--clips", type=int, default=100, help="of eight frames in 3.5 s (100)")
    parser.add_argument("--seed", type=int, default=0, help="of shapes, textures and scenes (0)")
    parser.set_defaults(run=_from_scenes)


def _from_scenes(options: argparse.Namespace) -> int:
    with _needs_training():
        from molmo2_ros.training.data.from_scenes import from_scenes
    num = from_scenes(options.out, stills=options.stills, clips=options.clips, seed=options.seed)
    print(f"{options.out}: {num} examples")
    return 0


def _add_convert(kinds: Any) -> None:
    parser = kinds.add_parser(
        "convert",
        help="make a data set of somebody else's",
        description="Reads a downloaded data set, Molmo2's own, LeRobot, COCO, MeViS and others, "
        "and writes it in this package's format. Rows that cannot be used are counted and named.",
    )
    parser.add_argument("kind", help="such as molmo2-video-point or coco; an unknown one lists all")
    parser.add_argument("folder", type=Path, help="of the downloaded tables")
    parser.add_argument("out", type=Path, help="folder of the new data set")
    parser.add_argument("--media", type=Path, help="folder or index of its videos or images")
    parser.add_argument(
        "--option", action="append", default=[], metavar="KEY=VALUE", help="of the reader, in YAML"
    )
    parser.set_defaults(run=_convert)


def _add_view(kinds: Any) -> None:
    parser = kinds.add_parser(
        "view",
        help="see what the model will see",
        description="Draws a contact sheet and a page of a data set's first examples: pictures as "
        "the model gets them, points and masks, questions and answers, tokens and their weights.",
    )
    parser.add_argument("dataset", type=Path, help="folder of the data set")
    parser.add_argument("--out", type=Path, help="folder for both files (DATASET/view)")
    parser.add_argument("--num", type=int, default=12, help="examples (12)")
    parser.add_argument("--source", action="append", help="whose labels; may be given again")
    parser.add_argument("--engine", help="whose tokenizer and sizes (molmo2-nano)")
    parser.set_defaults(run=_view)


def _convert(options: argparse.Namespace) -> int:
    with _needs_training():
        from molmo2_ros.training.data.convert import convert, read_options
    report = convert(
        options.kind,
        options.folder,
        options.out,
        media=options.media,
        options=read_options(options.option),
    )
    print("\n".join(report.lines()))
    return 0


def _view(options: argparse.Namespace) -> int:
    with _needs_training():
        from molmo2_ros.training.data.dataset import Dataset
        from molmo2_ros.training.data.view import write_view
    dataset = Dataset.open(options.dataset, options.source)
    out = options.out or options.dataset / "view"
    for path in write_view(dataset, engine_folder(options.engine), out, num=options.num):
        print(path)
    return 0


@contextmanager
def _needs_training() -> Iterator[None]:
    try:
        yield
    except ImportError as error:
        raise ConfigError(
            f"data sets need {error.name or error}, which is not installed; "
            '`pip install "molmo2_ros[training]"` brings it'
        ) from error


def _add_from_bag(kinds: Any) -> None:
    parser = kinds.add_parser(
        "from-bag",
        help="make data sets of rosbag2 logs",
        description=_FROM_BAG,
        epilog=_FROM_BAG_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("bag", nargs="+", help="a bag's folder, or one of its files")
    parser.add_argument("out", help="folder of the data sets")
    parser.add_argument(
        "--topic", action="append", required=True, help="of a camera; may be given again"
    )
    parser.add_argument("--answers", action="append", help="topic of recorded answers")
    parser.add_argument("--corrections", action="append", help="topic of recorded corrections")
    parser.add_argument("--fps", type=float, default=2.0, help="pictures kept a second (2)")
    parser.add_argument(
        "--clip", type=float, default=8.0, metavar="S", help="seconds of a clip (8)"
    )
    parser.add_argument(
        "--held-out", type=float, default=0.2, help="share of each bag, at its end (0.2)"
    )
    parser.add_argument(
        "--near-duplicate", type=float, default=0.02, help="smallest change that is kept (0.02)"
    )
    parser.add_argument(
        "--label", action="append", default=[], metavar="LABELLER:PHRASE", help="such as hog:person"
    )
    parser.add_argument(
        "--every", type=int, default=1, help="label each so many-th picture; flow carries on (1)"
    )
    parser.add_argument(
        "--as-frames",
        action="store_true",
        help="a single picture is a clip of one frame, as nodes ask, and no image in tiles",
    )
    parser.add_argument("--max-clips", type=int, help="label the hardest so many of each bag")
    parser.add_argument("--workers", type=int, default=1, help="cores, by Ray (1)")
    parser.set_defaults(run=_from_bag)


def _from_bag(options: argparse.Namespace) -> int:
    with _needs_training():
        from molmo2_ros.training.logs.from_bag_command import run
    return run(options)

"""`molmo2 ask`: one question about a video, a folder of frames, or pictures."""

from __future__ import annotations

import argparse
import os
import sys
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from molmo2_ros.camera.frame import Frame
from molmo2_ros.camera.sources import (
    IMAGE_SUFFIXES,
    PICTURE_RATE_HZ,
    FrameSource,
    open_source,
    read_picture,
)
from molmo2_ros.cli.annotate import annotate_pictures, annotate_stream, check_output
from molmo2_ros.cli.findings import as_json, as_table
from molmo2_ros.cli.optional import import_part
from molmo2_ros.cli.page import ask_page
from molmo2_ros.cli.pictures import ask_pictures
from molmo2_ros.cli.stream import ask_stream
from molmo2_ros.errors import ImageError, QueryError
from molmo2_ros.opening import grounder_of, open_model
from molmo2_ros.prompt.query import Detail, Query, QueryKind, asked_once, parse_query
from molmo2_ros.prompt.subtitles import read_subtitles
from molmo2_ros.remote.server import RemoteServer, RemoteSettings
from molmo2_ros.runtime.engine import DEVICES
from molmo2_ros.runtime.self_test import SELF_TESTS

_PATIENCE_S = 60.0  # for a server that is busy

_DESCRIPTION = """\
Ask one question about a video, a folder of frames in the order of their names,
or one or several pictures. The answer is printed as a table of points:

  time s  id    x px    y px  label    confidence
     0.0   1   203.5   150.2  red mug        0.93

time is counted from the start of the video, id names an object throughout it,
pixels count from the upper left corner, and confidence is the probability that
a point is right (of an engine without calibration: a rank only).
"""
_EPILOG = """\
questions:
  "Track the red mug"            where it is, twice a second
  "Point to all mugs"            where they are; in a video, twice a second
  "How many mugs are there?"     their number, with points; in a video, twice a second
  "count[clip]: mugs"            all that the whole video shows, each once; point[clip] likewise
  "Is the drawer open?"          an answer in words, if the model has been taught to talk
  "Describe this in detail"      a caption, likewise; also caption: short, or caption: long
  "point[crops]: the red mug"    the kind and options in full: track, point, count, ask, caption

The model that comes with the package, molmo2-nano, knows 22 things on a table. For open
words give --engine a released Molmo2 (see docs/training.md on how to export one).
"""


def add_parser(commands: Any) -> None:
    """Add `ask` to the command line."""
    parser = commands.add_parser(
        "ask",
        help="ask one question about a video, a folder of frames or pictures",
        description=_DESCRIPTION,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    files = parser.add_argument(
        "files", nargs="+", metavar="FILE", help="a video, a folder, or one or several pictures"
    )
    parser.add_argument("question", metavar="QUESTION", help="in plain words; the last argument")
    parser.add_argument("--json", action="store_true", help="print one JSON object, not a table")
    parser.add_argument(
        "--url",
        metavar="URL",
        action=_page_action(files),
        help="ask a live page (molmo2 web, web_node) about its camera; stands first, without FILE",
    )
    parser.add_argument("--token", default="", help="of that page, where it needs one")
    parser.add_argument(
        "--out",
        type=Path,
        metavar="OUT",
        help="also write an annotated copy: .mp4 shows every frame, .png or .jpg the last one",
    )
    parser.add_argument(
        "--rerun",
        type=Path,
        metavar="FILE.rrd",
        help="also write a Rerun recording: frames, points, trails and answers over time "
        '(pip install "molmo2_ros[rerun]")',
    )
    parser.add_argument(
        "--engine",
        metavar="DIR|URL",
        help="folder of an exported model, or a server such as http://host:8000/v1 "
        "(default: molmo2-nano)",
    )
    parser.add_argument(
        "--model", default="", metavar="NAME", help="which of a server's models (default: its one)"
    )
    parser.add_argument(
        "--detail",
        type=Detail,
        choices=list(Detail),
        metavar="{frames,crops}",
        help="read pictures as one view (frames) or sharply in tiles (crops); default: what the "
        "model was taught",
    )
    parser.add_argument(
        "--rate", type=_positive, metavar="HZ", help="frames a second in a folder (default: 2)"
    )
    parser.add_argument(
        "--every",
        type=_positive,
        metavar="S",
        help="seconds of video between answers (default: half a clip for tracks, else 0.5)",
    )
    parser.add_argument(
        "--subtitles", type=Path, metavar="FILE", help=".srt or .vtt, for questions in words"
    )
    parser.add_argument(
        "--constrained",
        action="store_true",
        help="let the model write only what can be read as points or tracks",
    )
    parser.add_argument("--threads", type=int, metavar="N", help="CPU threads (default: all cores)")
    parser.add_argument(
        "--device",
        choices=DEVICES,
        default="auto",
        help="where the model runs (default: auto, CUDA where onnxruntime offers it; see "
        "`molmo2 doctor`)",
    )
    parser.add_argument(
        "--self-test",
        choices=SELF_TESTS,
        default="refuse",
        help="if the engine computes something else here than its model (default: refuse it)",
    )
    parser.set_defaults(run=run)


def _page_action(files: argparse.Action) -> type[argparse.Action]:
    """An option after which no file has to be named."""

    class PageAction(argparse.Action):
        def __call__(
            self,
            parser: argparse.ArgumentParser,
            namespace: argparse.Namespace,
            values: Any,
            option_string: str | None = None,
        ) -> None:
            namespace.url = values
            files.nargs, files.required = "*", False

    return PageAction


def run(options: argparse.Namespace) -> None:
    """Ask, print, and write the annotated copy and the recording.

    Raises:
        Molmo2Error: a file, the question, the engine or the output cannot be used.
    """
    query = _query(options)
    if options.url is not None:
        ask_page(options)
        return
    if options.out is not None:
        check_output(options.out)
    recorder = None
    if options.rerun is not None:
        recorder = import_part(
            "molmo2_ros.cli.rerun",
            needed_by="--rerun",
            cure='`pip install "molmo2_ros[rerun]"` (with NumPy 2)',
        )
        recorder.check_recording(options.rerun)
    subtitles = () if options.subtitles is None else read_subtitles(options.subtitles)

    def open_frames() -> FrameSource:
        return open_source(options.files, rate_hz=options.rate)

    is_video = query.kind is QueryKind.TRACK or query.over_clip
    frames = [] if is_video else _pictures(options.files)
    if not frames:
        open_frames().close()  # before the model is loaded
    model = open_model(
        options.engine,
        threads=options.threads,
        device=options.device,
        self_test=options.self_test,
        remote=RemoteSettings(model=options.model, patience_s=_PATIENCE_S),
        constrained=options.constrained,
    )
    if isinstance(model, RemoteServer):
        model.connect()
    grounder = grounder_of(model, constrained=options.constrained)
    if frames:
        if subtitles:
            raise QueryError("subtitles belong to a video, and these are pictures; leave them out")
        result = ask_pictures(grounder, options.files, frames, query, detail=options.detail)
    else:
        result = ask_stream(
            grounder,
            options.files,
            open_frames,
            query if options.detail is None else replace(query, detail=options.detail),
            every_s=options.every,
            subtitles=subtitles,
        )
    print(as_json(result) if options.json else as_table(result))
    if options.out is not None:
        if frames:
            annotate_pictures(frames, result, options.out)
        else:
            annotate_stream(open_frames, result, options.out)
        print(f"wrote {options.out}", file=sys.stderr)
    if recorder is not None:
        if frames:
            recorder.record_pictures(frames, result, options.rerun)
        else:
            recorder.record_stream(open_frames, result, options.rerun)
        print(f"wrote {options.rerun}; open it with: rerun {options.rerun}", file=sys.stderr)


def _query(options: argparse.Namespace) -> Query:
    if os.path.exists(options.question):
        raise QueryError(
            f"the last argument, {options.question!r}, is a file, expected the question; write it "
            'last, in quotes: "Point to the red mug"'
        )
    return asked_once(parse_query(options.question))


def _pictures(files: Sequence[str]) -> list[Frame]:
    """The pictures named one by one; none for a video, a folder or a device.

    Raises:
        ImageError: a picture cannot be read.
    """
    paths = [Path(name).expanduser() for name in files]
    if not all(path.suffix.lower() in IMAGE_SUFFIXES and path.is_file() for path in paths):
        if len(files) == 1 and files[0].startswith("/dev/"):
            raise ImageError(
                f"{files[0]} never ends, expected a file; start the nodes for a live camera: "
                "ros2 launch molmo2_ros grounding.launch.xml"
            )
        return []
    step_ns = round(1e9 / PICTURE_RATE_HZ)
    return [
        Frame(image=read_picture(path), stamp_ns=index * step_ns)
        for index, path in enumerate(paths)
    ]


def _positive(text: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = 0.0
    if not 0 < value < 1e6:
        raise argparse.ArgumentTypeError(f"{text!r} is not a number above 0")
    return value

"""The loop closed on real footage: record, label, fine-tune, export, install, compare, roll back.

    make retrain-demo
    python benchmarks/bench_retrain.py [--fresh] [--scenes 300] [--json]

A camera with pedestrians (OpenCV's vtest.avi, benchmarks/footage/fetch.sh) is played by camera_node
and recorded by recorder_node. The first 60 % of the recording are labelled by OpenCV's people
detector, molmo2-nano is fine-tuned on them and on its own rendered scenes, exported, proved,
installed under a name, and asked on the last 40 % about people whom somebody marked by eye
(footage/people/vtest.json). Each step is a command that a robot's team would give, and is printed.
Steps that are done are not done again: give the same command after a break, or --fresh. All of it
lies in runs/retrain: retrain.gif shows both models, demo.mp4 what the node published.

A point hits if it lies in the box of a person; points and people are paired by least distance, as
Molmo2's evaluator of pointing does. The model before the fine-tuning refuses words that it does not
know; it is asked all the same, by lifting that refusal.
"""

from __future__ import annotations

import argparse
import dataclasses
import json
import os
import shlex
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
from PIL import Image

ROOT = Path(__file__).parents[1]
sys.path[:0] = [str(ROOT)]

from benchmarks.report import publish  # noqa: E402
from molmo2_ros.camera.clip import Clip  # noqa: E402
from molmo2_ros.camera.frame import Frame  # noqa: E402
from molmo2_ros.camera.sources import open_source  # noqa: E402
from molmo2_ros.errors import DataError, Molmo2Error  # noqa: E402
from molmo2_ros.grounder import Grounder  # noqa: E402
from molmo2_ros.prompt.query import Query, parse_query  # noqa: E402
from molmo2_ros.ros.demo_process import prepare_environment, ros_arguments  # noqa: E402
from molmo2_ros.runtime.durable import replace_text  # noqa: E402
from molmo2_ros.runtime.engine import load_engine  # noqa: E402
from molmo2_ros.runtime.manifest import Manifest  # noqa: E402
from molmo2_ros.runtime.strict_json import read_dataclass  # noqa: E402
from molmo2_ros.training.metrics.pointing import image_pointing  # noqa: E402

VIDEO = ROOT / "runs/footage/vtest.avi"
MARKED = ROOT / "benchmarks/footage/people/vtest.json"
NANO = ROOT / "engines/nano"
CONFIG = "training/configs/retrain_demo.yaml"
FOLDER = ROOT / "runs/retrain"  # which the configuration names too
NAME = "people"  # of the engine in its store
QUERY = "point: people"
HELD_OUT = 0.4  # of the recording, at its end
STILLS, CLIPS = 2000, 200  # rendered scenes that keep the old skills alive
SCENES_SEED = 0  # of the scenes that are trained on; none is measured on
VIDEO_FPS = 10
GIF_WIDTH, GIF_FPS, GIF_S = 320, 5, 6.0
_DISCOVERY_S = 3.0  # until nodes that have just started hear each other
Box = tuple[float, float, float, float]


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class MarkedFrame:
    """Who is on one frame: left, top, right and bottom in pixels of what is seen of each."""

    frame: int  # from 0
    people: tuple[Box, ...]
    unclear: tuple[Box, ...]  # neither wanted nor wrong


@dataclasses.dataclass(frozen=True, slots=True, kw_only=True)
class MarkedPeople:
    """What was marked in one video."""

    video: str
    width: int  # pixels
    height: int
    label: str
    about: str
    frames: tuple[MarkedFrame, ...]


@dataclasses.dataclass(slots=True, kw_only=True)
class Score:
    """Hits over all marked frames."""

    hits: int = 0
    num_points: int = 0
    num_people: int = 0

    @property
    def f1(self) -> float:
        """Harmonic mean of the share of points that hit and of the share of people hit."""
        return 2 * self.hits / max(self.num_points + self.num_people, 1)


def marked_people() -> MarkedPeople:
    """The marks that come with this repository.

    Raises:
        DataError: an unknown, missing or mistyped key.
    """
    content = json.loads(MARKED.read_text(encoding="utf-8"))
    return read_dataclass(
        MarkedPeople, content, MARKED.name, f"see {Path(__file__).name}", DataError
    )


def score(
    points: Sequence[tuple[float, float]], marked: MarkedFrame, size: tuple[int, int]
) -> Score:
    """One frame.

    Args:
        points: x and y, 0..1.
        marked: who is there.
        size: width and height of the frame, pixels.
    """
    width, height = size
    masks, centres = [], []
    for left, top, right, bottom in marked.people:
        mask = np.zeros((height, width), bool)
        mask[round(top) : round(bottom) + 1, round(left) : round(right) + 1] = True
        masks.append(mask)
        centres.append(((left + right) / 2 / width, (top + bottom) / 2 / height))
    kept = [
        point
        for point in points
        if _inside(point, marked.people, size) or not _inside(point, marked.unclear, size)
    ]
    found = image_pointing(kept, centres, masks)
    return Score(hits=found.hits, num_points=found.num_predicted, num_people=found.num_true)


def _inside(point: tuple[float, float], boxes: Sequence[Box], size: tuple[int, int]) -> bool:
    x, y = point[0] * size[0], point[1] * size[1]
    return any(left <= x <= right and top <= y <= bottom for left, top, right, bottom in boxes)


def frames_from(first: int) -> Iterator[tuple[int, Frame]]:
    """The video's frames from one on, with their numbers.

    Raises:
        ImageError: the video is missing or cannot be read.
    """
    source = open_source(str(VIDEO))
    try:
        number = 0
        while (frame := source.read()) is not None:
            if number >= first:
                yield number, frame
            number += 1
    finally:
        source.close()


def open_asked(engine: Path) -> Grounder:
    """An engine that answers about any word."""
    loaded = load_engine(engine, threads=1)
    loaded.manifest = dataclasses.replace(loaded.manifest, vocabulary=())
    return Grounder(loaded)


def people_score(grounder: Grounder, query: Query, marked: MarkedPeople) -> Score:
    """A model on all marked frames."""
    by_number = {one.frame: one for one in marked.frames}
    total = Score()
    for number, frame in frames_from(min(by_number)):
        if number not in by_number:
            continue
        points = ask(grounder, query, frame)
        one = score(points, by_number.pop(number), (marked.width, marked.height))
        total.hits += one.hits
        total.num_points += one.num_points
        total.num_people += one.num_people
    if by_number:
        raise DataError(f"{VIDEO} ends before frame {min(by_number)}; run footage/fetch.sh again")
    return total


def ask(grounder: Grounder, query: Query, frame: Frame) -> list[tuple[float, float]]:
    """Points on one frame, x and y in 0..1."""
    answer = grounder.answer(Clip((frame,)), query)
    return [(point.x, point.y) for point in answer.points]


# --- steps ------------------------------------------------------------------------------------


class Steps:
    """What is done once in a folder, each step leaving a note that says how long it took.

    Args:
        folder: of the demonstration.
        tell: prints a line.
    """

    def __init__(self, folder: Path, tell: Callable[[str], None]) -> None:
        self.folder = folder
        self._tell = tell
        self._notes = folder / "steps.json"
        self.seconds: dict[str, float] = {}
        if self._notes.exists():
            self.seconds = json.loads(self._notes.read_text(encoding="utf-8"))

    def run(self, name: str, do: Callable[[], None]) -> None:
        """Do a step unless it is done.

        Raises:
            Molmo2Error: it failed.
        """
        if name in self.seconds:
            self._tell(f"{name}: done before, {self.seconds[name]:.0f} s")
            return
        self._tell(f"{name} ...")
        started = time.monotonic()
        do()
        self.seconds[name] = round(time.monotonic() - started, 1)
        replace_text(self._notes, json.dumps(self.seconds, indent=1) + "\n")
        self._tell(f"{name}: {self.seconds[name]:.0f} s")

    def command(self, *words: str | Path, **environment: str) -> None:
        """Give a command of this package, as somebody would in a shell.

        Raises:
            DataError: it failed; its own words are on stderr.
        """
        line = [str(word) for word in words]
        self._tell("$ " + shlex.join(line))
        known = {
            "molmo2": [sys.executable, "-m", "molmo2_ros.cli.main"],
            "python": [sys.executable],
        }
        done = subprocess.run(
            [*known[line[0]], *line[1:]],
            cwd=ROOT,
            stdout=sys.stderr,
            env={**os.environ, **environment},
            check=False,
        )
        if done.returncode:
            raise DataError(f"{shlex.join(line)} ended with exit code {done.returncode}")


def record(folder: Path) -> None:
    """Play the video once with camera_node while recorder_node writes a bag.

    Raises:
        DataError: a node failed.
    """
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(parents=True)
    node = [sys.executable, "-m"]
    recorder = subprocess.Popen(
        [*node, "molmo2_ros.ros.recorder_node", *ros_arguments(folder=str(folder), rate_hz=60.0)],
        stdout=sys.stderr,
    )
    try:
        time.sleep(_DISCOVERY_S)
        camera = subprocess.run(
            [*node, "molmo2_ros.ros.camera_node", *ros_arguments(source=str(VIDEO), loop=False)],
            stdout=sys.stderr,
            check=False,
        )
        time.sleep(_DISCOVERY_S)
    finally:
        recorder.send_signal(signal.SIGINT)
        code = recorder.wait(30)
    if camera.returncode or code:
        raise DataError(f"camera_node ended with {camera.returncode}, recorder_node with {code}")


def describe(path: Path) -> None:
    """What the retrained model is called and can do: what the nano can, and two more words."""
    nano = Manifest.load(NANO)
    path.write_text(
        json.dumps(
            {
                "name": "molmo2-nano-people",
                "skills": nano.skills,
                "vocabulary": [*nano.vocabulary, "person", "people"],
                "sampling": dataclasses.asdict(nano.sampling),
            },
            indent=1,
        )
    )


def play_to_node(steps: Steps, folder: Path) -> None:
    """The last part of the video, asked about by grounding_node with the engine of the store."""
    frames = folder / "held_out"
    frames.mkdir(exist_ok=True)
    for number, frame in frames_from(min(one.frame for one in marked_people().frames)):
        picture = cv2.cvtColor(frame.image, cv2.COLOR_RGB2BGR)
        cv2.imwrite(str(frames / f"{number:04d}.jpg"), picture)
    steps.command(
        "python", "-m", "molmo2_ros.ros.demo", "--video", frames, "--engine", NAME,
        "--query", QUERY, "--seconds", "15", "--output", folder,
        MOLMO2_ROS_ENGINES=str(folder / "store"),
    )  # fmt: skip


def scenes_figures(engine: Path, path: Path, num: int) -> None:
    """Ask an engine about rendered scenes that nothing was trained on."""
    done = subprocess.run(
        [sys.executable, "-m", "molmo2_ros.training.evaluate", "--engine", str(engine), "--scenes",
         str(num), "--clips", str(num // 4), "--no-phrasings", "--json"],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip
    if done.returncode:
        raise DataError(f"the evaluation of {engine} failed: {done.stderr.strip()[-300:]}")
    replace_text(path, done.stdout)


def draw_gif(before: Grounder, after: Grounder, marked: MarkedPeople, path: Path) -> None:
    """Before and after, side by side, over some seconds of the held-out part."""
    first = min(one.frame for one in marked.frames)
    step = round(VIDEO_FPS / GIF_FPS)
    wanted = range(first, first + round(GIF_S * VIDEO_FPS), step)
    pictures = []
    for number, frame in frames_from(first):
        if number not in wanted:
            continue
        halves = [
            _half(frame, ask(grounder, parse_query(QUERY), frame), title)
            for grounder, title in ((before, "before"), (after, "after"))
        ]
        pictures.append(Image.fromarray(np.concatenate(halves, axis=1)))
    palette = [picture.quantize(colors=96, dither=Image.Dither.NONE) for picture in pictures]
    palette[0].save(
        path, save_all=True, append_images=palette[1:], duration=1000 // GIF_FPS, loop=0
    )


def _half(frame: Frame, points: Sequence[tuple[float, float]], title: str) -> npt.NDArray[np.uint8]:
    height = round(GIF_WIDTH * frame.height / frame.width)
    picture = cv2.resize(frame.image, (GIF_WIDTH, height), interpolation=cv2.INTER_AREA)
    for x, y in points:
        centre = (round(x * GIF_WIDTH), round(y * height))
        cv2.circle(picture, centre, 6, (255, 255, 255), -1, cv2.LINE_AA)
        cv2.circle(picture, centre, 4, (230, 30, 90), -1, cv2.LINE_AA)
    text = f"{title}: {len(points)} points"
    cv2.rectangle(picture, (0, 0), (10 * len(text) + 8, 24), (0, 0, 0), -1)
    cv2.putText(picture, text, (8, 17), cv2.FONT_HERSHEY_SIMPLEX, 0.5, (255, 255, 255), 1, 16)
    return np.asarray(picture, np.uint8)


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--fresh", action="store_true", help="begin again with the recording")
    parser.add_argument(
        "--scenes", type=int, default=300, help="rendered, to see what is forgotten"
    )
    parser.add_argument("--json", action="store_true")
    options = parser.parse_args(arguments)
    prepare_environment()
    if options.fresh:
        shutil.rmtree(FOLDER, ignore_errors=True)
    FOLDER.mkdir(parents=True, exist_ok=True)
    try:
        rows, figures, seconds = _run(FOLDER, options.scenes)
    except Molmo2Error as error:
        print(f"bench_retrain: {error}", file=sys.stderr)
        return 2
    publish(
        "bench_retrain",
        rows,
        packages=("torch", "transformers", "onnxruntime"),
        settings={"scenes": options.scenes, "seconds": seconds},
        figures=figures,
        equality={},
        as_json=options.json,
    )
    return 0


def _with_people_detector() -> str:
    """A PYTHONPATH under which OpenCV has its people detector.

    Raises:
        DataError: it is nowhere.
    """
    ahead = [] if hasattr(cv2, "HOGDescriptor") else [str(Path(sys.prefix) / "opencv-contrib")]
    if ahead and not Path(ahead[0], "cv2").is_dir():
        raise DataError(
            f"OpenCV {cv2.__version__} has no people detector; `make retrain-demo` puts the "
            f"one with the extra modules into {ahead[0]}"
        )
    return os.pathsep.join([*ahead, *filter(None, [os.environ.get("PYTHONPATH")])])


def _run(
    folder: Path, num_scenes: int
) -> tuple[list[dict[str, Any]], dict[str, float], dict[str, float]]:
    steps = Steps(folder, lambda text: print(f"retrain: {text}", file=sys.stderr, flush=True))
    marked = marked_people()
    bags, run, engine, store = (folder / name for name in ("bags", "run", "engine", "store"))
    steps.run("record", lambda: record(bags))
    steps.run(
        "label",
        lambda: steps.command(
            "molmo2", "data", "from-bag", *sorted(bags.iterdir()), folder / "data",
            "--topic", "/image/compressed", "--fps", "10", "--clip", "0.1", "--as-frames",
            "--near-duplicate", "0", "--held-out", str(HELD_OUT), "--label", "hog=800:people",
            PYTHONPATH=_with_people_detector(),
        ),
    )  # fmt: skip
    steps.run(
        "scenes",
        lambda: steps.command(
            "molmo2", "data", "from-scenes", folder / "scenes", "--stills", str(STILLS),
            "--clips", str(CLIPS), "--seed", str(SCENES_SEED),
        ),
    )  # fmt: skip
    steps.run(
        "train",
        lambda: steps.command(
            "molmo2", "train", CONFIG, "--out", run, OMP_NUM_THREADS="1"
        ),
    )  # fmt: skip
    describe(folder / "description.json")
    steps.run(
        "export",
        lambda: steps.command(
            "molmo2", "export", run / "model", engine, "--description", folder / "description.json"
        ),
    )
    steps.run(
        "calibrate",
        lambda: steps.command(
            "python", "-m", "molmo2_ros.training.calibrate", "--engine", engine, "--scenes", "100"
        ),
    )
    at_store = ("molmo2", "engine", "--store", store)
    steps.run(
        "install",
        lambda: [steps.command(*at_store, "install", one, NAME) for one in (NANO, engine)],
    )
    steps.run("node", lambda: play_to_node(steps, folder))
    steps.run("scenes before", lambda: scenes_figures(NANO, folder / "before.json", num_scenes))
    steps.run("scenes after", lambda: scenes_figures(engine, folder / "after.json", num_scenes))
    before, after = open_asked(NANO), open_asked(engine)
    scores = {
        "before": people_score(before, parse_query(QUERY), marked),
        "after": people_score(after, parse_query(QUERY), marked),
    }
    draw_gif(before, after, marked, folder / "retrain.gif")
    steps.run("rollback", lambda: steps.command(*at_store, "rollback", NAME))
    on_scenes = {
        name: json.loads((folder / f"{name}.json").read_text())["figures"] for name in scores
    }
    rows = [
        {
            "case": name,
            "people_f1": found.f1,
            "hits": found.hits,
            "points": found.num_points,
            "people": found.num_people,
            "scenes_pointing_f1": on_scenes[name]["pointing_f1"],
            "scenes_tracking_f1": on_scenes[name]["tracking_f1"],
        }
        for name, found in scores.items()
    ]
    first, last = rows
    figures = {
        "people_f1_before": round(first["people_f1"], 3),
        "people_f1_after": round(last["people_f1"], 3),
        "scenes_pointing_drop": round(first["scenes_pointing_f1"] - last["scenes_pointing_f1"], 3),
        "scenes_tracking_drop": round(first["scenes_tracking_f1"] - last["scenes_tracking_f1"], 3),
        "train_minutes": round(steps.seconds["train"] / 60, 1),
    }
    return rows, figures, steps.seconds


if __name__ == "__main__":
    raise SystemExit(main())

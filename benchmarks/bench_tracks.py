"""Published targets against the truth: where they are, whether their ids last, when they are lost.

    python benchmarks/bench_tracks.py [--seconds 20] [--seeds 3] [--alike] [--alternatives] [--json]

Streams of moving_scenes.py; a simulated model whose answers speak of frames that are 0.1 to 2 s old
when they arrive goes through `tracking.tracker.Tracker`, and every row that it publishes is held
against the truth of its frame. The figures are those of a delay of 0.5 s.

In view: the thing's point (its middle) is inside the picture and nothing covers it. The model names
the things that are in view on the frame that it speaks of, in an order drawn anew for each answer,
a pixel or two beside their point (1 px standard deviation along x and y, rounded to a thousandth of
the picture as Molmo2 writes).

- Error: from a row to its thing's point at the row's stamp, where the thing is in view. Beside it
  (held) the newest answered place of the same thing, kept until the next answer: what a robot
  without compensation has, over the same rows.
- Id switches: answers that confirm a thing under another id than the last one did, or under an id
  that was another thing's, for each 100 s of targets published. id_switches_per_100s counts those
  of things that the model had seen within LATE_S, id_switches_all_per_100s the others too
  (late_switches), which a tracker that remembers no longer than that cannot help.
- Lost in time: of the things that left view for 0.3 s at least while a row was published for them,
  those for which none is 0.3 s after. Both ways of leaving count, and each is shown: out of the
  picture, and hidden by what passes before.
- False alive: of all rows, those whose thing has been out of view for more than 0.3 s (gone), and
  those whose thing is in view but shows no pixel within 3 px of the row's place (beside).
- Published: of all things in view in all frames, those with a row. A thing that comes into view
  cannot have one before the model has answered about it.

--alike gives all things nearly one colour, so that little but their places tells them apart.

--alternatives carries the same points over half a second by other means: by Lucas-Kanade on the
point alone, by the median of DIS flow round it, and by correlation with the picture round it.

Times are CPU time of one thread, which a busy machine does not change.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

sys.path[:0] = [str(Path(__file__).parents[1])]

from benchmarks.moving_scenes import RATE_HZ, MovingScene, Truth  # noqa: E402
from benchmarks.report import publish  # noqa: E402
from molmo2_ros.answers.answer import Answer, AnsweredPoint  # noqa: E402
from molmo2_ros.camera.frame import Frame  # noqa: E402
from molmo2_ros.prompt.query import Query, QueryKind  # noqa: E402
from molmo2_ros.tracking.flow import carry, seed  # noqa: E402
from molmo2_ros.tracking.grey import GreyFrame  # noqa: E402
from molmo2_ros.tracking.target import Target  # noqa: E402
from molmo2_ros.tracking.tracker import Tracker  # noqa: E402

F64 = npt.NDArray[np.float64]
U8 = npt.NDArray[np.uint8]

DELAYS_S = (0.1, 0.5, 1.0, 2.0)
HEADLINE_S = 0.5
ANSWER_PERIOD_S = 0.5  # or the delay, where that is longer
NOISE_PX = 1.0
GRACE_S = 0.3
BESIDE_PX = 3
LATE_S = 3.0
ALIKE = 0.07  # of the spread of colours: up to 12 grey levels apart
QUERY = Query(name="q", kind=QueryKind.POINT, words="things")
FIRST_SEED = 100  # of the streams measured; the tracker was mended on seeds 1 to 5
NUM_TIMED = 20  # targets that a timed update has to carry at least


@dataclass(slots=True, kw_only=True)
class Seen:
    """What one delay's rows came to."""

    error_px: list[float] = field(default_factory=list)
    held_px: list[float] = field(default_factory=list)  # of the same rows, without compensation
    num_rows: int = 0
    num_gone: int = 0  # rows of things out of view for longer than GRACE_S
    num_beside: int = 0  # rows on something else though their thing is in view
    switches: int = 0
    late_switches: int = 0  # after more than LATE_S out of the model's view
    lost: dict[str, list[bool]] = field(default_factory=lambda: {"out": [], "hidden": []})
    in_view: int = 0  # things in view, over all frames
    published: int = 0  # of them with a row
    update_ms: list[float] = field(default_factory=list)
    answer_ms: list[float] = field(default_factory=list)


class DelayedModel:
    """Answers about the past: asked again as soon as it has answered, twice a second at most."""

    def __init__(self, delay_s: float, seed: int) -> None:
        self._delay_frames = round(delay_s * RATE_HZ)
        self._period_frames = max(round(ANSWER_PERIOD_S * RATE_HZ), self._delay_frames)
        self._rng = np.random.default_rng(seed)
        self._asked: tuple[int, Frame, Truth] | None = None

    def look(self, index: int, frame: Frame, truth: Truth) -> None:
        """Take the newest frame if it is time to be asked."""
        if index % self._period_frames == 0:
            self._asked = (index, frame, truth)

    def answer(self, index: int) -> tuple[Answer, list[int]] | None:
        """What has been answered by the time of a frame: the answer and the things in its order."""
        if self._asked is None or index < self._asked[0] + self._delay_frames:
            return None
        _, frame, truth = self._asked
        self._asked = None
        things = self._rng.permutation(np.flatnonzero(truth.in_view_M)).tolist()
        size = (frame.width, frame.height)
        places = truth.points_M2[things] + self._rng.normal(0, NOISE_PX, (len(things), 2))
        written = np.round(1000 * places / size) * size / 1000
        return answer(frame, written), things


class Judge:
    """Feeds a tracker with a stream and a model's answers, and holds its rows against the truth."""

    def __init__(self, delay_s: float, seed: int, seen: Seen) -> None:
        self._model = DelayedModel(delay_s, seed)
        self._tracker = Tracker()
        self._seen = seen
        self._thing_of: dict[int, int] = {}  # by track id
        self._id_of: dict[int, int] = {}  # by thing
        self._confirmed: dict[int, int] = {}  # stamp by thing
        self._held: dict[int, tuple[float, float]] = {}
        self._gone_since: dict[int, tuple[float, str, bool]] = {}  # time, kind, had a row
        self._rows_before: set[int] = set()

    def step(self, index: int, frame: Frame, truth: Truth) -> None:
        """One camera frame: the answer that came before it, then the frame itself."""
        answered = self._model.answer(index)
        if answered is not None:
            self._take(*answered)
        started = time.thread_time()
        targets = self._tracker.update(frame)
        self._seen.update_ms.append((time.thread_time() - started) * 1e3)
        self._model.look(index, frame, truth)
        rows = {self._thing_of[target.track_id]: target for target in targets}
        self._note_departures(index / RATE_HZ, truth, rows)
        for thing, target in rows.items():
            self._judge(index / RATE_HZ, truth, thing, target)
        self._seen.num_rows += len(targets)
        self._seen.in_view += int(truth.in_view_M.sum())
        self._seen.published += sum(truth.in_view_M[thing] for thing in rows)
        self._rows_before = set(rows)

    def _take(self, answer: Answer, things: Sequence[int]) -> None:
        started = time.thread_time()
        rows = self._tracker.measure(answer, 1)
        self._seen.answer_ms.append((time.thread_time() - started) * 1e3)
        self._held = {thing: (row.u, row.v) for thing, row in zip(things, rows, strict=True)}
        for thing, row in zip(things, rows, strict=True):
            before = self._id_of.get(thing)
            if row.track_id not in {before, None} and (
                before is not None or row.track_id in self._thing_of
            ):
                away_s = (row.stamp_ns - self._confirmed.get(thing, row.stamp_ns)) / 1e9
                if away_s > LATE_S:
                    self._seen.late_switches += 1
                else:
                    self._seen.switches += 1
            self._confirmed[thing] = row.stamp_ns
        for thing, row in zip(things, rows, strict=True):
            self._id_of[thing] = row.track_id
            self._thing_of[row.track_id] = thing

    def _note_departures(self, time_s: float, truth: Truth, rows: dict[int, Target]) -> None:
        for thing, in_view in enumerate(truth.in_view_M):
            if in_view:
                self._gone_since.pop(thing, None)
            elif thing not in self._gone_since:
                kind = "hidden" if truth.inside_M[thing] else "out"
                self._gone_since[thing] = (time_s, kind, thing in self._rows_before)
        for thing, (since_s, kind, had_row) in self._gone_since.items():
            # The one frame at which the time allowed has just passed.
            if had_row and 0 <= time_s - since_s - GRACE_S + 1e-6 < 1 / RATE_HZ:
                self._seen.lost[kind].append(thing not in rows)

    def _judge(self, time_s: float, truth: Truth, thing: int, target: Target) -> None:
        if not truth.in_view_M[thing]:
            self._seen.num_gone += time_s - self._gone_since[thing][0] > GRACE_S + 1e-6
            return
        self._seen.num_beside += not _is_on(truth, thing, target)
        true = truth.points_M2[thing]
        self._seen.error_px.append(float(np.hypot(target.u - true[0], target.v - true[1])))
        if thing in self._held:
            u, v = self._held[thing]
            self._seen.held_px.append(float(np.hypot(u - true[0], v - true[1])))


def _is_on(truth: Truth, thing: int, target: Target) -> bool:
    """A pixel of the thing lies within BESIDE_PX of the row's place."""
    column, row = round(target.u), round(target.v)
    near = truth.owner[
        max(0, row - BESIDE_PX) : row + BESIDE_PX + 1,
        max(0, column - BESIDE_PX) : column + BESIDE_PX + 1,
    ]
    return bool((near == thing + 1).any())


def watch(seeds: Iterable[int], duration_s: float, colour_spread: float = 1.0) -> dict[float, Seen]:
    """Every delay over the same streams."""
    seen = {delay_s: Seen() for delay_s in DELAYS_S}
    for number in seeds:
        judges = [Judge(delay_s, number, seen[delay_s]) for delay_s in DELAYS_S]
        scene = MovingScene(number, colour_spread=colour_spread)
        for index, (frame, truth) in enumerate(stream(scene, duration_s)):
            for judge in judges:
                judge.step(index, frame, truth)
    return seen


def stream(scene: MovingScene, duration_s: float) -> Iterator[tuple[Frame, Truth]]:
    """The frames of a scene from its beginning."""
    for index in range(round(duration_s * RATE_HZ)):
        yield scene.frame(index)


def figures_of(seen: Seen) -> dict[str, float]:
    """What one delay's rows came to, in the words of the module's docstring."""
    lost = [*seen.lost["out"], *seen.lost["hidden"]]
    target_s = seen.num_rows / RATE_HZ
    return {
        "median_error_px": round(float(np.median(seen.error_px)), 3),
        "p95_error_px": round(float(np.percentile(seen.error_px, 95)), 3),
        "error_ratio": round(float(np.median(seen.error_px) / np.median(seen.held_px)), 4),
        "id_switches_per_100s": round(100 * seen.switches / target_s, 3),
        "id_switches_all_per_100s": round(100 * (seen.switches + seen.late_switches) / target_s, 3),
        "lost_in_time": round(float(np.mean(lost)), 4),
        "false_alive": round((seen.num_gone + seen.num_beside) / seen.num_rows, 5),
    }


def row_of(delay_s: float, seen: Seen) -> dict[str, Any]:
    """A line of the table."""
    figures = figures_of(seen)
    return {
        "case": f"delay {delay_s:g} s",
        **figures,
        "held_median_px": round(float(np.median(seen.held_px)), 2),
        "held_p95_px": round(float(np.percentile(seen.held_px, 95)), 2),
        "late_switches": seen.late_switches,
        "lost_out": f"{sum(seen.lost['out'])}/{len(seen.lost['out'])}",
        "lost_hidden": f"{sum(seen.lost['hidden'])}/{len(seen.lost['hidden'])}",
        "gone": seen.num_gone,
        "beside": seen.num_beside,
        "rows": seen.num_rows,
        "published": round(seen.published / seen.in_view, 3),
        "answer_ms": round(float(np.median(seen.answer_ms)), 1),
    }


def answer(frame: Frame, pixels: F64) -> Answer:
    """What a model would say of a frame, things in the order of `pixels`, [N, 2]."""
    written = np.clip(pixels / (frame.width, frame.height), 0, 1)
    points = tuple(
        AnsweredPoint(object_id=number, time_s=0.0, x=float(x), y=float(y))
        for number, (x, y) in enumerate(written, 1)
    )
    return Answer(query=QUERY, text="", stamps_ns=(frame.stamp_ns,), points=points)


def update_ms(width: int, height: int, duration_s: float = 8.0) -> dict[str, float]:
    """CPU time of `Tracker.update` with at least NUM_TIMED targets."""
    scene = MovingScene(7, width=width, height=height, num_things=40)
    judge_seen = Seen()
    judge = Judge(0.1, 7, judge_seen)
    spent, num_rows = [], 0
    for index, (frame, truth) in enumerate(stream(scene, duration_s)):
        judge.step(index, frame, truth)
        if judge_seen.num_rows - num_rows >= NUM_TIMED:
            spent.append(judge_seen.update_ms[-1])
        num_rows = judge_seen.num_rows
    median, p99 = np.percentile(spent, (50, 99))
    return {"median": round(float(median), 2), "p99": round(float(p99), 2), "n": len(spent)}


Step = Callable[[GreyFrame, GreyFrame], F64]  # from one frame to the next: where the points are


def ours(first: GreyFrame, points_N2: F64) -> Step:
    """Patches of features, drawn to their templates; NaN where lost."""
    patches = seed(first, points_N2)

    def step(before: GreyFrame, after: GreyFrame) -> F64:
        nonlocal patches
        patches = carry(patches, before, after)
        return np.where(patches.lost_N[:, None], np.nan, patches.points_N2)

    return step


def lonely_pixel(_first: GreyFrame, points_N2: F64) -> Step:
    """Lucas-Kanade on the point itself."""
    places = points_N2.astype(np.float32)

    def step(before: GreyFrame, after: GreyFrame) -> F64:
        nonlocal places
        places, _, _ = cv2.calcOpticalFlowPyrLK(
            before.grey, after.grey, places, None, winSize=(21, 21), maxLevel=3
        )
        return places.astype(np.float64)

    return step


def dense_flow(_first: GreyFrame, points_N2: F64) -> Step:
    """The median of DIS flow (medium preset) in 15 x 15 pixels round the point."""
    places = points_N2.copy()
    flow_of = cv2.DISOpticalFlow_create(cv2.DISOPTICAL_FLOW_PRESET_MEDIUM)

    def step(before: GreyFrame, after: GreyFrame) -> F64:
        flow = flow_of.calc(before.grey, after.grey, None)
        for row, (u, v) in enumerate(places):
            column, line = max(0, round(u)), max(0, round(v))
            window = flow[max(0, line - 7) : line + 8, max(0, column - 7) : column + 8]
            if window.size:
                places[row] += np.median(window.reshape(-1, 2), axis=0)
        return places.copy()

    return step


def correlation(first: GreyFrame, points_N2: F64) -> Step:
    """Normalised correlation of 29 x 29 pixels as first seen, within 32 px of the last place."""
    side, reach = 29, 32
    places = points_N2.copy()
    templates = [cv2.getRectSubPix(first.grey, (side, side), tuple(p)) for p in points_N2]

    def step(_before: GreyFrame, after: GreyFrame) -> F64:
        size = (side + 2 * reach, side + 2 * reach)
        for row, template in enumerate(templates):
            window = cv2.getRectSubPix(after.grey, size, tuple(places[row]))
            best = cv2.minMaxLoc(cv2.matchTemplate(window, template, cv2.TM_CCOEFF_NORMED))[3]
            places[row] += np.subtract(best, reach)
        return places.copy()

    return step


CARRIERS = (ours, lonely_pixel, dense_flow, correlation)


def compare(seeds: Iterable[int], duration_s: float) -> list[dict[str, Any]]:
    """Error after HEADLINE_S of points that stayed in view, and CPU time of a step, per carrier."""
    num_steps = round(HEADLINE_S * RATE_HZ)
    errors_px: dict[str, list[float]] = {carrier.__name__: [] for carrier in CARRIERS}
    step_ms: dict[str, list[float]] = {carrier.__name__: [] for carrier in CARRIERS}
    rng = np.random.default_rng(0)
    for number in seeds:
        pictures = list(stream(MovingScene(number), duration_s))
        for start in range(0, len(pictures) - num_steps, num_steps):
            part = pictures[start : start + num_steps + 1]
            stayed = np.all([truth.in_view_M for _, truth in part], axis=0)
            begin = part[0][1].points_M2[stayed]
            begin = begin + rng.normal(0, NOISE_PX, begin.shape)
            greys = [GreyFrame.of(frame) for frame, _ in part]
            for carrier in CARRIERS:
                step = carrier(greys[0], begin)
                for before, after in zip(greys, greys[1:], strict=False):
                    started = time.thread_time()
                    places = step(before, after)
                    step_ms[carrier.__name__].append((time.thread_time() - started) * 1e3)
                apart = np.linalg.norm(places - part[-1][1].points_M2[stayed], axis=1)
                errors_px[carrier.__name__] += apart.tolist()
    return [_carrier_row(name, np.array(errors_px[name]), step_ms[name]) for name in errors_px]


def _carrier_row(name: str, error_px: F64, step_ms: Sequence[float]) -> dict[str, Any]:
    kept = error_px[np.isfinite(error_px)]
    return {
        "case": name,
        "points": len(error_px),
        "lost": round(1 - len(kept) / len(error_px), 3),
        "median_error_px": round(float(np.median(kept)), 2),
        "p95_error_px": round(float(np.percentile(kept, 95)), 2),
        "within_10_px": round(float((kept < 10).sum() / len(error_px)), 3),
        "of_kept_beyond_10_px": round(float((kept >= 10).mean()), 3),
        "step_ms": round(float(np.median(step_ms)), 2),
    }


def main() -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--seconds", type=float, default=20.0, help="of each stream")
    parser.add_argument("--seeds", type=int, default=3, help="streams")
    parser.add_argument("--alike", action="store_true", help="things of nearly one colour")
    parser.add_argument("--alternatives", action="store_true", help="compare ways of carrying")
    parser.add_argument("--json", action="store_true", help="one JSON object on stdout")
    options = parser.parse_args()
    cv2.setNumThreads(1)
    seeds = range(FIRST_SEED, FIRST_SEED + options.seeds)
    if options.alternatives:
        rows, figures = compare(seeds, options.seconds), {}
    else:
        seen = watch(seeds, options.seconds, ALIKE if options.alike else 1.0)
        timed = {"vga": update_ms(640, 480), "720p": update_ms(1280, 720)}
        rows = [row_of(delay_s, entry) for delay_s, entry in seen.items()]
        figures = figures_of(seen[HEADLINE_S])
        for size, spent in timed.items():
            figures[f"flow_ms_{size}"] = spent["median"]
            figures[f"flow_ms_{size}_p99"] = spent["p99"]
    publish(
        "bench_tracks",
        rows,
        packages=["numpy", "opencv-python-headless", "scipy"],
        settings={
            "seconds": options.seconds,
            "seeds": list(seeds),
            "rate_hz": RATE_HZ,
            "alike": options.alike,
        },
        figures=figures,
        equality={},
        as_json=options.json,
    )


if __name__ == "__main__":
    main()

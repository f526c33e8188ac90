"""How true the metres of a point are: depth lifted from noisy depth images of rendered tables.

    python benchmarks/bench_depth.py [--scenes 12] [--points 12] [--json]

Tables are rendered at VGA from 0.5, 1, 2 and 4 m; random points on visible objects are lifted by
`tracking.depth.lift` from depth that got noise, holes and the millimetre steps of 16UC1, and held
against the rendered depth of their own pixel. The figures are those of 1 % noise and 20 % holes,
all distances together.

- Error: of z, as a share of the true z. Points without metres are counted apart (unknown).
- Within 1 and 2 sigma: share of the errors that are no larger than the given standard deviation,
  and than twice that. It is honest where these reach 0.68 and 0.95, as of a normal distribution; it
  is that of the surface round the point, noise and slant together, so that more lie within.
- By object edge: pixels from the point to the nearest pixel that is not its object's.
- Holes: three in four of the unknown pixels lie in blobs, one in four alone; or all alone.
"""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

sys.path[:0] = [str(Path(__file__).parents[1])]

from benchmarks.report import publish  # noqa: E402
from molmo2_ros.camera.frame import CameraModel, Frame  # noqa: E402
from molmo2_ros.simulation.render import RayRenderer  # noqa: E402
from molmo2_ros.simulation.view import Intrinsics, View  # noqa: E402
from molmo2_ros.simulation.world import World  # noqa: E402
from molmo2_ros.tracking.depth import lift  # noqa: E402

F32 = npt.NDArray[np.float32]

DISTANCES_M = (0.5, 1.0, 2.0, 4.0)
WIDTH, HEIGHT = 640, 480
SEED = 300  # of the tables
MIN_OBJECT_PX = 40
BLOB_PX = 4.0  # standard deviation of what is cut off to make blobs
EDGES_PX = (0, 2, 4, 8, 16, 1000)


@dataclass(frozen=True, slots=True)
class Spoiling:
    """What a depth camera does to the truth."""

    name: str
    noise: float = 0.01  # standard deviation, share of the depth
    holes: float = 0.2  # share of the pixels
    in_blobs: float = 0.75  # share of the holes

    def spoil(self, depth_m: F32, rng: np.random.Generator) -> F32:
        """Depth as it is measured; 0 where unknown."""
        measured = depth_m * rng.normal(1.0, self.noise, depth_m.shape) if self.noise else depth_m
        measured = np.round(1000 * measured) / 1000
        alone = rng.random(depth_m.shape) < self.holes * (1 - self.in_blobs)
        smooth = cv2.GaussianBlur(rng.normal(size=depth_m.shape), (0, 0), BLOB_PX)
        blobs = smooth < np.quantile(smooth, self.holes * self.in_blobs)
        measured[alone | blobs] = 0.0
        return measured.astype(np.float32)


HEADLINE = Spoiling("1 % noise, 20 % holes")
OTHERS = (
    Spoiling("no noise, no holes", noise=0.0, holes=0.0),
    Spoiling("no noise", noise=0.0),
    Spoiling("1 % noise, holes of single pixels", in_blobs=0.0),
    Spoiling("2 % noise", noise=0.02),
    Spoiling("4 % noise", noise=0.04),
    Spoiling("50 % holes", holes=0.5),
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Judged:
    """One point; NaN where no metres were given."""

    distance_m: float
    edge_px: float
    error: float  # share of the true depth
    sigmas: float  # the error in given standard deviations


def views(num_scenes: int) -> Iterator[tuple[float, View, CameraModel]]:
    """Rendered tables from each distance, with the camera that saw them."""
    intrinsics = Intrinsics.from_view(WIDTH, HEIGHT)
    camera = CameraModel(width=WIDTH, height=HEIGHT, k=intrinsics.k)
    renderer = RayRenderer(intrinsics, smooth=False)
    for seed in range(SEED, SEED + num_scenes):
        scene = World(seed, variants=1).arrange(np.random.default_rng(seed))
        for distance_m in DISTANCES_M:
            scene.camera.distance_m = distance_m
            yield distance_m, renderer.render(scene), camera


def points_on(
    view: View, num_points: int, rng: np.random.Generator
) -> Iterator[tuple[int, int, float]]:
    """Column, row and distance to the edge, in pixels, of random places on visible objects."""
    numbers, sizes = np.unique(view.instances, return_counts=True)
    visible = [n for n, size in zip(numbers, sizes, strict=True) if n and size >= MIN_OBJECT_PX]
    for _ in range(num_points if visible else 0):
        mask = np.pad((view.instances == rng.choice(visible)).astype(np.uint8), 1)
        inside = cv2.distanceTransform(mask, cv2.DIST_L2, 3)[1:-1, 1:-1]
        rows, columns = np.nonzero(inside)
        i = rng.integers(len(rows))
        yield int(columns[i]), int(rows[i]), float(inside[rows[i], columns[i]])


def judge(
    spoilings: tuple[Spoiling, ...], num_scenes: int, num_points: int
) -> dict[str, list[Judged]]:
    """Every spoiling's points; all spoilings see the same points."""
    judged: dict[str, list[Judged]] = {spoiling.name: [] for spoiling in spoilings}
    rng = np.random.default_rng(SEED)
    for distance_m, view, camera in views(num_scenes):
        points = list(points_on(view, num_points, rng))
        for spoiling in spoilings:
            frame = Frame(
                image=view.rgb,
                stamp_ns=0,
                depth_m=spoiling.spoil(view.depth_m, rng),
                camera=camera,
            )
            for column, row, edge_px in points:
                true_m = float(view.depth_m[row, column])
                sighting = lift(frame, column, row)
                off_m = np.nan if sighting is None else abs(sighting.point_m[2] - true_m)
                judged[spoiling.name].append(
                    Judged(
                        distance_m=distance_m,
                        edge_px=edge_px,
                        error=off_m / true_m,
                        sigmas=off_m / sighting.z_std_m if sighting else np.nan,
                    )
                )
    return judged


def row(case: str, points: list[Judged]) -> dict[str, Any]:
    """One line of the table."""
    errors = np.array([point.error for point in points])
    sigmas = np.array([point.sigmas for point in points])
    known = np.isfinite(errors)
    median, p90, p99 = np.percentile(errors[known], (50, 90, 99))
    return {
        "case": case,
        "median": round(float(median), 5),
        "p90": round(float(p90), 5),
        "p99": round(float(p99), 5),
        "within_1_sigma": round(float(np.mean(sigmas[known] <= 1)), 3),
        "within_2_sigma": round(float(np.mean(sigmas[known] <= 2)), 3),
        "unknown": round(float(np.mean(~known)), 4),
        "n": len(points),
        "unit": "share of z",
    }


def main(arguments: list[str] | None = None) -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--scenes", type=int, default=12)
    parser.add_argument("--points", type=int, default=12, help="on each picture")
    parser.add_argument("--json", action="store_true", help="one JSON object on stdout")
    options = parser.parse_args(arguments)
    judged = judge((HEADLINE, *OTHERS), options.scenes, options.points)
    headline = judged[HEADLINE.name]
    rows = [row(HEADLINE.name, headline)]
    rows += [
        row(f"at {distance_m:g} m", [p for p in headline if p.distance_m == distance_m])
        for distance_m in DISTANCES_M
    ]
    for low, high in zip(EDGES_PX, EDGES_PX[1:], strict=False):
        near = [p for p in headline if low < p.edge_px <= high]
        if near:
            words = f"{low} to {high} px" if high < EDGES_PX[-1] else f"over {low} px"
            rows.append(row(f"{words} from the edge", near))
    rows += [row(other.name, judged[other.name]) for other in OTHERS]
    publish(
        "depth",
        rows,
        packages=("numpy", "opencv-python-headless"),
        settings={"scenes": options.scenes, "points": options.points, "camera": "640x480, 45 deg"},
        figures={
            "depth_median_error": rows[0]["median"],
            "depth_p99_error": rows[0]["p99"],
            "within_1_sigma": rows[0]["within_1_sigma"],
            "within_2_sigma": rows[0]["within_2_sigma"],
            "unknown": rows[0]["unknown"],
        },
        equality={},
        as_json=options.json,
    )
    return 0


if __name__ == "__main__":
    sys.exit(main())

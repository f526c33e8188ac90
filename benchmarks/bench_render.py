"""Rays on the CPU against OpenGL through EGL: time of a picture, and how equal the pictures are.

    python benchmarks/bench_render.py [--sizes 320x240 640x480] [--scenes 4] [--runs 5] [--json]

Both draw the same tables in turn. CPU time counts all threads of the process: where no GPU stands
behind EGL, a software rasteriser shares the cores with everything else on the robot.
"""

from __future__ import annotations

import argparse
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

sys.path[:0] = [str(Path(__file__).parents[1])]

from benchmarks.report import publish, spread  # noqa: E402
from molmo2_ros.simulation.egl import EglRenderer  # noqa: E402
from molmo2_ros.simulation.render import RayRenderer  # noqa: E402
from molmo2_ros.simulation.view import Intrinsics, View  # noqa: E402
from molmo2_ros.simulation.world import Scene, World  # noqa: E402

SEED = 1
MIN_AREA_PX = 100  # of objects whose masks are compared


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--sizes", nargs="+", default=["320x240", "640x480"], metavar="WxH")
    parser.add_argument("--scenes", type=int, default=4)
    parser.add_argument("--runs", type=int, default=5, help="pictures of each scene")
    parser.add_argument("--json", action="store_true", help="one JSON object on stdout")
    options = parser.parse_args()
    world, rng = World(SEED, variants=1), np.random.default_rng(SEED)
    scenes = [world.arrange(rng) for _ in range(options.scenes)]
    rows: list[dict[str, Any]] = []
    figures: dict[str, float] = {}
    equality: dict[str, float] = {}
    for size in options.sizes:
        width, height = (int(side) for side in size.split("x"))
        lens = Intrinsics.from_view(width, height)
        egl, rays = EglRenderer(lens), RayRenderer(lens)
        pairs = [(rays.render(scene), egl.render(scene)) for scene in scenes]
        equality |= {f"{name} {size}": value for name, value in _differences(pairs).items()}
        measured = _measure({"rays": rays, "egl": egl}, scenes, options.runs)
        rows += [spread(f"{case} {size}", spent, "ms") for case, spent in measured.items()]
        for kind in ("wall", "CPU"):
            ratio = np.median(measured[f"rays {kind}"]) / np.median(measured[f"egl {kind}"])
            figures[f"rays over egl {kind} {size}"] = round(float(ratio), 2)
        egl.close()
    publish(
        "render",
        rows,
        packages=("moderngl", "glcontext", "mujoco-core", "mujoco", "numpy"),
        settings={"gl_renderer": egl.name, "scenes": options.scenes, "runs": options.runs},
        figures=figures if min(_masks(equality)) > 0.95 else {},
        equality={"gl renderer": egl.name, **equality},
        as_json=options.json,
    )


def _measure(
    renderers: dict[str, Any], scenes: Sequence[Scene], num_runs: int
) -> dict[str, list[float]]:
    """Milliseconds of every picture by renderer and kind of time, drawn in turn."""
    spent: dict[str, list[float]] = {f"{n} {k}": [] for n in renderers for k in ("wall", "CPU")}
    for scene in list(scenes) * num_runs:
        for name, renderer in renderers.items():
            started, started_cpu = time.perf_counter(), time.process_time()
            renderer.render(scene)
            spent[f"{name} CPU"].append((time.process_time() - started_cpu) * 1e3)
            spent[f"{name} wall"].append((time.perf_counter() - started) * 1e3)
    return spent


def _differences(pairs: Sequence[tuple[View, View]]) -> dict[str, float]:
    """Least overlap of an object's masks, mean difference of colours, errors of depth and truth."""
    overlaps = [
        float(np.sum(one & other) / np.sum(one | other))
        for rays, egl in pairs
        for j in range(1, len(rays.visible_fraction) + 1)
        if np.sum(one := rays.instances == j) >= MIN_AREA_PX
        for other in [egl.instances == j]
    ]
    colour = [np.abs(rays.rgb.astype(int) - egl.rgb).mean() for rays, egl in pairs]
    depth = [np.percentile(np.abs(rays.depth_m - egl.depth_m), 99) for rays, egl in pairs]
    fraction = [np.abs(rays.visible_fraction - egl.visible_fraction).max() for rays, egl in pairs]
    return {
        "least overlap of masks": round(min(overlaps), 4),
        "mean colour difference of 255": round(float(np.mean(colour)), 2),
        "depth difference, 99 % below, mm": round(1e3 * float(max(depth)), 3),
        "largest difference of visible fractions": round(float(max(fraction)), 4),
    }


def _masks(equality: dict[str, float]) -> list[float]:
    return [value for name, value in equality.items() if name.startswith("least overlap")]


if __name__ == "__main__":
    main()

"""Time from a camera's picture to patches: ours, OpenCV's resizing and, where installed, torch's.

    python benchmarks/preprocessing.py [--json]

Source of the equality: the bytes of torch's bilinear interpolation without antialiasing, which is
what Molmo2 was trained on.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

sys.path[:0] = [str(Path(__file__).parents[1])]

from benchmarks.report import publish, timed  # noqa: E402
from molmo2_ros.prompt.crops import CropSettings, image_patches  # noqa: E402
from molmo2_ros.prompt.patches import frame_patches  # noqa: E402
from molmo2_ros.prompt.resize import resize_bilinear  # noqa: E402

PICTURES = {"640x480": (480, 640), "1280x720": (720, 1280)}
SIDES = (168, 378)  # of the nano and of the released models


def main() -> None:
    """Measure on one core and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--json", action="store_true", help="one JSON object on stdout")
    parser.add_argument("--runs", type=int, default=30)
    options = parser.parse_args()
    cv2.setNumThreads(1)
    random = np.random.default_rng(0)
    cases: dict[str, Any] = {}
    equality: dict[str, bool] = {}
    unequal_shares: dict[str, float] = {}
    for name, (height, width) in PICTURES.items():
        picture = random.integers(0, 256, (height, width, 3), np.uint8)
        for side in SIDES:
            cases |= _resizing(name, picture, side, equality, unequal_shares)
            cases[f"{name} to {side}: patches of a frame"] = lambda p=picture, s=side: (
                frame_patches(p, s, 14)
            )
        for max_crops in (8, 24):
            settings = CropSettings(
                image_size=378, patch_size=14, pooling=(2, 2), max_crops=max_crops
            )
            cases[f"{name}: crops of an image, at most {max_crops}"] = (
                lambda p=picture, s=settings: image_patches([p], s)
            )
    rows = timed(cases, options.runs)
    publish(
        "preprocessing",
        rows,
        packages=("numpy", "opencv-python-headless", "torch"),
        settings={"runs": options.runs, "threads": 1},
        figures={"equal": int(all(equality.values())), **unequal_shares} if equality else {},
        equality=equality,
        as_json=options.json,
    )


def _resizing(
    name: str,
    picture: npt.NDArray[np.uint8],
    side: int,
    equality: dict[str, bool],
    unequal_shares: dict[str, float],
) -> dict[str, Any]:
    size = f"{name} to {side}"
    cases: dict[str, Any] = {
        f"{size}: ours": lambda: resize_bilinear(picture, side, side),
        f"{size}: cv2.resize, other bytes": lambda: cv2.resize(picture, (side, side)),
    }
    try:
        import torch
    except ImportError:
        return cases
    torch.set_num_threads(1)

    def theirs() -> Any:
        tensor = torch.from_numpy(picture).permute(2, 0, 1)[None].float()
        resized = torch.nn.functional.interpolate(
            tensor, (side, side), mode="bilinear", antialias=False
        )
        return resized.round().clamp(0, 255).byte()[0].permute(1, 2, 0)

    expected = theirs().numpy()
    ours = resize_bilinear(picture, side, side)
    equality[f"{size}: bytes equal torch's"] = bool(np.array_equal(ours, expected))
    opencv = float(np.mean(cv2.resize(picture, (side, side)) != expected))
    unequal_shares[f"cv2_unequal_share_{name}_to_{side}"] = round(opencv, 4)
    return cases | {f"{size}: torch": theirs}


if __name__ == "__main__":
    main()

"""Peak memory and time of an export that memory could not hold as a whole in float32.

    python benchmarks/bench_export.py [--variant Molmo2-4B] [--layers N] [--folder DIR] [--json]

A checkpoint of released dimensions with random weights is written shard by shard, exported by a
process of its own, compared with transformers by that process, and removed.
"""

from __future__ import annotations

import argparse
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

sys.path[:0] = [str(Path(__file__).parents[1])]

from benchmarks.random_checkpoint import VARIANTS, make_checkpoint  # noqa: E402
from benchmarks.report import publish  # noqa: E402
from molmo2_ros.engines.weights import weight_files  # noqa: E402
from molmo2_ros.runtime.manifest import DTYPES, FORMS, Manifest  # noqa: E402

SHARE_OF_SHARD, SPARE_BYTES = 1.3, 4e9  # the bound: of the largest file, and beside it


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--variant", choices=sorted(VARIANTS), default="Molmo2-4B")
    parser.add_argument("--layers", type=int, help="of the language model; default: all")
    parser.add_argument("--form", choices=FORMS, default="fused")
    parser.add_argument("--dtype", choices=DTYPES, default="float16")
    parser.add_argument("--shard-gb", type=float, default=2.0, help="1e9 bytes (default: 2)")
    parser.add_argument("--folder", type=Path, help="for checkpoint and engine (default: /tmp)")
    parser.add_argument("--json", action="store_true", help="one JSON object on stdout")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory(dir=options.folder, prefix="bench_export-") as folder:
        row = measure(Path(folder), options)
    publish(
        "export",
        [row],
        packages=("torch", "transformers", "safetensors", "onnx", "onnx-ir", "onnxruntime"),
        settings={name: str(value) for name, value in vars(options).items()},
        figures={"peak_gb": row["peak_gb"], "share_of_bound": row["peak_gb"] / row["bound_gb"]},
        equality={"features, logits and tokens equal transformers' in float32": True},
        as_json=options.json,
    )
    if row["peak_gb"] > row["bound_gb"]:
        raise SystemExit(f"peak memory {row['peak_gb']} GB exceeds {row['bound_gb']:.2f} GB")


def measure(folder: Path, options: argparse.Namespace) -> dict[str, Any]:
    """One row: sizes, peak memory and seconds of an export that was compared with its model."""
    checkpoint = make_checkpoint(
        folder / "checkpoint",
        options.variant,
        num_layers=options.layers,
        shard_bytes=int(options.shard_gb * 1e9),
    )
    largest = max(path.stat().st_size for path in weight_files(checkpoint))
    started = time.perf_counter()
    peak = export_alone(checkpoint, folder / "engine", options.form, options.dtype)
    files = Manifest.load(folder / "engine", verify=False).files.values()
    num_layers = options.layers or VARIANTS[options.variant].num_layers
    return {
        "case": f"{options.variant}, {num_layers} layers, {options.form}, {options.dtype}",
        "checkpoint_gb": sum(path.stat().st_size for path in weight_files(checkpoint)) / 1e9,
        "largest_file_gb": largest / 1e9,
        "engine_gb": sum(entry.bytes for entry in files) / 1e9,
        "peak_gb": peak / 1e9,
        "bound_gb": (SHARE_OF_SHARD * largest + SPARE_BYTES) / 1e9,
        "seconds": time.perf_counter() - started,
    }


def export_alone(checkpoint: Path, out: Path, form: str, dtype: str) -> int:
    """Export in a fresh process; the bytes that it had in memory at most, mapped files included."""
    command = [sys.executable, "-m", "molmo2_ros.engines.export", str(checkpoint), str(out)]
    root = str(Path(__file__).parents[1])
    process = subprocess.Popen(
        [*command, "--form", form, "--dtype", dtype],
        env={**os.environ, "PYTHONPATH": root},
        stdout=sys.stderr,
    )
    _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise SystemExit("the export failed, see above")
    return usage.ru_maxrss * 1024


if __name__ == "__main__":
    main()

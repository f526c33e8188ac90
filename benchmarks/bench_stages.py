"""Time and memory of each stage of an answer, and what bounds them on this machine.

    python benchmarks/bench_stages.py [--engine DIR | --released] [--threads 2] [--json]

Matrix products are held against the machine's own best (a large float32 product in NumPy's BLAS on
all cores), decoding one token at a time against its memory bandwidth (summing an array larger than
the caches): a token reads every weight of the decoder once. Memory of a stage is what
the process holds at the worst moment of a freshly loaded engine's first call, above what it held
before. `--released` measures a model of the released vision size and two layers of Qwen3-4B's
width, with random weights.
"""

from __future__ import annotations

import argparse
import ctypes
import resource
import sys
import tempfile
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

sys.path[:0] = [str(Path(__file__).parents[1])]

from benchmarks.report import publish  # noqa: E402
from molmo2_ros.prompt.layout import prefix_bias, suffix_bias  # noqa: E402
from molmo2_ros.prompt.patches import frame_pooling  # noqa: E402
from molmo2_ros.runtime.engine import NANO, Engine, load_engine  # noqa: E402

NUM_FRAMES = 8
STAMP_TOKENS = 5
VERIFIED = (1, 12, 48, 128)  # tokens of a pass


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--engine", type=Path, default=NANO)
    parser.add_argument("--released", action="store_true")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--runs", type=int, default=15)
    parser.add_argument("--json", action="store_true", help="one JSON object on stdout")
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        path = options.engine
        if options.released:
            from benchmarks.released_size import make_engine

            path = make_engine(Path(folder))
        before_mb = _resident_mb()
        engine = load_engine(path, threads=options.threads)
        fresh = partial(load_engine, path, threads=options.threads, self_test="off")
        rows, figures = _stages(engine, fresh, options.runs)
    figures["loaded_mb"] = round(_resident_mb() - before_mb)
    figures["largest_mb"] = round(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1e3)
    publish(
        "stages",
        rows,
        packages=("numpy", "onnxruntime"),
        settings={"engine": engine.manifest.name, "threads": options.threads, "runs": options.runs},
        figures=figures,
        equality={},
        as_json=options.json,
    )


def _stages(
    engine: Engine, fresh: Callable[[], Engine], num_runs: int
) -> tuple[list[dict[str, Any]], dict[str, float]]:
    vision, text = engine.manifest.vision, engine.manifest.text
    rng = np.random.default_rng(0)
    grid = vision.image_size // vision.patch_size
    patches_KNC = rng.uniform(-1, 1, (1, grid**2, 3 * vision.patch_size**2)).astype(np.float32)
    pooling_MW = frame_pooling(grid, vision.video_pooling)
    num_prefix = 1 + NUM_FRAMES * (len(pooling_MW) + 2 + STAMP_TOKENS)
    ids_BS = rng.integers(0, text.vocab_size, (1, num_prefix))
    is_visual = rng.random(num_prefix) < 0.9
    visual_BSD = rng.normal(size=(1, num_prefix, text.hidden_size)).astype(np.float32)

    def encode(engine: Engine) -> Any:
        return engine.encode(patches_KNC, pooling_MW)

    def prefill(engine: Engine) -> Any:
        bias = prefix_bias(is_visual)[None, None]
        positions = np.arange(num_prefix)[None]
        return engine.forward(ids_BS, positions, bias, engine.empty_kv(), visual_BSD=visual_BSD)

    _, kv = prefill(engine)

    def verify(num_tokens: int) -> Callable[[Engine], Any]:
        positions = num_prefix + np.arange(num_tokens)[None]
        bias = suffix_bias(num_tokens, num_prefix)[None, None]
        wanted = np.arange(num_tokens)
        return lambda engine: engine.forward(
            ids_BS[:, :num_tokens], positions, bias, kv, logit_indices_L=wanted
        )

    product_flops, read_bytes = _best_product(), _best_read()
    weights = {
        name: entry.bytes
        for name, entry in engine.manifest.files.items()
        if name.split(".")[0] in ("vision", "decoder")
    }
    decoder_bytes = sum(size for name, size in weights.items() if name.startswith("decoder"))
    vision_bytes = sum(size for name, size in weights.items() if name.startswith("vision"))
    # Two operations for each weight and token; weights are four bytes.
    cases = [
        ("vision, one frame", encode, grid**2, vision_bytes),
        (f"prefill, {num_prefix} tokens", prefill, num_prefix, decoder_bytes),
        *((f"verify, {n} tokens", verify(n), n, decoder_bytes) for n in VERIFIED),
    ]
    rows, spent_s = [], {}
    for case, function, num_tokens, size in cases:
        spent_s[case] = _median_seconds(partial(function, engine), num_runs)
        extra_mb = _extra_mb(partial(function, fresh()))
        rows.append(
            {
                "case": case,
                "median_ms": round(1e3 * spent_s[case], 2),
                "of_best_product": round(num_tokens * size / 2 / spent_s[case] / product_flops, 3),
                "of_bandwidth": round(size / spent_s[case] / read_bytes, 3),
                "weights_mb": round(size / 1e6, 1),
                "extra_mb": None if extra_mb is None else round(extra_mb, 1),
                "n": num_runs,
            }
        )
    kv_bytes = 2 * 4 * text.num_layers * text.num_kv_heads * text.head_dim
    figures = {
        "decode_share_of_bandwidth": rows[2]["of_bandwidth"],
        "product_gflops": round(product_flops / 1e9, 1),
        "read_gb_per_s": round(read_bytes / 1e9, 1),
        "kv_kb_per_token": round(kv_bytes / 1e3, 2),
        "verify_12_over_1": round(spent_s["verify, 12 tokens"] / spent_s["verify, 1 tokens"], 2),
    }
    return rows, figures


def _median_seconds(function: Callable[[], Any], num_runs: int) -> float:
    function()
    spent = []
    for _ in range(num_runs):
        started = time.perf_counter()
        function()
        spent.append(time.perf_counter() - started)
    return float(np.median(spent))


def _best_product() -> float:
    """Float32 operations a second of a large matrix product."""
    side = 1536
    left = np.random.default_rng(0).random((side, side), np.float32)
    return 2 * side**3 / min(_median_seconds(lambda: left @ left, 1) for _ in range(5))


def _best_read() -> float:
    """Bytes a second that are read while an array larger than the caches is summed."""
    array = np.ones(64_000_000, np.float32)
    return array.nbytes / min(_median_seconds(array.sum, 1) for _ in range(5))


def _extra_mb(function: Callable[[], Any]) -> float | None:
    """Resident memory at the worst moment of a call above that before it; None beside Linux."""
    try:
        Path("/proc/self/clear_refs").write_text("5", encoding="utf-8")  # the peak starts anew
    except OSError:
        return None
    ctypes.CDLL(None).malloc_trim(0)  # or memory freed earlier would be used again, unseen
    before_mb = _resident_mb()
    function()
    status = Path("/proc/self/status").read_text(encoding="utf-8")
    peak_kib = next(line for line in status.splitlines() if line.startswith("VmHWM")).split()[1]
    return int(peak_kib) * 1024 / 1e6 - before_mb


def _resident_mb() -> float:
    pages = int(Path("/proc/self/statm").read_text(encoding="utf-8").split()[1])
    return pages * resource.getpagesize() / 1e6


if __name__ == "__main__":
    main()

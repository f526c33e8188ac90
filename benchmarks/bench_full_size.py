"""A Molmo2 of released dimensions, from checkpoint to answer on this CPU, and what bounds it.

    python benchmarks/bench_full_size.py --folder /large/disk [--variant Molmo2-4B] [--json]

Random weights, drawn a shard at a time, are exported and quantised tensor by tensor, so that the
model is never in memory in float32; then the runtime that robots have answers a question about
eight frames. Each step runs in a process of its own, whose largest memory it reports. Decoding a
token reads codes and scales of all matrices of the decoder, and the keys and values so far; that
is held against the bandwidth that as many threads reach while they sum arrays larger than the
caches. Takes half an hour and 35 GB of disk for the 4B; not for continuous integration.
"""

from __future__ import annotations

import argparse
import math
import multiprocessing
import resource
import sys
import time
from collections.abc import Callable, Iterable
from concurrent.futures import ProcessPoolExecutor, ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from tqdm import tqdm

sys.path[:0] = [str(Path(__file__).parents[1])]

from benchmarks.random_checkpoint import VARIANTS, make_checkpoint  # noqa: E402
from benchmarks.report import publish  # noqa: E402
from molmo2_ros.engines.export import export_checkpoint  # noqa: E402
from molmo2_ros.engines.quantization import BLOCKS, Quantization  # noqa: E402
from molmo2_ros.engines.quantize import quantize_engine  # noqa: E402
from molmo2_ros.engines.tensor_files import GraphFile, num_bytes  # noqa: E402
from molmo2_ros.prompt.layout import suffix_bias  # noqa: E402
from molmo2_ros.prompt.tokenizer import PromptTokenizer  # noqa: E402
from molmo2_ros.runtime.decoding import Generation, generate, prefill  # noqa: E402
from molmo2_ros.runtime.engine import Engine, load_engine  # noqa: E402
from molmo2_ros.runtime.golden import clip_inputs, verify_golden  # noqa: E402

NUM_FRAMES, STEP_S = 8, 0.5
QUESTION = "Point to the red mug."
NUM_TOKENS = 32  # of the answer
VERIFIED = (1, 12)  # tokens of a pass
READ_BYTES = 256 << 20  # that each thread sums, far more than the caches hold


def main() -> None:
    """Make what is not there yet, measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--folder", type=Path, required=True, help="for checkpoint and engines")
    parser.add_argument("--variant", choices=sorted(VARIANTS), default="Molmo2-4B")
    parser.add_argument("--layers", type=int, help="of the language model; default: all")
    parser.add_argument("--block", type=int, choices=BLOCKS, default=32, help="weights of a scale")
    parser.add_argument("--vision", choices=["int8"], help="default: float32")
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--runs", type=int, default=9)
    parser.add_argument("--json", action="store_true", help="one JSON object on stdout")
    options = parser.parse_args()
    rows = _make(options)
    measured, figures = in_child(
        measure, options.folder / "int4", options.threads, options.runs
    ).result
    publish(
        "full_size",
        [*rows, *measured],
        packages=("numpy", "onnxruntime", "torch", "transformers"),
        settings={
            name: getattr(options, name)
            for name in ("variant", "layers", "block", "vision", "threads", "runs")
        },
        figures=figures,
        equality={"the engine passes its golden example, made by plain operators": True},
        as_json=options.json,
    )


@dataclass(frozen=True, slots=True, kw_only=True)
class Child:
    """What a process of its own gave and took."""

    result: Any
    seconds: float
    peak_gb: float


def in_child(function: Callable[..., Any], *arguments: Any) -> Child:
    """Call a function in a process of its own."""
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(1, mp_context=context) as pool:
        return pool.submit(_observed, function, arguments).result()


def _observed(function: Callable[..., Any], arguments: tuple[Any, ...]) -> Child:
    started = time.perf_counter()
    result = function(*arguments)
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return Child(result=result, seconds=time.perf_counter() - started, peak_gb=peak * 1024 / 1e9)


def _make(options: argparse.Namespace) -> list[dict[str, Any]]:
    """Checkpoint, float32 engine, int4 engine; a row for each that was not there."""
    checkpoint, whole, small = (options.folder / name for name in ("checkpoint", "fp32", "int4"))
    steps: list[tuple[str, Path, Callable[..., Any], tuple[Any, ...]]] = [
        (
            "random checkpoint",
            checkpoint,
            _checkpoint,
            (checkpoint, options.variant, options.layers),
        ),
        ("export, float32", whole, _export, (checkpoint, whole)),
        ("quantise, int4", small, _quantize, (whole, small, options)),
    ]
    rows = []
    for case, path, function, arguments in steps:
        if path.exists():
            continue
        child = in_child(function, *arguments)
        size = sum(file.stat().st_size for file in path.iterdir())
        rows.append(_row(case, child.seconds, 1, peak_gb=child.peak_gb, size_gb=size / 1e9))
    return rows


def _row(
    case: str,
    seconds: float,
    num_runs: int,
    *,
    peak_gb: float = 0.0,
    size_gb: float = 0.0,
    of_bandwidth: float = 0.0,
) -> dict[str, Any]:
    return {
        "case": case,
        "median_ms": round(1e3 * seconds, 1),
        "n": num_runs,
        "peak_gb": round(peak_gb, 2),
        "size_gb": round(size_gb, 2),
        "of_bandwidth": round(of_bandwidth, 3),
    }


def _checkpoint(folder: Path, variant: str, num_layers: int | None) -> None:
    make_checkpoint(folder, variant, num_layers=num_layers)


def _export(checkpoint: Path, out: Path) -> None:
    export_checkpoint(checkpoint, out, check=False, progress=_progress)


def _quantize(source: Path, out: Path, options: argparse.Namespace) -> None:
    quantize_engine(
        source,
        out,
        Quantization(scheme="int4", block=options.block, vision=options.vision),
        gauge=None,
        threads=options.threads,
        progress=_progress,
    )


def _progress(items: Iterable[Any], what: str) -> Iterable[Any]:
    return tqdm(items, desc=what, disable=None)


def measure(
    folder: Path, threads: int, num_runs: int
) -> tuple[list[dict[str, Any]], dict[str, float]]:
    """Rows and figures of an engine that is loaded and asked."""
    started = time.perf_counter()
    engine = load_engine(folder, threads=threads)
    rows = [_row("load, hashes checked", time.perf_counter() - started, 1, peak_gb=_resident_gb())]
    answer, kv, num_past = _answer(engine, rows)
    resident_gb = _resident_gb()
    peak_gb = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss * 1024 / 1e9
    text = engine.manifest.text
    weight_bytes = matrix_bytes(folder / "decoder.onnx")
    kv_bytes = 2 * 4 * text.num_layers * text.num_kv_heads * text.head_dim * num_past
    read_rates, passes = _in_turn(engine, kv, num_past, threads, num_runs)
    shares = {
        num: (weight_bytes + kv_bytes) / spent / max(read_rates.values())
        for num, spent in passes.items()
    }
    rows += [
        _row(f"pass of {num}, after {num_past}", spent, num_runs, of_bandwidth=shares[num])
        for num, spent in passes.items()
    ]
    return rows, {
        "resident_gb": round(resident_gb, 2),
        "peak_gb": round(peak_gb, 2),
        "bandwidth_share": round(shares[1], 3),
        "tokens_per_s": round(1 / passes[1], 2),
        "token_gb": round((weight_bytes + kv_bytes) / 1e9, 3),
        "weights_gb": round(weight_bytes / 1e9, 3),
        **{f"read_gb_per_s_{num}": round(rate / 1e9, 1) for num, rate in read_rates.items()},
        "answer_tokens": len(answer.ids),
        "golden_error": round(verify_golden(engine), 4),
    }


def _in_turn(
    engine: Engine, kv: Any, num_past: int, threads: int, num_runs: int
) -> tuple[dict[int, float], dict[int, float]]:
    """Bytes a second by number of threads, and seconds of a pass by its tokens.

    One of each in turn, so that a busy moment hits all of them; medians.
    """
    read_s: dict[int, list[float]] = {num: [] for num in sorted({1, threads})}
    pass_s: dict[int, list[float]] = {num: [] for num in VERIFIED}
    for _ in range(num_runs + 1):
        for num, spent in read_s.items():
            spent.append(_read_seconds(num))
        for num, spent in pass_s.items():
            spent.append(_pass_seconds(engine, kv, num_past, num))
    rates = {num: num * READ_BYTES / float(np.median(s[1:])) for num, s in read_s.items()}
    return rates, {num: float(np.median(s[1:])) for num, s in pass_s.items()}


def _answer(engine: Engine, rows: list[dict[str, Any]]) -> tuple[Generation, Any, int]:
    """Ask about eight frames as the runtime does; adds a row for each stage."""
    rng = np.random.default_rng(0)
    frames = rng.integers(0, 255, (NUM_FRAMES, 480, 640, 3), np.uint8)
    times_s = STEP_S * np.arange(NUM_FRAMES)
    vision = engine.manifest.vision
    tokenizer = PromptTokenizer(engine.folder)
    inputs = clip_inputs(vision, tokenizer, frames, times_s, QUESTION)
    per_frame = math.prod(inputs.token_grid)
    frame_pooling = inputs.pooling_MW[:per_frame]
    features, spent = [], []
    for patches_NC in inputs.patches_KNC:
        started = time.perf_counter()
        features.append(engine.encode(patches_NC[None], frame_pooling))
        spent.append(time.perf_counter() - started)
    rows.append(_row("vision, one frame", float(np.median(spent)), NUM_FRAMES))
    prefix = prefill(engine, inputs.prefix, np.concatenate(features))
    rows.append(_row(f"prefill, {prefix.num_tokens} tokens", prefix.prefill_s, 1))
    started = time.perf_counter()
    (answer,) = generate(engine, prefix, [inputs.suffix.ids], max_new_tokens=NUM_TOKENS)
    rows.append(_row(f"question and {len(answer.ids)} tokens", time.perf_counter() - started, 1))
    return answer, prefix.kv, prefix.num_tokens


def _pass_seconds(engine: Engine, kv: Any, num_past: int, num_tokens: int) -> float:
    """Of a pass that gives logits for each of its tokens."""
    ids, places = np.arange(1, num_tokens + 1), np.arange(num_tokens)
    bias = suffix_bias(num_tokens, num_past)[None, None]
    started = time.perf_counter()
    engine.forward(ids[None], num_past + places[None], bias, kv, logit_indices_L=places)
    return time.perf_counter() - started


def matrix_bytes(path: Path) -> int:
    """What a pass reads of a decoder's weights: all but the table, of which it reads a row."""
    file = GraphFile(path)
    tables = {node.input[0] for node in file.model.graph.node if node.op_type == "Gather"}
    return sum(num_bytes(tensor) for name, tensor in file.tensors.items() if name not in tables)


def _read_seconds(num_threads: int) -> float:
    """Of the fastest of three rounds in which each thread sums an array of its own."""
    arrays = [np.ones(READ_BYTES // 4, np.float32) for _ in range(num_threads)]
    spent = []
    with ThreadPoolExecutor(num_threads) as pool:
        for _ in range(3):
            started = time.perf_counter()
            list(pool.map(np.sum, arrays))
            spent.append(time.perf_counter() - started)
    return min(spent)


def _resident_gb() -> float:
    pages = int(Path("/proc/self/statm").read_text(encoding="utf-8").split()[1])
    return pages * resource.getpagesize() / 1e9


if __name__ == "__main__":
    main()

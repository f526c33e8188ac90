"""The TensorRT runtime on a GPU against ONNX Runtime on the CPU: the same answers, and how fast.

    python benchmarks/bench_tensorrt.py [--kernels torch] [--stage-checks] [--json]

Plans of molmo2-nano are built in a scratch folder by TensorRT-RTX for the GPU that is there, and
loaded by the package's own runtime. A GPU that TensorRT-RTX does not name (an H100) is tried with
plans for others; where it takes none, `--kernels torch` runs all but TensorRT itself: memory,
caches, CUDA graphs and features that stay on the device, with PyTorch's kernels. `--stage-checks`
goes on after a stage that fails, prints its traceback, and ends with exit code 1.
"""

from __future__ import annotations

import argparse
import contextlib
import logging
import shutil
import sys
import tempfile
import time
import traceback
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np

sys.path[:0] = [str(Path(__file__).parents[1])]

from benchmarks import gpu_stages  # noqa: E402
from benchmarks.gpu_plans import built_and_loaded, half_and_loaded  # noqa: E402
from benchmarks.report import publish, spread, timed  # noqa: E402
from molmo2_ros.errors import EngineError  # noqa: E402
from molmo2_ros.grounder import Grounder  # noqa: E402
from molmo2_ros.runtime.cuda_api import Cuda, CudaRuntime  # noqa: E402
from molmo2_ros.runtime.engine import NANO, Engine  # noqa: E402
from molmo2_ros.runtime.onnx_engine import OnnxEngine  # noqa: E402
from molmo2_ros.runtime.tensorrt_engine import TensorRTEngine  # noqa: E402
from molmo2_ros.training.evaluation.rendered import as_clip, as_query, ask_held_out  # noqa: E402

_SEED = 5  # of the held-out scenes


@dataclass(kw_only=True)
class Measured:
    """What the stages found."""

    rows: list[dict[str, Any]] = field(default_factory=list)
    figures: dict[str, float] = field(default_factory=dict)
    equality: dict[str, Any] = field(default_factory=dict)
    failed: list[str] = field(default_factory=list)


class Bench:
    """The stages, in their order; each needs what `load` has left.

    Args:
        options: of the command line.
        cuda: the device.
        scratch: an empty folder.
        exits: closes what stays open until the end.
    """

    def __init__(
        self,
        options: argparse.Namespace,
        cuda: Cuda,
        scratch: Path,
        exits: contextlib.ExitStack,
    ) -> None:
        self.options = options
        self.cuda = cuda
        self.scratch = scratch
        self.exits = exits
        self.measured = Measured()
        self.reference: Engine = OnnxEngine(NANO, threads=options.threads, device="cpu")
        self.loaded: TensorRTEngine | None = None

    @property
    def engine(self) -> TensorRTEngine:
        """The engine on the GPU."""
        if self.loaded is None:
            raise EngineError("no engine was loaded, see the stage `build and load`")
        return self.loaded

    def stages(self) -> Mapping[str, Callable[[], Any]]:
        """By name; what a stage returns is kept as its result."""
        engine, reference = lambda: self.engine, self.reference
        return {
            "device memory and CUDA graphs": lambda: gpu_stages.memory(self.cuda),
            "build and load": self.load,
            "golden example, largest logit error": lambda: gpu_stages.golden(engine()),
            "largest difference of a feature": lambda: gpu_stages.features(engine(), reference),
            "largest difference of a logit": lambda: gpu_stages.logits(engine(), reference),
            "features stay on the device": lambda: gpu_stages.streaming(engine(), reference),
            "cache grows over its buckets": lambda: gpu_stages.growth(engine(), reference),
            "passes kept as CUDA graphs": lambda: gpu_stages.replays(engine()),
            "answers_equal": self.answers,
            "times": self.times,
            "half precision, golden tokens": self.half,
        }

    def load(self) -> str:
        """Build plans for this GPU, or take PyTorch's kernels."""
        begun = time.perf_counter()
        if self.options.kernels == "torch":
            from benchmarks.torch_kernels import torch_engine

            self.loaded = self.exits.enter_context(torch_engine(self.cuda))
        else:
            folder = self.scratch / "nano"
            shutil.copytree(NANO, folder, ignore=shutil.ignore_patterns("tensorrt*", "checkpoint"))
            self.loaded = built_and_loaded(folder, self.cuda)
        self.measured.figures["build_and_load_s"] = round(time.perf_counter() - begun, 2)
        return self.loaded.runtime

    def half(self) -> bool:
        """The golden answer once more in float16, token by token."""
        if self.options.kernels == "torch":
            import torch

            from benchmarks.torch_kernels import torch_engine

            with torch_engine(self.cuda, torch.float16) as engine:
                return gpu_stages.golden_tokens(engine)
        return gpu_stages.golden_tokens(half_and_loaded(self.scratch / "half", self.cuda))

    def answers(self) -> bool:
        """Ask both about held-out scenes, and keep how long each takes."""
        scenes = list(
            ask_held_out(
                Grounder(self.reference),
                seed=_SEED,
                num_stills=self.options.stills,
                num_clips=self.options.clips,
                progress=lambda scenes, total, title: scenes,
            )
        )
        ours, theirs = Grounder(self.engine), Grounder(self.reference)
        spent: dict[str, list[float]] = {"GPU": [], "CPU": []}
        num_equal = num_asked = 0
        for is_timed in (False, True):  # kernels are compiled for shapes when they come first
            for scene in scenes:
                queries = [as_query(q, str(i)) for i, q in enumerate(scene.questions)]
                if not queries:
                    continue
                given = {}
                for side, grounder in (("GPU", ours), ("CPU", theirs)):
                    clip, begun = as_clip(scene.clip), time.perf_counter()
                    # One by one: the drafts of several can outgrow a cache of fixed size.
                    given[side] = [grounder.answer(clip, query).text for query in queries]
                    if is_timed:
                        spent[side].append(1e3 * (time.perf_counter() - begun))
                num_asked += len(queries)
                num_equal += sum(a == b for a, b in zip(*given.values(), strict=True))
        self.measured.rows += [
            spread(f"answers of a scene, {side}", values, "ms") for side, values in spent.items()
        ]
        self.measured.figures["answers_equal_share"] = round(num_equal / num_asked, 4)
        self.measured.figures["answers"] = num_asked
        if num_equal == num_asked:
            ratio = np.median(spent["CPU"]) / np.median(spent["GPU"])
            self.measured.figures["speedup"] = round(float(ratio), 2)
        return num_equal == num_asked

    def times(self) -> int:
        """Each stage of an answer on both sides, in turn."""
        cases = {
            f"{case}, {side}": function
            for side, engine in (("GPU", self.engine), ("CPU", self.reference))
            for case, function in gpu_stages.cases(engine).items()
        }
        self.measured.rows += timed(cases, self.options.runs)
        return self.options.runs


def run(bench: Bench, *, go_on: bool) -> Measured:
    """Run the stages.

    Args:
        bench: what they are.
        go_on: after a stage that fails, too; its traceback goes to stderr.
    """
    measured = bench.measured
    for name, stage in bench.stages().items():
        begun = time.perf_counter()
        try:
            measured.equality[name] = stage()
        except Exception as error:
            if not go_on:
                raise
            measured.failed.append(name)
            measured.equality[name] = f"failed: {type(error).__name__}: {error}"
            print(f"--- {name}", file=sys.stderr)
            traceback.print_exc()
        spent_s = time.perf_counter() - begun
        print(f"{name}: {measured.equality[name]} ({spent_s:.1f} s)", file=sys.stderr, flush=True)
    measured.figures["stages_failed"] = len(measured.failed)
    return measured


def main(arguments: list[str] | None = None) -> int:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kernels", choices=("tensorrt", "torch"), default="tensorrt")
    parser.add_argument("--stage-checks", action="store_true", help="go on after a failed stage")
    parser.add_argument("--stills", type=int, default=20)
    parser.add_argument("--clips", type=int, default=20)
    parser.add_argument("--runs", type=int, default=20)
    parser.add_argument("--threads", type=int, default=8, help="of ONNX Runtime on the CPU")
    parser.add_argument("--json", action="store_true", help="one JSON object on stdout")
    options = parser.parse_args(arguments)
    logging.basicConfig(level=logging.INFO if options.stage_checks else logging.WARNING)
    try:
        cuda = CudaRuntime()
    except EngineError as error:
        print(f"bench_tensorrt: error: {error}", file=sys.stderr)
        return 2
    print(f"GPU: {cuda.gpu()}", file=sys.stderr, flush=True)
    with tempfile.TemporaryDirectory() as scratch, contextlib.ExitStack() as exits:
        bench = Bench(options, cuda, Path(scratch), exits)
        measured = run(bench, go_on=options.stage_checks)
    gpu = cuda.gpu()
    publish(
        "tensorrt",
        measured.rows or [{"case": "nothing was timed"}],
        packages=("numpy", "onnxruntime", "tensorrt-rtx-cu13-bindings", "cuda-bindings", "torch"),
        settings={**vars(options), "compute_capability": gpu.sm, "driver": gpu.driver},
        figures=measured.figures,
        equality=measured.equality,
        as_json=options.json,
    )
    return 1 if measured.failed else 0


if __name__ == "__main__":
    sys.exit(main())

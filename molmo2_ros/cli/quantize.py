"""`molmo2 quantize`: an engine folder made smaller and faster, if its answers stay right."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import TYPE_CHECKING, Any

from molmo2_ros.errors import EngineError

if TYPE_CHECKING:
    from molmo2_ros.engines.quantization import Gauge

_DESCRIPTION = """\
Store the weights of an engine as small integers (or, for newer GPUs, small floats)
with a scale for each block of them: less memory, and faster answers, since writing
one token reads every weight once.

The new folder appears only if it computes what its weights say and if its answers
about simulated tables are as good as before, within --largest-drop.
"""
_EPILOG = """\
examples:
  molmo2 quantize molmo2-4b molmo2-4b-int4                        on a CPU, or CUDA
  molmo2 quantize nano nano-int8 --scheme int8 --vision int8
  molmo2 quantize molmo2-4b out --for tensorrt --block 128 --device-arch orin
"""


def add_parser(commands: Any) -> None:
    """Add `quantize` to the command line."""
    parser = commands.add_parser(
        "quantize",
        help="make an engine smaller and faster, if its answers stay right",
        description=_DESCRIPTION,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("engine", metavar="ENGINE", help="engine folder, or its installed name")
    parser.add_argument("out", type=Path, metavar="OUT", help="folder to make or replace")
    parser.add_argument(
        "--scheme", default="int4", metavar="{int4,int8,fp8,nvfp4}", help="default: int4"
    )
    parser.add_argument(
        "--block",
        type=int,
        default=32,
        metavar="{32,128}",
        help="weights of one scale; default: 32",
    )
    parser.add_argument("--vision", metavar="int8", help="the vision tower too; default: as it is")
    parser.add_argument(
        "--for", dest="runtime", default="onnxruntime", metavar="{onnxruntime,tensorrt}"
    )
    parser.add_argument(
        "--device-arch",
        metavar="ARCH",
        help="refuse what this device cannot multiply by: orin, thor, ampere, ada, hopper or "
        "blackwell",
    )
    parser.add_argument(
        "--scenes",
        type=int,
        default=200,
        metavar="N",
        help="stills, and as many clips, asked about",
    )
    parser.add_argument("--seed", type=int, default=0, help="of the scenes")
    parser.add_argument(
        "--largest-drop",
        type=float,
        default=0.02,
        metavar="SHARE",
        help="of a figure of accuracy, that is allowed (default: 0.02)",
    )
    parser.add_argument(
        "--no-accuracy",
        action="store_true",
        help="for weights that nobody trained: measure nothing",
    )
    parser.add_argument("--threads", type=int, metavar="N", help="CPU threads (default: all cores)")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> None:
    """Quantise, and print what it did to size and accuracy.

    Raises:
        Molmo2Error: the engine cannot be quantised so, or answers worse than allowed.
    """
    from tqdm import tqdm

    from molmo2_ros.engines.quantization import Quantization
    from molmo2_ros.engines.quantize import quantize_engine
    from molmo2_ros.runtime.engine import engine_folder

    quantization = Quantization(
        scheme=options.scheme,
        block=options.block,
        vision=options.vision,
        runtime=options.runtime,
        architecture=options.device_arch,
    )
    manifest = quantize_engine(
        engine_folder(options.engine),
        options.out,
        quantization,
        gauge=None if options.no_accuracy else _gauge(options),
        threads=options.threads,
        progress=lambda nodes, title: tqdm(nodes, desc=title, disable=None),
    )
    size = sum(entry.bytes for entry in manifest.files.values())
    print(f"{options.out}: {manifest.name}, {size / 1e6:.1f} MB")
    if manifest.accuracy is None:
        print("accuracy: not measured; a trained engine is to be quantised without --no-accuracy")
        return
    print(f"{'figure':<22}{'before':>8}{'after':>8}")
    for name, before in manifest.accuracy.before.items():
        print(f"{name:<22}{before:>8.3f}{manifest.accuracy.after[name]:>8.3f}")


def _gauge(options: argparse.Namespace) -> Gauge:
    """The evaluator on held-out scenes.

    Raises:
        EngineError: a number that measures nothing.
    """
    from molmo2_ros.engines.quantization import Gauge
    from molmo2_ros.grounder import Grounder
    from molmo2_ros.training.evaluation.context import show_progress
    from molmo2_ros.training.evaluation.rendered_scores import ERRORS, evaluate, report

    if options.scenes < 1 or not 0 <= options.largest_drop <= 1:
        raise EngineError(
            f"{options.scenes} scenes and a largest drop of {options.largest_drop:g}, expected "
            "one scene at least and a share in 0..1"
        )

    def measure(engine: Any) -> Any:
        tally = evaluate(
            Grounder(engine),
            seed=options.seed,
            num_stills=options.scenes,
            num_clips=options.scenes,
            progress=show_progress,
        )
        result = report(tally)
        return result["figures"], result["cases"]

    return Gauge(
        measure=measure,
        errors=ERRORS,
        largest_drop=options.largest_drop,
        scenes=options.scenes,
        seed=options.seed,
    )

"""`molmo2 verify`: whether an engine computes on this machine what its model computes."""

from __future__ import annotations

import argparse
import time
from pathlib import Path
from typing import Any

from molmo2_ros.errors import EngineError
from molmo2_ros.runtime.engine import DEVICES, Engine, load_engine
from molmo2_ros.runtime.golden import examine, verify_golden

_DESCRIPTION = """\
Load an engine and let it compute its golden example: features, logits and tokens must
be those of the model that it came from, as near as its precision allows. Nodes and
`molmo2 ask` do so when they first load an engine on a machine; this does so now.
"""


def add_parser(commands: Any) -> None:
    """Add `verify` to the command line."""
    parser = commands.add_parser(
        "verify",
        help="prove that an engine computes here what its model computes",
        description=_DESCRIPTION,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument(
        "engine", nargs="?", metavar="ENGINE", help="engine folder (default: molmo2-nano)"
    )
    parser.add_argument(
        "--checkpoint",
        type=Path,
        metavar="DIR",
        help="also ask transformers (needs torch): the checkpoint that was exported",
    )
    parser.add_argument("--threads", type=int, metavar="N", help="CPU threads (default: all cores)")
    parser.add_argument("--device", choices=DEVICES, default="auto", help="where the engine runs")
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> None:
    """Load, compare, print.

    Raises:
        EngineError: the folder does not load, or the engine computes something else.
    """
    engine = load_engine(
        options.engine, threads=options.threads, device=options.device, self_test="off"
    )
    manifest = engine.manifest
    rows = {
        "engine": f"{manifest.name}, checksum {manifest.checksum[:12]}, {manifest.form}",
        "precision": manifest.precision,
        "license": manifest.source.license or "not said",
        "runtime": f"{engine.runtime} on {engine.device}",
    }
    begun = time.perf_counter()
    error = verify_golden(engine)
    spent_s = time.perf_counter() - begun
    assert manifest.golden is not None  # or verify_golden had refused
    allowed = f"allowed {manifest.golden.logit_tolerance:.2g}"
    rows["golden example"] = f"logits within {error:.2g}, {allowed} ({spent_s:.2f} s)"
    if options.checkpoint is not None:
        error = _against_checkpoint(engine, options.checkpoint)
        rows["checkpoint"] = f"logits within {error:.2g}, {allowed}"
    for name, text in rows.items():
        print(f"{name:<16}{text}")


def _against_checkpoint(engine: Engine, checkpoint: Path) -> float:
    """The largest error of a logit beside what transformers computes now."""
    try:
        from molmo2_ros.engines.golden import reference_golden
    except ImportError as error:
        raise EngineError(
            f"--checkpoint needs torch and transformers ({error}); install them with "
            '`pip install ".[training]"`, or leave it out'
        ) from error
    assert engine.manifest.golden is not None
    return examine(engine, reference_golden(engine, checkpoint), engine.manifest.golden)

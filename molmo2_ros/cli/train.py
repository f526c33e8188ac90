"""`molmo2 train`: train a Molmo2 on this machine, or go on with a stopped training."""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

from molmo2_ros.errors import EngineError

_EPILOG = """\
examples:
  molmo2 train training/configs/finetune_logs.yaml --out runs/yard
  molmo2 train training/configs/sft.yaml steps=100 rates.llm.lr=1e-5 --out runs/x

The same command goes on with a run that was stopped. For several GPUs:
  torchrun --nproc-per-node 8 -m molmo2_ros.training.train --config FILE --out DIR [key=value ...]
"""


def add_parser(commands: Any) -> None:
    """Add `train` to the command line."""
    parser = commands.add_parser(
        "train",
        help="train a Molmo2 on data sets in the package's format",
        description="Train a Molmo2, or go on with a training that was stopped.",
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
        any_order=True,
    )
    parser.add_argument("config", type=Path, metavar="CONFIG", help="YAML file of the training")
    parser.add_argument("--out", type=Path, required=True, help="folder of the run")
    parser.add_argument("overrides", nargs="*", metavar="key=value", help="of the configuration")
    parser.set_defaults(run=_run)


def _run(options: argparse.Namespace) -> None:
    try:
        # Here, not above: the other commands run without torch.
        from molmo2_ros.training.train import train
    except ImportError as error:
        raise EngineError(
            f"training needs {error.name or error}, which is not installed; "
            '`pip install "molmo2_ros[training]"` brings it'
        ) from error
    train(options.config, options.out, options.overrides)

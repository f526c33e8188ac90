"""The arguments of `molmo2 export` and what it prints; torch is imported when it runs."""

from __future__ import annotations

import argparse
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from tqdm import tqdm

from molmo2_ros.runtime.manifest import DTYPES, FORMS

DESCRIPTION = """\
Turn a Molmo2 checkpoint into an engine folder: two ONNX graphs, the tokenizer,
a golden example and a manifest. Peak memory is about that of the largest file of
weights, so that sizes which do not fit in memory work too.
"""
EPILOG = """\
examples:
  molmo2 export allenai/Molmo2-4B ~/engines/molmo2-4b --dtype float16
  molmo2 export ./my-finetune ~/engines/mine --form decomposed --dtype float16

forms and dtypes:
  fused        opset 23: ONNX Runtime 1.23 on, TensorRT 10.15 on (JetPack 7.2)
  decomposed   opset 20: TensorRT 10.3 to 10.13 (JetPack 6, 7.0, 7.1)
  float32 for ONNX Runtime on a CPU, float16 or bfloat16 for GPUs
"""


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """All of the command."""
    parser.add_argument("checkpoint", help="Hugging Face folder, or owner/name on its hub")
    parser.add_argument("out", type=Path, help="engine folder to make or replace")
    parser.add_argument("--form", choices=FORMS, default="fused", help="see below (default: fused)")
    parser.add_argument(
        "--dtype", choices=DTYPES, default="float32", help="see below (default: float32)"
    )
    parser.add_argument("--revision", metavar="REV", help="branch, tag or commit of the hub")
    parser.add_argument(
        "--license", metavar="NAME", help="of the weights; default: what the model card says"
    )
    parser.add_argument(
        "--description",
        type=Path,
        metavar="JSON",
        help="name, skills, vocabulary, sampling, training{commit, config, seed, metrics}",
    )
    parser.add_argument(
        "--golden",
        type=Path,
        metavar="NPZ",
        help="frames, times_s and question of the golden example; default: a drawn clip",
    )
    parser.add_argument(
        "--no-check",
        action="store_true",
        help="do not run the finished engine against the checkpoint (minutes for large ones); it "
        "is compared when it is first loaded",
    )


def run(options: argparse.Namespace) -> None:
    """Export and print one line.

    Raises:
        Molmo2Error: the checkpoint, the description, the example or the disk is unfit.
    """
    from molmo2_ros.engines.export import export_checkpoint, read_description
    from molmo2_ros.runtime.golden import Golden

    manifest = export_checkpoint(
        options.checkpoint,
        options.out,
        description=read_description(options.description) if options.description else None,
        golden=Golden.load(options.golden) if options.golden else None,
        form=options.form,
        dtype=options.dtype,
        revision=options.revision,
        license_name=options.license,
        check=not options.no_check,
        progress=show_progress,
    )
    size = sum(entry.bytes for entry in manifest.files.values())
    print(
        f"{options.out}: {manifest.name}, {manifest.form}, opset {manifest.opset}, "
        f"{manifest.dtype}, {size / 1e6:.1f} MB"
    )


def show_progress(items: Iterable[Any], what: str) -> Iterable[Any]:
    """A bar on a terminal, nothing in a log."""
    bar: Iterable[Any] = tqdm(
        items, desc=what, unit="file" if what == "hashes" else "weight", disable=None
    )
    return bar

"""Turns a Hugging Face checkpoint into an engine folder of two ONNX graphs.

    python -m molmo2_ros.engines.export CHECKPOINT OUT

Letters as in engines/graphs.py.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch

from molmo2_ros.engines.checkpoint import (
    load_checkpoint,
    open_skeleton,
    text_facts,
    token_facts,
    vision_facts,
)
from molmo2_ros.engines.export_command import DESCRIPTION, EPILOG, add_arguments, run
from molmo2_ros.engines.hub import find_checkpoint, source_facts
from molmo2_ros.engines.onnx_file import EMBEDDED_BYTES, Progress, Read, quiet_progress, write_graph
from molmo2_ros.engines.parity import NUM_GOLDEN_TOKENS, check_engine, golden_facts, make_golden
from molmo2_ros.engines.parts import check_in_parts
from molmo2_ros.engines.scratch import check_space, install, scratch_beside
from molmo2_ros.engines.skeleton import parameter_shapes
from molmo2_ros.engines.streamed import stream_checkpoint
from molmo2_ros.engines.tracing import (
    DECODER_NAMES,
    VISION_NAMES,
    trace_decoder,
    trace_vision,
    weight_names,
)
from molmo2_ros.engines.weights import CheckpointWeights
from molmo2_ros.errors import EngineError, Molmo2Error
from molmo2_ros.runtime.golden import GOLDEN_FILE, Golden
from molmo2_ros.runtime.manifest import (
    DTYPES,
    FORMAT,
    SKILLS,
    Manifest,
    SamplingFacts,
    TrainingFacts,
    file_entry,
)
from molmo2_ros.runtime.strict_json import read_dataclass

if TYPE_CHECKING:
    from transformers import Molmo2ForConditionalGeneration

# Opsets of the two export forms: fused attention for ONNX Runtime and TensorRT 10.15 on, plain
# operators for the TensorRT 10.3 to 10.13 of JetPack 6 and 7.0.
OPSETS = {"fused": 23, "decomposed": 20}
_OTHER_BYTES = 64 << 20  # tokenizer, structure of the graphs, golden example
_RESIDENT_BYTES = 1 << 30  # of weights that may be in memory all at once
_FEW_TOKENS = 8  # of a golden answer where each reads all weights from the disk
_COPIED = ("tokenizer.json", "tokenizer_config.json", "config.json")


@dataclass(frozen=True, slots=True, kw_only=True)
class Description:
    """What a manifest says that no checkpoint folder holds; the defaults are the released family's.

    Source of the sampling: the released models' training mixture and card (2 frames per second, at
    most 384 frames; tracking from up to 10; pointing clips of at most 63 s).
    """

    name: str
    skills: tuple[str, ...] = tuple(SKILLS)
    vocabulary: tuple[str, ...] = ()
    sampling: SamplingFacts = SamplingFacts(
        point_fps=2.0, track_fps=10.0, max_frames=384, max_clip_s=63.0
    )
    training: TrainingFacts = field(default_factory=TrainingFacts)


def export_checkpoint(
    checkpoint: str | Path,
    out: Path,
    *,
    description: Description | None = None,
    golden: Golden | None = None,
    form: str = "fused",
    dtype: str = "float32",
    revision: str | None = None,
    license_name: str | None = None,
    check: bool = True,
    progress: Progress = quiet_progress,
) -> Manifest:
    """Write an engine folder and prove it against the checkpoint.

    `out` is replaced only by a good one. Beside one file of the checkpoint, about a gigabyte of
    weights is in memory at a time.

    Args:
        checkpoint: Hugging Face folder of a Molmo2, or its name on the hub.
        out: engine folder to make or replace; other files in it stay.
        description: name, skills, sampling and history of the model.
        golden: clip and question of the example that a loaded engine must reproduce; its expected
            tokens and logits are computed here. None for a drawn clip.
        form: "fused" or "decomposed".
        dtype: of weights, activations and cache: "float32", "float16" or "bfloat16".
        revision: of the hub.
        license_name: of the weights; None for what the model card says.
        check: whether the finished engine is run against the checkpoint: as a whole where it is
            small, else part by part. bfloat16 is compared when it is loaded on a GPU.
        progress: wraps an iterable, given what is being done.

    Raises:
        EngineError: the checkpoint does not load, the disk does not hold the engine, or the graphs
            do not give the checkpoint's answers.
    """
    if form not in OPSETS:
        raise EngineError(f"form is {form!r}, expected one of {', '.join(OPSETS)}")
    if dtype not in DTYPES:
        raise EngineError(f"dtype is {dtype!r}, expected one of {', '.join(DTYPES)}")
    folder = find_checkpoint(checkpoint, revision)
    description = description or Description(name=Path(checkpoint).resolve().name)
    skeleton = open_skeleton(folder, getattr(torch, dtype))
    weights = CheckpointWeights(folder, parameter_shapes(skeleton))
    is_small = sum(path.stat().st_size for path in weights.files) <= _RESIDENT_BYTES
    num_bytes = sum(value.numel() for value in skeleton.parameters()) * skeleton.dtype.itemsize
    try:
        check_space(out, num_bytes + _OTHER_BYTES)
        with scratch_beside(out) as built:
            write_graphs(
                skeleton,
                built,
                opset=OPSETS[form],
                read=weights.read,
                order=weights.order,
                progress=progress,
            )
            for name in _COPIED:
                shutil.copyfile(folder / name, built / name)
            model = load_checkpoint(folder) if is_small else stream_checkpoint(folder, weights)
            vision, tokens = vision_facts(folder, model.config), token_facts(folder, model)
            num_tokens = NUM_GOLDEN_TOKENS if is_small else _FEW_TOKENS
            golden = make_golden(model, built, vision, tokens, golden, num_tokens)
            golden.save(built / GOLDEN_FILE)
            files = sorted(path for path in built.iterdir() if path.is_file())
            manifest = Manifest(
                format=FORMAT,
                name=description.name,
                head="digits",
                opset=OPSETS[form],
                dtype=dtype,
                form=form,
                files={path.name: file_entry(path) for path in progress(files, "hashes")},
                vision=vision,
                text=text_facts(model.config),
                tokens=tokens,
                sampling=description.sampling,
                skills=description.skills,
                source=source_facts(checkpoint, folder, license_name),
                vocabulary=description.vocabulary,
                training=description.training,
                golden=golden_facts(golden, dtype),
            )
            manifest.write(built)
            if check and dtype != "bfloat16":  # for which this CPU has no kernels
                if is_small:
                    check_engine(built, model)
                else:
                    check_in_parts(built, model, golden)
            install(built, out)
    except OSError as error:
        raise EngineError(
            f"{out} cannot be written ({error}); the engine takes {num_bytes / 1e9:.1f} GB: make "
            "room, or give another folder"
        ) from error
    return manifest


def write_graphs(
    model: Molmo2ForConditionalGeneration,
    folder: Path,
    *,
    opset: int,
    read: Read | None = None,
    order: Callable[[str], Any] = str,
    embedded_bytes: int = EMBEDDED_BYTES,
    progress: Progress = quiet_progress,
) -> None:
    """Write vision.onnx and decoder.onnx, with a .data file beside each whose weights are large.

    Args:
        model: gives structure and dtype; it may be a skeleton.
        folder: where the files go.
        opset: 23 for the fused form, 20 for the decomposed one.
        read: a parameter's values by its name; None for the model's own.
        order: sorts parameters into the order in which they are read.
        embedded_bytes: most bytes of weights that stay inside a graph's file.
        progress: wraps the iterable of weights, given the file's name.
    """
    if read is None:
        own = dict(model.named_parameters())
        read = lambda name: own[name].detach()  # noqa: E731
    for name, trace, prefixes in (
        ("vision.onnx", trace_vision, VISION_NAMES),
        ("decoder.onnx", trace_decoder, DECODER_NAMES),
    ):
        write_graph(
            trace(model, opset),
            folder / name,
            weight_names(model, prefixes),
            read,
            order=order,
            embedded_bytes=embedded_bytes,
            progress=progress,
        )


def read_description(path: Path) -> Description:
    """A Description from a JSON file.

    Raises:
        EngineError: the file cannot be read or has an unknown, missing or wrong key.
    """
    try:
        content: Mapping[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise EngineError(f"{path} cannot be read as JSON ({error})") from error
    return read_dataclass(Description, content, str(path), "correct the description")


def main(arguments: list[str] | None = None) -> int:
    """Command line; returns the exit code, 2 for bad input."""
    parser = argparse.ArgumentParser(
        prog="python -m molmo2_ros.engines.export",
        description=DESCRIPTION,
        epilog=EPILOG.replace("molmo2 export", "python -m molmo2_ros.engines.export"),
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_arguments(parser)
    try:
        run(parser.parse_args(arguments))
    except Molmo2Error as error:
        print(f"export: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    sys.exit(main())

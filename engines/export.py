"""Turns a Hugging Face checkpoint into an engine folder of two ONNX graphs.

    python -m molmo2_ros.engines.export CHECKPOINT OUT

Letters as in engines/graphs.py.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import logging
import shutil
import sys
import tempfile
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch.export import Dim

from molmo2_ros.engines.checkpoint import load_checkpoint, text_facts, token_facts, vision_facts
from molmo2_ros.engines.graphs import DecoderGraph, VisionGraph, export_attention
from molmo2_ros.engines.parity import check_engine, golden_facts, make_golden
from molmo2_ros.errors import EngineError, Molmo2Error
from molmo2_ros.runtime.golden import GOLDEN_FILE, Golden
from molmo2_ros.runtime.manifest import (
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
    checkpoint: Path,
    out: Path,
    *,
    description: Description | None = None,
    golden: Golden | None = None,
    form: str = "fused",
) -> Manifest:
    """Write an engine folder and prove it against the checkpoint.

    `out` is replaced only by a good one.

    Args:
        checkpoint: Hugging Face folder of a Molmo2.
        out: engine folder to make or replace; other files in it stay.
        description: name, skills, sampling and history of the model.
        golden: clip and question of the example that a loaded engine must reproduce; its expected
            tokens and logits are computed here. None for a drawn clip.
        form: "fused" or "decomposed".

    Raises:
        EngineError: the checkpoint does not load, or the graphs do not give its answers.
    """
    if form not in OPSETS:
        raise EngineError(f"form is {form!r}, expected one of {', '.join(OPSETS)}")
    description = description or Description(name=checkpoint.resolve().name)
    model = load_checkpoint(checkpoint)
    out.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=out.parent, prefix=".export-") as scratch:
        folder = Path(scratch)
        write_graphs(model, folder, opset=OPSETS[form])
        for name in _COPIED:
            shutil.copyfile(checkpoint / name, folder / name)
        vision, tokens = vision_facts(checkpoint, model.config), token_facts(checkpoint, model)
        golden = make_golden(model, folder, vision, tokens, golden)
        golden.save(folder / GOLDEN_FILE)
        files = sorted(path for path in folder.iterdir() if path.is_file())
        manifest = Manifest(
            format=FORMAT,
            name=description.name,
            head="digits",
            opset=OPSETS[form],
            dtype="float32",
            form=form,
            files={path.name: file_entry(path) for path in files},
            vision=vision,
            text=text_facts(model.config),
            tokens=tokens,
            sampling=description.sampling,
            skills=description.skills,
            vocabulary=description.vocabulary,
            training=description.training,
            golden=golden_facts(golden, "float32"),
        )
        manifest.write(folder)
        check_engine(folder, model)
        out.mkdir(exist_ok=True)
        (out / "manifest.json").unlink(missing_ok=True)  # an interrupted copy must not look whole
        for path in [*files, folder / "manifest.json"]:
            shutil.move(path, out / path.name)
    return manifest


def write_graphs(model: Molmo2ForConditionalGeneration, folder: Path, *, opset: int) -> None:
    """Write vision.onnx and decoder.onnx; weights stand apart only above ONNX's limit of 2 GB."""
    with torch.no_grad(), export_attention(model), _quiet():
        _vision_program(model, opset).save(folder / "vision.onnx")
        _decoder_program(model, opset).save(folder / "decoder.onnx")


def _vision_program(model: Molmo2ForConditionalGeneration, opset: int) -> Any:
    vision = model.config.vision_config
    num_values = vision.patch_size**2 * vision.num_channels
    example = (
        torch.zeros(2, vision.num_position_embeddings, num_values),
        torch.zeros(3, 4, dtype=torch.int64),
    )
    return torch.onnx.export(
        VisionGraph(model).eval(),
        example,
        dynamo=True,
        opset_version=opset,
        verbose=False,
        input_names=["patches", "pooling"],
        output_names=["features"],
        dynamic_shapes=({0: Dim("K")}, {0: Dim("M"), 1: Dim("W")}),
    )


def _decoder_program(model: Molmo2ForConditionalGeneration, opset: int) -> Any:
    text = model.config.text_config
    batch, num_new, num_past, num_logits = 2, 3, 4, 2
    past = [
        torch.zeros(batch, text.num_key_value_heads, num_past, text.head_dim)
        for _ in range(2 * text.num_hidden_layers)
    ]
    example = (
        torch.zeros(batch, num_new, dtype=torch.int64),
        torch.zeros(batch, num_new, text.hidden_size),
        torch.zeros(batch, num_new, dtype=torch.int64),
        torch.zeros(batch, 1, num_new, num_past + num_new),
        torch.zeros(num_logits, dtype=torch.int64),
        *past,
    )
    b, s, p = Dim("B"), Dim("S"), Dim("P")
    layers = range(text.num_hidden_layers)
    past_names = [f"past_{part}_{i}" for i in layers for part in ("key", "value")]
    return torch.onnx.export(
        DecoderGraph(model).eval(),
        example,
        dynamo=True,
        opset_version=opset,
        verbose=False,
        input_names=[
            "input_ids",
            "visual_add",
            "position_ids",
            "attn_bias",
            "logit_indices",
            *past_names,
        ],
        output_names=["logits", *(name.replace("past", "present") for name in past_names)],
        dynamic_shapes=(
            {0: b, 1: s},
            {0: b, 1: s},
            {0: b, 1: s},
            {0: b, 2: s, 3: Dim.DYNAMIC},  # T = P + S
            {0: Dim("L")},
            tuple({0: b, 2: p} for _ in past),
        ),
    )


@contextlib.contextmanager
def _quiet() -> Any:
    """The exporter's progress lines and version notes say nothing about our graphs."""
    logger = logging.getLogger("torch.onnx")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logger.setLevel(level)


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
        description="Turn a Hugging Face Molmo2 checkpoint into an engine folder.",
    )
    parser.add_argument("checkpoint", type=Path, help="Hugging Face folder")
    parser.add_argument("out", type=Path, help="engine folder to make or replace")
    parser.add_argument(
        "--description",
        type=Path,
        help="JSON: name, skills, vocabulary, sampling, training{commit, config, seed, metrics}",
    )
    parser.add_argument(
        "--golden", type=Path, help="npz with frames, times_s and question; else a drawn clip"
    )
    parser.add_argument("--form", choices=sorted(OPSETS), default="fused")
    options = parser.parse_args(arguments)
    try:
        manifest = export_checkpoint(
            options.checkpoint,
            options.out,
            description=read_description(options.description) if options.description else None,
            golden=Golden.load(options.golden) if options.golden else None,
            form=options.form,
        )
    except Molmo2Error as error:
        print(f"export: {error}", file=sys.stderr)
        return 2
    size = sum(entry.bytes for entry in manifest.files.values())
    print(f"{options.out}: {manifest.name}, opset {manifest.opset}, {size / 1e6:.1f} MB")
    return 0


if __name__ == "__main__":
    sys.exit(main())

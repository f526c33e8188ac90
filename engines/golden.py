"""Gives engine folders the example by which they prove themselves.

    python -m molmo2_ros.engines.golden ENGINE --checkpoint CHECKPOINT
    python -m molmo2_ros.engines.golden ENGINE --own

The first asks transformers. The second writes down what the engine itself computes on this machine,
and is for quantised engines: their logits lie so far from the model's (int4 of molmo2-nano: by 0.7
of the logits' standard deviation at the median step) that no mistake would show beside it. What
quantising costs is measured by the evaluator; the golden example asks whether another machine
computes the same.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np

from molmo2_ros.engines.checkpoint import load_checkpoint, text_facts, vision_facts
from molmo2_ros.engines.parity import (
    NUM_GOLDEN_TOKENS,
    drawn_example,
    filled_golden,
    golden_facts,
    make_golden,
)
from molmo2_ros.errors import EngineError, Molmo2Error
from molmo2_ros.prompt.tokenizer import PromptTokenizer
from molmo2_ros.runtime.decoding import Prefix, generate, prefill
from molmo2_ros.runtime.engine import Engine, load_engine
from molmo2_ros.runtime.examination import late_logits, probe_features, read_text
from molmo2_ros.runtime.golden import ClipInputs, Golden, clip_inputs, examine
from molmo2_ros.runtime.manifest import file_entry


def write_answer(engine: Engine, example: Golden | None = None) -> tuple[int, ...]:
    """The tokens that an engine answers the example's question with."""
    inputs = _inputs(engine, example or drawn_example())
    prefix = _read_clip(engine, inputs)
    (answer,) = generate(engine, prefix, [inputs.suffix.ids], max_new_tokens=NUM_GOLDEN_TOKENS)
    return answer.ids


def record_golden(
    engine: Engine, example: Golden | None = None, answer: Sequence[int] | None = None
) -> Golden:
    """The example with what an engine computes, as the reference for other machines.

    Args:
        engine: proven by other means.
        example: clip and question; None for a drawn one.
        answer: tokens that another engine wrote, for one that takes long to write; it reads them in
            one pass.
    """
    example = example or drawn_example()
    answer = write_answer(engine, example) if answer is None else answer
    inputs = _inputs(engine, example)
    prefix = _read_clip(engine, inputs)
    suffix_S = inputs.suffix.ids
    steps, kv = read_text(engine, suffix_S, prefix.num_tokens, prefix.kv)
    steps_NV = steps[-1:]
    if answer:
        tokens_N = np.array(answer, np.int64)
        more_NV, _ = read_text(engine, tokens_N, prefix.num_tokens + len(suffix_S), kv)
        steps_NV = np.concatenate([steps_NV, more_NV])
    return filled_golden(
        example,
        answer,
        steps_NV,
        late_logits(engine, inputs.suffix),
        probe_features(engine, inputs.patches_KNC),
    )


def _inputs(engine: Engine, example: Golden) -> ClipInputs:
    return clip_inputs(
        engine.manifest.vision,
        PromptTokenizer(engine.folder),
        example.frames,
        example.times_s,
        example.question,
    )


def _read_clip(engine: Engine, inputs: ClipInputs) -> Prefix:
    features_MD = engine.encode(inputs.patches_KNC, inputs.pooling_MW)
    return prefill(engine, inputs.prefix, features_MD)


def reference_golden(engine: Engine, checkpoint: Path, example: Golden | None = None) -> Golden:
    """The example with what transformers computes of the checkpoint that an engine came from.

    Args:
        engine: not quantised.
        checkpoint: Hugging Face folder.
        example: clip and question; None for those of the engine, else a drawn one.

    Raises:
        EngineError: the engine is quantised or of other sizes, or the checkpoint does not load.
    """
    folder, manifest = engine.folder, engine.manifest
    if manifest.quantized:
        raise EngineError(
            f"{folder} is quantised ({', '.join(manifest.quantized)}), so that its logits are not "
            f"those of {checkpoint}; give --own, and measure its accuracy by the evaluator"
        )
    model = load_checkpoint(checkpoint)
    ours = (manifest.text, manifest.vision)
    if ours != (text_facts(model.config), vision_facts(checkpoint, model.config)):
        raise EngineError(
            f"{folder} has other sizes than {checkpoint}; give the checkpoint that was exported"
        )
    example = example or _own_example(engine)
    return make_golden(model, folder, manifest.vision, manifest.tokens, example)


def _own_example(engine: Engine) -> Golden | None:
    golden = engine.manifest.golden
    return None if golden is None else Golden.load(engine.folder / golden.file)


def renew_golden(folder: Path, checkpoint: Path | None, example: Golden | None = None) -> float:
    """Replace the golden example of an engine folder, and prove the engine by the new one.

    Args:
        folder: the engine; changed only when it computes what the reference does.
        checkpoint: Hugging Face folder whose model is the reference; None for the engine itself.
        example: clip and question; None for those that the folder has, else a drawn one.

    Returns:
        The largest absolute error of a logit.

    Raises:
        EngineError: a folder does not load, a quantised engine was to be compared with its
            checkpoint, or the engine does not compute what the checkpoint does.
    """
    engine = load_engine(folder, self_test="off")
    manifest = engine.manifest
    if checkpoint is not None:
        golden = reference_golden(engine, checkpoint, example)
    else:
        golden = record_golden(engine, example or _own_example(engine))
    facts = golden_facts(golden, manifest.dtype, is_quantized=bool(manifest.quantized))
    error = examine(engine, golden, facts)
    path = folder / facts.file
    with tempfile.TemporaryDirectory(dir=folder) as scratch:
        fresh = Path(scratch) / facts.file
        golden.save(fresh)
        entry = file_entry(fresh)
        fresh.replace(path)
    replace(manifest, golden=facts, files={**manifest.files, facts.file: entry}).write(folder)
    return error


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line; returns the exit code, 2 for bad input."""
    parser = argparse.ArgumentParser(
        prog="python -m molmo2_ros.engines.golden",
        description="Give an engine folder a new golden example, and prove the engine by it.",
    )
    parser.add_argument("engine", type=Path, help="engine folder")
    reference = parser.add_mutually_exclusive_group(required=True)
    reference.add_argument("--checkpoint", type=Path, help="Hugging Face folder: the reference")
    reference.add_argument(
        "--own", action="store_true", help="the engine itself is the reference (quantised ones)"
    )
    parser.add_argument("--example", type=Path, help="npz with frames, times_s and question")
    options = parser.parse_args(arguments)
    try:
        example = None if options.example is None else Golden.load(options.example)
        error = renew_golden(options.engine, options.checkpoint, example)
    except Molmo2Error as problem:
        print(f"golden: {problem}", file=sys.stderr)
        return 2
    print(f"{options.engine}: logits within {error:.2g} of the reference")
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""Time of each phase of an answer: the engine's graphs and, where installed, transformers.

    python benchmarks/runtime.py [--engine DIR] [--threads N] [--json]

The clip is the engine's golden example, repeated to eight frames. Both sides answer the same
question in the same run; their tokens must be equal, or no ratio is printed.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

import numpy as np

sys.path[:0] = [str(Path(__file__).parents[1])]

from benchmarks.report import publish, timed  # noqa: E402
from molmo2_ros.prompt.patches import frame_patches, frame_pooling  # noqa: E402
from molmo2_ros.prompt.tokenizer import PromptTokenizer  # noqa: E402
from molmo2_ros.runtime.decoding import generate, prefill  # noqa: E402
from molmo2_ros.runtime.engine import NANO, Engine, load_engine  # noqa: E402
from molmo2_ros.runtime.golden import (  # noqa: E402
    GOLDEN_FILE,
    ClipInputs,
    Golden,
    clip_inputs,
    verify_golden,
)

NUM_FRAMES = 8
NUM_TOKENS = 100  # at most, of an answer
QUESTION_ROWS = 4  # questions asked in one batch


def main() -> None:
    """Measure and print the table."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--engine", type=Path, default=NANO)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--json", action="store_true", help="one JSON object on stdout")
    parser.add_argument("--runs", type=int, default=20)
    options = parser.parse_args()
    engine = load_engine(options.engine, threads=options.threads)
    equality: dict[str, Any] = {"largest logit error of the golden example": verify_golden(engine)}
    inputs = _inputs(engine)
    features_MD = engine.encode(inputs.patches_KNC, inputs.pooling_MW)
    prefix = prefill(engine, inputs.prefix, features_MD)
    suffix = inputs.suffix.ids

    def answer(num_rows: int = 1) -> tuple[int, ...]:
        return generate(engine, prefix, [suffix] * num_rows, max_new_tokens=NUM_TOKENS)[0].ids

    vision = engine.manifest.vision
    grid = vision.image_size // vision.patch_size
    window_MW = frame_pooling(grid, vision.video_pooling)
    image = Golden.load(engine.folder / GOLDEN_FILE).frames[0]
    num_tokens = len(answer())
    cases = {
        "patches of a frame": lambda: frame_patches(image, vision.image_size, vision.patch_size),
        "vision, one frame": lambda: engine.encode(inputs.patches_KNC[:1], window_MW),
        f"prefill, {prefix.num_tokens} tokens": lambda: prefill(engine, inputs.prefix, features_MD),
        f"one answer, {num_tokens} tokens": answer,
        f"{QUESTION_ROWS} answers in one batch": lambda: answer(QUESTION_ROWS),
    }
    theirs = _transformers(options.engine / "checkpoint", inputs, engine, options.threads)
    if theirs is not None:
        their_answer, their_tokens = theirs
        cases["transformers: vision, prefill and answer"] = their_answer
        cases["ours: vision, prefill and answer"] = lambda: generate(
            engine,
            prefill(engine, inputs.prefix, engine.encode(inputs.patches_KNC, inputs.pooling_MW)),
            [suffix],
            max_new_tokens=NUM_TOKENS,
        )
        equality["tokens equal transformers'"] = their_tokens == list(answer())
    rows = timed(cases, options.runs)
    figures: dict[str, float] = {}
    if theirs is not None:
        figures["equal"] = int(equality["tokens equal transformers'"])
    if figures.get("equal"):
        figures["speedup_answer"] = round(rows[-2]["median"] / rows[-1]["median"], 2)
    publish(
        "runtime",
        rows,
        packages=("numpy", "onnxruntime", "torch", "transformers"),
        settings={"runs": options.runs, "threads": options.threads, "frames": NUM_FRAMES},
        figures=figures,
        equality=equality,
        as_json=options.json,
    )


def _inputs(engine: Engine) -> ClipInputs:
    golden = Golden.load(engine.folder / GOLDEN_FILE)
    frames = [golden.frames[i % len(golden.frames)] for i in range(NUM_FRAMES)]
    return clip_inputs(
        engine.manifest.vision,
        PromptTokenizer(engine.folder),
        frames,
        0.5 * np.arange(NUM_FRAMES),
        golden.question,
    )


def _transformers(
    checkpoint: Path, inputs: ClipInputs, engine: Engine, threads: int
) -> tuple[Any, list[int]] | None:
    """Transformers' answer as a function, and its tokens; None where it is not installed."""
    try:
        import torch

        from molmo2_ros.engines.checkpoint import load_checkpoint
        from molmo2_ros.engines.parity import reference_arguments
    except ImportError:
        return None
    if not checkpoint.is_dir():
        return None
    torch.set_num_threads(threads)
    model = load_checkpoint(checkpoint)
    arguments = reference_arguments(inputs)
    end = sorted(engine.manifest.tokens.eos_ids)

    @torch.inference_mode()
    def answer() -> list[int]:
        written = model.generate(
            **arguments, do_sample=False, max_new_tokens=NUM_TOKENS, eos_token_id=end
        )
        tokens: list[int] = written[0, arguments["input_ids"].shape[1] :].tolist()
        return tokens[:-1] if tokens[-1] in end else tokens

    return answer, answer()


if __name__ == "__main__":
    main()

"""Compares an engine with the transformers model from which it came."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch

from molmo2_ros.errors import EngineError
from molmo2_ros.prompt.layout import join
from molmo2_ros.prompt.tokenizer import PromptTokenizer
from molmo2_ros.runtime.engine import load_engine
from molmo2_ros.runtime.golden import ClipInputs, Golden, clip_inputs, verify_golden
from molmo2_ros.runtime.manifest import TokenFacts, VisionFacts

if TYPE_CHECKING:
    from transformers import Molmo2ForConditionalGeneration

NUM_GOLDEN_TOKENS = 48
FEATURE_TOLERANCE = 1e-3  # of a feature's largest value


def make_golden(
    model: Molmo2ForConditionalGeneration,
    folder: Path,
    vision: VisionFacts,
    tokens: TokenFacts,
    example: Golden | None = None,
    num_tokens: int = NUM_GOLDEN_TOKENS,
) -> Golden:
    """The example with what `generate()` of transformers answers.

    Args:
        model: the reference.
        folder: holds tokenizer.json.
        vision: how frames are cut.
        tokens: what ends an answer.
        example: clip and question; None for a drawn one.
        num_tokens: most of the answer.
    """
    example = example or drawn_example()
    tokenizer = PromptTokenizer(folder)
    inputs = clip_inputs(vision, tokenizer, example.frames, example.times_s, example.question)
    arguments = reference_arguments(inputs)
    with torch.no_grad():
        logits = model(**arguments, logits_to_keep=1).logits[0, -1]
        written = model.generate(
            **arguments,
            do_sample=False,
            max_new_tokens=num_tokens,
            eos_token_id=sorted(tokens.eos_ids),
        )
    answer = written[0, arguments["input_ids"].shape[1] :].tolist()
    if answer and answer[-1] in tokens.eos_ids:
        answer = answer[:-1]
    return replace(example, tokens=np.array(answer, np.int64), logits=logits.numpy())


def reference_arguments(inputs: ClipInputs) -> dict[str, Any]:
    """What transformers' Molmo2 takes for a clip and a question."""
    prompt = join(inputs.prefix, inputs.suffix)
    return {
        "input_ids": torch.from_numpy(prompt.ids)[None],
        "attention_mask": torch.ones(1, len(prompt), dtype=torch.int64),
        "mm_token_type_ids": torch.from_numpy(prompt.is_visual.astype(np.int64))[None],
        "pixel_values_videos": torch.from_numpy(inputs.patches_KNC),
        "video_token_pooling": torch.from_numpy(inputs.pooling_MW),
        "video_grids": torch.tensor([[len(inputs.patches_KNC), *inputs.token_grid]]),
    }


def drawn_example() -> Golden:
    """Four frames of a red square that crosses a grey gradient, and a question about it."""
    height, width, side = 120, 160, 24
    frames = np.empty((4, height, width, 3), np.uint8)
    frames[:] = np.linspace(60, 180, width, dtype=np.uint8)[:, None]
    for index, frame in enumerate(frames):
        left = 20 + 30 * index
        frame[40 : 40 + side, left : left + side] = (200, 30, 30)
    return Golden(
        frames=frames, times_s=np.array([0, 0.5, 1, 1.5]), question="Point to the red square."
    )


def check_engine(folder: Path, model: Molmo2ForConditionalGeneration) -> None:
    """Compare features under padded pooling windows, then logits and tokens of the golden example.

    Raises:
        EngineError: the graphs do not compute what the model does.
    """
    engine = load_engine(folder)
    vision = engine.manifest.vision
    num_patches = (vision.image_size // vision.patch_size) ** 2
    random = np.random.default_rng(0)
    patches_KNC = random.uniform(-1, 1, (2, num_patches, 3 * vision.patch_size**2))
    pooling_MW = random.integers(0, 2 * num_patches, (8, 9))
    pooling_MW[1:4, 5:] = -1
    ours = engine.encode(patches_KNC.astype(np.float32), pooling_MW)
    expected = reference_features(model, patches_KNC.astype(np.float32), pooling_MW)
    error = float(np.abs(ours - expected).max() / np.abs(expected).max())
    if not error <= FEATURE_TOLERANCE:
        raise EngineError(
            f"exported vision graph differs from the model by {error:.2g} of its range"
        )
    verify_golden(engine)


def reference_features(
    model: Molmo2ForConditionalGeneration,
    patches_KNC: npt.NDArray[np.float32],
    pooling_MW: npt.NDArray[np.int64],
) -> npt.NDArray[np.float32]:
    """Visual features by transformers' own modules, float32 [M, D]."""
    grids = torch.tensor([[len(pooling_MW), 1, 0, 0]])
    with torch.no_grad():
        features = model.model.get_image_features(
            torch.from_numpy(patches_KNC), torch.from_numpy(pooling_MW), grids
        ).pooler_output
    return torch.cat(features).numpy()

"""Compares an engine with the transformers model from which it came."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch

from molmo2_ros.errors import EngineError
from molmo2_ros.prompt.layout import join
from molmo2_ros.prompt.tokenizer import PromptTokenizer
from molmo2_ros.runtime.closeness import Peaks
from molmo2_ros.runtime.engine import Engine, load_engine
from molmo2_ros.runtime.examination import kept_features, late_positions, late_text, probe_pooling
from molmo2_ros.runtime.golden import (
    GOLDEN_FILE,
    ClipInputs,
    Golden,
    clip_inputs,
    examine,
    verify_golden,
)
from molmo2_ros.runtime.manifest import GoldenFacts, TokenFacts, VisionFacts

if TYPE_CHECKING:
    from transformers import Molmo2ForConditionalGeneration

NUM_GOLDEN_TOKENS = 48
# Of the standard deviation of the logits: several times what rounding was seen to do to the worst
# step of molmo2-nano (float32 5e-5, float16 0.12, bfloat16 0.84; small integers between kernels
# that round the activations to int8 and those that do not: decoder 0.27, vision tower too 0.97).
_LOGIT_SHARES = {"float32": 1e-3, "float16": 0.25, "bfloat16": 1.5}
_FEATURE_SHARES = {"float32": 1e-3, "float16": 1e-2, "bfloat16": 5e-2}  # of the largest feature
_QUANTIZED_SHARES = (0.5, 5e-2)  # of the same two
WIDEST_SHARE = 1.5  # of the logits, for an engine that computes in int8 all through


def make_golden(
    model: Molmo2ForConditionalGeneration,
    folder: Path,
    vision: VisionFacts,
    tokens: TokenFacts,
    example: Golden | None = None,
    num_tokens: int = NUM_GOLDEN_TOKENS,
) -> Golden:
    """The example with what transformers computes: features, `generate()`'s answer, and logits.

    Args:
        model: the reference.
        folder: holds tokenizer.json.
        vision: how frames are cut.
        tokens: what ends an answer.
        example: clip and question; None for a drawn one.
        num_tokens: most of the answer.
    """
    example = example or drawn_example()
    inputs = clip_inputs(
        vision, PromptTokenizer(folder), example.frames, example.times_s, example.question
    )
    arguments = reference_arguments(inputs)
    with torch.no_grad():
        written = model.generate(
            **arguments,
            do_sample=False,
            max_new_tokens=num_tokens,
            eos_token_id=sorted(tokens.eos_ids),
        )
        answer = written[0, arguments["input_ids"].shape[1] :].tolist()
        if answer and answer[-1] in tokens.eos_ids:
            answer = answer[:-1]
        steps_NV = model(**_with_answer(arguments, answer), logits_to_keep=1 + len(answer)).logits
    features_MD = reference_features(model, inputs.patches_KNC[:1], probe_pooling(vision))
    return filled_golden(
        example,
        answer,
        steps_NV[0].numpy(),
        _late_logits(model, tokens.bos_id, inputs),
        features_MD,
    )


def golden_facts(golden: Golden, dtype: str, *, is_quantized: bool = False) -> GoldenFacts:
    """The tolerances that an engine of a precision needs, in the units of its own logits.

    Args:
        golden: filled by the reference.
        dtype: of the engine's activations.
        is_quantized: whether weights are; then the reference is the engine's own file.
    """
    logit_share, feature_share = _LOGIT_SHARES[dtype], _FEATURE_SHARES[dtype]
    if is_quantized:
        logit_share = max(logit_share, _QUANTIZED_SHARES[0])
        feature_share = max(feature_share, _QUANTIZED_SHARES[1])
    return GoldenFacts(
        file=GOLDEN_FILE,
        logit_tolerance=float(f"{logit_share * golden.logits.std():.3g}"),
        feature_tolerance=feature_share,
    )


def measured_facts(engine: Engine, golden: Golden) -> GoldenFacts:
    """The tolerances of a quantised engine: twice what its kernels round off here, within bounds.

    Args:
        engine: whose kernels compute in roundings of their own on each device.
        golden: filled by a reference that computes from the same numbers in plain operators.

    Raises:
        EngineError: it differs by more than rounding explains.
    """
    facts = golden_facts(golden, engine.manifest.dtype, is_quantized=True)
    widest = WIDEST_SHARE * float(golden.logits.std())
    error = examine(engine, golden, replace(facts, logit_tolerance=widest))
    tolerance = min(max(facts.logit_tolerance, 2 * error), widest)
    return replace(facts, logit_tolerance=float(f"{tolerance:.3g}"))


def filled_golden(
    example: Golden,
    answer: Sequence[int],
    steps_NV: npt.NDArray[np.float32],
    late_1V: npt.NDArray[np.float32],
    features_MD: npt.NDArray[np.float32],
) -> Golden:
    """The example with what a reference computes; see Golden for what is kept of it."""
    steps, late = Peaks.of(steps_NV), Peaks.of(late_1V)
    return replace(
        example,
        tokens=np.array(answer, np.int64),
        logits=steps_NV[0],
        step_ids=steps.ids_NK,
        step_logits=steps.logits_NK,
        late_ids=late.ids_NK,
        late_logits=late.logits_NK,
        features=kept_features(features_MD),
    )


def _with_answer(arguments: Mapping[str, Any], answer: Sequence[int]) -> dict[str, Any]:
    """Prompt and answer in one."""
    ids_1N = torch.tensor([answer], dtype=torch.int64)
    added = {
        "input_ids": ids_1N,
        "attention_mask": torch.ones_like(ids_1N),
        "mm_token_type_ids": torch.zeros_like(ids_1N),
    }
    longer = {name: torch.cat([arguments[name], more], dim=1) for name, more in added.items()}
    return {**arguments, **longer}


def _late_logits(
    model: Molmo2ForConditionalGeneration, bos_id: int, inputs: ClipInputs
) -> npt.NDArray[np.float32]:
    ids_S = late_text(bos_id, inputs.suffix)
    positions_S = late_positions(len(ids_S), model.config.text_config.max_position_embeddings)
    with torch.no_grad():
        # The mask is given: transformers would read the gap as the start of another text.
        logits_1SV = model(
            input_ids=torch.from_numpy(ids_S)[None],
            position_ids=torch.from_numpy(positions_S)[None],
            attention_mask=torch.ones(1, 1, len(ids_S), len(ids_S), dtype=torch.bool).tril(),
            logits_to_keep=1,
        ).logits
    late_1V: npt.NDArray[np.float32] = logits_1SV[0].numpy()
    return late_1V


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
    engine = load_engine(folder, self_test="off")
    vision = engine.manifest.vision
    num_patches = (vision.image_size // vision.patch_size) ** 2
    random = np.random.default_rng(0)
    patches_KNC = random.uniform(-1, 1, (2, num_patches, 3 * vision.patch_size**2))
    pooling_MW = random.integers(0, 2 * num_patches, (8, 9))
    pooling_MW[1:4, 5:] = -1
    ours = engine.encode(patches_KNC.astype(np.float32), pooling_MW)
    expected = reference_features(model, patches_KNC.astype(np.float32), pooling_MW)
    error = float(np.abs(ours - expected).max() / np.abs(expected).max())
    if not error <= _FEATURE_SHARES[engine.manifest.dtype]:
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

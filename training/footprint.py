"""Memory and time of training a released Molmo2, computed.

    python -m molmo2_ros.training.footprint [--json]

Formulas, for N weights over G GPUs that shard them (FSDP2), sequences of S tokens with K views:

- weights, gradients and AdamW's two moments in float32: 16 N / G bytes; with adapters 4 N / G, and
  16 bytes a weight of theirs;
- in bfloat16: one layer, the embeddings and the head, gathered, with their gradients (4 bytes a
  weight); on one GPU instead autocast's copy of all trained weights (2 bytes), or of that much;
- activations with checkpointing: the input of every layer, 2 bytes a value, for the language model
  (S x width x layers) and the vision tower (729 K x 1152 x 25), one layer's inner values on top
  (about 34 times its input), the logits of the trained tokens (14 bytes: bfloat16, float32, their
  logarithms, their gradients), and the sequence itself (mask S^2 bytes, patches 4 x 588 x 729 K);
- time: 8 operations a weight and token (forward, forward again, twice that for backward; 6 of a
  frozen language model, 2 of a frozen tower), and attention's 16 S^2 x 4096 a layer (12 where
  frozen; an upper bound, as trees of a sequence do not see each other), at a stated share of the
  device's rate.

Nothing here was measured on a GPU.
"""

from __future__ import annotations

import argparse
import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass

from molmo2_ros.errors import ConfigError

H100_FLOPS = 989e12  # dense bfloat16
UTILISATION = 0.35  # of the device's rate; assumed
VIT_WIDTH, VIT_LAYERS, VIT_PATCHES, VIT_WEIGHTS = 1152, 25, 729, 0.38e9
PATCH_VALUES = 588
ATTENTION_WIDTH, KEY_WIDTH = 4096, 1024  # of both models: 32 heads and 8 of 128
LORA_RANK = 16  # on q, k, v and o of every layer
LOGIT_BYTES = 14
TRAINED_SHARE = 0.1  # of a sequence's tokens; assumed
INNER = 34  # values inside a layer for each value that enters it


@dataclass(frozen=True, slots=True, kw_only=True)
class Size:
    """A released model."""

    weights: float  # language model and connector
    width: int
    layers: int
    vocabulary: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """What a step of a stage is, as training/configs has it."""

    tokens: int
    views: int
    steps: int
    sequences: int = 128
    has_adapters: bool = False


SIZES = {
    "4B": Size(weights=4.06e9, width=2560, layers=36, vocabulary=152064),
    "8B": Size(weights=8.29e9, width=4096, layers=36, vocabulary=152064),
}
STAGES = {
    "pretrain": Stage(tokens=2536, views=36, steps=32000),
    "sft": Stage(tokens=16384, views=128, steps=30000),
    "long_context": Stage(tokens=36864, views=384, steps=2000),
    "finetune_logs": Stage(tokens=8192, views=64, steps=500, sequences=8, has_adapters=True),
}
GPUS = (1, 8, 64)


@dataclass(frozen=True, slots=True, kw_only=True)
class Footprint:
    """Gigabytes of one GPU, and time of all."""

    model: str
    stage: str
    gpus: int
    state_gb: float
    activations_gb: float
    total_gb: float
    step_s: float
    stage_hours: float


def footprint(model: str, stage: str, gpus: int) -> Footprint:
    """Compute one row.

    Raises:
        ConfigError: an unknown model or stage.
    """
    if model not in SIZES or stage not in STAGES or gpus < 1:
        raise ConfigError(
            f"{model}, {stage}, {gpus} GPUs: expected one of {', '.join(SIZES)}, one of "
            f"{', '.join(STAGES)}, and at least one GPU"
        )
    size, work = SIZES[model], STAGES[stage]
    state = _state_bytes(size, work, gpus)
    activations = _activation_bytes(size, work)
    step_s = work.sequences * _operations(size, work) / (gpus * H100_FLOPS * UTILISATION)
    return Footprint(
        model=model,
        stage=stage,
        gpus=gpus,
        state_gb=state / 1e9,
        activations_gb=activations / 1e9,
        total_gb=(state + activations) / 1e9,
        step_s=step_s,
        stage_hours=step_s * work.steps / 3600,
    )


def adapter_weights(size: Size) -> float:
    """Weights of the low-rank adapters: in and out of q and o, of k and v."""
    ends = 2 * (size.width + ATTENTION_WIDTH) + 2 * (size.width + KEY_WIDTH)
    return float(size.layers * LORA_RANK * ends)


def _state_bytes(size: Size, work: Stage, gpus: int) -> float:
    weights = size.weights + VIT_WEIGHTS
    ends = 2 * size.vocabulary * size.width  # embeddings and head
    gathered = ends + (size.weights - ends) / size.layers
    if work.has_adapters:
        held = 4 * weights + 16 * adapter_weights(size)
        return held / gpus + 2 * gathered
    return 16 * weights / gpus + (2 * weights if gpus == 1 else 4 * gathered)


def _activation_bytes(size: Size, work: Stage) -> float:
    text = 2.0 * work.tokens * size.width
    view = 2.0 * work.views * VIT_PATCHES * VIT_WIDTH
    layers = text * size.layers + view * VIT_LAYERS + INNER * max(text, view)
    logits = LOGIT_BYTES * TRAINED_SHARE * work.tokens * size.vocabulary
    sequence = work.tokens**2 + 4 * work.views * VIT_PATCHES * PATCH_VALUES
    return layers + logits + sequence


def _operations(size: Size, work: Stage) -> float:
    """Of one sequence."""
    text, view = (6, 2) if work.has_adapters else (8, 8)  # a weight and token
    attention = work.tokens**2 * ATTENTION_WIDTH * size.layers
    view_attention = VIT_PATCHES**2 * VIT_WIDTH * VIT_LAYERS
    of_text = text * size.weights * work.tokens + 2 * text * attention
    of_view = view * VIT_WEIGHTS * VIT_PATCHES + 2 * view * view_attention
    return of_text + work.views * of_view


def main(arguments: Sequence[str] | None = None) -> int:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--json", action="store_true", help="one JSON object on stdout")
    options = parser.parse_args(arguments)
    rows = [footprint(m, stage, gpus) for m in SIZES for stage in STAGES for gpus in GPUS]
    if options.json:
        print(json.dumps({"name": "footprint", "rows": [asdict(row) for row in rows]}, indent=2))
        return 0
    print("computed, not measured; H100, 35 % of its rate, activation checkpointing")
    print(f"{'model':<6}{'stage':<14}{'GPUs':>5}{'state GB':>10}{'activ. GB':>11}{'sum GB':>8}"
          f"{'s a step':>10}{'hours':>9}")  # fmt: skip
    for row in rows:
        print(
            f"{row.model:<6}{row.stage:<14}{row.gpus:>5}{row.state_gb:>10.1f}"
            f"{row.activations_gb:>11.1f}{row.total_gb:>8.1f}{row.step_s:>10.1f}"
            f"{row.stage_hours:>9.0f}"
        )
    return 0


if __name__ == "__main__":
    raise SystemExit(main())

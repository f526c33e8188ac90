"""Memory and time of training a released Molmo2, computed.

    python -m molmo2_ros.training.footprint [--json]

Formulas, for N weights over G GPUs that shard them (FSDP2), sequences of S tokens with K views:

- weights, gradients and AdamW's two moments in float32: 16 N / G bytes, and one layer's weights in
  bfloat16 gathered at a time;
- activations with checkpointing: the input of every layer, 2 bytes a value, for the language model
  (S x width x layers) and the vision tower (729 K x 1152 x 25), one layer's inner values on top
  (about 34 times its input), and the logits of the trained tokens in float32;
- time: 8 operations a weight and token (forward, forward again, twice that for backward) for both,
  and attention's 16 S^2 x width a layer, at a stated share of the device's rate.

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


SIZES = {
    "4B": Size(weights=4.06e9, width=2560, layers=36, vocabulary=152064),
    "8B": Size(weights=8.29e9, width=4096, layers=36, vocabulary=152064),
}
STAGES = {
    "pretrain": Stage(tokens=2536, views=36, steps=32000),
    "sft": Stage(tokens=16384, views=128, steps=30000),
    "long_context": Stage(tokens=36864, views=384, steps=2000),
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
    weights = size.weights + VIT_WEIGHTS
    state = 16 * weights / gpus + 2 * size.weights / size.layers
    text = 2.0 * work.tokens * size.width
    view = 2 * work.views * VIT_PATCHES * VIT_WIDTH
    activations: float = text * size.layers + view * VIT_LAYERS + INNER * max(text, view)
    activations += 4 * TRAINED_SHARE * work.tokens * size.vocabulary
    text_ops = 8 * size.weights * work.tokens + 16 * work.tokens**2 * size.width * size.layers
    per_view = 8 * VIT_WEIGHTS * VIT_PATCHES + 16 * VIT_PATCHES**2 * VIT_WIDTH * VIT_LAYERS
    step_s = work.sequences * (text_ops + work.views * per_view) / (gpus * H100_FLOPS * UTILISATION)
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

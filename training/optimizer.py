"""AdamW with a learning rate for each part of the model, warmed up and then falling as a cosine."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Iterable, Mapping

import torch
from torch import nn

from molmo2_ros.errors import ConfigError
from molmo2_ros.training.config import RateConfig, TrainConfig

# A part's parameters by a piece of their names.
_VIT, _CONNECTOR = "vision_tower.", "multi_modal_projector."


def part_of(name: str) -> str:
    """Which part of a Molmo2 a parameter belongs to: llm, vit or connector."""
    if _VIT in name:
        return "vit"
    return "connector" if _CONNECTOR in name else "llm"


def learning_rate(step: int, rate: RateConfig, steps: int, final_share: float) -> float:
    """The rate of a step, counted from 0.

    Args:
        step: of the optimiser.
        rate: the part's.
        steps: of the run.
        final_share: of the highest rate, when the run ends.

    Example:
        lr 1, 2 steps of warm-up, 6 steps, final share 0.1: 0.5, 1, 1, 0.87, 0.55, 0.23.
    """
    if step < rate.warmup_steps:
        return rate.lr * (step + 1) / rate.warmup_steps
    done = (step - rate.warmup_steps) / max(steps - rate.warmup_steps, 1)
    fall = 0.5 * (1 + math.cos(math.pi * min(done, 1.0)))
    return rate.lr * (final_share + (1 - final_share) * fall)


def make_optimizer(
    named: Iterable[tuple[str, nn.Parameter]], config: TrainConfig
) -> torch.optim.AdamW:
    """One group a part; parts without a rate are frozen.

    Raises:
        ConfigError: nothing is left to train.
    """
    groups: dict[str, list[nn.Parameter]] = defaultdict(list)
    for name, parameter in named:
        part = part_of(name)
        rate = config.rates.get(part)
        if rate is None or not rate.lr:
            parameter.requires_grad_(False)
        elif parameter.requires_grad:
            groups[part].append(parameter)
    if not groups:
        raise ConfigError("no part of the model has a learning rate above 0, so nothing is trained")
    return torch.optim.AdamW(
        [{"params": groups[part], "part": part} for part in sorted(groups)],
        lr=0.0,
        betas=config.betas,
        eps=config.eps,
        weight_decay=config.weight_decay,
    )


def set_rates(
    optimizer: torch.optim.Optimizer, config: TrainConfig, step: int
) -> Mapping[str, float]:
    """Give each group the rate of this step; the rates by part."""
    rates = {}
    for group in optimizer.param_groups:
        rate = config.rates[group["part"]]
        group["lr"] = learning_rate(step, rate, config.steps, config.final_lr_share)
        rates[group["part"]] = group["lr"]
    return rates

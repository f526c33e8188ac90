"""Low-rank adapters for the language model, by peft, and the way back to whole weights."""

from __future__ import annotations

from typing import Any

from molmo2_ros.engines.torchvision_ops import declare_missing_ops
from molmo2_ros.errors import ConfigError
from molmo2_ros.training.config import LoraConfig


def with_adapters(model: Any, config: LoraConfig) -> Any:
    """The model with adapters, which alone are trained.

    Raises:
        ConfigError: a target is no linear layer of the language model.
    """
    declare_missing_ops()
    import peft

    layers = [name for name, _ in model.named_modules() if "language_model.layers." in name]
    unknown = [t for t in config.targets if not any(n.endswith(f".{t}") for n in layers)]
    if unknown:
        raise ConfigError(f"lora targets {', '.join(unknown)}: no layer of that name in the model")
    names = "|".join(config.targets)
    return peft.get_peft_model(
        model,
        peft.LoraConfig(
            r=config.rank,
            lora_alpha=config.alpha,
            lora_dropout=config.dropout,
            target_modules=rf".*language_model\.layers\..*\.({names})",
        ),
    )


def merged(model: Any) -> Any:
    """The stock model whose weights have the adapters added; it has none any more."""
    return model.merge_and_unload()


def trained_share(model: Any) -> float:
    """Share of the weights that are trained."""
    sizes = [(p.numel(), p.requires_grad) for p in model.parameters()]
    return sum(n for n, trained in sizes if trained) / sum(n for n, _ in sizes)

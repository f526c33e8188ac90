"""The training configuration of a nano: one YAML file, unknown keys refused."""

from __future__ import annotations

import dataclasses
import types
import typing
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

import yaml

from molmo2_ros.errors import ConfigError
from molmo2_ros.training.model import ModelConfig
from molmo2_ros.training.pool import PoolConfig

T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class StageConfig:
    """One stage of training; batch sizes are per process."""

    name: str
    steps: int  # of the optimiser
    lr: float
    warmup_steps: int = 100
    constant_share: float = 0.3  # of the steps, before the rate falls
    final_share: float = 0.02  # of lr at the end
    decay: str = "cosine"  # or linear
    vision_lr_factor: float = 1.0  # of the vision tower and connector
    images: int = 0  # stills that train the dense heads only
    stills: int = 0  # stills with questions
    questions: int = 5  # per still
    clips: dict[int, int] = field(default_factory=dict)  # by frames in a clip: clips in a batch
    clip_shares: dict[int, float] = field(
        default_factory=dict
    )  # by frames in a clip: share of steps


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainConfig:
    """Everything that decides a run."""

    seed: int = 0
    processes: int = 2  # the gradients are averaged over them
    model: ModelConfig = field(default_factory=ModelConfig)
    pool: PoolConfig = field(default_factory=PoolConfig)
    sprite_seed: int = 500
    sprite_share: float = 0.5  # of stills and of clips; the rest are rendered
    pan_share: float = 0.15  # of clips: rendered stills under a moving camera
    stamp_jitter_share: float = 0.1  # of clips whose stamps are off the half-second grid
    gapless_redraw_share: float = 0.4  # of clips in which nothing is ever hidden: drawn again
    newest_between_share: float = 0.5  # of clips whose last stamp is 0.1 to 0.5 s after the grid's
    look_weight: float = 0.5  # loss of the supervised attention heads
    dense_weight: float = 1.0  # loss of the dense heads
    frame_weight: float = 0.3  # loss of the frame head
    weight_decay: float = 0.02
    clip_norm: float = 1.0  # of the gradient
    checkpoint_every: int = 200  # steps
    stages: tuple[StageConfig, ...] = ()


def load_config(path: Path) -> TrainConfig:
    """Read a YAML file.

    Raises:
        ConfigError: it cannot be read, or holds an unknown key or a value of another type.
    """
    try:
        loaded = yaml.safe_load(path.read_text(encoding="utf-8"))
    except (OSError, yaml.YAMLError) as error:
        raise ConfigError(f"cannot read the training configuration {path}: {error}") from error
    return _build(TrainConfig, loaded, str(path))


def _build(kind: type[T], loaded: Any, where: str) -> T:
    if not isinstance(loaded, dict):
        raise ConfigError(f"{where} is {type(loaded).__name__}, expected keys of {kind.__name__}")
    hints = typing.get_type_hints(kind)
    names = [f.name for f in dataclasses.fields(kind)]  # type: ignore[arg-type]
    unknown = sorted(str(k) for k in set(loaded) - set(names))
    if unknown:
        raise ConfigError(f"{where} has unknown keys {unknown}; known are {names}")
    values = {k: _value(hints[k], v, f"{where}: {k}") for k, v in loaded.items()}
    try:
        return kind(**values)
    except TypeError as error:
        raise ConfigError(f"{where}: {error}") from None


def _value(hint: Any, value: Any, where: str) -> Any:
    if dataclasses.is_dataclass(hint):
        return _build(typing.cast(type, hint), value, where)
    origin, arguments = typing.get_origin(hint), typing.get_args(hint)
    if origin is tuple:
        if not isinstance(value, list):
            raise ConfigError(f"{where} is {type(value).__name__}, expected a list")
        return tuple(_value(arguments[0], item, f"{where}[{i}]") for i, item in enumerate(value))
    if origin is dict:
        if not isinstance(value, dict):
            raise ConfigError(f"{where} is {type(value).__name__}, expected key: value pairs")
        key_hint, value_hint = arguments
        return {
            _value(key_hint, k, where): _value(value_hint, v, f"{where}[{k}]")
            for k, v in value.items()
        }
    if isinstance(hint, types.UnionType):
        raise ConfigError(f"{where}: unsupported field type {hint}")
    if hint is float and isinstance(value, int) and not isinstance(value, bool):
        return float(value)
    if not isinstance(value, hint) or (isinstance(value, bool) and hint is not bool):
        raise ConfigError(f"{where} is {value!r}, expected {hint.__name__}")
    return value

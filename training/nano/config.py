"""The training configuration of a nano: one YAML file, unknown keys refused."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path

import yaml

from molmo2_ros.errors import ConfigError
from molmo2_ros.runtime.strict_json import read_dataclass
from molmo2_ros.training.nano.model import ModelConfig
from molmo2_ros.training.nano.pool import PoolConfig
from molmo2_ros.training.scenes import CLIP_KINDS


@dataclass(frozen=True, slots=True, kw_only=True)
class StageConfig:
    """One stage of training; batch sizes are those of one share of a step."""

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
    clips: Mapping[int, int] = field(default_factory=dict)  # by frames in a clip: clips in a batch
    clip_shares: Mapping[int, float] = field(
        default_factory=dict
    )  # by frames in a clip: share of steps
    clip_kinds: tuple[str, ...] = CLIP_KINDS  # of the questions about a clip


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainConfig:
    """Everything that decides a run."""

    seed: int = 0
    processes: int = 2  # shares of a step: one a process, or several a process (rank.py)
    model: ModelConfig = field(default_factory=ModelConfig)
    pool: PoolConfig = field(default_factory=PoolConfig)
    exclude_pairs: bool = False  # no scene and no question with a pair of training/pairs.py
    sprite_seed: int = 500
    sprite_share: float = 0.5  # of stills and of clips; the rest are rendered
    pan_share: float = 0.15  # of clips: rendered stills under a moving camera
    stamp_jitter_share: float = 0.1  # of clips whose stamps are off the half-second grid
    gapless_redraw_share: float = 0.4  # of clips in which nothing is ever hidden: drawn again
    newest_between_share: float = 0.5  # of clips whose last stamp is 0.1 to 0.5 s after the grid's
    look_weight: float = 0.5  # loss of the supervised attention heads
    look_layer: int = 2  # of the language model: two heads look at the visual tokens of points
    back_layer: int = 1  # of the language model: three heads look at what was before
    dense_weight: float = 1.0  # loss of the dense heads
    frame_weight: float = 0.3  # loss of the frame head
    link_weight: float = 0.3  # loss of the link head
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
    cure = "see the fields of TrainConfig in training/nano/config.py"
    return read_dataclass(TrainConfig, loaded, str(path), cure, ConfigError)

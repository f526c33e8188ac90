"""The configuration of a training run: one YAML file, unknown keys refused.

Source: molmo2's pretrain.py and sft.py, and the paper's appendix B, for the shipped stages.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from pathlib import Path
from typing import Any

import yaml

from molmo2_ros.errors import ConfigError
from molmo2_ros.runtime.strict_json import read_dataclass

PARTS = ("llm", "vit", "connector")  # of a Molmo2, each with a learning rate of its own
_CURE = "see training/config.py"


@dataclass(frozen=True, slots=True, kw_only=True)
class DataConfig:
    """One data set of a group."""

    path: str  # folder of the data set, relative to the working directory
    factor: float = 1.0  # on the root of its size
    sources: tuple[str, ...] | None = None  # whose labels; None where there are one maker's only


@dataclass(frozen=True, slots=True, kw_only=True)
class GroupConfig:
    """Data sets that share a weight of the mixture."""

    weight: float  # need not sum to one over the groups
    datasets: tuple[DataConfig, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class RateConfig:
    """How one part of the model learns."""

    lr: float  # highest learning rate; 0 leaves the part as it is
    warmup_steps: int = 200  # from 0 to lr


@dataclass(frozen=True, slots=True, kw_only=True)
class LoraConfig:
    """Low-rank adapters instead of all weights (peft); the language model's layers alone."""

    rank: int = 16
    alpha: float = 32.0
    dropout: float = 0.0
    targets: tuple[str, ...] = ("q_proj", "k_proj", "v_proj", "o_proj")  # of each layer


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainConfig:
    """Everything that decides a run."""

    model: str  # checkpoint folder or hub name to start from
    mixture: Mapping[str, GroupConfig]
    steps: int  # of the optimiser
    rates: Mapping[str, RateConfig]  # by part: llm, vit, connector
    seed: int = 0
    sequences_per_step: int = 128  # packed sequences, over all processes
    data_shares: int = 8  # streams of examples; a number that the processes divide
    data_threads: int = 2  # of each process, that make sequences ahead; 0: the step makes its own
    sequence_tokens: int = 16384
    max_crops: int = 128  # views of the vision tower in a sequence
    max_frames: int = 128  # of a clip
    max_tiles: int = 8  # of a still image
    fine_tiles: int = 24  # of a share of the single images with questions of points alone
    fine_share: float = 0.0  # of these
    hints: bool = False  # pre-training: style before each question, length of a caption
    pack_buffer: int = 48  # examples to choose from
    dropout: float = 0.1  # of the language model's residual branches
    dropout_on_answers_only: bool = False  # pre-training: tokens of the answer alone
    z_weight: float = 1e-4
    clip_norm: float = 1.0  # of the gradient
    betas: tuple[float, float] = (0.9, 0.95)  # of AdamW
    eps: float = 1e-6
    weight_decay: float = 0.0
    final_lr_share: float = 0.1  # of the highest rate, at the end of the cosine
    precision: str = "bf16"  # of the arithmetic, weights stay float32; or fp32
    activation_checkpointing: bool = True
    lora: LoraConfig | None = None
    checkpoint_every: int = 1000  # steps
    keep_checkpoints: int = 2
    log_every: int = 10  # steps

    def __post_init__(self) -> None:
        unknown = set(self.rates) - set(PARTS)
        if unknown:
            raise ConfigError(f"rates of {', '.join(sorted(unknown))}, expected {', '.join(PARTS)}")
        if self.precision not in ("bf16", "fp32"):
            raise ConfigError(f"precision is {self.precision!r}, expected bf16 or fp32")
        if not 0 <= self.fine_share <= 1:
            raise ConfigError(f"fine_share is {self.fine_share}, expected 0..1")
        if self.data_threads < 0:
            raise ConfigError(f"data_threads is {self.data_threads}, expected 0 or more")
        if self.steps < 1 or self.data_shares < 1 or self.keep_checkpoints < 1:
            raise ConfigError("steps, data_shares and keep_checkpoints: expected at least 1 each")
        if self.sequences_per_step % self.data_shares:
            raise ConfigError(
                f"sequences_per_step is {self.sequences_per_step}, expected a multiple of "
                f"data_shares, {self.data_shares}"
            )
        if not 0 <= self.dropout < 1:
            raise ConfigError(f"dropout is {self.dropout}, expected 0..1")


def load_config(path: Path, overrides: Sequence[str] = ()) -> TrainConfig:
    """Read a YAML file.

    Args:
        path: of the file.
        overrides: `key=value` each, the value in YAML; keys of nested parts joined by dots.

    Raises:
        ConfigError: it cannot be read, or holds an unknown key or a value of another type.
    """
    try:
        content = yaml.safe_load(path.read_text(encoding="utf-8"))
        for override in overrides:
            _override(content, override)
    except (OSError, yaml.YAMLError) as error:
        raise ConfigError(f"cannot read the training configuration {path}: {error}") from error
    if isinstance(content, dict):
        _suggest(content, path)
    return read_dataclass(TrainConfig, content, str(path), _CURE, ConfigError)


def _override(content: Any, text: str) -> None:
    key, separator, value = text.partition("=")
    *parents, last = key.split(".")
    here = content
    for name in parents:
        here = here.get(name) if isinstance(here, dict) else None
    if not separator or not isinstance(here, dict):
        raise ConfigError(f"{text!r} changes nothing, expected key=value of the configuration")
    here[last] = _plain_value(value)


def _plain_value(text: str) -> Any:
    """As YAML has it; 1e-5 too, which YAML 1.1 takes for a word."""
    value = yaml.safe_load(text)
    if isinstance(value, str):
        try:
            return float(value)
        except ValueError:
            return value
    return value


def _suggest(content: Mapping[str, Any], path: Path) -> None:
    known = [entry.name for entry in fields(TrainConfig)]
    for key in content:
        near = difflib.get_close_matches(str(key), known, n=1)
        if key not in known and near:
            raise ConfigError(f"{path}: unknown key {key}, is {near[0]} meant? {_CURE}")

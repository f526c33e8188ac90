"""Batches of steps: made from the step's number alone, by whatever process."""

from dataclasses import fields, is_dataclass

import pytest
import torch

from molmo2_ros.training.nano.batches import StepBatches, step_batches
from molmo2_ros.training.nano.config import StageConfig, TrainConfig
from molmo2_ros.training.nano.model import ModelConfig
from molmo2_ros.training.nano.pool import PoolConfig, render_pool

CONFIG = TrainConfig(
    model=ModelConfig(vocab_size=640),
    pool=PoolConfig(still_worlds=1, stills_per_world=30, clip_worlds=1, clips_per_world=12),
    sprite_share=0.0,
    stages=(
        StageConfig(name="vision", steps=1, images=2, lr=1e-3),
        StageConfig(name="clips", steps=2, stills=2, clips={3: 2}, clip_shares={3: 1.0}, lr=1e-3),
    ),
)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    path = tmp_path_factory.mktemp("run")
    render_pool(CONFIG.pool, path / "pool", processes=1)
    return path


def tensors(value, name=""):
    """Every tensor in nested dataclasses and lists, by its path."""
    if isinstance(value, torch.Tensor):
        yield name, value
    elif is_dataclass(value):
        for field in fields(value):
            yield from tensors(getattr(value, field.name), f"{name}.{field.name}")
    elif isinstance(value, list):
        for index, item in enumerate(value):
            yield from tensors(item, f"{name}[{index}]")


def test_other_processes_make_the_same_batches_as_this_one(folder):
    steps = StepBatches(CONFIG, folder, [0, 1])
    here = [dict(tensors(batches)) for batches in step_batches(steps, 0, 0)]
    there = [dict(tensors(batches)) for batches in step_batches(steps, 0, 2)]
    assert len(here) == len(there) == 3
    for ours, theirs in zip(here, there, strict=True):
        assert ours.keys() == theirs.keys()
        assert all(torch.equal(tensor, theirs[name]) for name, tensor in ours.items())
    frames = "[{}].stills.frames_KHWC"
    assert not torch.equal(here[1][frames.format(0)], here[1][frames.format(1)])  # two shares
    assert not torch.equal(here[1][frames.format(0)], here[2][frames.format(0)])  # two steps


def test_a_step_does_not_depend_on_those_before_it(folder):
    steps = StepBatches(CONFIG, folder, [0])
    last = list(step_batches(steps, 0, 0))[-1]
    alone = next(step_batches(StepBatches(CONFIG, folder, [0]), 2, 0))
    both = dict(tensors(last)), dict(tensors(alone))
    assert all(torch.equal(tensor, both[1][name]) for name, tensor in both[0].items())

"""Batches of steps: made from the step's number alone, by whatever process."""

from dataclasses import fields, is_dataclass, replace

import numpy as np
import pytest
import torch

from molmo2_ros.simulation.motion import LabelledClip
from molmo2_ros.training.nano.batches import StepBatches, open_stream, step_batches
from molmo2_ros.training.nano.config import StageConfig, TrainConfig
from molmo2_ros.training.nano.model import ModelConfig
from molmo2_ros.training.nano.pool import PoolConfig, render_pool
from molmo2_ros.training.scenes import HELD_OUT_PAIRS, shows_held_out

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


@pytest.mark.parametrize("excluded", [True, False])
def test_a_training_leaves_out_the_held_out_pairs_and_questions_about_them(folder, excluded):
    stream = open_stream(replace(CONFIG, exclude_pairs=excluded), folder)
    stream.rng.bit_generator.state = np.random.default_rng(1).bit_generator.state
    examples = [stream.asked_still(5) for _ in range(150)]
    examples += [stream.asked_clip(3) for _ in range(30)]
    held = [shows_held_out(e.clip) for e in examples]
    asked = [q for e in examples for q in e.questions if q.held_out]
    if excluded:
        assert not any(held)
        assert not asked
    else:
        assert 0.05 < sum(held) / len(held) < 0.6
        assert {q.absent for q in asked} == {True, False}


def test_the_held_out_pairs_leave_every_colour_and_category_in_other_pairs(make_thing):
    for colour, noun in HELD_OUT_PAIRS:
        thing = make_thing(noun, colour)  # it is a pair that scenes hold
        clip = LabelledClip(
            frames=np.zeros((1, 8, 8, 3), np.uint8),
            instances=np.zeros((1, 8, 8), np.uint8),
            visible_fraction=np.zeros((1, 1), np.float32),
            objects=(thing,),
        )
        assert shows_held_out(clip)
    assert len({colour for colour, _ in HELD_OUT_PAIRS}) == len(HELD_OUT_PAIRS)
    assert len({noun for _, noun in HELD_OUT_PAIRS}) == len(HELD_OUT_PAIRS)

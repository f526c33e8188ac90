import subprocess
import sys
from dataclasses import asdict, replace
from pathlib import Path

import pytest
import torch
import yaml

from molmo2_ros.errors import ConfigError
from molmo2_ros.training.nano.config import StageConfig, TrainConfig
from molmo2_ros.training.nano.model import ModelConfig
from molmo2_ros.training.nano.pool import Pool, PoolConfig, render_pool
from molmo2_ros.training.nano.train import Trainer, from_stage, main

CONFIG = TrainConfig(
    model=ModelConfig(vocab_size=576, vision_layers=2, text_layers=3),
    pool=PoolConfig(still_worlds=1, stills_per_world=6, clip_worlds=1, clips_per_world=3),
    sprite_share=0.0,
    gapless_redraw_share=0.0,
    checkpoint_every=1,
    stages=(
        StageConfig(name="vision", steps=2, images=1, lr=1e-3, warmup_steps=1),
        StageConfig(
            name="clips",
            steps=3,
            stills=1,
            clips={4: 1},
            clip_shares={4: 1.0},
            lr=1e-3,
            warmup_steps=1,
        ),
    ),
)


ROOT = Path(__file__).parents[3]
CPU = torch.device("cpu")


class Killed(Exception):
    pass


def with_pool(folder, pool):
    folder.mkdir()
    (folder / "pool").symlink_to(pool)
    return folder


def train(folder, stop_after=None):
    trainer = Trainer(CONFIG, folder, torch.device("cpu"))
    trainer.resume()
    step, done = trainer._train_step, 0

    def counted(stage, batches):
        nonlocal done
        if done == stop_after:
            raise Killed
        done += 1
        return step(stage, batches)

    trainer._train_step = counted
    try:
        trainer.run()
    except Killed:
        return None
    return {name: tensor.clone() for name, tensor in trainer.modules.state_dict().items()}


@pytest.fixture(scope="module")
def pool(tmp_path_factory):
    folder = tmp_path_factory.mktemp("scenes") / "pool"
    render_pool(CONFIG.pool, folder, processes=1)
    return folder


@pytest.fixture
def one_thread():
    """As torchrun gives each of several processes: sums of many threads are rounded otherwise."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def test_one_process_reaches_the_weights_of_two_bit_by_bit(tmp_path, pool, one_thread):
    short = replace(CONFIG, stages=tuple(replace(stage, steps=1) for stage in CONFIG.stages))
    config = tmp_path / "config.yaml"
    config.write_text(yaml.safe_dump(asdict(short)))
    files = []
    for name in ("two", "one"):
        folder = tmp_path / name
        folder.mkdir()
        (folder / "pool").symlink_to(pool)
        options = ["--config", str(config), "--out", str(folder), "--device", "cpu"]
        if name == "one":
            main(options)
        else:
            torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
            start = [*torchrun, "--nproc-per-node", "2", "-m", "molmo2_ros.training.nano.train"]
            subprocess.run([*start, *options], check=True, timeout=300)
        files.append((folder / "checkpoint" / "model.safetensors").read_bytes())
    assert files[0] == files[1]


def test_a_killed_run_goes_on_to_the_same_weights_bit_by_bit(tmp_path, pool):
    assert len(Pool(pool, "still")) == 6
    assert len(Pool(pool, "clip")) == 3
    weights = []
    for name, stops in (("whole", []), ("killed", [1, 2, 1])):
        folder = tmp_path / name
        folder.mkdir()
        (folder / "pool").symlink_to(pool)
        for stop in stops:
            assert train(folder, stop_after=stop) is None
        weights.append(train(folder))
    whole, killed = weights
    assert all(torch.equal(whole[name], killed[name]) for name in whole)
    assert (tmp_path / "killed" / "checkpoint" / "model.safetensors").exists()
    fresh = Trainer(CONFIG, tmp_path / "whole", torch.device("cpu")).modules.state_dict()
    assert any(not torch.equal(whole[name], fresh[name]) for name in whole)


def test_a_finished_nano_is_gone_on_with_from_a_stage(tmp_path, pool):
    torch.manual_seed(7)
    first = Trainer(replace(CONFIG, stages=()), with_pool(tmp_path / "first", pool), CPU)
    finished = {name: tensor.clone() for name, tensor in first.model.state_dict().items()}
    first.run()
    went_on = from_stage(CONFIG, "clips")
    assert [stage.name for stage in went_on.stages] == ["dense heads", "clips"]
    heads = replace(went_on, stages=(replace(went_on.stages[0], steps=1, images=1),))
    second = Trainer(heads, with_pool(tmp_path / "second", pool), CPU)
    second.start_from(tmp_path / "first" / "checkpoint")
    before = {name: tensor.clone() for name, tensor in second.heads.state_dict().items()}
    second.run()
    assert all(torch.equal(finished[n], t) for n, t in second.model.state_dict().items())
    changed = {n for n, t in second.heads.state_dict().items() if not torch.equal(before[n], t)}
    assert changed == {"patch.weight", "patch.bias", "token.weight", "token.bias"}


def test_what_cannot_be_gone_on_with_is_refused(tmp_path, pool):
    with pytest.raises(ConfigError, match=r"no stage 'clip', expected one of vision, clips"):
        from_stage(CONFIG, "clip")
    trainer = Trainer(CONFIG, with_pool(tmp_path / "run", pool), CPU)
    with pytest.raises(
        ConfigError,
        match=r"cannot start from .*nothing: (.|\n)*; expected a nano of this configuration",
    ):
        trainer.start_from(tmp_path / "nothing")
    with pytest.raises(
        ConfigError, match=r"cannot start from .*nano/checkpoint: (.|\n)*state_dict"
    ):
        trainer.start_from(ROOT / "engines" / "nano" / "checkpoint")  # which has more layers

"""The trainer on molmo2-nano: kills, processes, adapters, and what it refuses."""

import json
import os
import re
import resource
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
import torch
import yaml
from safetensors.torch import load_file

from molmo2_ros.engines.export import main as export
from molmo2_ros.errors import ConfigError
from molmo2_ros.runtime.engine import NANO
from molmo2_ros.training import train
from molmo2_ros.training.config import load_config
from molmo2_ros.training.data.dataset_writer import DatasetWriter
from molmo2_ros.training.data.example import (
    Annotation,
    Example,
    LabelledObject,
    LabelledPoint,
    Media,
    Task,
)
from molmo2_ros.training.sharding import Processes
from molmo2_ros.training.train import Trainer, main

ROOT = Path(__file__).parents[2]
CONFIGS = ROOT / "training" / "configs"
ALONE = Processes(rank=0, world=1, device=torch.device("cpu"))
SMALL = {
    "model": str(NANO / "checkpoint"),
    "steps": 6,
    "sequences_per_step": 2,
    "data_shares": 2,
    "sequence_tokens": 512,
    "max_crops": 16,
    "max_frames": 4,
    "pack_buffer": 6,
    "rates": {part: {"lr": 1e-3, "warmup_steps": 2} for part in ("llm", "vit", "connector")},
    "precision": "fp32",
    "activation_checkpointing": False,
    "checkpoint_every": 2,
    "log_every": 1,
}


@pytest.fixture(scope="module")
def data(tmp_path_factory):
    """Two data sets: stills with points, clips with tracks."""
    folder = tmp_path_factory.mktemp("data")
    rng = np.random.default_rng(0)
    for name, length in (("stills", 1), ("clips", 3)):
        with DatasetWriter(folder / name) as writer:
            for number in range(12):
                images = rng.integers(0, 256, (length, 60, 80, 3), np.uint8)
                paths = writer.add_frames(f"{name}{number}", list(images))
                times_s = tuple(0.5 * i for i in range(length))
                points = tuple(LabelledPoint(x=0.1, y=0.2, time_s=t) for t in times_s)
                thing = LabelledObject(points=points)
                task = Task.POINT if length == 1 else Task.TRACK
                writer.add(
                    Example(
                        name=f"{name}{number}",
                        media=Media(frames=paths, times_s=times_s),
                        annotations=(
                            Annotation(task=task, label="red mug", objects=(thing,)),
                            Annotation(task=Task.COUNT, label="lemons"),
                        ),
                    )
                )
    return folder


@pytest.fixture
def words(tmp_path, data):
    """A mixture with a data set of words alone, and of stills where they have a weight."""
    with DatasetWriter(tmp_path / "words") as writer:
        for number in range(12):
            turns = tuple(
                Annotation(task=Task.REPLY, question=f"{number} and {i}?", answer=f"{number + i}.")
                for i in range(2)
            )
            writer.add(Example(name=f"talk{number}", annotations=turns, dialogue=True))

    def mixture(stills=0.0):
        groups = {"words": {"weight": 1.0, "datasets": [{"path": str(tmp_path / "words")}]}}
        if stills:
            groups["stills"] = {"weight": stills, "datasets": [{"path": str(data / "stills")}]}
        return groups

    return mixture


@pytest.fixture
def config(tmp_path, data):
    """Write a configuration; what is given goes before SMALL's values."""

    def write(**changed):
        mixture = {
            name: {"weight": 1.0, "datasets": [{"path": str(data / name)}]}
            for name in ("stills", "clips")
        }
        path = tmp_path / "config.yaml"
        path.write_text(yaml.safe_dump({"mixture": mixture, **SMALL, **changed}))
        return path

    return write


def command(path, out, processes=1):
    arguments = ["-m", "molmo2_ros.training.train", "--config", str(path), "--out", str(out)]
    if processes == 1:
        return [sys.executable, *arguments]
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone"]
    return [*torchrun, "--nproc-per-node", str(processes), *arguments]


def losses(out):
    return [json.loads(line)["loss"] for line in (out / "metrics.jsonl").read_text().splitlines()]


def weights(out):
    return load_file(out / "model" / "model.safetensors")


def test_a_killed_run_goes_on_to_the_same_weights_bit_by_bit(tmp_path, config):
    path = config(dropout=0.1)
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    assert main(["--config", str(path), "--out", str(whole)]) == 0
    process = subprocess.Popen(command(path, killed))
    written = killed / "metrics.jsonl"
    while not written.exists() or len(written.read_text().splitlines()) < 3:
        assert process.poll() is None
        time.sleep(0.02)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (killed / "model").exists()
    assert main(["--config", str(path), "--out", str(killed)]) == 0
    one, other = weights(whole), weights(killed)
    assert all(torch.equal(one[name], other[name]) for name in one)
    start = load_file(NANO / "checkpoint" / "model.safetensors")
    assert any(not torch.equal(one[name], start[name]) for name in start)


def test_sequences_made_ahead_are_those_that_a_step_makes_itself(tmp_path, config):
    outs = {threads: tmp_path / str(threads) for threads in (0, 3)}
    for threads, out in outs.items():
        for steps in (3, 6):  # stops once between checkpoints' packers, and goes on
            path = config(steps=steps, checkpoint_every=3, data_threads=threads, dropout=0.1)
            assert main(["--config", str(path), "--out", str(out)]) == 0
    one, other = (weights(out) for out in outs.values())
    assert all(torch.equal(one[name], other[name]) for name in one)
    states = [
        json.loads((out / "step-000006" / "progress.json").read_text()) for out in outs.values()
    ]
    assert states[0] == states[1]


def test_a_state_is_that_of_the_last_sequence_handed_out(config):
    path = config(data_threads=1)
    trainer = Trainer(load_config(path), Path("/nowhere"), ALONE)
    share = trainer.shares[0]
    states, packs = [share.state_dict()], []
    for _ in range(4):
        packs.append([tree.name for tree in next(share)])
        assert share._made.exception() is None  # the one ahead is done, and not in the state
        states.append(share.state_dict())
    share.load_state_dict(states[2])  # with a sequence made ahead
    assert [[tree.name for tree in next(share)] for _ in range(2)] == packs[2:]
    assert share.state_dict() == states[4]


def test_a_picture_that_breaks_is_told_by_whoever_makes_the_sequence(tmp_path, config, capsys):
    with DatasetWriter(tmp_path / "broken") as writer:
        media = Media(images=("gone.jpg",))
        about = Annotation(task=Task.REPLY, question="Why?", answer="So.")
        writer.add(Example(name="one", media=media, annotations=(about,)))
    mixture = {"x": {"weight": 1.0, "datasets": [{"path": str(tmp_path / "broken")}]}}
    for threads in (0, 2):
        path = config(mixture=mixture, data_threads=threads)
        assert main(["--config", str(path), "--out", str(tmp_path / "out")]) == 2
        assert "gone.jpg cannot be read" in capsys.readouterr().err


def test_a_share_of_pointing_in_single_images_is_seen_in_more_tiles(tmp_path, config):
    image = np.zeros((400, 800, 3), np.uint8)
    with DatasetWriter(tmp_path / "fine") as writer:
        for number, label in enumerate(["mug", ""]):
            (path,) = writer.add_frames(f"{number}", [image])
            if label:
                about = Annotation(task=Task.POINT, label=label)
            else:
                about = Annotation(task=Task.CAPTION, answer="A table.")
            media = Media(images=(path,))
            writer.add(Example(name=f"{number}", media=media, annotations=(about,)))
    mixture = {"x": {"weight": 1.0, "datasets": [{"path": str(tmp_path / "fine")}]}}
    made = {}
    for share in (0.0, 0.3):
        options = {"fine_share": share, "fine_tiles": 6, "max_tiles": 2, "sequence_tokens": 2048}
        path = config(mixture=mixture, data_threads=0, pack_buffer=1, **options)
        stream = Trainer(load_config(path), Path("/nowhere"), ALONE).shares[0]
        trees = [tree for _ in range(120) for tree in next(stream)]
        made[share] = {
            name: [tree.num_crops for tree in trees if tree.name == name] for name in ("0", "1")
        }
    plain = made[0.0]["1"][0]
    assert set(made[0.0]["0"]) == set(made[0.3]["1"]) == {plain}
    fine = [crops > plain for crops in made[0.3]["0"]]
    assert 0.1 < np.mean(fine) < 0.5


def test_two_processes_have_the_loss_of_one_and_go_on_as_one(tmp_path, config):
    # So slow that rounding in another order stays rounding.
    slow = {part: {"lr": 5e-5, "warmup_steps": 2} for part in ("llm", "vit", "connector")}
    path = config(steps=20, dropout=0.0, checkpoint_every=10, rates=slow)
    one, two = tmp_path / "one", tmp_path / "two"
    assert main(["--config", str(path), "--out", str(one)]) == 0
    subprocess.run(command(path, two, processes=2), check=True, timeout=280)
    assert len(losses(one)) == 20
    assert losses(one)[0] > losses(one)[-1]
    assert losses(two) == pytest.approx(losses(one), abs=1e-4)
    longer = config(steps=22, dropout=0.0, checkpoint_every=10, rates=slow)
    assert main(["--config", str(longer), "--out", str(two)]) == 0  # of two processes by one
    assert len(losses(two)) == 22


def test_a_process_without_pictures_keeps_step_with_those_that_have_some(tmp_path, config, words):
    slow = {part: {"lr": 5e-5, "warmup_steps": 2} for part in ("llm", "vit", "connector")}
    # Two sequences a step, one a process, of one example each: words and stills meet in a step.
    path = config(
        steps=12, dropout=0.0, rates=slow, sequences_per_step=2, pack_buffer=1, mixture=words(1.0)
    )
    one, two = tmp_path / "one", tmp_path / "two"
    assert main(["--config", str(path), "--out", str(one)]) == 0
    subprocess.run(command(path, two, processes=2), check=True, timeout=280)
    assert losses(two) == pytest.approx(losses(one), abs=1e-4)
    after, other = weights(one), weights(two)
    assert all(torch.allclose(after[name], other[name], atol=2e-4) for name in after)
    kinds = {tuple(bool(tree.num_crops) for pack in packs for tree in pack) for packs in made(path)}
    assert kinds == {(False, False), (False, True), (True, False), (True, True)}


def made(path):
    """The sequences of each step of a configuration."""
    trainer = Trainer(load_config(path), Path("/nowhere"), ALONE)
    return [list(trainer._packs()) for _ in range(trainer.config.steps)]


def test_words_alone_train_the_language_and_leave_the_rest_as_it_is(tmp_path, config, words):
    out = tmp_path / "out"
    path = config(mixture=words(), steps=2, dropout=0.0)
    assert main(["--config", str(path), "--out", str(out)]) == 0
    start, after = load_file(NANO / "checkpoint" / "model.safetensors"), weights(out)
    changed = {name for name in start if not torch.equal(start[name], after[name])}
    assert any("att_proj" in name for name in changed)
    assert not any("vision_backbone" in name for name in changed)
    assert any("vision_backbone" in name for name in start)


def test_adapters_train_few_weights_and_the_merged_model_is_exported(tmp_path, config):
    path = config(lora={"rank": 1, "targets": ["q_proj", "v_proj"]}, steps=3, dropout=0.0)
    out = tmp_path / "lora"
    assert main(["--config", str(path), "--out", str(out)]) == 0
    start, after = load_file(NANO / "checkpoint" / "model.safetensors"), weights(out)
    changed = {name for name in start if not torch.equal(start[name], after[name])}
    assert set(after) == set(start)  # whole weights under the released names
    assert changed
    assert all("att_proj" in name for name in changed)
    optimizer = load_file(out / "step-000003" / "optimizer.safetensors")
    trained = sum(t.numel() for name, t in optimizer.items() if name.endswith("|exp_avg"))
    assert trained < 0.02 * sum(t.numel() for t in start.values())
    assert export([str(out / "model"), str(tmp_path / "engine")]) in (0, None)


def test_rates_of_a_part_that_is_not_named_leave_it_as_it_is(tmp_path, config):
    path = config(rates={"connector": {"lr": 1e-3, "warmup_steps": 1}}, steps=1)
    out = tmp_path / "out"
    assert main(["--config", str(path), "--out", str(out)]) == 0
    start, after = load_file(NANO / "checkpoint" / "model.safetensors"), weights(out)
    changed = {name.split(".")[2] for name in start if not torch.equal(start[name], after[name])}
    assert changed == {"image_pooling_2d", "image_projector"}


@pytest.mark.parametrize(
    ("changed", "message"),
    [
        ({"step": 3}, "unknown key step, is steps meant"),
        ({"rates": {"language": {"lr": 1.0}}}, "rates of language, expected llm, vit, connector"),
        ({"rates": {"llm": {"lr": 0.0}}}, "no part of the model has a learning rate above 0"),
        ({"data_shares": 3}, "expected a multiple of data_shares, 3"),
        ({"fine_share": 1.5}, "fine_share is 1.5, expected 0..1"),
        ({"data_threads": -1}, "data_threads is -1, expected 0 or more"),
        ({"precision": "fp16"}, "precision is 'fp16'"),
        ({"sequence_tokens": 64}, "takes .* tokens with its first question alone"),
        ({"lora": {"targets": ["qkv"]}}, "lora targets qkv: no layer of that name"),
        ({"model": "/nowhere/at/all"}, "/nowhere/at/all"),
    ],
)
def test_what_cannot_be_trained_is_refused(tmp_path, config, capsys, changed, message):
    assert main(["--config", str(config(**changed)), "--out", str(tmp_path / "out")]) == 2
    assert re.search(message, capsys.readouterr().err)


def test_a_data_set_that_is_empty_or_gone_is_refused(tmp_path, config, capsys):
    DatasetWriter(tmp_path / "empty").close()
    for name, message in (("empty", "has no example"), ("gone", "no dataset.json in")):
        mixture = {"x": {"weight": 1.0, "datasets": [{"path": str(tmp_path / name)}]}}
        path = config(mixture=mixture)
        assert main(["--config", str(path), "--out", str(tmp_path / "out")]) == 2
        assert message in capsys.readouterr().err


def test_a_full_disk_leaves_the_checkpoint_before(tmp_path, config, capsys, monkeypatch):
    from molmo2_ros.training import checkpoint

    out, save, calls = tmp_path / "out", checkpoint.save_file, []

    def full(tensors, path, *rest):
        calls.append(path)
        if len(calls) > 4:  # the second checkpoint's second file
            raise OSError(28, "No space left on device")
        save(tensors, path, *rest)

    monkeypatch.setattr(checkpoint, "save_file", full)
    assert main(["--config", str(config()), "--out", str(out)]) == 2
    error = capsys.readouterr().err
    assert "left on device; the last checkpoint is whole: make room and start again" in error
    assert not (out / ".partial").exists()
    assert [path.name for path in out.glob("step-*")] == ["step-000002"]
    monkeypatch.undo()
    assert main(["--config", str(config()), "--out", str(out)]) == 0
    assert [path.name for path in sorted(out.glob("step-*"))] == ["step-000004", "step-000006"]


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        ("pretrain", (32000, 2536, {"llm": 2e-5, "vit": 6e-6, "connector": 2e-4}, True)),
        ("sft", (30000, 16384, {"llm": 1e-5, "vit": 5e-6, "connector": 5e-6}, False)),
        ("long_context", (2000, 36864, {"llm": 1e-5, "vit": 5e-6, "connector": 5e-6}, False)),
        ("finetune_logs", (500, 8192, {"llm": 1e-4}, False)),
    ],
)
def test_the_stages_are_those_of_the_paper(name, expected):
    config = load_config(CONFIGS / f"{name}.yaml")
    rates = {part: rate.lr for part, rate in config.rates.items()}
    found = (config.steps, config.sequence_tokens, rates, config.dropout_on_answers_only)
    assert found == expected
    assert (config.final_lr_share, config.clip_norm, config.z_weight) == (0.1, 1.0, 1e-4)
    assert (config.betas, config.eps, config.weight_decay) == ((0.9, 0.95), 1e-6, 0.0)


def test_a_value_is_overridden_on_the_command_line(config):
    path = config()
    changed = load_config(path, ["steps=9", "rates.vit.lr=0.5"])
    assert (changed.steps, changed.rates["vit"].lr, changed.rates["llm"].lr) == (9, 0.5, 1e-3)
    assert load_config(path, ["rates.llm.lr=1e-5"]).rates["llm"].lr == 1e-5
    assert load_config(path, ["model=runs/sft/model"]).model == "runs/sft/model"
    with pytest.raises(ConfigError, match="'steps' changes nothing"):
        load_config(path, ["steps"])
    with pytest.raises(ConfigError, match="unknown key stepz"):
        load_config(path, ["stepz=3"])


def test_a_checkpoint_of_another_mixture_is_refused(tmp_path, config, data, capsys):
    out = tmp_path / "out"
    assert main(["--config", str(config(steps=2)), "--out", str(out)]) == 0
    mixture = {"x": {"weight": 1.0, "datasets": [{"path": str(data / "stills")}]}}
    assert main(["--config", str(config(mixture=mixture)), "--out", str(out)]) == 2
    assert "start another run for another mixture" in capsys.readouterr().err


def test_a_model_that_cannot_be_written_is_told_and_written_later(
    tmp_path, config, capsys, monkeypatch
):
    out, write = tmp_path / "out", Trainer.write_model
    usual = resource.getrlimit(resource.RLIMIT_FSIZE)

    def without_room(trainer):
        resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, usual[1]))
        try:
            write(trainer)
        finally:
            resource.setrlimit(resource.RLIMIT_FSIZE, usual)

    monkeypatch.setattr(Trainer, "write_model", without_room)
    arguments = ["--config", str(config(steps=2)), "--out", str(out)]
    assert main(arguments) == 2
    assert "cannot write the model of step 2" in capsys.readouterr().err
    assert not (out / "model").exists()
    monkeypatch.undo()
    assert main(arguments) == 0
    assert weights(out)


def test_dropout_of_answers_is_the_same_with_and_without_activation_checkpointing(tmp_path, config):
    stored, again = tmp_path / "stored", tmp_path / "again"
    for out, checkpointing in ((stored, False), (again, True)):
        path = config(
            steps=2,
            dropout=0.3,
            dropout_on_answers_only=True,
            activation_checkpointing=checkpointing,
        )
        assert main(["--config", str(path), "--out", str(out)]) == 0
    assert losses(again) == pytest.approx(losses(stored), abs=1e-6)
    one, other = weights(stored), weights(again)
    assert all(torch.allclose(one[name], other[name], atol=1e-6) for name in one)


def test_sequences_of_a_step_are_made_one_at_a_time(tmp_path, config, monkeypatch):
    calls = []
    for name in ("collate", "forward"):
        real = getattr(train, name)
        monkeypatch.setattr(
            train, name, lambda *a, real=real, name=name: (calls.append(name), real(*a))[1]
        )
    path = config(steps=1)
    assert main(["--config", str(path), "--out", str(tmp_path / "out")]) == 0
    assert calls == ["collate", "forward"] * SMALL["sequences_per_step"]


def test_adapters_begin_alike_on_any_number_of_processes(tmp_path, config):
    fast = {"llm": {"lr": 1e-2, "warmup_steps": 1}}
    path = config(lora={"rank": 4}, steps=4, dropout=0.0, rates=fast)
    one, two = tmp_path / "one", tmp_path / "two"
    assert main(["--config", str(path), "--out", str(one)]) == 0
    subprocess.run(command(path, two, processes=2), check=True, timeout=280)
    assert losses(two) == pytest.approx(losses(one), abs=1e-4)


def test_steps_that_are_done_again_are_told_once(tmp_path, config):
    out = tmp_path / "out"
    assert main(["--config", str(config(steps=2)), "--out", str(out)]) == 0
    with (out / "metrics.jsonl").open("a") as file:
        file.write(json.dumps({"step": 3, "loss": 9.0}) + '\n{"step": 4, "lo')
    assert main(["--config", str(config(steps=4)), "--out", str(out)]) == 0
    lines = [json.loads(line) for line in (out / "metrics.jsonl").read_text().splitlines()]
    assert [line["step"] for line in lines] == [1, 2, 3, 4]
    assert lines[2]["loss"] != 9.0


def test_a_process_that_is_killed_ends_the_run_and_no_checkpoint_is_lost(tmp_path, config):
    out = tmp_path / "out"
    torchrun = subprocess.Popen(command(config(steps=5000), out, processes=2))
    while not (out / "step-000002").exists():
        assert torchrun.poll() is None
        time.sleep(0.02)
    children = Path(f"/proc/{torchrun.pid}/task/{torchrun.pid}/children").read_text().split()
    os.kill(int(children[-1]), signal.SIGKILL)
    assert torchrun.wait(timeout=60) != 0
    last = int(max(out.glob("step-*")).name.removeprefix("step-"))
    assert main(["--config", str(config(steps=last + 1)), "--out", str(out)]) == 0
    assert (out / f"step-{last + 1:06d}").exists()

"""`molmo2 train` as its users meet it: a model, a bar on a terminal, or one clear line."""

import json
import os
import pty
import subprocess
import sys
import termios

import numpy as np
import pytest
import yaml

from molmo2_ros.cli.main import build_parser, main
from molmo2_ros.runtime.engine import NANO
from molmo2_ros.training.data.dataset_writer import DatasetWriter
from molmo2_ros.training.data.example import Annotation, Example, Media, Task

EMPTY = '{"format": 1, "name": "x", "num_examples": 0, "sources": {}}'


@pytest.fixture
def config(tmp_path):
    """A configuration file of two steps on two pictures."""
    images = np.random.default_rng(0).integers(0, 256, (2, 60, 80, 3), np.uint8)
    with DatasetWriter(tmp_path / "data") as writer:
        for number, image in enumerate(images):
            paths = writer.add_frames(f"still{number}", [image])
            nothing = Annotation(task=Task.COUNT, label="lemons")
            media = Media(frames=paths, times_s=(0.0,))
            writer.add(Example(name=f"still{number}", media=media, annotations=(nothing,)))
    path = tmp_path / "config.yaml"
    content = {
        "model": str(NANO / "checkpoint"),
        "mixture": {"x": {"weight": 1.0, "datasets": [{"path": str(tmp_path / "data")}]}},
        "steps": 2,
        "rates": {"connector": {"lr": 1e-4, "warmup_steps": 1}},
        "sequences_per_step": 1,
        "data_shares": 1,
        "sequence_tokens": 1024,
        "pack_buffer": 2,
        "precision": "fp32",
        "activation_checkpointing": False,
        "log_every": 1,
    }
    path.write_text(yaml.safe_dump(content))
    return path


def on_terminal(arguments, stdout=None):
    """Exit code and what a terminal shows of the command, whose stdout may go elsewhere."""
    ours, theirs = pty.openpty()
    termios.tcsetwinsize(theirs, (24, 120))
    command = [sys.executable, "-m", "molmo2_ros.cli.main", *arguments]
    with subprocess.Popen(command, stdin=theirs, stdout=stdout or theirs, stderr=theirs) as process:
        os.close(theirs)
        shown = b""
        try:
            while chunk := os.read(ours, 4096):
                shown += chunk
        except OSError:  # how Linux ends a terminal that nobody writes to any more
            pass
    os.close(ours)
    return process.returncode, shown.decode()


def test_a_terminal_sees_a_bar_and_a_pipe_sees_lines(tmp_path, config):
    code, shown = on_terminal(["train", str(config), "--out", str(tmp_path / "one")])
    assert code == 0, shown
    assert "| 2/2 [" in shown
    assert "loss=" in shown
    assert "gradient_norm" not in shown
    command = [sys.executable, "-m", "molmo2_ros.cli.main", "train", str(config), "steps=1"]
    out = tmp_path / "two"
    told = subprocess.run([*command, "--out", str(out)], capture_output=True, text=True, check=True)
    assert "step 1 loss" in told.stderr
    assert "\r" not in told.stderr
    assert [json.loads(line)["step"] for line in (out / "metrics.jsonl").open()] == [1]
    assert (out / "model" / "model.safetensors").exists()


def test_lines_go_into_the_pipe_where_stdout_alone_is_one(tmp_path, config):
    with (tmp_path / "log").open("w+b") as log:
        code, shown = on_terminal(["train", str(config), "--out", str(tmp_path / "out")], log)
        log.seek(0)
        told = log.read().decode()
    assert code == 0, shown
    assert "step 1 loss" in told
    assert "step 2 loss" in told
    assert "| 2/2 [" not in shown


@pytest.mark.parametrize(
    "order",
    [
        "{c} steps=1 --out {o}",
        "{c} --out {o} steps=1",
        "--out {o} {c} steps=1",
        "--out={o} {c} steps=1",
        "{c} log_every=1 --out {o} steps=1",
    ],
)
def test_overrides_stand_where_they_like(tmp_path, config, order):
    out = tmp_path / "out"
    arguments = ["train", *order.format(c=config, o=out).split()]
    options = build_parser().parse_args(arguments)
    assert (options.config, options.out) == (config, out)
    assert options.overrides[-1] == "steps=1"
    assert len(options.overrides) == order.count("=1")


def test_an_override_behind_the_options_holds(tmp_path, config):
    out = tmp_path / "out"
    assert main(["train", str(config), "--out", str(out), "steps=1"]) == 0
    assert [json.loads(line)["step"] for line in (out / "metrics.jsonl").open()] == [1]


def test_an_unknown_option_is_refused(tmp_path, config, capsys):
    with pytest.raises(SystemExit):
        main(["train", str(config), "--out", str(tmp_path / "out"), "--step", "1"])
    assert "--step" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("files", "message"),
    [
        ({}, "no dataset.json in {data}, expected a data set"),
        ({"dataset.json": EMPTY}, "{data} has no example, expected at least one"),
        ({"dataset.json": EMPTY.replace(": 0", ": 1")}, "{data} has 0 rows, dataset.json says 1"),
    ],
    ids=["nothing", "no example", "rows lost"],
)
def test_an_empty_folder_of_data_is_one_clear_line(tmp_path, config, capsys, files, message):
    data = tmp_path / "nothing"
    data.mkdir()
    for name, text in files.items():
        (data / name).write_text(text)
    override = f"mixture.x.datasets=[{{path: {data}}}]"
    assert main(["train", str(config), "--out", str(tmp_path / "out"), override]) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("molmo2 train: error: ")
    assert message.format(data=data) in error


@pytest.mark.parametrize(
    ("override", "message"),
    [
        ("step=3", "unknown key step, is steps meant"),
        ("mixture.x.datasets=[]", "group x has weight 1.0 and 0 data sets"),
        ("model=/nowhere/at/all", "/nowhere/at/all"),
    ],
)
def test_what_cannot_be_trained_is_one_line(tmp_path, config, capsys, override, message):
    assert main(["train", str(config), override, "--out", str(tmp_path / "out")]) == 2
    error = capsys.readouterr().err.splitlines()[-1]
    assert error.startswith("molmo2 train: error: ")
    assert message in error


def test_a_full_disk_is_one_line(config, capsys):
    assert main(["train", str(config), "--out", "/dev/full/run"]) == 2
    assert "make room or give another folder" in capsys.readouterr().err

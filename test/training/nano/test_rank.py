"""Which process takes what: with GPUs, without, and with a number that does not fit."""

import pytest
import torch

from molmo2_ros.errors import ConfigError
from molmo2_ros.training.nano.config import load_config
from molmo2_ros.training.nano.rank import device_of, main, num_processes, shares_of


@pytest.mark.parametrize(
    ("num_shares", "num_gpus", "expected"),
    [
        (2, 0, 2),  # CPU cores: one a share
        (2, 1, 1),  # a GPU takes both shares
        (2, 2, 2),
        (2, 8, 2),  # six GPUs stay idle: a step has two shares
        (6, 4, 3),  # four do not divide six
    ],
)
def test_processes_are_one_a_gpu_and_split_the_shares_evenly(num_shares, num_gpus, expected):
    assert num_processes(num_shares, num_gpus) == expected


@pytest.mark.parametrize("world", [1, 2, 3, 6])
def test_every_share_of_a_step_is_taken_once_whatever_the_number_of_processes(world):
    taken = [share for rank in range(world) for share in shares_of(rank, world, 6)]
    assert sorted(taken) == list(range(6))
    assert len({len(shares_of(rank, world, 6)) for rank in range(world)}) == 1


def test_processes_that_would_change_the_size_of_a_step_are_refused():
    with pytest.raises(ConfigError, match=r"8 processes for the 2 shares of a step, expected a di"):
        shares_of(0, 8, 2)


def test_each_process_has_the_gpu_of_its_number_and_any_other_device_as_named():
    assert [device_of("cuda", rank, 2) for rank in (0, 1)] == [
        torch.device("cuda:0"),
        torch.device("cuda:1"),
    ]
    assert device_of("cpu", 1, 2) == torch.device("cpu")
    assert device_of("cuda:1", 0, 2) == torch.device("cuda:1")


@pytest.mark.parametrize("num_gpus", [0, 1])
def test_more_processes_than_gpus_are_refused_with_the_cure(num_gpus):
    message = rf"process 1 \(from 0\) .* finds {num_gpus} GPUs, expected one a process; .*how many"
    with pytest.raises(ConfigError, match=message):
        device_of("cuda", 1, num_gpus)


def test_the_command_prints_the_number_that_torchrun_is_given(tmp_path, capsys):
    path = tmp_path / "config.yaml"
    path.write_text("processes: 6")
    main(["--config", str(path)])
    expected = num_processes(load_config(path).processes, torch.cuda.device_count())
    assert capsys.readouterr().out == f"{expected}\n"

"""How many processes train a nano, which shares of a step each takes, and on which device.

A recipe's step is made of shares, each with batches and a random stream of its own: as many as the
`processes` of its configuration. Their gradients are averaged, so a step means the same whether a
process takes one share, as on CPU cores, or several one after the other, as on a single GPU.

`python -m molmo2_ros.training.nano.rank --config training/configs/nano.yaml` prints what to give to
`torchrun --nproc-per-node`.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import torch

from molmo2_ros.errors import ConfigError
from molmo2_ros.training.nano.config import load_config


def num_processes(num_shares: int, num_gpus: int) -> int:
    """Most processes among which the shares can be split evenly: with GPUs, one a GPU at most."""
    most = num_gpus or num_shares
    return max(n for n in range(1, num_shares + 1) if n <= most and num_shares % n == 0)


def shares_of(rank: int, world: int, num_shares: int) -> range:
    """The shares of each step that a process takes.

    Args:
        rank: of the process, 0 .. world - 1.
        world: processes that train together.
        num_shares: of a step.

    Raises:
        ConfigError: the shares cannot be split evenly.
    """
    if num_shares % world:
        raise ConfigError(
            f"{world} processes for the {num_shares} shares of a step, expected a divisor; "
            "`python -m molmo2_ros.training.nano.rank` prints how many to start"
        )
    return range(rank, num_shares, world)


def device_of(name: str, local_rank: int, num_gpus: int) -> torch.device:
    """A process's device: under "cuda" the GPU of its number, else the one that is named.

    Args:
        name: as for torch.device.
        local_rank: of the process on this machine.
        num_gpus: of this machine.

    Raises:
        ConfigError: more processes than GPUs.
    """
    if name != "cuda":
        return torch.device(name)
    if local_rank >= num_gpus:
        raise ConfigError(
            f"process {local_rank} (from 0) of this machine finds {num_gpus} GPUs, expected one a "
            "process; `python -m molmo2_ros.training.nano.rank` prints how many to start, and "
            "--device cpu needs none"
        )
    return torch.device("cuda", local_rank)


def main(arguments: list[str] | None = None) -> None:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--config", type=Path, default=Path("training/configs/nano.yaml"))
    options = parser.parse_args(arguments)
    print(num_processes(load_config(options.config).processes, torch.cuda.device_count()))


if __name__ == "__main__":
    main()

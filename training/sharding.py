"""The processes of a run, and the model's weights spread over them.

One process trains as it is; several (torchrun) shard weights, gradients and optimiser by torch's
own FSDP2, layer by layer, on GPUs over NCCL or on CPUs over gloo.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import Any

import torch
import torch.distributed as dist
from torch import nn

from molmo2_ros.errors import ConfigError


@dataclass(frozen=True, slots=True, kw_only=True)
class Processes:
    """This process among those of the run."""

    rank: int
    world: int
    device: torch.device

    @property
    def is_first(self) -> bool:
        """Whether this one writes files and speaks to people."""
        return self.rank == 0

    def shares(self, data_shares: int) -> range:
        """The data shares that this process trains on.

        Raises:
            ConfigError: they cannot be dealt out evenly.
        """
        if data_shares % self.world:
            raise ConfigError(
                f"{self.world} processes cannot deal {data_shares} data_shares out evenly; start a "
                "number that divides them, or set data_shares to a multiple of it"
            )
        return range(self.rank, data_shares, self.world)


@contextmanager
def joined() -> Iterator[Processes]:
    """Join the processes that torchrun started, or stand alone."""
    rank, world, local = (
        int(os.environ.get(name, default))
        for name, default in (("RANK", "0"), ("WORLD_SIZE", "1"), ("LOCAL_RANK", "0"))
    )
    has_gpu = torch.cuda.is_available()
    device = torch.device("cuda", local) if has_gpu else torch.device("cpu")
    if has_gpu:
        torch.cuda.set_device(device)
    if world > 1:
        dist.init_process_group("nccl" if has_gpu else "gloo")
    try:
        yield Processes(rank=rank, world=world, device=device)
    finally:
        if dist.is_initialized():
            dist.destroy_process_group()


def shard(model: Any, processes: Processes, *, precision: str) -> None:
    """Spread a model's weights over the processes; alone it stays whole.

    Args:
        model: a Molmo2 with float32 weights.
        processes: all of the run.
        precision: of the arithmetic: bf16 or fp32; sums of gradients are float32.
    """
    if processes.world == 1:
        return
    from torch.distributed.device_mesh import init_device_mesh
    from torch.distributed.fsdp import MixedPrecisionPolicy, fully_shard

    mesh = init_device_mesh(processes.device.type, (processes.world,))
    half = torch.bfloat16 if precision == "bf16" else None
    policy = MixedPrecisionPolicy(param_dtype=half, reduce_dtype=torch.float32)
    layers: list[nn.Module] = [*_layers(model)]
    for layer in layers:
        fully_shard(layer, mesh=mesh, mp_policy=policy)
    fully_shard(model, mesh=mesh, mp_policy=policy)


def _layers(model: Any) -> Iterator[nn.Module]:
    names = ("Molmo2DecoderLayer", "Molmo2VisionEncoderLayer")
    return (module for module in model.modules() if type(module).__name__ in names)


@contextmanager
def arithmetic(processes: Processes, precision: str) -> Iterator[None]:
    """In which a forward pass runs: half precision where one process has whole weights."""
    if precision == "bf16" and processes.world == 1:
        with torch.autocast(processes.device.type, torch.bfloat16):
            yield
    else:
        yield

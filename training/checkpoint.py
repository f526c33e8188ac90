"""Checkpoints of a run: safetensors and JSON, written aside and moved into place at once.

A folder `step-000200` holds `model.safetensors` and `optimizer.safetensors` with whole tensors, so
that any number of processes can go on with it, and `progress.json`. `random.safetensors` has every
process's random state: as many processes as wrote it go on bit by bit.
"""

from __future__ import annotations

import json
import shutil
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch.distributed.checkpoint.state_dict import (
    StateDictOptions,
    get_model_state_dict,
    get_optimizer_state_dict,
    set_model_state_dict,
    set_optimizer_state_dict,
)

from molmo2_ros.errors import DataError
from molmo2_ros.runtime.durable import sync, sync_below
from molmo2_ros.training.sharding import Processes

_PREFIX, _PARTIAL = "step-", ".partial"
_WHOLE = StateDictOptions(full_state_dict=True, cpu_offload=True)
_SPREAD = StateDictOptions(full_state_dict=True, broadcast_from_rank0=True)


def save(
    folder: Path,
    step: int,
    model: Any,
    optimizer: torch.optim.Optimizer,
    shares: Mapping[int, Mapping[str, Any]],
    processes: Processes,
    *,
    keep: int,
) -> None:
    """Write a checkpoint; every process calls it.

    Args:
        folder: of the run.
        step: how many are done.
        model: sharded or whole.
        optimizer: its optimiser.
        shares: states of this process's data shares, by number.
        processes: all of the run.
        keep: checkpoints to keep.

    Raises:
        DataError: it cannot be written; the checkpoints before stay.
    """
    weights = whole_weights(model)
    state = get_optimizer_state_dict(model, optimizer, options=_WHOLE)
    told: list[Any] = [(dict(shares), _random_state(processes))]
    if processes.world > 1:
        told = [None] * processes.world
        dist.all_gather_object(told, (dict(shares), _random_state(processes)))
    problem = ""
    if processes.is_first:
        try:
            with writing(f"the checkpoint of step {step}", folder):
                _write(folder, step, weights, state, told, keep)
        except DataError as error:
            shutil.rmtree(folder / _PARTIAL, ignore_errors=True)  # it would take room from the next
            problem = str(error)
    if processes.world > 1:
        heard = [problem]
        dist.broadcast_object_list(heard, src=0)
        problem = heard[0]
    if problem:
        raise DataError(problem)


@contextmanager
def writing(what: str, folder: Path) -> Iterator[None]:
    """Say what could not be written, and that nothing else is lost.

    Raises:
        DataError: the disk is full, or the folder cannot be written to.
    """
    try:
        yield
    except (OSError, SafetensorError) as error:
        raise DataError(
            f"cannot write {what} to {folder}: {error}; the last checkpoint is whole: make room "
            "and start again"
        ) from error


def whole_weights(model: Any) -> dict[str, torch.Tensor]:
    """All weights on the CPU of the first process, nothing on the others; all of them call it."""
    weights: Any = get_model_state_dict(model, options=_WHOLE)
    return dict(weights)


def newest(folder: Path) -> Path | None:
    """The last whole checkpoint of a run."""
    found = sorted(path for path in folder.glob(f"{_PREFIX}*") if (path / "progress.json").exists())
    return found[-1] if found else None


def load(
    path: Path, model: Any, optimizer: torch.optim.Optimizer, processes: Processes
) -> tuple[int, dict[int, dict[str, Any]]]:
    """Go on from a checkpoint; every process calls it.

    Returns:
        steps done, and the states of all data shares.

    Raises:
        DataError: it is of another model or optimiser.
    """
    progress = json.loads((path / "progress.json").read_text(encoding="utf-8"))
    weights: dict[str, Any] = {}
    state: dict[str, Any] = {}
    if processes.is_first:
        weights = load_file(path / "model.safetensors")
        tensors = load_file(path / "optimizer.safetensors")
        state = {"state": _nested(tensors), "param_groups": progress["param_groups"]}
    options = _SPREAD if processes.world > 1 else StateDictOptions(full_state_dict=True)
    try:
        set_model_state_dict(model, weights, options=options)
        set_optimizer_state_dict(model, optimizer, state, options=options)
    except (RuntimeError, KeyError) as error:
        raise DataError(f"{path} is of another model than the configuration's: {error}") from error
    random = load_file(path / "random.safetensors")
    if progress["world"] == processes.world:
        _set_random_state(random, processes)
    return progress["step"], {int(n): s for n, s in progress["shares"].items()}


def _write(
    folder: Path,
    step: int,
    weights: Mapping[str, torch.Tensor],
    state: Mapping[str, Any],
    told: Sequence[tuple[dict[int, Any], dict[str, torch.Tensor]]],
    keep: int,
) -> None:
    partial = folder / _PARTIAL
    shutil.rmtree(partial, ignore_errors=True)
    partial.mkdir(parents=True)
    save_file({n: t.contiguous() for n, t in weights.items()}, partial / "model.safetensors")
    flat = {
        f"{name}|{key}": torch.as_tensor(value).contiguous()
        for name, values in state["state"].items()
        for key, value in values.items()
    }
    save_file(flat, partial / "optimizer.safetensors")
    random = {f"{rank}|{k}": t for rank, (_, states) in enumerate(told) for k, t in states.items()}
    save_file(random, partial / "random.safetensors")
    progress = {
        "step": step,
        "world": len(told),
        "shares": {n: s for shares, _ in told for n, s in sorted(shares.items())},
        "param_groups": state["param_groups"],
    }
    (partial / "progress.json").write_text(json.dumps(progress), encoding="utf-8")
    sync_below(partial)
    target = folder / f"{_PREFIX}{step:06d}"
    shutil.rmtree(target, ignore_errors=True)
    partial.rename(target)
    sync(folder)
    for old in sorted(folder.glob(f"{_PREFIX}*"))[:-keep]:
        shutil.rmtree(old, ignore_errors=True)


def _nested(tensors: Mapping[str, torch.Tensor]) -> dict[str, dict[str, torch.Tensor]]:
    state: dict[str, dict[str, torch.Tensor]] = {}
    for joined, tensor in tensors.items():
        name, key = joined.rsplit("|", 1)
        state.setdefault(name, {})[key] = tensor
    return state


def _random_state(processes: Processes) -> dict[str, torch.Tensor]:
    states = {"cpu": torch.get_rng_state()}
    if processes.device.type == "cuda":
        states["cuda"] = torch.cuda.get_rng_state(processes.device)
    return states


def _set_random_state(states: Mapping[str, torch.Tensor], processes: Processes) -> None:
    torch.set_rng_state(states[f"{processes.rank}|cpu"])
    if processes.device.type == "cuda" and f"{processes.rank}|cuda" in states:
        torch.cuda.set_rng_state(states[f"{processes.rank}|cuda"], processes.device)

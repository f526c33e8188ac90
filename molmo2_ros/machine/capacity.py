"""Judges memory against every model and precision, disk space, and an engine that has to run."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from molmo2_ros.errors import EngineError
from molmo2_ros.machine.check import Check, fail, ok, warn
from molmo2_ros.machine.devices import usable_gb
from molmo2_ros.machine.facts import GB, Machine
from molmo2_ros.machine.models import MODELS, Architecture, find_model, of_engine
from molmo2_ros.machine.precision import PRECISIONS, precision_of
from molmo2_ros.machine.roofline import Workload, memory_of
from molmo2_ros.machine.runtimes import startable
from molmo2_ros.runtime.manifest import Manifest
from molmo2_ros.runtime.providers import check_fit

_ON_GPU, _ON_CPU = ("bf16", "int8", "int4"), ("fp32", "int8", "int4")
_ROOM_GB = 20  # a 4B checkpoint beside the engine that is made of it
_GRAPHS = (".onnx", ".data", ".onnx_data")


@dataclass(frozen=True, slots=True, kw_only=True)
class Need:
    """Memory that a model takes in one precision."""

    model: str
    precision: str
    needs_gb: float  # weights, cache and activations, computed
    usable_gb: float  # memory less what the system needs

    @property
    def fits(self) -> bool:
        """Whether there is enough."""
        return self.needs_gb <= self.usable_gb


def needs(machine: Machine) -> tuple[Need, ...]:
    """Every model in every precision, for eight frames and a hundred tokens."""
    usable = room_gb(machine)
    return tuple(
        Need(
            model=model.name,
            precision=name,
            needs_gb=memory_of(model, PRECISIONS[name], Workload()).total / GB,
            usable_gb=usable,
        )
        for model in (*MODELS.values(), find_model("molmo2-nano"))
        for name in (_ON_CPU if machine.gpu is None else _ON_GPU)
    )


def room_gb(machine: Machine) -> float:
    """Memory that a model may take: of the GPU, or of the machine where the GPU has none."""
    gpu = machine.gpu
    return usable_gb(machine.model_memory_gb, shared=gpu is None or gpu.memory_gb is None)


def check_capacity(machine: Machine, engine: Path | None = None) -> list[Check]:
    """All of this file's lines.

    Args:
        machine: its facts.
        engine: folder of an engine that has to run here; None for no particular one.
    """
    checks = [*_memory(machine), _disk(machine)]
    return checks if engine is None else [*checks, *_engine(machine, engine)]


def _memory(machine: Machine) -> Iterator[Check]:
    table = needs(machine)
    for model in dict.fromkeys(need.model for need in table):
        rows = [need for need in table if need.model == model]
        sizes = ", ".join(f"{row.precision} {_size(row.needs_gb)}" for row in rows)
        found = f"{sizes} of {rows[0].usable_gb:.1f} GB"
        fitting = [row.precision for row in rows if row.fits]
        name = f"memory.{model}"
        if not fitting:
            yield warn(
                name,
                f"{found}: does not fit",
                "a smaller model, or a server: engine:=http://HOST:8000/v1",
            )
        elif len(fitting) < len(rows):
            cure = f"molmo2 quantize, to {' or '.join(fitting)}"
            yield warn(name, f"{found}: fits in {', '.join(fitting)}", cure)
        else:
            yield ok(name, found)


def _disk(machine: Machine) -> Check:
    found = f"{machine.disk_free_gb:.0f} GB free"
    if machine.disk_free_gb < _ROOM_GB:
        return warn(
            "disk",
            f"{found}, and making an engine of Molmo2-4B takes {_ROOM_GB}",
            "make room, or export on another machine and copy the engine folder",
        )
    return ok("disk", found)


def _engine(machine: Machine, folder: Path) -> Iterator[Check]:
    """Whether the engine is whole, some provider here runs it, and memory holds it."""
    try:
        manifest = Manifest.load(folder)
        model = of_engine(folder)
    except EngineError as error:
        yield fail("engine", str(error), "molmo2 export CHECKPOINT FOLDER")
        return
    yield ok(
        "engine", f"{manifest.name}, {manifest.form}, {manifest.dtype}, opset {manifest.opset}"
    )
    yield _engine_runs(machine, manifest)
    needed = _engine_gb(manifest, model)
    usable = room_gb(machine)
    found = f"{_size(needed)} of {usable:.1f} GB"
    if needed > usable:
        yield fail("engine.memory", f"{found}: does not fit", "molmo2 quantize, or a smaller model")
    else:
        yield ok("engine.memory", found)


def _engine_runs(machine: Machine, manifest: Manifest) -> Check:
    """A line about the devices that are there and run the engine, or why none does."""
    version, reasons, devices = machine.onnxruntime.package.version, [], []
    for device in startable(machine):
        try:
            check_fit(manifest, device, version)
            devices.append(device)
        except EngineError as error:
            reasons.append(str(error))
    if devices:
        return ok("engine.runtime", f"onnxruntime {version} on {', '.join(devices)}")
    why = "; ".join(reasons) or "no onnxruntime that can be imported"
    return fail("engine.runtime", why, "pip install -U onnxruntime")


def _engine_gb(manifest: Manifest, model: Architecture) -> float:
    """Memory of an engine: its graphs as they lie on disk, cache and activations."""
    memory = memory_of(model, precision_of(manifest), Workload())
    weights = sum(e.bytes for name, e in manifest.files.items() if name.endswith(_GRAPHS))
    return (weights + memory.kv + memory.activations) / GB


def _size(gigabytes: float) -> str:
    return f"{gigabytes:.1f}" if gigabytes >= 0.1 else f"{gigabytes:.3f}"

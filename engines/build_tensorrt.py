"""Builds an engine folder's two graphs into TensorRT plans for one kind of GPU.

A plan goes to ENGINE/tensorrt_smNN, whole or not at all: it is built in a hidden folder, and given
its name when its record is written. A build that was killed leaves that hidden folder, which the
next one removes.
"""

from __future__ import annotations

import contextlib
import fcntl
import logging
import shutil
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from molmo2_ros.engines.tensorrt_builder import Progress, build_plan, compute_capability
from molmo2_ros.errors import EngineError
from molmo2_ros.runtime.cuda_api import CudaRuntime
from molmo2_ros.runtime.manifest import Manifest, file_entry
from molmo2_ros.runtime.tensorrt_api import (
    INSTALL_RTX,
    TensorRT,
    find_tensorrt,
)
from molmo2_ros.runtime.tensorrt_key import (
    EMBEDDING_TABLE,
    RECORD,
    PlanKey,
    PlanMismatchError,
    PlanRecord,
    differences,
    graphs_hash,
    key_here,
    plan_folder,
)
from molmo2_ros.runtime.tensorrt_plan import GraphPlan, Limits, choose_limits, plan_graphs

_LOG = logging.getLogger(__name__)
_SCRATCH = ".build-"
_LOCK = ".build.lock"
_TIMING_CACHE = "timing.cache"
_SM_OF_BFLOAT16 = (8, 0)
_SM_OF_SCHEME = {"fp8": (8, 9), "nvfp4": (10, 0)}  # first compute capability that computes in it


def build_engine(
    folder: Path,
    *,
    max_frames: int | None = None,
    verify_tokens: int | None = None,
    embedding: str | None = None,
    workspace_mb: int | None = None,
    rtx_target: str | None = None,
    rebuild: bool = False,
    progress: Progress | None = None,
) -> tuple[Path, PlanRecord]:
    """Build the plans of an engine folder for this machine's GPU, or for a named one.

    Args:
        folder: the engine.
        max_frames: of a clip.
        verify_tokens: width of a verify pass.
        embedding: "device" or "host".
        workspace_mb: scratch memory for trying kernels.
        rtx_target: compute capability of an RTX GPU ("8.9" or "89"), which need not be here;
            None for the GPU of this machine.
        rebuild: replace plans that are there; what is not given stays as it was.
        progress: told of each step.

    Returns:
        the folder of the plans and their record; those that are there where they fit already.

    Raises:
        EngineError: the folder, TensorRT or the GPU is unfit, TensorRT refuses the graph, or the
            plans cannot be written.
        PlanMismatchError: there are plans that do not fit, and `rebuild` is not asked for.
    """
    manifest = Manifest.load(folder)
    found, key = _target(manifest, rtx_target)
    check_buildable(manifest, found, key.sm)
    target = plan_folder(folder, found.product, key.sm)
    standing = _standing(target)
    given = {
        "max_frames": max_frames,
        "verify_tokens": verify_tokens,
        "embedding": embedding,
        "workspace_mb": workspace_mb,
    }
    limits = _limits(manifest, given, standing)
    if standing is not None and not rebuild:
        found_differences = [*differences(standing.key, key), *_changed(standing.limits, limits)]
        if not found_differences:
            return target, standing
        raise PlanMismatchError(
            f"{target} is there and differs: {'; '.join(found_differences)}; add --rebuild to "
            "replace it"
        )
    with _scratch_folder(folder, manifest) as scratch:
        seconds = {}
        for plan in plan_graphs(manifest, limits):
            begun = time.perf_counter()
            _build_file(found, key.sm, folder, plan, limits, target, scratch, progress)
            seconds[plan.name] = round(time.perf_counter() - begun, 2)
        files = sorted(path for path in scratch.iterdir() if path.name != _TIMING_CACHE)
        record = PlanRecord(
            key=key,
            limits=limits,
            files={path.name: file_entry(path) for path in files},
            seconds=seconds,
        )
        record.write(scratch)
        _swap(scratch, target)
    return target, record


def check_buildable(manifest: Manifest, found: TensorRT, sm: str) -> None:
    """Refuse at once what TensorRT would refuse after minutes, or compute in a detour.

    Raises:
        EngineError: the form, a dtype or a quantisation that this TensorRT or GPU does not have.
    """
    if found.form == "decomposed" and manifest.form == "fused":
        raise EngineError(
            f"{manifest.name} is exported in the fused form, and {found.title} reads the "
            "decomposed one (10.15 is the first to know RMSNormalization); export it with "
            "`molmo2 export CHECKPOINT OUT --form decomposed`"
        )
    capability = tuple(int(part) for part in sm.split("."))
    if manifest.dtype == "bfloat16" and capability < _SM_OF_BFLOAT16:
        raise EngineError(
            f"{manifest.name} is exported in bfloat16, which a GPU of compute capability {sm} does "
            "not have (8.0 is the first); export it with --dtype float16"
        )
    for graph, facts in manifest.quantized.items():
        if facts.operator == "MatMulNBits":
            raise EngineError(
                f"{graph} of {manifest.name} is quantised with {facts.operator} for ONNX Runtime, "
                "which TensorRT does not read; quantise it with `molmo2 quantize --for tensorrt`"
            )
        first = _SM_OF_SCHEME.get(facts.scheme, (0, 0))
        if capability < first or (facts.scheme == "nvfp4" and not found.has_fp4):
            raise EngineError(
                f"{graph} of {manifest.name} is quantised to {facts.scheme}, which "
                f"{found.title} on compute capability {sm} does not have; Orin takes int4, int8 "
                "and float16"
            )


def _target(manifest: Manifest, rtx_target: str | None) -> tuple[TensorRT, PlanKey]:
    """TensorRT, and the key that the plans will have."""
    if rtx_target is not None:
        found = find_tensorrt("tensorrt_rtx")
        capability = _capability(rtx_target)
        compute_capability(found, capability)
        return found, PlanKey(
            product=found.product,
            version=found.version,
            sm=capability,
            driver="",
            graphs=graphs_hash(manifest),
        )
    found = find_tensorrt()
    try:
        gpu = CudaRuntime().gpu()
    except EngineError as error:
        raise EngineError(
            f"{error}. Plans are built on the GPU that runs them; for an RTX GPU that is not here "
            f"name it with --rtx-target, which needs {INSTALL_RTX}"
        ) from error
    return found, key_here(found, gpu, manifest)


def _capability(text: str) -> str:
    """As the driver writes it: 12.0 for "120", "sm120" and "12.0" alike."""
    digits = text.lower().removeprefix("sm").replace(".", "").removeprefix("_")
    if not digits.isdigit() or not 2 <= len(digits) <= 3:
        raise EngineError(
            f"rtx-target is {text!r}, expected a compute capability such as 89 or 120 (NVIDIA "
            "lists them by GPU: RTX 30 has 86, RTX 40 has 89, RTX 50 has 120)"
        )
    return f"{digits[:-1]}.{digits[-1]}"


def _standing(target: Path) -> PlanRecord | None:
    """The record of plans that are there; what cannot be read is as good as none."""
    if not (target / RECORD).is_file():
        return None
    try:
        return PlanRecord.load(target)
    except PlanMismatchError as error:
        _LOG.warning("%s. It is replaced", error)
        return None


def _limits(manifest: Manifest, given: dict[str, Any], standing: PlanRecord | None) -> Limits:
    """The limits asked for; what is not given is as in the plans that are there, or usual."""
    chosen = {name: value for name, value in given.items() if value is not None}
    if standing is not None:
        for name in given.keys() - chosen.keys():
            chosen[name] = getattr(standing.limits, name)
    return choose_limits(manifest, **chosen)


def _changed(standing: Limits, wanted: Limits) -> list[str]:
    """The limits that differ, in words."""
    return [
        f"{name.replace('_', '-')} is {getattr(standing, name)}, asked for is {value}"
        for name, value in (
            ("max_frames", wanted.max_frames),
            ("verify_tokens", wanted.verify_tokens),
            ("embedding", wanted.embedding),
            ("workspace_mb", wanted.workspace_mb),
        )
        if getattr(standing, name) != value
    ] or (["its profiles are of another version"] if standing != wanted else [])


@contextlib.contextmanager
def _scratch_folder(folder: Path, manifest: Manifest) -> Iterator[Path]:
    """A hidden folder for one build at a time; what killed ones left behind goes first."""
    try:
        with (folder / _LOCK).open("w") as lock:
            try:
                fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise EngineError(
                    f"another build is under way in {folder}; wait for it, or end it"
                ) from None
            for left in folder.glob(f"{_SCRATCH}*"):
                shutil.rmtree(left)
            _check_room(folder, manifest)
            with tempfile.TemporaryDirectory(
                dir=folder, prefix=_SCRATCH, ignore_cleanup_errors=True
            ) as scratch:
                Path(scratch).chmod(0o755)  # whoever runs the robot reads it, too
                yield Path(scratch)
    except OSError as error:
        raise EngineError(
            f"the plans of {folder} cannot be written ({error}); make room, or copy the engine to "
            "a folder that you own"
        ) from error


def _check_room(folder: Path, manifest: Manifest) -> None:
    """Notice a full disk before the build and not after it."""
    needed = sum(entry.bytes for name, entry in manifest.files.items() if ".json" not in name)
    free = shutil.disk_usage(folder).free
    if free < needed:
        raise EngineError(
            f"{folder} has {free / 1e9:.2f} GB of free disk, the plans take about "
            f"{needed / 1e9:.2f} GB; make room, or copy the engine to a larger disk"
        )


def _build_file(
    found: TensorRT,
    sm: str,
    folder: Path,
    plan: GraphPlan,
    limits: Limits,
    target: Path,
    scratch: Path,
    progress: Progress | None,
) -> None:
    """Build one plan into the scratch folder."""
    model = None
    if plan.name == "decoder" and limits.embedding == "host":
        model = _split(folder / plan.onnx, scratch)
    cache = next(
        (at / _TIMING_CACHE for at in (scratch, target) if (at / _TIMING_CACHE).is_file()), None
    )
    serialized, timing = build_plan(
        found,
        sm,
        plan,
        limits,
        folder / plan.onnx,
        model=model,
        timing_cache=cache.read_bytes() if cache else b"",
        progress=progress,
    )
    with (scratch / plan.file).open("wb") as stream:
        stream.write(serialized)
    if timing:
        (scratch / _TIMING_CACHE).write_bytes(timing)


def _split(path: Path, scratch: Path) -> bytes:
    """Put the embedding table into a file of its own, and give the graph without it."""
    try:
        from molmo2_ros.engines.embedding_table import split_embedding
    except ImportError as error:
        raise EngineError(
            f"taking the embedding out of the graph needs onnx ({error}); `pip install onnx`, or "
            "leave it on the device (--embedding device)"
        ) from error
    table: npt.NDArray[Any]
    model, table = split_embedding(path)
    np.save(scratch / EMBEDDING_TABLE, table, allow_pickle=False)
    return model


def _swap(scratch: Path, target: Path) -> None:
    """Give finished plans their name."""
    if target.exists():
        retired = scratch.with_name(f"{scratch.name}-old")
        target.rename(retired)
        scratch.rename(target)
        shutil.rmtree(retired)
    else:
        scratch.rename(target)

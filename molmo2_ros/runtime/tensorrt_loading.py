"""Finds the built plans that fit this machine, and says what differs where none does."""

from __future__ import annotations

import logging
import subprocess
import sys
from pathlib import Path

import numpy as np

from molmo2_ros.errors import EngineError
from molmo2_ros.runtime.cuda_api import Cuda, CudaRuntime
from molmo2_ros.runtime.manifest import Manifest
from molmo2_ros.runtime.tensorrt_api import Messages, TensorRT, find_tensorrt
from molmo2_ros.runtime.tensorrt_engine import TensorRTEngine
from molmo2_ros.runtime.tensorrt_key import (
    EMBEDDING_TABLE,
    PlanMismatchError,
    PlanRecord,
    built_folders,
    check_key,
    find_plans,
    key_here,
    read_plan,
)
from molmo2_ros.runtime.tensorrt_plan import plan_graphs
from molmo2_ros.runtime.tensorrt_runner import load_plan

_LOG = logging.getLogger(__name__)


def load_tensorrt(folder: Path, *, rebuild: bool = False) -> TensorRTEngine | None:
    """The TensorRT engine of a folder that holds built plans.

    Args:
        folder: the engine.
        rebuild: build plans anew where they do not fit, instead of refusing them; takes minutes.

    Returns:
        None where there are no plans, or this machine has no TensorRT or no GPU (which is logged).

    Raises:
        PlanMismatchError: the plans are for another GPU, TensorRT, driver or graph.
        EngineError: a plan does not load.
    """
    products = {path.name.split("_sm")[0] for path in built_folders(folder)}
    if not products:
        return None
    try:
        found = find_tensorrt(products.pop() if len(products) == 1 else None)
        cuda = CudaRuntime()
    except EngineError as error:
        _LOG.warning("the TensorRT plans in %s are left alone: %s", folder, error)
        return None
    try:
        return open_plans(folder, found, cuda)
    except PlanMismatchError as error:
        if not rebuild:
            raise
        _LOG.warning("%s. Building it again, which takes minutes", error)
    rebuild_plans(folder)
    return open_plans(folder, found, cuda)


def open_plans(folder: Path, found: TensorRT, cuda: Cuda) -> TensorRTEngine:
    """Load the plans that fit a device.

    Raises:
        PlanMismatchError: none does.
        EngineError: one does not load.
    """
    # Sizes only: the plans carry hashes of their own, and of the graphs they were made of.
    manifest = Manifest.load(folder, verify=False)
    gpu = cuda.gpu()
    plans = find_plans(folder, found.product, gpu.sm)
    record = PlanRecord.load(plans)
    check_key(plans, record.key, key_here(found, gpu, manifest))
    messages = Messages()
    engines = {}
    for plan in plan_graphs(manifest, record.limits):
        content = read_plan(plans, plan.file, record)
        engines[plan.name] = load_plan(found, content, str(plans / plan.file), messages)
    table = None
    if record.limits.embedding == "host":
        table = np.load(plans / EMBEDDING_TABLE, mmap_mode="r", allow_pickle=False)
    engine = TensorRTEngine(
        folder,
        manifest,
        record.limits,
        found,
        cuda,
        engines,
        table=table,
        messages=messages,
        checksum=record.checksum,
    )
    _LOG.info("loaded %s from %s on %s", manifest.name, plans, found.title)
    return engine


def rebuild_plans(folder: Path) -> None:
    """Run `molmo2 build-engine --rebuild` as a process of its own, whose memory goes with it.

    Raises:
        EngineError: it failed.
    """
    command = [sys.executable, "-m", "molmo2_ros.cli.main", "build-engine", str(folder)]
    result = subprocess.run([*command, "--rebuild"], capture_output=True, text=True, check=False)
    if result.returncode:
        said = result.stderr.strip().splitlines() or ["it gave no reason"]
        raise EngineError(f"building the plans of {folder} again failed: {said[-1]}")

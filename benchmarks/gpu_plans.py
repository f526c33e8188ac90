"""Plans for the GPU that is there, or those of another one that it takes."""

from __future__ import annotations

import contextlib
import logging
import shutil
import sys
from dataclasses import replace
from pathlib import Path

from molmo2_ros.cli.main import main as molmo2
from molmo2_ros.engines.build_tensorrt import build_engine
from molmo2_ros.engines.tensorrt_builder import compute_capability
from molmo2_ros.errors import EngineError
from molmo2_ros.runtime.cuda_api import Cuda, CudaRuntime, Gpu
from molmo2_ros.runtime.engine import NANO
from molmo2_ros.runtime.tensorrt_api import TensorRT, find_tensorrt
from molmo2_ros.runtime.tensorrt_engine import TensorRTEngine
from molmo2_ros.runtime.tensorrt_loading import open_plans

_LOG = logging.getLogger(__name__)
_OTHERS = ("8.0", "8.6", "8.9", "12.0")  # what a GPU that has no plans of its own may take


class SeenAs(CudaRuntime):
    """A GPU that passes for one of another compute capability."""

    def __init__(self, sm: str) -> None:
        super().__init__()
        self._sm = sm

    def gpu(self) -> Gpu:
        """See Cuda.gpu."""
        return replace(super().gpu(), sm=self._sm)


def built_and_loaded(folder: Path, cuda: Cuda) -> TensorRTEngine:
    """Build the plans of an engine folder by TensorRT-RTX, and load them.

    Raises:
        EngineError: this GPU takes none; says what each was refused with.
    """
    found = find_tensorrt("tensorrt_rtx")
    own = cuda.gpu().sm
    refused = []
    for sm in targets(found, own):
        try:
            plans, record = build_engine(folder, rtx_target=sm)
            _LOG.warning("built %s in %s s", plans.name, dict(record.seconds))
            return open_plans(folder, found, cuda if sm == own else SeenAs(sm))
        except (EngineError, TypeError) as error:  # TypeError: the bindings got a null pointer
            _LOG.warning("plans for %s: %s", sm, error)
            refused.append(f"{sm}: {error}")
    raise EngineError(
        f"a GPU of compute capability {own} takes no plans of {found.title} "
        f"({'; '.join(refused)}); run with --kernels torch"
    )


def half_and_loaded(folder: Path, cuda: Cuda) -> TensorRTEngine:
    """The shipped checkpoint in float16, built and loaded; needs torch and transformers.

    Raises:
        EngineError: it cannot be exported, or this GPU takes no plans of it.
    """
    shutil.rmtree(folder, ignore_errors=True)
    with contextlib.redirect_stdout(sys.stderr):  # a report of JSON is alone on stdout
        is_refused = molmo2(["export", str(NANO / "checkpoint"), str(folder), "--dtype", "float16"])
    if is_refused:
        raise EngineError(f"no float16 engine in {folder}; the export says why")
    return built_and_loaded(folder, cuda)


def targets(found: TensorRT, own: str) -> tuple[str, ...]:
    """Compute capabilities to build for: the GPU's own, or all others where it has no name."""
    try:
        compute_capability(found, own)
    except EngineError as error:
        _LOG.warning("%s", error)
        return _OTHERS
    return (own,)

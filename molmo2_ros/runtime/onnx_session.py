"""Opens a graph in ONNX Runtime on the device that was asked for, and proves that it runs there."""

from __future__ import annotations

import contextlib
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy.typing as npt

from molmo2_ros.errors import EngineError
from molmo2_ros.runtime.engine import DEVICES
from molmo2_ros.runtime.manifest import REBUILD

_GPU_CURE = (
    "on a machine with an NVIDIA GPU: `pip uninstall -y onnxruntime onnxruntime-gpu && pip install "
    '"onnxruntime-gpu[cuda,cudnn]"` (the two write the same folder, so that only one may be there)'
)

try:
    import onnxruntime
    from onnxruntime import InferenceSession  # a folder that an uninstall left behind lacks it
except ImportError as error:
    raise EngineError(
        f"onnxruntime cannot be imported ({error}); install it with `pip install onnxruntime`, "
        f"{_GPU_CURE}"
    ) from error

_BFLOAT16 = 16  # as onnx.TensorProto counts
PROVIDERS = {"cpu": "CPUExecutionProvider", "cuda": "CUDAExecutionProvider"}


class DeviceLostError(EngineError):
    """ONNX Runtime has the device's provider, and yet runs the graph elsewhere."""


def choose_device(asked: str, available: Sequence[str] | None = None) -> str:
    """The device to open graphs on.

    Args:
        asked: one of `DEVICES`; "auto" takes CUDA where it is offered.
        available: execution providers; None for those that ONNX Runtime was built with.

    Raises:
        EngineError: an unknown device, or one that this ONNX Runtime was built without.
    """
    if asked not in DEVICES:
        raise EngineError(f"device is {asked!r}, expected one of {', '.join(DEVICES)}")
    if available is None:
        available = onnxruntime.get_available_providers()
    if asked == "auto":
        return "cuda" if PROVIDERS["cuda"] in available else "cpu"
    if PROVIDERS[asked] not in available:
        raise EngineError(
            f"device is {asked!r}, which needs {PROVIDERS[asked]}, and this onnxruntime "
            f"{onnxruntime.__version__} has {', '.join(available)}; {_GPU_CURE}, or ask for cpu"
        )
    return asked


def open_session(path: Path, device: str, threads: int | None, inputs: Sequence[str]) -> Any:
    """A session that leaves the cores alone between two runs.

    Spinning threads answer a little sooner and burn the cores that the camera, the tracker and the
    robot's other nodes need.

    Args:
        path: of the graph.
        device: "cpu" or "cuda".
        threads: CPU threads for one operator; None for ONNX Runtime's choice (all cores).
        inputs: names that the graph must have.

    Raises:
        EngineError: the graph does not load, has other inputs, or runs elsewhere
            (`DeviceLostError`).
    """
    options = onnxruntime.SessionOptions()
    if threads is not None:
        options.intra_op_num_threads = threads
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.log_severity_level = 3
    providers: list[Any] = [PROVIDERS["cpu"]]
    if device == "cuda":
        _find_cuda()
        # TF32 keeps ten bits: with it a float32 engine is no longer the one that was proven.
        providers.insert(0, (PROVIDERS["cuda"], {"use_tf32": "0"}))
    try:
        # Without its own fallback, which says so on stdout and goes on.
        session = InferenceSession(str(path), options, providers=providers, enable_fallback=0)
    except Exception as error:  # ONNX Runtime's own classes share no public parent
        if device != "cpu":
            raise _lost(device, f"{path}: {error}") from error
        raise EngineError(
            f"{path} does not load in onnxruntime {onnxruntime.__version__} ({error}); opset 23 "
            f"needs 1.23 or later; {REBUILD}"
        ) from error
    found = [value.name for value in session.get_inputs()]
    if set(found) != set(inputs):
        raise EngineError(f"{path} has inputs {found}, expected {list(inputs)}; {REBUILD}")
    check_device(device, session.get_providers())
    return session


def ort_value(array: npt.NDArray[Any], device: str, dtype: str = "float32") -> Any:
    """An array as ONNX Runtime's own value on a device; on the CPU it shares the memory.

    Args:
        array: of `dtype`; the bits of bfloat16 as uint16, which stay on the CPU.
        device: "cpu" or "cuda".
        dtype: of a manifest.
    """
    if dtype == "bfloat16":
        return onnxruntime.OrtValue.ortvalue_from_numpy_with_onnx_type(array, _BFLOAT16)
    return onnxruntime.OrtValue.ortvalue_from_numpy(array, device)


def check_dtype(session: Any, path: Path, dtype: str) -> None:
    """Notice a graph of another precision than the manifest says, before a pass fails on it.

    Args:
        session: of decoder.onnx.
        path: of the graph.
        dtype: of the attention bias and the cache.

    Raises:
        EngineError: an input has another type.
    """
    wanted = f"tensor({'float' if dtype == 'float32' else dtype})"
    for value in session.get_inputs():
        if value.name.startswith(("attn_bias", "past_")) and value.type != wanted:
            raise EngineError(
                f"{path} takes {value.name} as {value.type}, the manifest says {dtype}: they are "
                f"of two exports; {REBUILD}"
            )


def runtime_name(device: str) -> str:
    """ONNX Runtime's version and the provider that computes on a device."""
    return f"onnxruntime {onnxruntime.__version__} {PROVIDERS[device]}"


def check_device(device: str, providers: Sequence[str]) -> None:
    """Notice that ONNX Runtime fell back, which it does with a line on stderr.

    Args:
        device: that was asked for.
        providers: of the session, as it came to be.

    Raises:
        DeviceLostError: the first provider is another one.
    """
    if providers[0] != PROVIDERS[device]:
        raise _lost(device, f"it fell back to {', '.join(providers)}, stderr says why")


def _lost(device: str, why: str) -> DeviceLostError:
    return DeviceLostError(
        f"onnxruntime {onnxruntime.__version__} could not start {PROVIDERS[device]} ({why}); the "
        "GPU's driver (see nvidia-smi), CUDA or cuDNN is missing or of another version than this "
        'onnxruntime needs; `pip install "onnxruntime-gpu[cuda,cudnn]"` brings all but the driver'
    )


def _find_cuda() -> None:
    """Load the CUDA libraries that pip installed, which the dynamic linker does not find."""
    with contextlib.redirect_stdout(sys.stderr):  # it prints what it does not find
        onnxruntime.preload_dlls()

"""Opens a graph in ONNX Runtime on the device that was asked for, and proves that it runs there."""

from __future__ import annotations

import contextlib
import importlib
import os
import sys
from collections.abc import Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import numpy.typing as npt

from molmo2_ros.errors import EngineError
from molmo2_ros.runtime.engine import DEVICES
from molmo2_ros.runtime.manifest import REBUILD, Manifest
from molmo2_ros.runtime.providers import CURES, GPU_CURE, LOST, PLUGIN_MODULE, PROVIDERS, check_fit

try:
    import onnxruntime
    from onnxruntime import InferenceSession  # a folder that an uninstall left behind lacks it
except ImportError as error:
    raise EngineError(
        f"onnxruntime cannot be imported ({error}); install it with `pip install onnxruntime`, "
        f"{GPU_CURE}"
    ) from error

_BFLOAT16 = 16  # as onnx.TensorProto counts


class DeviceLostError(EngineError):
    """ONNX Runtime has the device's provider, and yet runs the graph elsewhere."""


def choose_device(asked: str, available: Sequence[str] | None = None) -> str:
    """The device to open graphs on.

    Args:
        asked: one of `DEVICES`; "auto" takes CUDA where it is offered.
        available: execution providers; None for those that ONNX Runtime was built with, and the
            one that can be plugged in, where it is installed.

    Raises:
        EngineError: an unknown device, or one whose provider is not there.
    """
    if asked not in DEVICES:
        raise EngineError(f"device is {asked!r}, expected one of {', '.join(DEVICES)}")
    if available is None:
        available = available_providers()
    if asked == "auto":
        return "cuda" if PROVIDERS["cuda"] in available else "cpu"
    if PROVIDERS[asked] not in available:
        raise EngineError(
            f"device is {asked!r}, which needs {PROVIDERS[asked]}, and this onnxruntime "
            f"{onnxruntime.__version__} has {', '.join(available)}; {CURES[asked]}, or ask for cpu"
        )
    return asked


def available_providers() -> list[str]:
    """Execution providers that can be asked for, whether or not they find their hardware."""
    plugged = [] if find_spec(PLUGIN_MODULE) is None else [PROVIDERS["tensorrt-rtx"]]
    return [*onnxruntime.get_available_providers(), *plugged]


def fit_device(manifest: Manifest, asked: str, device: str) -> tuple[str, EngineError | None]:
    """The device that an engine can run on with this ONNX Runtime.

    Args:
        manifest: of the engine.
        asked: as the user asked; only "auto" may end on another device than `device`.
        device: that `choose_device` made of it.

    Returns:
        the device, and why it is not `device`, None where it is.

    Raises:
        EngineError: this ONNX Runtime does not run the engine there.
    """
    try:
        check_fit(manifest, device, onnxruntime.__version__)
    except EngineError as error:
        if asked != "auto" or device == "cpu":
            raise
        check_fit(manifest, "cpu", onnxruntime.__version__)
        return "cpu", error
    return device, None


def open_session(
    path: Path,
    device: str,
    threads: int | None,
    inputs: Sequence[str],
    provider_options: Mapping[str, str] | None = None,
) -> Any:
    """A session that leaves the cores alone between two runs.

    Spinning threads answer a little sooner and burn the cores that the camera, the tracker and the
    robot's other nodes need.

    Args:
        path: of the graph.
        device: one of `PROVIDERS`.
        threads: CPU threads for one operator; None for ONNX Runtime's choice (all cores).
        inputs: names that the graph must have.
        provider_options: what the device's provider is told, by `providers.provider_options`.

    Raises:
        EngineError: the graph does not load, has other inputs, or runs elsewhere
            (`DeviceLostError`).
    """
    options = onnxruntime.SessionOptions()
    if threads is not None:
        options.intra_op_num_threads = threads
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    # The arena keeps what the longest prompt took: 1.5 GB of Molmo2-4B, for under 1 % of a pass.
    options.enable_cpu_mem_arena = False
    options.log_severity_level = 3
    try:
        providers = _providers(device, dict(provider_options or {}), options)
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


def memory_name(device: str) -> str:
    """ONNX Runtime's name of the memory in which a device's values live."""
    return "cpu" if device == "cpu" else "cuda"


def ort_value(array: npt.NDArray[Any], device: str, dtype: str = "float32") -> Any:
    """An array as ONNX Runtime's own value on a device; on the CPU it shares the memory.

    Args:
        array: of `dtype`; the bits of bfloat16 as uint16, which stay on the CPU.
        device: one of `PROVIDERS`.
        dtype: of a manifest.
    """
    if dtype == "bfloat16":
        return onnxruntime.OrtValue.ortvalue_from_numpy_with_onnx_type(array, _BFLOAT16)
    return onnxruntime.OrtValue.ortvalue_from_numpy(array, memory_name(device))


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
        f"onnxruntime {onnxruntime.__version__} could not start {PROVIDERS[device]} ({why}); "
        f"{LOST[device]}"
    )


def _providers(device: str, told: dict[str, str], options: Any) -> list[Any] | None:
    """The providers of a session by preference; None where they stand in its options instead."""
    if device == "tensorrt-rtx":
        options.add_provider_for_devices(_plug_in()[:1], told)  # CUDA_VISIBLE_DEVICES chooses
        return None
    wanted: list[Any] = []
    if device != "cpu":
        _find_libraries(device)
        wanted.append((PROVIDERS[device], told))
    if device == "tensorrt":  # takes what TensorRT leaves
        wanted.append((PROVIDERS["cuda"], {"use_tf32": "0"}))
    return [*wanted, PROVIDERS["cpu"]]


def _plug_in() -> list[Any]:
    """The GPUs of TensorRT-RTX, once its library is registered with ONNX Runtime.

    Raises:
        RuntimeError: it finds none. ONNX Runtime's own error: its library does not load.
    """
    name = PROVIDERS["tensorrt-rtx"]
    devices = _devices_of(name)
    if devices:
        return devices
    paths = os.environ.get("LD_LIBRARY_PATH")
    plugin = importlib.import_module(PLUGIN_MODULE)
    # Its import adds its folder for children, and ROS 2 from wheels does not survive that.
    if paths is None:
        os.environ.pop("LD_LIBRARY_PATH", None)
    else:
        os.environ["LD_LIBRARY_PATH"] = paths
    with contextlib.redirect_stdout(sys.stderr):
        onnxruntime.register_execution_provider_library(name, plugin.get_library_path())
    devices = _devices_of(name)
    if not devices:
        onnxruntime.unregister_execution_provider_library(name)  # so that it can be tried again
        raise RuntimeError("it finds no GPU that it takes")
    return devices


def _devices_of(provider: str) -> list[Any]:
    return [device for device in onnxruntime.get_ep_devices() if device.ep_name == provider]


def _find_libraries(device: str) -> None:
    """Load CUDA's and TensorRT's libraries that pip installed, which the linker does not find."""
    with contextlib.redirect_stdout(sys.stderr):  # it prints what it does not find
        onnxruntime.preload_dlls()
    if device == "tensorrt":
        with contextlib.suppress(ImportError, OSError):
            importlib.import_module("tensorrt")

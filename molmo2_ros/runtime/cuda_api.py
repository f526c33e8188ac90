"""Device memory, one stream, and CUDA graphs: the dozen calls of NVIDIA's CUDA runtime in use.

Addresses are plain integers, as TensorRT takes them. A Protocol stands before cuda-python, so that
who calls what with which address can be checked on a machine without a GPU.
"""

from __future__ import annotations

import ctypes
import importlib
from dataclasses import dataclass
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from molmo2_ros.errors import EngineError

INSTALL = (
    "`pip install 'cuda-bindings==12.*'` where the driver is of CUDA 12 (JetPack 6), "
    "`pip install 'cuda-bindings==13.*'` from CUDA 13 on (JetPack 7)"
)
_NON_BLOCKING = 1  # cudaStreamNonBlocking


@dataclass(frozen=True, slots=True, kw_only=True)
class Gpu:
    """The device that work goes to."""

    sm: str  # compute capability: "8.7"
    driver: str  # the CUDA version that the driver speaks: "13.2"
    memory_bytes: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Copy2D:
    """Rows of equal length between two pieces of device memory; all in bytes."""

    target_offset: int
    target_pitch: int
    source_offset: int
    source_pitch: int
    width: int
    height: int  # rows


class Cuda(Protocol):
    """What the TensorRT engine asks of a GPU, on one stream."""

    def gpu(self) -> Gpu:
        """What the driver says of the device."""
        ...

    def allocate(self, num_bytes: int) -> int:
        """Address of device memory, aligned to 256 bytes."""
        ...

    def free(self, address: int) -> None:
        """Give device memory back."""
        ...

    def allocate_pinned(self, num_bytes: int) -> npt.NDArray[np.uint8]:
        """Host memory that the GPU copies from and to by itself, uint8 [num_bytes]."""
        ...

    def free_pinned(self, array: npt.NDArray[np.uint8]) -> None:
        """Give pinned memory back."""
        ...

    def stream(self) -> int:
        """The stream's handle for TensorRT."""
        ...

    def upload(self, address: int, source: npt.NDArray[np.uint8]) -> None:
        """Host to device."""
        ...

    def download(self, target: npt.NDArray[np.uint8], address: int) -> None:
        """Device to host; there after the next `synchronize`."""
        ...

    def copy(self, target: int, source: int, num_bytes: int) -> None:
        """Device to device."""
        ...

    def copy_2d(self, target: int, source: int, copy: Copy2D) -> None:
        """Rows from device to device."""
        ...

    def zero(self, address: int, num_bytes: int) -> None:
        """Fill with zero bytes."""
        ...

    def synchronize(self) -> None:
        """Wait until all that was asked for is done."""
        ...

    def begin_capture(self) -> None:
        """Write down what is asked for from here on, without doing it."""
        ...

    def end_capture(self) -> Any:
        """What was written down, ready for `launch`."""
        ...

    def launch(self, graph: Any) -> None:
        """Do all of it again."""
        ...

    def free_graph(self, graph: Any) -> None:
        """Forget what was written down."""
        ...


class CudaRuntime:
    """`Cuda` by cuda.bindings.runtime on the first GPU.

    Raises:
        EngineError: cuda-python, the driver or the GPU is missing.
    """

    def __init__(self) -> None:
        try:
            self._cuda = importlib.import_module("cuda.bindings.runtime")
        except ImportError as error:
            raise EngineError(
                f"CUDA cannot be called from Python ({error}); install {INSTALL}"
            ) from error
        try:
            (num_devices,) = self._call("cudaGetDeviceCount")
        except (EngineError, RuntimeError) as error:  # RuntimeError: no driver library at all
            raise EngineError(
                f"no GPU can be used here ({error}); see nvidia-smi for the driver, and in a "
                "container start it with --gpus all (--runtime nvidia on a Jetson)"
            ) from error
        if num_devices < 1:
            raise EngineError("the driver sees no GPU; check CUDA_VISIBLE_DEVICES and nvidia-smi")
        (stream,) = self._call("cudaStreamCreateWithFlags", _NON_BLOCKING)
        self._stream = stream

    def gpu(self) -> Gpu:
        """See Cuda.gpu."""
        attributes = self._cuda.cudaDeviceAttr
        (major,) = self._call(
            "cudaDeviceGetAttribute", attributes.cudaDevAttrComputeCapabilityMajor, 0
        )
        (minor,) = self._call(
            "cudaDeviceGetAttribute", attributes.cudaDevAttrComputeCapabilityMinor, 0
        )
        (driver,) = self._call("cudaDriverGetVersion")
        _, total = self._call("cudaMemGetInfo")
        return Gpu(
            sm=f"{major}.{minor}",
            driver=f"{driver // 1000}.{driver % 1000 // 10}",
            memory_bytes=int(total),
        )

    def allocate(self, num_bytes: int) -> int:
        """See Cuda.allocate."""
        (address,) = self._call("cudaMalloc", num_bytes)
        return int(address)

    def free(self, address: int) -> None:
        """See Cuda.free."""
        self._call("cudaFree", address)

    def allocate_pinned(self, num_bytes: int) -> npt.NDArray[np.uint8]:
        """See Cuda.allocate_pinned."""
        (address,) = self._call("cudaHostAlloc", num_bytes, 0)
        memory = (ctypes.c_uint8 * num_bytes).from_address(int(address))
        return np.ctypeslib.as_array(memory)

    def free_pinned(self, array: npt.NDArray[np.uint8]) -> None:
        """See Cuda.free_pinned."""
        self._call("cudaFreeHost", array.ctypes.data)

    def stream(self) -> int:
        """See Cuda.stream."""
        return int(self._stream)

    def upload(self, address: int, source: npt.NDArray[np.uint8]) -> None:
        """See Cuda.upload."""
        self._copy(address, source.ctypes.data, source.nbytes, "cudaMemcpyHostToDevice")

    def download(self, target: npt.NDArray[np.uint8], address: int) -> None:
        """See Cuda.download."""
        self._copy(target.ctypes.data, address, target.nbytes, "cudaMemcpyDeviceToHost")

    def copy(self, target: int, source: int, num_bytes: int) -> None:
        """See Cuda.copy."""
        self._copy(target, source, num_bytes, "cudaMemcpyDeviceToDevice")

    def copy_2d(self, target: int, source: int, copy: Copy2D) -> None:
        """See Cuda.copy_2d."""
        self._call(
            "cudaMemcpy2DAsync",
            target + copy.target_offset,
            copy.target_pitch,
            source + copy.source_offset,
            copy.source_pitch,
            copy.width,
            copy.height,
            self._cuda.cudaMemcpyKind.cudaMemcpyDeviceToDevice,
            self._stream,
        )

    def zero(self, address: int, num_bytes: int) -> None:
        """See Cuda.zero."""
        self._call("cudaMemsetAsync", address, 0, num_bytes, self._stream)

    def synchronize(self) -> None:
        """See Cuda.synchronize."""
        self._call("cudaStreamSynchronize", self._stream)

    def begin_capture(self) -> None:
        """See Cuda.begin_capture."""
        mode = self._cuda.cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal
        self._call("cudaStreamBeginCapture", self._stream, mode)

    def end_capture(self) -> Any:
        """See Cuda.end_capture."""
        (graph,) = self._call("cudaStreamEndCapture", self._stream)
        (executable,) = self._call("cudaGraphInstantiate", graph, 0)
        self._call("cudaGraphDestroy", graph)
        return executable

    def launch(self, graph: Any) -> None:
        """See Cuda.launch."""
        self._call("cudaGraphLaunch", graph, self._stream)

    def free_graph(self, graph: Any) -> None:
        """See Cuda.free_graph."""
        self._call("cudaGraphExecDestroy", graph)

    def _copy(self, target: int, source: int, num_bytes: int, kind: str) -> None:
        direction = getattr(self._cuda.cudaMemcpyKind, kind)
        self._call("cudaMemcpyAsync", target, source, num_bytes, direction, self._stream)

    def _call(self, name: str, *arguments: Any) -> tuple[Any, ...]:
        """Call, and turn an error code into an error."""
        status, *values = getattr(self._cuda, name)(*arguments)
        if int(status) != 0:
            _, text = self._cuda.cudaGetErrorString(status)
            text = text.decode() if isinstance(text, bytes) else str(text)
            raise EngineError(f"{name} failed: {text} (CUDA error {int(status)})")
        return tuple(values)

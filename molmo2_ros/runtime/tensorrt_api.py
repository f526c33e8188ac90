"""The TensorRT that this machine has, and the few calls of it that mean the same from 10.3 to 11.x.

NVIDIA's modules carry no types. What is written down here is all that this package calls; a name
that one of those versions lacks (EXPLICIT_BATCH, the precision flags, device_memory_size, all gone
in 11) is not among it. Source: the bindings' own docstrings; docs/engines.md.
"""

from __future__ import annotations

import importlib
import logging
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Protocol, cast

from molmo2_ros.errors import EngineError

_LOG = logging.getLogger(__name__)
OLDEST = (10, 3)  # JetPack 6.1
FIRST_FUSED = (10, 15)  # Attention came with 10.14, RMSNormalization and RotaryEmbedding with this
FIRST_UNKNOWN = (12,)
FIRST_FP4 = (10, 8)
PRODUCTS = ("tensorrt", "tensorrt_rtx")
INSTALL = (
    "on a Jetson it comes with JetPack (`sudo apt install python3-libnvinfer`, and a virtual "
    "environment made with --system-site-packages); elsewhere `pip install tensorrt`"
)
INSTALL_RTX = "`pip install tensorrt-rtx-cu13-libs tensorrt-rtx-cu13-bindings`"

Shape = tuple[int, ...]


class Tensor(Protocol):
    """An input or output of a network."""

    name: str
    shape: Sequence[int]  # -1 where it is dynamic
    dtype: Any


class Layer(Protocol):
    """A layer of a network."""

    type: Any
    attention: Any  # of an attention layer, once it has been given its own class

    def get_output(self, index: int) -> Tensor: ...


class Network(Protocol):
    """INetworkDefinition."""

    num_inputs: int
    num_outputs: int
    num_layers: int

    def get_input(self, index: int) -> Tensor: ...
    def get_output(self, index: int) -> Tensor: ...
    def get_layer(self, index: int) -> Layer: ...
    def add_cast(self, input: Tensor, to_type: Any) -> Layer: ...
    def mark_output(self, tensor: Tensor) -> None: ...
    def unmark_output(self, tensor: Tensor) -> None: ...


class OptimizationProfile(Protocol):
    """IOptimizationProfile."""

    def set_shape(self, name: str, min: Shape, opt: Shape, max: Shape) -> None: ...


class BuilderConfig(Protocol):
    """IBuilderConfig; compute capabilities are TensorRT-RTX's alone."""

    progress_monitor: Any
    num_compute_capabilities: int

    def add_optimization_profile(self, profile: OptimizationProfile) -> int: ...
    def set_flag(self, flag: Any) -> None: ...
    def clear_flag(self, flag: Any) -> None: ...
    def set_memory_pool_limit(self, pool: Any, num_bytes: int) -> None: ...
    def create_timing_cache(self, content: bytes) -> Any: ...
    def set_timing_cache(self, cache: Any, ignore_mismatch: bool) -> bool: ...
    def get_timing_cache(self) -> Any: ...
    def set_compute_capability(self, capability: Any, index: int) -> bool: ...


class Builder(Protocol):
    """IBuilder."""

    def create_network(self, flags: int) -> Network: ...
    def create_builder_config(self) -> BuilderConfig: ...
    def create_optimization_profile(self) -> OptimizationProfile: ...
    def build_serialized_network(self, network: Network, config: BuilderConfig) -> Any: ...


class OnnxParser(Protocol):
    """The ONNX importer."""

    num_errors: int

    def parse(self, model: bytes, path: str) -> bool: ...
    def parse_from_file(self, path: str) -> bool: ...
    def get_error(self, index: int) -> Any: ...


class ExecutionContext(Protocol):
    """IExecutionContext."""

    def set_optimization_profile_async(self, index: int, stream: int) -> bool: ...
    def set_input_shape(self, name: str, shape: Shape) -> bool: ...
    def set_tensor_address(self, name: str, address: int) -> bool: ...
    def set_device_memory(self, address: int, num_bytes: int) -> None: ...
    def execute_async_v3(self, stream: int) -> bool: ...
    def is_stream_capturable(self, stream: int) -> bool: ...  # of TensorRT-RTX


class CudaEngine(Protocol):
    """ICudaEngine."""

    num_io_tensors: int
    num_optimization_profiles: int
    device_memory_size_v2: int  # bytes of intermediate results, the largest of all profiles

    def get_tensor_name(self, index: int) -> str: ...
    def get_tensor_dtype(self, name: str) -> Any: ...
    def create_execution_context(self, how: Any) -> ExecutionContext | None: ...
    def create_runtime_config(self) -> Any: ...  # of TensorRT-RTX: takes the strategy's place


class Runtime(Protocol):
    """IRuntime."""

    def deserialize_cuda_engine(self, content: bytes) -> CudaEngine | None: ...


class TensorRTModule(Protocol):
    """The module `tensorrt` or `tensorrt_rtx_bindings`."""

    __version__: str
    ILogger: Any
    IProgressMonitor: Any
    IAttentionInputLayer: Any  # from 10.14 on
    ComputeCapability: Any  # of TensorRT-RTX
    NetworkDefinitionCreationFlag: Any
    BuilderFlag: Any
    MemoryPoolType: Any
    LayerType: Any
    ExecutionContextAllocationStrategy: Any
    DynamicShapesKernelSpecializationStrategy: Any  # of TensorRT-RTX
    DataType: Any

    def Builder(self, logger: Any) -> Builder: ...
    def OnnxParser(self, network: Network, logger: Any) -> OnnxParser: ...
    def Runtime(self, logger: Any) -> Runtime: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class TensorRT:
    """A TensorRT that was found and fits."""

    product: str  # one of PRODUCTS
    version: str  # "10.16.2.10"; TensorRT-RTX counts on its own: "1.7.1.116"
    module: TensorRTModule

    @property
    def numbers(self) -> tuple[int, ...]:
        """The version as numbers."""
        return version_numbers(self.version)

    @property
    def title(self) -> str:
        """What a message calls it."""
        return f"{product_title(self.product)} {self.version}"

    @property
    def form(self) -> str:
        """The export form that it is to be given: one of `manifest.FORMS`."""
        return form_for(self.product, self.numbers)

    @property
    def has_fp4(self) -> bool:
        """Whether it knows four-bit floating point numbers."""
        return self.product == "tensorrt_rtx" or self.numbers >= FIRST_FP4


def form_for(product: str, version: tuple[int, ...]) -> str:
    """The export form for a version: "fused" where its parser knows the operators of opset 23."""
    return "fused" if product == "tensorrt_rtx" or version >= FIRST_FUSED else "decomposed"


def product_title(product: str) -> str:
    """A product's name in words."""
    return {"tensorrt": "TensorRT", "tensorrt_rtx": "TensorRT-RTX"}[product]


def version_numbers(version: str) -> tuple[int, ...]:
    """The leading numbers of a version: "10.3.0.26-1+cuda12" gives (10, 3, 0, 26)."""
    return tuple(int(part) for part in re.findall(r"\d+", version.split("-")[0].split("+")[0]))


def find_tensorrt(product: str | None = None) -> TensorRT:
    """Import TensorRT, or TensorRT-RTX where only that is there.

    Args:
        product: the only one to look for; None for either.

    Raises:
        EngineError: none can be imported, or its version is not one that this package knows.
    """
    failures = []
    for candidate in PRODUCTS if product is None else (product,):
        try:
            module = _import(candidate)
        except (ImportError, OSError) as error:  # OSError: a library that it loads by itself
            failures.append(f"{candidate}: {error}")
            continue
        return _checked(candidate, module)
    wanted = " or ".join(product_title(name) for name in PRODUCTS if product in (None, name))
    raise EngineError(
        f"{wanted} cannot be imported ({'; '.join(failures)}); "
        + (INSTALL_RTX if product == "tensorrt_rtx" else INSTALL)
        + ("" if product else f"; to build for a named RTX GPU without having one, {INSTALL_RTX}")
    )


def _import(product: str) -> TensorRTModule:
    if product == "tensorrt":
        return cast(TensorRTModule, importlib.import_module("tensorrt"))
    importlib.import_module("tensorrt_rtx_libs")  # loads the libraries that the bindings link
    return cast(TensorRTModule, importlib.import_module("tensorrt_rtx_bindings"))


def _checked(product: str, module: TensorRTModule) -> TensorRT:
    version = getattr(module, "__version__", None)
    if not isinstance(version, str):
        raise EngineError(
            f"{product} is an empty package, as a broken uninstall leaves it; install it again: "
            f"{INSTALL_RTX if product == 'tensorrt_rtx' else INSTALL}"
        )
    numbers = version_numbers(version)
    if product == "tensorrt" and not OLDEST <= numbers < FIRST_UNKNOWN:
        raise EngineError(
            f"TensorRT is {version}, expected 10.3 to 11.x; "
            + (
                "JetPack 6.0 has 8.6: update to JetPack 6.1 or later, or run on ONNX Runtime"
                if numbers < OLDEST
                else "install an earlier one: `pip install 'tensorrt<12'`"
            )
        )
    return TensorRT(product=product, version=version, module=module)


class Messages:
    """What TensorRT said while it worked, for an error that names the cause."""

    def __init__(self) -> None:
        self.errors: list[str] = []

    def take(self, severity: str, text: str) -> None:
        """Keep an error; hand everything on to Python's logging."""
        if "ERROR" in severity:
            self.errors.append(text)
        level = logging.WARNING if "ERROR" in severity else logging.DEBUG
        _LOG.log(level, "%s", text)

    def cause(self) -> str:
        """The last errors in one line."""
        return "; ".join(self.errors[-3:]) or "it gave no reason"


def make_logger(module: TensorRTModule, messages: Messages) -> Any:
    """An ILogger of this module's own class, which alone its other classes accept."""
    parent = module.ILogger

    def __init__(self: Any) -> None:
        parent.__init__(self)

    def log(_: Any, severity: Any, text: str) -> None:
        messages.take(str(severity), text)

    return type("Logger", (parent,), {"__init__": __init__, "log": log})()

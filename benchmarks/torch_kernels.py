"""PyTorch in place of TensorRT's kernels: the runtime's memory, caches and CUDA graphs on any GPU.

TensorRT-RTX compiles for some GPUs alone. What the package itself does on a GPU (addresses, copies,
buckets of the cache, features that stay there, passes written down and replayed) is the same
whoever multiplies: here the modules that the ONNX graphs were exported from.
"""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator, Mapping
from pathlib import Path
from types import SimpleNamespace
from typing import Any, cast

import torch

from molmo2_ros.engines.checkpoint import load_checkpoint
from molmo2_ros.engines.graphs import DecoderGraph, VisionGraph, export_attention
from molmo2_ros.runtime.cuda_api import Cuda
from molmo2_ros.runtime.engine import NANO
from molmo2_ros.runtime.manifest import Manifest
from molmo2_ros.runtime.tensorrt_api import CudaEngine, TensorRT, TensorRTModule
from molmo2_ros.runtime.tensorrt_engine import TensorRTEngine
from molmo2_ros.runtime.tensorrt_plan import GraphPlan, choose_limits, plan_graphs

At = Callable[[int, tuple[int, ...], torch.dtype], torch.Tensor]  # device memory as a tensor
OnStream = Callable[[int], contextlib.AbstractContextManager[Any]]
_KINDS = {torch.float32: "FLOAT", torch.float16: "HALF", torch.int64: "INT64"}
_ARRAY_KINDS = {torch.float32: "<f4", torch.float16: "<f2", torch.int64: "<i8"}
_INTEGERS = ("pooling", "input_ids", "position_ids", "logit_indices")
_ALWAYS_FLOAT32 = ("patches", "logits")


class TorchEngine:
    """`CudaEngine` by a module; contexts of it do `execute_async_v3` with PyTorch.

    Args:
        module: VisionGraph or DecoderGraph, where `at` gives tensors.
        plan: its inputs, in the module's order, and its outputs.
        dtype: of features, mask and cache.
        at: device memory as a tensor.
        on_stream: makes PyTorch work in a stream, by its handle.
    """

    device_memory_size_v2 = 1  # PyTorch has memory of its own for intermediate results

    def __init__(
        self,
        module: torch.nn.Module,
        plan: GraphPlan,
        dtype: torch.dtype,
        at: At,
        on_stream: OnStream,
    ) -> None:
        self.module = module
        self.plan = plan
        self.at = at
        self.on_stream = on_stream
        names = (*plan.inputs, *plan.outputs)
        self.dtypes = dict.fromkeys(names, dtype)
        for name in names:
            if name in _INTEGERS:
                self.dtypes[name] = torch.int64
            elif name in _ALWAYS_FLOAT32:
                self.dtypes[name] = torch.float32
        self.num_io_tensors = len(names)
        self.num_optimization_profiles = len(plan.profiles)

    def get_tensor_name(self, index: int) -> str:
        """See ICudaEngine."""
        return list(self.dtypes)[index]

    def get_tensor_dtype(self, name: str) -> Any:
        """See ICudaEngine."""
        return SimpleNamespace(name=_KINDS[self.dtypes[name]])

    def create_execution_context(self, how: Any) -> TorchContext:
        """See ICudaEngine; how memory is managed is PyTorch's own affair."""
        del how
        return TorchContext(self)


class TorchContext:
    """`ExecutionContext` of a `TorchEngine`."""

    def __init__(self, engine: TorchEngine) -> None:
        self._engine = engine
        self._profile = engine.plan.profiles[0]
        self._shapes: dict[str, tuple[int, ...]] = {}
        self._addresses: dict[str, int] = {}
        self._bound: dict[str, torch.Tensor] = {}

    def set_optimization_profile_async(self, index: int, stream: int) -> bool:
        """See IExecutionContext."""
        del stream
        self._profile = self._engine.plan.profiles[index]
        return True

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        """See IExecutionContext."""
        self._shapes[name] = shape
        self._bound.clear()
        return self._profile.takes(name, shape)

    def set_tensor_address(self, name: str, address: int) -> bool:
        """See IExecutionContext."""
        self._addresses[name] = address
        self._bound.clear()
        return True

    def set_device_memory(self, address: int, num_bytes: int) -> None:
        """See IExecutionContext."""

    @torch.inference_mode()
    def execute_async_v3(self, stream: int) -> bool:
        """Compute, and put the results where they are wanted."""
        engine = self._engine
        with engine.on_stream(stream):
            inputs = [self._tensor(name, self._shapes[name]) for name in engine.plan.inputs]
            given = engine.module(*inputs)
            results = given if isinstance(given, tuple) else (given,)
            for name, result in zip(engine.plan.outputs, results, strict=True):
                self._tensor(name, tuple(result.shape)).copy_(result)
        return True

    def _tensor(self, name: str, shape: tuple[int, ...]) -> torch.Tensor:
        """What is bound; looked up once, since a stream that is written down allows no question."""
        if name not in self._bound:
            engine = self._engine
            self._bound[name] = engine.at(self._addresses[name], shape, engine.dtypes[name])
        return self._bound[name]


@contextlib.contextmanager
def torch_engine(
    cuda: Cuda,
    dtype: torch.dtype = torch.float32,
    *,
    folder: Path = NANO,
    device: str = "cuda",
    at: At | None = None,
    on_stream: OnStream | None = None,
) -> Iterator[TensorRTEngine]:
    """The package's TensorRT runtime over PyTorch's kernels.

    Args:
        cuda: memory and stream.
        dtype: float32 or float16.
        folder: engine folder with its checkpoint.
        device: where PyTorch computes.
        at: memory as a tensor; None for the GPU's.
        on_stream: makes PyTorch work in a stream; None for the GPU's.
    """
    manifest = Manifest.load(folder, verify=False)
    limits = choose_limits(manifest)
    model = load_checkpoint(folder / "checkpoint")
    for parameter in model.parameters():  # tables of angles stay float32
        parameter.data = parameter.data.to(dtype)
    model.to(device)
    decoder, vision = plan_graphs(manifest, limits)
    with export_attention(model):
        engines = {
            plan.name: TorchEngine(module, plan, dtype, at or on_gpu, on_stream or in_stream)
            for plan, module in ((decoder, DecoderGraph(model)), (vision, VisionGraph(model)))
        }
        # What they lack is asked of TensorRT-RTX alone.
        loaded = cast(Mapping[str, CudaEngine], engines)
        yield TensorRTEngine(folder, manifest, limits, _found(), cuda, loaded)


def on_gpu(address: int, shape: tuple[int, ...], dtype: torch.dtype) -> torch.Tensor:
    """Device memory as a tensor that does not own it."""
    facts = {
        "data": (address, False),
        "shape": shape,
        "typestr": _ARRAY_KINDS[dtype],
        "strides": None,
        "version": 3,
    }
    return torch.as_tensor(SimpleNamespace(__cuda_array_interface__=facts), device="cuda")


def in_stream(handle: int) -> contextlib.AbstractContextManager[Any]:
    """PyTorch's work goes into a stream made elsewhere."""
    return cast(
        contextlib.AbstractContextManager[Any],
        torch.cuda.stream(torch.cuda.ExternalStream(handle)),  # type: ignore[no-untyped-call]
    )


def _found() -> TensorRT:
    """What stands for TensorRT: the name, and the one constant that is asked for."""
    strategy: Mapping[str, Any] = {"USER_MANAGED": None}
    module = SimpleNamespace(ExecutionContextAllocationStrategy=SimpleNamespace(**strategy))
    return TensorRT(
        product="tensorrt", version=torch.__version__, module=cast(TensorRTModule, module)
    )

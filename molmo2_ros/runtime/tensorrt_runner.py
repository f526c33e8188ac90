"""Runs one built graph: execution contexts, what is bound where, and passes that are replayed.

A pass of a fixed shape at fixed addresses is done once, written down as a CUDA graph the second
time and replayed from then on: hundreds of kernel launches become one. TensorRT forbids changing a
context from which a graph was written down, so that each such pass has a context of its own; they
share one piece of scratch memory, since only one of them runs at a time.
"""

from __future__ import annotations

import logging
from collections import OrderedDict
from collections.abc import Mapping
from typing import Any

from molmo2_ros.errors import EngineError
from molmo2_ros.runtime.cuda_api import Cuda
from molmo2_ros.runtime.tensorrt_api import (
    CudaEngine,
    ExecutionContext,
    Messages,
    Shape,
    TensorRT,
    make_logger,
)
from molmo2_ros.runtime.tensorrt_context import ContextMaker
from molmo2_ros.runtime.tensorrt_plan import GraphPlan

_LOG = logging.getLogger(__name__)
_MOST_REPLAYED = 24  # passes that are kept ready; the least recently used goes first
_DTYPES = {  # TensorRT's names for what the graphs bind
    "FLOAT": "float32",
    "HALF": "float16",
    "BF16": "bfloat16",
    "INT64": "int64",
    "INT32": "int32",
}


def load_plan(found: TensorRT, content: bytes, where: str, messages: Messages) -> CudaEngine:
    """A plan's bytes as an engine on the GPU.

    Raises:
        EngineError: TensorRT does not take it.
    """
    # The runtime must outlive what it makes; the bindings see to that.
    runtime = found.module.Runtime(make_logger(found.module, messages))
    engine = runtime.deserialize_cuda_engine(content)
    if engine is None:
        raise EngineError(
            f"{found.title} does not load {where} ({messages.cause()}); build it again on this "
            "machine, or look at the GPU's free memory in nvidia-smi"
        )
    return engine


class _Pass:
    """A context with its shapes and addresses set, and perhaps written down."""

    def __init__(self, context: ExecutionContext) -> None:
        self.context = context
        self.graph: Any = None
        self.num_runs = 0
        self.can_replay = True


class GraphRunner:
    """One graph on the GPU.

    Args:
        found: TensorRT.
        cuda: the device.
        engine: from `load_plan`.
        plan: what it was built for.
        scratch: address of memory for intermediate results, at least `scratch_bytes`.
        messages: what TensorRT says goes here.

    Raises:
        EngineError: the engine's bindings or profiles are not those of the plan.
    """

    def __init__(
        self,
        found: TensorRT,
        cuda: Cuda,
        engine: CudaEngine,
        plan: GraphPlan,
        scratch: int,
        messages: Messages,
    ) -> None:
        self.plan = plan
        self._found = found
        self._cuda = cuda
        self._engine = engine
        self._scratch = scratch
        self._messages = messages
        self.dtypes = _binding_dtypes(engine, plan)
        self._indices = {profile.name: index for index, profile in enumerate(plan.profiles)}
        self._changing: dict[str, ExecutionContext] = {}
        self._replayed: OrderedDict[tuple[Any, ...], _Pass] = OrderedDict()
        self._contexts = ContextMaker(found, engine)

    def run(
        self,
        profile: str,
        shapes: Mapping[str, Shape],
        addresses: Mapping[str, int],
        *,
        replay: bool,
    ) -> None:
        """Put one pass into the stream.

        Args:
            profile: its name in the plan.
            shapes: of every input.
            addresses: of every input and output.
            replay: whether shapes and addresses will come again.

        Raises:
            EngineError: TensorRT refused a shape or the pass.
        """
        if not replay:
            context = self._changing.get(profile)
            if context is None:
                context = self._context(profile, replay=False)
                self._changing[profile] = context
            self._bind(context, shapes, addresses)
            self._execute(context)
            return
        known = self._known(profile, shapes, addresses)
        if known.graph is None and known.num_runs and known.can_replay:
            self._write_down(known)
        if known.graph is None:
            # The first time it does what must not be written down, such as moving weights.
            self._execute(known.context)
        else:
            self._cuda.launch(known.graph)
        known.num_runs += 1

    @property
    def num_written_down(self) -> int:
        """Passes that are kept ready as CUDA graphs."""
        return sum(known.graph is not None for known in self._replayed.values())

    def _known(
        self, profile: str, shapes: Mapping[str, Shape], addresses: Mapping[str, int]
    ) -> _Pass:
        key = (profile, *shapes.values(), *addresses.values())
        known = self._replayed.get(key)
        if known is None:
            known = self._replayed[key] = _Pass(self._context(profile, replay=True))
            self._bind(known.context, shapes, addresses)
            if len(self._replayed) > _MOST_REPLAYED:
                _, oldest = self._replayed.popitem(last=False)
                if oldest.graph is not None:
                    self._cuda.free_graph(oldest.graph)
        self._replayed.move_to_end(key)
        return known

    def _write_down(self, known: _Pass) -> None:
        """Make a CUDA graph of a pass; one that cannot be made one is run plainly from then on."""
        if self._contexts.can_write_down(known.context, self._cuda.stream()):
            self._cuda.begin_capture()
            try:
                accepted = known.context.execute_async_v3(self._cuda.stream())
            finally:
                graph = self._ended_capture()
            if accepted and graph is not None:
                known.graph = graph
                return
        known.can_replay = False
        _LOG.info("a pass of %s cannot be replayed: %s", self.plan.name, self._messages.cause())

    def _ended_capture(self) -> Any:
        try:
            return self._cuda.end_capture()
        except EngineError as error:
            self._messages.errors.append(str(error))
            return None

    def _context(self, profile: str, *, replay: bool) -> ExecutionContext:
        context = self._contexts.make(replay=replay)
        if context is None:  # as the bindings say that there is no memory
            raise EngineError(
                f"no room for another context of {self.plan.name} ({self._messages.cause()}); end "
                "what else runs on the GPU"
            )
        context.set_device_memory(self._scratch, self._engine.device_memory_size_v2)
        if not context.set_optimization_profile_async(self._indices[profile], self._cuda.stream()):
            raise self._refused(f"profile {profile}")
        self._cuda.synchronize()
        return context

    def _bind(
        self, context: ExecutionContext, shapes: Mapping[str, Shape], addresses: Mapping[str, int]
    ) -> None:
        for name, shape in shapes.items():
            if not context.set_input_shape(name, shape):
                raise self._refused(f"{name} of shape {list(shape)}")
        for name, address in addresses.items():
            if not context.set_tensor_address(name, address):
                raise self._refused(f"an address for {name}")

    def _execute(self, context: ExecutionContext) -> None:
        if not context.execute_async_v3(self._cuda.stream()):
            raise self._refused("a pass")

    def _refused(self, what: str) -> EngineError:
        return EngineError(
            f"{self._found.title} refused {what} of {self.plan.file}: {self._messages.cause()}; "
            "ask about fewer frames, or build it with more --max-frames"
        )


def _binding_dtypes(engine: CudaEngine, plan: GraphPlan) -> dict[str, str]:
    """The dtype of each input and output, by numpy's names and "bfloat16"."""
    names = {engine.get_tensor_name(index) for index in range(engine.num_io_tensors)}
    expected = {*plan.inputs, *plan.outputs}
    if names != expected or engine.num_optimization_profiles != len(plan.profiles):
        odd = sorted(names ^ expected)
        raise EngineError(
            f"{plan.file} has {engine.num_optimization_profiles} profiles, expected "
            f"{len(plan.profiles)}; bindings that only one side has: {odd or 'none'}; build it "
            "again with `molmo2 build-engine --rebuild`"
        )
    dtypes = {}
    for name in sorted(names):
        kind = engine.get_tensor_dtype(name).name
        if kind not in _DTYPES:
            raise EngineError(
                f"{plan.file} binds {name} as {kind}, expected one of {', '.join(_DTYPES)}; export "
                "the checkpoint again"
            )
        dtypes[name] = _DTYPES[kind]
    return dtypes

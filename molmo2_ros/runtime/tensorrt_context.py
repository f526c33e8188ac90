"""Makes execution contexts: TensorRT-RTX is told when to compile, and what it compiled already.

A plan of TensorRT-RTX holds no machine code yet: kernels are compiled on the device, general ones
for a context, better ones for each shape that comes. Left to itself it compiles the better ones
behind one's back, so that a pass written down early would replay the general ones for ever.
"""

from __future__ import annotations

from typing import Any

from molmo2_ros.runtime.tensorrt_api import CudaEngine, ExecutionContext, TensorRT


class ContextMaker:
    """Contexts of one engine, whose memory for intermediate results is the caller's.

    Args:
        found: TensorRT.
        engine: from `load_plan`.
    """

    def __init__(self, found: TensorRT, engine: CudaEngine) -> None:
        self._found = found
        self._engine = engine
        self._compiled: Any = None  # what contexts share of TensorRT-RTX's compiled kernels
        self._configs: dict[bool, Any] = {}

    def make(self, *, replay: bool) -> ExecutionContext | None:
        """A context, or None where there is no memory.

        Args:
            replay: whether its shapes will come again: then kernels for them are compiled at once.
        """
        strategy = self._found.module.ExecutionContextAllocationStrategy.USER_MANAGED
        if self._found.product != "tensorrt_rtx":
            return self._engine.create_execution_context(strategy)
        if replay not in self._configs:
            self._configs[replay] = self._configure(strategy, replay)
        return self._engine.create_execution_context(self._configs[replay])

    def can_write_down(self, context: ExecutionContext, stream: int) -> bool:
        """Whether a pass can become a CUDA graph; TensorRT tells only when it is tried."""
        return self._found.product != "tensorrt_rtx" or context.is_stream_capturable(stream)

    def _configure(self, strategy: Any, replay: bool) -> Any:
        kinds = self._found.module.DynamicShapesKernelSpecializationStrategy
        config = self._engine.create_runtime_config()
        config.set_execution_context_allocation_strategy(strategy)
        config.dynamic_shapes_kernel_specialization_strategy = kinds.EAGER if replay else kinds.LAZY
        if self._compiled is None:
            self._compiled = config.create_runtime_cache()
        config.set_runtime_cache(self._compiled)
        return config

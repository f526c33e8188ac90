"""The host in place of a GPU: its memory behind addresses, ONNX Runtime behind execution contexts.

For tests of bookkeeping alone: which address is bound when, what is copied where, what is replayed.
That the same flow runs on a GPU, and how fast, only a GPU can show.
"""

import itertools
from types import SimpleNamespace

import numpy as np
import onnxruntime

from molmo2_ros.errors import EngineError
from molmo2_ros.runtime.cuda_api import Gpu
from molmo2_ros.runtime.tensorrt_api import TensorRT

STREAM = 77
NUMPY = {"FLOAT": np.float32, "HALF": np.float16, "INT64": np.int64}
FOUND = TensorRT(
    product="tensorrt",
    version="10.16.2",
    module=SimpleNamespace(
        ExecutionContextAllocationStrategy=SimpleNamespace(USER_MANAGED="user managed")
    ),
)

# What TensorRT-RTX is given in place of a strategy has more to say.
FOUND_RTX = TensorRT(
    product="tensorrt_rtx",
    version="1.7.1.116",
    module=SimpleNamespace(
        ExecutionContextAllocationStrategy=SimpleNamespace(USER_MANAGED="user managed"),
        DynamicShapesKernelSpecializationStrategy=SimpleNamespace(EAGER="eager", LAZY="lazy"),
    ),
)


class HostCuda:
    """`Cuda` on host memory; every access must lie inside one allocation that is alive."""

    def __init__(self, memory_bytes=1 << 34, sm="8.7", driver="12.6"):
        self.facts = Gpu(sm=sm, driver=driver, memory_bytes=memory_bytes)
        self.alive = {}  # address: array that starts there
        self.pinned = []
        self.calls = []
        self.captured = None  # a list while a graph is written down
        self._next = itertools.count(1)

    def gpu(self):
        return self.facts

    def allocate(self, num_bytes):
        if sum(map(len, self.alive.values())) + num_bytes > self.facts.memory_bytes:
            raise EngineError("cudaMalloc failed: out of memory (CUDA error 2)")
        # Addresses far apart, so that an access beyond one piece meets no other.
        address = next(self._next) << 40
        self.alive[address] = np.full(num_bytes, 0xFF, np.uint8)  # no number in any float format
        return address

    def free(self, address):
        del self.alive[address]

    def allocate_pinned(self, num_bytes):
        self.pinned.append(np.zeros(num_bytes, np.uint8))
        return self.pinned[-1]

    def free_pinned(self, array):
        self.pinned = [other for other in self.pinned if other is not array]

    def stream(self):
        return STREAM

    def at(self, address, num_bytes):
        """A view of device memory."""
        start = address & ~((1 << 40) - 1)
        array = self.alive[start]
        assert address - start + num_bytes <= len(array), "beyond the end of an allocation"
        return array[address - start : address - start + num_bytes]

    def do(self, name, what):
        self.calls.append(name)
        if self.captured is None:
            what()
        else:
            self.captured.append(what)

    def upload(self, address, source):
        self.do("upload", lambda: np.copyto(self.at(address, source.nbytes), source))

    def download(self, target, address):
        self.calls.append(("download", target.nbytes))
        np.copyto(target, self.at(address, target.nbytes))

    def copy(self, target, source, num_bytes):
        self.do(
            "copy", lambda: np.copyto(self.at(target, num_bytes), self.at(source, num_bytes).copy())
        )

    def copy_2d(self, target, source, copy):
        self.calls.append("copy_2d")
        for row in range(copy.height):
            here = self.at(target + copy.target_offset + row * copy.target_pitch, copy.width)
            here[:] = self.at(source + copy.source_offset + row * copy.source_pitch, copy.width)

    def zero(self, address, num_bytes):
        self.do("zero", lambda: self.at(address, num_bytes).fill(0))

    def synchronize(self):
        self.calls.append("synchronize")

    def begin_capture(self):
        assert self.captured is None
        self.captured = []

    def end_capture(self):
        written, self.captured = self.captured, None
        return written

    def launch(self, graph):
        self.calls.append("launch")
        for what in graph:
            what()

    def free_graph(self, graph):
        graph.clear()


class HostEngine:
    """`CudaEngine`: an ONNX graph that reads and writes by address.

    Args:
        cuda: a HostCuda.
        plan: its profiles are kept to.
        model: path or bytes of the graph, in float32.
        floats: "FLOAT" or "HALF": what is bound.
    """

    device_memory_size_v2 = 4096

    def __init__(self, cuda, plan, model, floats="FLOAT"):
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        self.session = onnxruntime.InferenceSession(model, options)
        self.cuda, self.plan = cuda, plan
        self.num_optimization_profiles = len(plan.profiles)
        bound = [*self.session.get_inputs(), *self.session.get_outputs()]
        self.kinds = {
            value.name: floats if value.type == "tensor(float)" else "INT64" for value in bound
        }
        if "logits" in self.kinds:
            self.kinds["logits"] = "FLOAT"
        self.num_io_tensors = len(bound)
        self.contexts = []
        self.is_capturable = True

    def get_tensor_name(self, index):
        return list(self.kinds)[index]

    def get_tensor_dtype(self, name):
        return SimpleNamespace(name=self.kinds[name])

    def create_runtime_config(self):
        return HostRuntimeConfig()

    def create_execution_context(self, how):
        if isinstance(how, HostRuntimeConfig):
            assert how.strategy == "user managed"
        else:
            assert how == "user managed"
        self.contexts.append(HostContext(self, how))
        return self.contexts[-1]


class HostRuntimeConfig:
    """`IRuntimeConfig` of TensorRT-RTX."""

    dynamic_shapes_kernel_specialization_strategy = "lazy"
    strategy = "static"
    cache = None

    def set_execution_context_allocation_strategy(self, strategy):
        self.strategy = strategy

    def create_runtime_cache(self):
        return object()

    def set_runtime_cache(self, cache):
        self.cache = cache
        return True


class HostContext:
    """`ExecutionContext`; one that was written down must not be changed any more."""

    def __init__(self, engine, how=None):
        self.engine = engine
        self.how = how
        self.profile = self.scratch = None
        self.shapes, self.addresses = {}, {}
        self.is_written_down = False
        self.num_runs = 0

    def change(self):
        assert not self.is_written_down, "TensorRT: undefined from here on"

    def is_stream_capturable(self, stream):
        assert stream == STREAM
        assert self.shapes, "asked before the shapes are known"
        return self.engine.is_capturable

    def set_device_memory(self, address, num_bytes):
        self.engine.cuda.at(address, num_bytes)
        self.scratch = address

    def set_optimization_profile_async(self, index, stream):
        assert stream == STREAM
        self.profile = self.engine.plan.profiles[index]
        return True

    def set_input_shape(self, name, shape):
        self.change()
        self.shapes[name] = tuple(shape)
        return self.profile.takes(name, shape)

    def set_tensor_address(self, name, address):
        self.change()
        assert name in self.engine.plan.inputs or address % 256 == 0
        self.addresses[name] = address
        return True

    def execute_async_v3(self, stream):
        assert stream == STREAM
        assert self.scratch is not None
        cuda, shapes, addresses = self.engine.cuda, dict(self.shapes), dict(self.addresses)
        if cuda.captured is None:
            self.compute(shapes, addresses)
        else:
            assert self.num_runs, "the first run does what cannot be written down"
            self.is_written_down = True
            cuda.captured.append(lambda: self.compute(shapes, addresses))
        self.num_runs += 1
        return True

    def compute(self, shapes, addresses):
        engine = self.engine
        feeds = {name: self.read(name, shapes[name], addresses[name]) for name in shapes}
        with np.errstate(over="ignore"):
            results = engine.session.run(list(engine.plan.outputs), feeds)
        for name, array in zip(engine.plan.outputs, results, strict=True):
            content = np.ascontiguousarray(array, NUMPY[engine.kinds[name]])
            content = content.reshape(-1).view(np.uint8)
            np.copyto(engine.cuda.at(addresses[name], content.nbytes), content)

    def read(self, name, shape, address):
        kind = NUMPY[self.engine.kinds[name]]
        num_bytes = int(np.prod(shape)) * np.dtype(kind).itemsize
        array = self.engine.cuda.at(address, num_bytes).view(kind).reshape(shape)
        assert kind is np.int64 or np.isfinite(array).all(), f"{name} holds what is no number"
        return array.astype(np.float32) if kind is not np.int64 else array.copy()

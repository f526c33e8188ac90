"""One graph through TensorRT: parse, set profiles and flags, build.

Only what means the same in TensorRT 10.3 to 11.x is called, and TensorRT-RTX's choice of a GPU.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from molmo2_ros.errors import EngineError
from molmo2_ros.runtime.tensorrt_api import (
    Builder,
    BuilderConfig,
    Messages,
    Network,
    OnnxParser,
    TensorRT,
    make_logger,
)
from molmo2_ros.runtime.tensorrt_plan import GraphPlan, Limits

Progress = Callable[[str, int, int], None]  # phase, step, steps
_DTYPES = {"float32": "FLOAT", "float16": "HALF", "bfloat16": "BF16"}


def build_plan(
    found: TensorRT,
    sm: str,
    plan: GraphPlan,
    limits: Limits,
    path: Path,
    *,
    model: bytes | None = None,
    timing_cache: bytes = b"",
    progress: Progress | None = None,
) -> tuple[Any, bytes]:
    """Parse one graph and build it.

    Args:
        found: TensorRT.
        sm: compute capability; only TensorRT-RTX builds for another than this machine's.
        plan: profiles and bindings.
        limits: the scratch memory is of these.
        path: the ONNX file.
        model: its content, where it is another than the file's; weights are looked for beside it.
        timing_cache: of an earlier build.
        progress: told of each step.

    Returns:
        the plan, which can be written to a file, and the new timing cache.

    Raises:
        EngineError: TensorRT does not take the graph; the message says what it says.
    """
    module, messages = found.module, Messages()
    logger = make_logger(module, messages)
    builder = module.Builder(logger)
    network = builder.create_network(1 << int(module.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = module.OnnxParser(network, logger)
    parsed = parser.parse_from_file(str(path)) if model is None else parser.parse(model, str(path))
    if not parsed:
        raise EngineError(f"{found.title} cannot read {path}: {_parser_errors(parser, messages)}")
    _check_bindings(network, plan, path)
    allow_decomposition(found, network)
    if plan.output_dtype is not None:
        give_outputs_as(found, network, plan.output_dtype)
    config = _configure(found, sm, builder, plan, limits)
    if progress is not None:
        config.progress_monitor = _monitor(module, plan.name, progress)
    _set_timing_cache(found, config, timing_cache)
    serialized = builder.build_serialized_network(network, config)
    if serialized is None:
        raise EngineError(f"{found.title} cannot build {path}: {messages.cause()}")
    if found.product == "tensorrt_rtx":  # compiles on the device, without timing
        return serialized, b""
    return serialized, bytes(config.get_timing_cache().serialize())


def allow_decomposition(found: TensorRT, network: Network) -> int:
    """Let TensorRT take attention apart where it has no kernel for it, as in float32.

    Returns:
        the number of attention layers; none in the decomposed form.
    """
    kind = getattr(found.module.LayerType, "ATTENTION_INPUT", None)  # from 10.14 on
    count = 0
    for index in range(network.num_layers if kind is not None else 0):
        layer = network.get_layer(index)
        if layer.type == kind:
            # Layers come as their parent class; the attribute is the child's.
            layer.__class__ = found.module.IAttentionInputLayer
            layer.attention.decomposable = True
            count += 1
    return count


def give_outputs_as(found: TensorRT, network: Network, dtype: str) -> None:
    """Cast the outputs of a network: features go to the decoder on the GPU, byte by byte.

    Args:
        found: TensorRT.
        network: parsed.
        dtype: "float32", "float16" or "bfloat16".
    """
    wanted = getattr(found.module.DataType, _DTYPES[dtype])
    outputs = [network.get_output(index) for index in range(network.num_outputs)]
    for tensor in outputs:
        if tensor.dtype == wanted:
            continue
        name = tensor.name
        network.unmark_output(tensor)
        tensor.name = f"{name}_uncast"
        cast = network.add_cast(tensor, wanted).get_output(0)
        cast.name = name
        network.mark_output(cast)


def compute_capability(found: TensorRT, sm: str) -> Any:
    """TensorRT-RTX's own name for a GPU.

    Raises:
        EngineError: it does not build for that GPU.
    """
    members = found.module.ComputeCapability.__members__
    name = f"SM{sm.replace('.', '')}"
    if name not in members:
        known = ", ".join(key for key in members if key.startswith("SM"))
        raise EngineError(
            f"{found.title} does not build for compute capability {sm}, it knows {known}; a Jetson "
            "builds its plans itself, with the TensorRT of its JetPack, and so does a GPU of a "
            "data centre (9.0 is an H100), with TensorRT in place of TensorRT-RTX"
        )
    return members[name]


def _configure(
    found: TensorRT, sm: str, builder: Builder, plan: GraphPlan, limits: Limits
) -> BuilderConfig:
    """Flags, memory, profiles and the target of a build."""
    module, config = found.module, builder.create_builder_config()
    # TF32 keeps ten bits: with it a float32 engine is no longer the one that was proven.
    config.clear_flag(module.BuilderFlag.TF32)
    config.set_memory_pool_limit(module.MemoryPoolType.WORKSPACE, limits.workspace_mb << 20)
    for entry in plan.profiles:
        profile = builder.create_optimization_profile()
        for wanted in entry.inputs:
            profile.set_shape(wanted.name, wanted.min, wanted.opt, wanted.max)
        if config.add_optimization_profile(profile) < 0:
            raise EngineError(f"{found.title} refuses the profile {entry.name} of {plan.onnx}")
    if found.product == "tensorrt_rtx":
        # Or a pass may allocate memory while it runs, and cannot become a CUDA graph.
        config.set_flag(module.BuilderFlag.REQUIRE_USER_ALLOCATION)
        config.num_compute_capabilities = 1
        config.set_compute_capability(compute_capability(found, sm), 0)
    return config


def _set_timing_cache(found: TensorRT, config: BuilderConfig, content: bytes) -> None:
    """Give the builder what it measured last time, where that was with this TensorRT and GPU."""
    if found.product == "tensorrt_rtx":
        return
    cache = config.create_timing_cache(content)
    if cache is None or not config.set_timing_cache(cache, False):
        config.set_timing_cache(config.create_timing_cache(b""), False)


def _check_bindings(network: Network, plan: GraphPlan, path: Path) -> None:
    """Refuse a graph whose inputs and outputs are not those that the runtime binds."""
    inputs = {network.get_input(index).name for index in range(network.num_inputs)}
    outputs = {network.get_output(index).name for index in range(network.num_outputs)}
    odd = (inputs ^ set(plan.inputs)) | (outputs ^ set(plan.outputs))
    if odd:
        raise EngineError(
            f"{path}: inputs or outputs that only graph or manifest has: {sorted(odd)}; export the "
            "checkpoint again with this version"
        )


def _parser_errors(parser: OnnxParser, messages: Messages) -> str:
    """What the importer holds against a graph, node by node."""
    errors = [parser.get_error(index) for index in range(min(parser.num_errors, 3))]
    said = [
        f"{error.node_operator()} {error.node_name()}: {error.desc()}".strip() for error in errors
    ]
    return "; ".join(said) or messages.cause()


def _monitor(module: Any, graph: str, progress: Progress) -> Any:
    """An IProgressMonitor that hands the outermost phases on."""
    parent = module.IProgressMonitor
    steps: dict[str, int] = {}

    def __init__(self: Any) -> None:
        parent.__init__(self)

    def phase_start(_: Any, name: str, above: str | None, num_steps: int) -> None:
        if not above:
            steps[name] = num_steps
            progress(f"{graph}: {name}", 0, num_steps)

    def step_complete(_: Any, name: str, step: int) -> bool:
        if name in steps:
            progress(f"{graph}: {name}", step + 1, steps[name])
        return True

    def phase_finish(_: Any, name: str) -> None:
        if name in steps:
            progress(f"{graph}: {name}", steps[name], steps[name])

    members = {
        "__init__": __init__,
        "phase_start": phase_start,
        "step_complete": step_complete,
        "phase_finish": phase_finish,
    }
    return type("Monitor", (parent,), members)()

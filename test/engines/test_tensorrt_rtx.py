"""Graphs and build plans through TensorRT-RTX, which parses and builds without a GPU.

Its parser is that of TensorRT 11, and stricter than ONNX Runtime; what builds here may still meet
limits of the TensorRT on a Jetson. Nothing is executed.
"""

import importlib
import importlib.util
import json
import math
import os
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest
import torch
from onnx import TensorProto

from benchmarks import gpu_plans
from benchmarks.random_checkpoint import variant_config
from molmo2_ros.cli.main import main
from molmo2_ros.engines import tensorrt_builder
from molmo2_ros.engines.build_tensorrt import build_engine, check_buildable
from molmo2_ros.engines.checkpoint import load_checkpoint, text_facts
from molmo2_ros.engines.export import OPSETS, write_graphs
from molmo2_ros.engines.quantization import Quantization
from molmo2_ros.engines.quantize import quantize_engine
from molmo2_ros.engines.skeleton import build_skeleton, parameter_shapes
from molmo2_ros.engines.tensorrt_builder import build_plan, give_outputs_as
from molmo2_ros.errors import EngineError
from molmo2_ros.runtime import tensorrt_api
from molmo2_ros.runtime.cuda_api import Copy2D, CudaRuntime
from molmo2_ros.runtime.engine import NANO, load_engine
from molmo2_ros.runtime.manifest import Manifest, QuantizedFacts
from molmo2_ros.runtime.tensorrt_api import Messages, find_tensorrt, make_logger
from molmo2_ros.runtime.tensorrt_key import PlanMismatchError, PlanRecord, built_folders
from molmo2_ros.runtime.tensorrt_plan import choose_limits, plan_graphs

if importlib.util.find_spec("tensorrt_rtx_bindings") is None:
    cure = (
        "TensorRT-RTX is not installed. Its wheels are of Linux on x86-64 and aarch64, for Python "
        '3.10 to 3.13, under a licence of NVIDIA: pip install ".[tensorrt-rtx]"'
    )
    if "CI" in os.environ:
        raise RuntimeError(cure)
    pytest.skip(cure, allow_module_level=True)

ROOT = Path(__file__).parents[2]
TARGETS = ("8.0", "8.6", "8.9", "12.0")  # of GPUs from A100 and RTX 30 to RTX 50


@pytest.fixture(scope="module")
def found():
    return find_tensorrt("tensorrt_rtx")


@pytest.fixture(scope="module")
def decomposed_nano(tmp_path_factory):
    folder = tmp_path_factory.mktemp("nano") / "decomposed"
    folder.mkdir()
    write_graphs(load_checkpoint(NANO / "checkpoint"), folder, opset=OPSETS["decomposed"])
    facts = {"form": "decomposed", "opset": OPSETS["decomposed"]}
    replace(Manifest.load(NANO, verify=False), **facts).write(folder)
    return folder


@pytest.fixture(scope="module")
def released_shapes(tmp_path_factory):
    """Graphs of Molmo2-4B's widths in float16, with two layers and a short vocabulary."""
    config = variant_config("Molmo2-4B", 2, {"vocab_size": 1024}, {"num_hidden_layers": 2})
    skeleton = build_skeleton(config, torch.float16)
    shapes = parameter_shapes(skeleton)
    # Every weight is another piece of the same noise: TensorRT keeps equal ones once.
    largest = max(map(math.prod, shapes.values()))
    noise = torch.randn(largest + len(shapes)).mul_(0.02).half()
    starts = {name: index for index, name in enumerate(shapes)}

    def read(name):
        return noise[starts[name] :][: math.prod(shapes[name])].reshape(shapes[name])

    nano = Manifest.load(NANO, verify=False)
    folders = {}
    for form, opset in OPSETS.items():
        folder = folders[form] = tmp_path_factory.mktemp(form)
        write_graphs(skeleton, folder, opset=opset, read=read)
        replace(
            nano,
            form=form,
            opset=opset,
            dtype="float16",
            vision=replace(nano.vision, image_size=378, feature_width=2560, video_pooling=(3, 3)),
            text=text_facts(config),
        ).write(folder)
    return folders


def build(found, folder, sm, graph, **options):
    """Build one graph of an engine folder; the plan's bytes."""
    manifest = Manifest.parse(json.loads((folder / "manifest.json").read_text()))
    limits = choose_limits(manifest)
    (plan,) = (plan for plan in plan_graphs(manifest, limits) if plan.name == graph)
    serialized, _ = build_plan(found, sm, plan, limits, folder / plan.onnx, **options)
    return serialized


@pytest.mark.parametrize("graph", ["decoder", "vision"])
@pytest.mark.parametrize("sm", TARGETS)
def test_the_shipped_engine_builds_for_every_gpu(found, sm, graph):
    assert build(found, NANO, sm, graph).nbytes > 1_000_000


@pytest.mark.parametrize("graph", ["decoder", "vision"])
@pytest.mark.parametrize("sm", ["8.0", "12.0"])
def test_the_decomposed_form_of_it_builds_too(found, decomposed_nano, sm, graph):
    assert build(found, decomposed_nano, sm, graph).nbytes > 1_000_000


@pytest.mark.parametrize("graph", ["decoder", "vision"])
@pytest.mark.parametrize(
    ("form", "sm"), [("fused", "8.0"), ("fused", "12.0"), ("decomposed", "8.9")]
)
def test_released_shapes_build_in_float16(found, released_shapes, form, sm, graph):
    folder = released_shapes[form]
    weights = sum(path.stat().st_size for path in folder.glob(f"{graph}.onnx*"))
    plan = build(found, folder, sm, graph)
    # Strongly typed: the weights are in the plan in the file's dtype. A profile for one token
    # alone would bring them a second time.
    assert 0.9 * weights < plan.nbytes < 1.1 * weights + 30e6


@pytest.mark.parametrize("scheme", ["int4", "int8"])
def test_quantised_weights_build_and_stay_small(found, tmp_path, scheme):
    """DequantizeLinear before each product; the plan holds the codes, not what they stand for."""
    quantization = Quantization(scheme=scheme, block=32, runtime="tensorrt")
    quantize_engine(NANO, tmp_path / scheme, quantization, gauge=None, threads=1)
    for sm in ("8.0", "12.0"):
        assert build(found, tmp_path / scheme, sm, "decoder").nbytes > 1_000_000


def test_attention_in_float32_needs_to_be_taken_apart(found, monkeypatch):
    """There is no fused kernel for it; without leave to decompose, TensorRT refuses the graph."""
    monkeypatch.setattr(tensorrt_builder, "allow_decomposition", lambda *_: 0)
    with pytest.raises(EngineError, match=r"TensorRT-RTX .* cannot build .*decoder\.onnx: "):
        build(found, NANO, "8.9", "decoder")


@pytest.fixture
def nano(tmp_path):
    """A copy of the shipped engine."""
    folder = tmp_path / "nano"
    return shutil.copytree(NANO, folder, ignore=shutil.ignore_patterns("checkpoint"))


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """A copy of the shipped engine with plans for an RTX 50, made by the command."""
    folder = tmp_path_factory.mktemp("built") / "nano"
    shutil.copytree(NANO, folder, ignore=shutil.ignore_patterns("checkpoint"))
    options = ["--rtx-target", "120", "--max-frames", "4", "--verify-tokens", "12"]
    assert main(["build-engine", str(folder), *options]) == 0
    return folder


def command(folder, *options):
    """The command as a process of its own."""
    return [sys.executable, "-m", "molmo2_ros.cli.main", "build-engine", str(folder), *options]


def test_the_command_builds_ahead_of_time_for_a_gpu_that_is_not_here(built, found):
    (plans,) = built_folders(built)
    assert plans.name == "tensorrt_rtx_sm120"
    record = PlanRecord.load(plans)
    assert (record.key.product, record.key.version) == ("tensorrt_rtx", found.version)
    assert (record.key.sm, record.key.driver) == ("12.0", "")
    assert (record.limits.max_frames, record.limits.verify_tokens) == (4, 12)
    assert record.files.keys() == {"decoder.plan", "vision.plan"}
    assert record.seconds.keys() == {"decoder", "vision"}
    assert not list(built.glob(".build-*"))
    assert plans.stat().st_mode & 0o777 == 0o755  # whoever runs the robot reads it


def test_plans_that_are_there_are_left_alone_and_told_of(built, capsys):
    before = (built / "tensorrt_rtx_sm120" / "decoder.plan").stat().st_mtime_ns
    assert main(["build-engine", str(built), "--rtx-target", "sm120", "--json"]) == 0
    told = json.loads(capsys.readouterr().out)
    assert told["limits"]["verify_tokens"] == 12  # what is not given stays as it is
    assert (built / "tensorrt_rtx_sm120" / "decoder.plan").stat().st_mtime_ns == before
    assert main(["build-engine", str(built), "--rtx-target", "12.0", "--max-frames", "8"]) == 2
    assert "max-frames is 4, asked for is 8; add --rebuild" in capsys.readouterr().err


def test_rebuilding_changes_what_is_given_and_keeps_the_rest(built, tmp_path, capsys):
    folder = shutil.copytree(built, tmp_path / "nano")
    options = ["--rtx-target", "120", "--rebuild", "--embedding", "host"]
    assert main(["build-engine", str(folder), *options]) == 0
    assert "embedding.npy" in capsys.readouterr().out
    record = PlanRecord.load(folder / "tensorrt_rtx_sm120")
    assert (record.limits.verify_tokens, record.limits.embedding) == (12, "host")
    table = np.load(folder / "tensorrt_rtx_sm120" / "embedding.npy", mmap_mode="r")
    assert table.shape == (768, 128)
    assert [path.name for path in folder.glob("*tensorrt*")] == ["tensorrt_rtx_sm120"]
    assert not list(folder.glob(".build-*"))


def test_plans_of_another_tensorrt_say_so_before_they_are_replaced(built, tmp_path):
    folder = shutil.copytree(built, tmp_path / "nano")
    plans = folder / "tensorrt_rtx_sm120"
    record = PlanRecord.load(plans)
    replace(record, key=replace(record.key, version="1.4.0.76")).write(plans)
    with pytest.raises(PlanMismatchError, match=r"it is for TensorRT-RTX 1\.4\.0\.76, here is 1\."):
        build_engine(folder, rtx_target="120")


def test_a_killed_build_leaves_nothing_that_loads_and_the_next_one_clears_it_up(nano):
    process = subprocess.Popen(command(nano, "--rtx-target", "120"), cwd=ROOT)
    try:
        while not list(nano.glob(".build-*/")):
            assert process.poll() is None, "the build ended before it could be killed"
            time.sleep(0.01)
        process.send_signal(signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL
    finally:
        process.kill()
    assert [path for path in nano.glob(".build-*") if path.is_dir()]
    assert built_folders(nano) == []
    assert load_engine(nano, threads=1).device in ("cpu", "cuda")  # as if nobody had tried
    build_engine(nano, rtx_target="120")
    assert [path.name for path in nano.glob("*tensorrt*")] == ["tensorrt_rtx_sm120"]
    assert not [path for path in nano.glob(".build-*") if path.is_dir()]


def test_a_build_that_cannot_write_its_plan_ends_clearly_and_leaves_nothing(nano):
    """A limit on the size of files stands for a full disk: the write fails in its midst."""
    code = (
        "import resource, signal, sys\n"
        "from molmo2_ros.cli.main import main\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (1_000_000, 1_000_000))\n"
        "sys.exit(main(['build-engine', sys.argv[1], '--rtx-target', '120']))"
    )
    result = subprocess.run(
        [sys.executable, "-c", code, str(nano)], cwd=ROOT, capture_output=True, text=True
    )
    assert result.returncode == 2, result.stderr
    assert "cannot be written ([Errno 27] File too large); make room" in result.stderr
    assert built_folders(nano) == []
    assert not [path for path in nano.glob(".build-*") if path.is_dir()]


def test_plans_built_ahead_do_not_load_without_their_gpu(built, caplog):
    """On this machine: with no GPU ONNX Runtime goes on, with another one the plans are refused."""
    try:
        sm = CudaRuntime().gpu().sm
    except EngineError:
        assert load_engine(built, threads=1, device="auto").device in ("cpu", "cuda")
        assert "the TensorRT plans in" in caplog.text
        assert "are left alone: no GPU can be used here" in caplog.text
    else:
        if sm != "12.0":
            with pytest.raises(PlanMismatchError, match="holds plans for other GPUs"):
                load_engine(built)
    assert load_engine(built, threads=1, device="cpu").device == "cpu"


@pytest.mark.parametrize("dtype", ["float32", "float16", "bfloat16"])
def test_features_leave_the_vision_plan_in_the_decoder_s_dtype(found, released_shapes, dtype):
    """ONNX gives float32 in every dtype; on the GPU the decoder reads them as they lie there."""
    folder = released_shapes["fused"]
    manifest = Manifest.parse(json.loads((folder / "manifest.json").read_text()))
    manifest = replace(manifest, dtype=dtype)
    _, vision = plan_graphs(manifest, choose_limits(manifest))
    assert vision.output_dtype == dtype
    module = found.module
    logger = make_logger(module, Messages())
    builder = module.Builder(logger)
    network = builder.create_network(1 << int(module.NetworkDefinitionCreationFlag.STRONGLY_TYPED))
    parser = module.OnnxParser(network, logger)
    assert parser.parse_from_file(str(folder / "vision.onnx"))
    give_outputs_as(found, network, vision.output_dtype)
    outputs = [network.get_output(index) for index in range(network.num_outputs)]
    kinds = {"float32": "FLOAT", "float16": "HALF", "bfloat16": "BF16"}
    assert [(output.name, output.dtype.name) for output in outputs] == [("features", kinds[dtype])]


def test_a_context_of_tensorrt_rtx_takes_what_it_is_told(found):
    module = found.module
    config = module.IRuntimeConfig
    assert config.dynamic_shapes_kernel_specialization_strategy.fset is not None
    assert {"EAGER", "LAZY"} <= set(module.DynamicShapesKernelSpecializationStrategy.__members__)
    told = {"create_runtime_cache", "set_runtime_cache"}
    assert told | {"set_execution_context_allocation_strategy"} <= set(dir(config))
    assert (
        "runtime_config: tensorrt_rtx_bindings"
        in module.ICudaEngine.create_execution_context.__doc__
    )


def test_a_gpu_without_plans_of_its_own_is_tried_with_those_of_others(found):
    """For bench_tensorrt.py on a GPU that TensorRT-RTX does not name."""
    assert gpu_plans.targets(found, "8.9") == ("8.9",)
    assert gpu_plans.targets(found, "9.0") == ("8.0", "8.6", "8.9", "12.0")


def altered(nano, change):
    """Change the decoder's ONNX."""
    path = nano / "decoder.onnx"
    model = onnx.load(path)
    change(model)
    onnx.save(model, path)
    return nano


def test_operators_of_onnx_runtime_alone_are_refused_by_their_name(found, nano):
    def change(model):
        node = next(node for node in model.graph.node if node.op_type == "MatMul")
        node.op_type, node.domain = "FusedMatMul", "com.microsoft"
        model.opset_import.append(onnx.helper.make_opsetid("com.microsoft", 1))

    with pytest.raises(EngineError, match=r"cannot read .*decoder\.onnx: FusedMatMul .*[Pp]lugin"):
        build(found, altered(nano, change), "8.9", "decoder")


def test_attention_with_a_cache_inside_is_refused(found, nano):
    """Why the graphs join keys and values to the past by themselves."""

    def change(model):
        node = next(node for node in model.graph.node if node.op_type == "Attention")
        node.output.extend(["inner_key", "inner_value"])
        node.input.extend(["past_key_0", "past_value_0"])

    with pytest.raises(EngineError, match=r"cannot read .*Attention .*one output"):
        build(found, altered(nano, change), "8.9", "decoder")


def test_a_mask_in_another_dtype_than_the_queries_is_refused(found, released_shapes, tmp_path):
    folder = shutil.copytree(released_shapes["fused"], tmp_path / "engine")

    def change(model):
        mask = next(value for value in model.graph.input if value.name == "attn_bias")
        mask.type.tensor_type.elem_type = TensorProto.FLOAT

    path = folder / "decoder.onnx"
    model = onnx.load(path, load_external_data=False)
    change(model)
    onnx.save(model, path)
    with pytest.raises(EngineError, match="cannot (read|build)"):
        build(found, folder, "8.9", "decoder")


def test_a_graph_that_was_cut_off_is_refused(found, nano):
    path = nano / "decoder.onnx"
    path.write_bytes(path.read_bytes()[:100_000])
    with pytest.raises(EngineError, match=r"TensorRT-RTX .* cannot read .*decoder\.onnx: "):
        build(found, nano, "8.9", "decoder")


def test_a_graph_of_another_model_is_refused_by_its_bindings(found, nano):
    shutil.copyfile(nano / "vision.onnx", nano / "decoder.onnx")
    with pytest.raises(EngineError, match=r"only graph or manifest has: \['attn_bias', 'features'"):
        build(found, nano, "8.9", "decoder")


def test_another_build_in_the_same_folder_is_waited_for(nano):
    import fcntl

    with (nano / ".build.lock").open("w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        with pytest.raises(EngineError, match="another build is under way in .*nano; wait for it"):
            build_engine(nano, rtx_target="120")


def test_progress_is_told_step_by_step(found):
    told = []
    build(found, NANO, "8.9", "vision", progress=lambda *step: told.append(step))
    phases = {phase for phase, _, _ in told}
    assert phases
    assert all(phase.startswith("vision: ") for phase in phases)
    assert all(0 <= step <= steps for _, step, steps in told)
    assert told[-1][1] == told[-1][2]


@pytest.mark.parametrize(
    ("target", "message"),
    [
        ("87", r"does not build for compute capability 8\.7, it knows SM75, .*a Jetson builds its"),
        ("90", r"capability 9\.0, .* a GPU of a data centre \(9\.0 is an H100\), with TensorRT in"),
        ("orin", r"rtx-target is 'orin', expected a compute capability such as 89 or 120"),
    ],
)
def test_a_target_that_it_does_not_build_for_is_refused(nano, target, message):
    with pytest.raises(EngineError, match=message):
        build_engine(nano, rtx_target=target)


def test_a_build_without_gpu_or_target_names_both_ways_on(nano):
    try:
        CudaRuntime()
    except EngineError:
        with pytest.raises(EngineError, match=r"no GPU can be used here .* name it with --rtx-tar"):
            build_engine(nano)


@pytest.mark.parametrize(
    ("changes", "version", "sm", "message"),
    [
        (
            {},
            "10.3.0",
            "8.7",
            r"is exported in the fused form, and TensorRT 10\.3\.0 reads the deco",
        ),
        ({}, "10.14.1", "8.9", "reads the decomposed one .*--form decomposed"),
        (
            {"dtype": "bfloat16"},
            "10.16.2",
            "7.5",
            r"in bfloat16, which a GPU of .* 7\.5 does not ha",
        ),
        (
            {"scheme": "fp8"},
            "10.16.2",
            "8.7",
            r"quantised to fp8, which .* 8\.7 does not have; Orin",
        ),
        ({"scheme": "nvfp4"}, "10.16.2", "8.9", "quantised to nvfp4"),
        ({"operator": "MatMulNBits"}, "10.16.2", "8.9", "MatMulNBits for ONNX Runtime, which Tens"),
    ],
)
def test_what_a_tensorrt_or_gpu_does_not_have_is_refused_before_the_build(
    found, changes, version, sm, message
):
    facts = {"scheme": "int4", "operator": "DequantizeLinear", "block": 32, **changes}
    dtype = facts.pop("dtype", "float16")
    manifest = replace(Manifest.load(NANO, verify=False), dtype=dtype)
    if changes.keys() - {"dtype"}:
        manifest = replace(manifest, quantized={"decoder": QuantizedFacts(**facts)})
    other = replace(found, product="tensorrt", version=version)
    with pytest.raises(EngineError, match=message):
        check_buildable(manifest, other, sm)


@pytest.mark.parametrize(
    ("version", "form", "scheme", "sm"),
    [("10.3.0", "decomposed", "int4", "8.7"), ("10.16.2", "decomposed", "fp8", "8.9"),
     ("10.13.3", "decomposed", "nvfp4", "11.0"), ("11.4.1", "fused", "int8", "8.7")],
)  # fmt: skip
def test_what_fits_passes(found, version, form, scheme, sm):
    facts = QuantizedFacts(scheme=scheme, operator="DequantizeLinear", block=16)
    manifest = replace(Manifest.load(NANO, verify=False), form=form, quantized={"decoder": facts})
    check_buildable(manifest, replace(found, product="tensorrt", version=version), sm)


def protocol_names(kind):
    """Methods and attributes that a Protocol of tensorrt_api asks for."""
    methods = {name for name, value in vars(kind).items() if callable(value) and name[0] != "_"}
    return methods | set(kind.__annotations__)


@pytest.mark.parametrize(
    ("protocol", "name"),
    [
        ("Tensor", "ITensor"),
        ("Network", "INetworkDefinition"),
        ("OptimizationProfile", "IOptimizationProfile"),
        ("BuilderConfig", "IBuilderConfig"),
        ("Builder", "Builder"),
        ("OnnxParser", "OnnxParser"),
        ("ExecutionContext", "IExecutionContext"),
        ("CudaEngine", "ICudaEngine"),
        ("Runtime", "Runtime"),
    ],
)
def test_every_name_that_we_call_exists(found, protocol, name):
    wanted = protocol_names(getattr(tensorrt_api, protocol))
    assert wanted
    assert wanted - set(dir(getattr(found.module, name))) == set()


def test_every_name_of_the_module_exists(found):
    wanted = protocol_names(tensorrt_api.TensorRTModule)
    assert wanted - set(dir(found.module)) == set()
    assert hasattr(found.module.IAttentionInputLayer, "attention")


def test_every_call_of_cuda_has_arguments_that_the_real_binding_takes():
    """Without a driver each call ends in an error of CUDA's, with wrong arguments in Python's."""
    try:
        CudaRuntime()
    except EngineError:
        with pytest.raises(EngineError, match=r"here \(cudaGetDeviceCount failed: CUDA driver"):
            CudaRuntime()
        cuda = object.__new__(CudaRuntime)
        cuda._cuda = importlib.import_module("cuda.bindings.runtime")
        cuda._stream = 0
        array = np.zeros(256, np.uint8)
        copy = Copy2D(
            target_offset=0, target_pitch=64, source_offset=0, source_pitch=64, width=64, height=2
        )
        calls = (
            cuda.gpu,
            lambda: cuda.allocate(256),
            lambda: cuda.allocate_pinned(256),
            lambda: cuda.upload(1 << 20, array),
            lambda: cuda.download(array, 1 << 20),
            lambda: cuda.copy(1 << 20, 1 << 21, 256),
            lambda: cuda.copy_2d(1 << 20, 1 << 21, copy),
            lambda: cuda.zero(1 << 20, 256),
            cuda.synchronize,
            cuda.begin_capture,
            cuda.end_capture,
        )
        for call in calls:
            with pytest.raises(EngineError, match=r"cuda\w+ failed: .* \(CUDA error \d+\)"):
                call()
    else:
        cuda = CudaRuntime()
        address = cuda.allocate(256)
        pinned = cuda.allocate_pinned(256)
        pinned[:] = 7
        cuda.upload(address, pinned)
        pinned[:] = 0
        cuda.download(pinned, address)
        cuda.synchronize()
        assert (pinned == 7).all()

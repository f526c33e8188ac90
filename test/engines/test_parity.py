"""The parity gate: engines that were really spoilt, each in one way, are found by their example.

Each fault is put into an exported graph, whose new hash the manifest then vouches for, so that
nothing but the golden example can find it.
"""

import json
import shutil
from dataclasses import replace

import numpy as np
import onnx
import pytest
from onnx import TensorProto, helper, numpy_helper
from onnxruntime.transformers.float16 import convert_float_to_float16

from molmo2_ros.engines.checkpoint import load_checkpoint
from molmo2_ros.engines.parity import golden_facts
from molmo2_ros.errors import EngineError
from molmo2_ros.prompt.layout import HIDDEN
from molmo2_ros.runtime.engine import NANO, load_engine
from molmo2_ros.runtime.golden import GOLDEN_FILE, Golden, examine, verify_golden
from molmo2_ros.runtime.manifest import FILE_NAME, Manifest, file_entry
from molmo2_ros.runtime.onnx_engine import OnnxEngine

TEXT, VISION = "model.language_model.", "model.vision_tower."
# Exported names of what keeps its name; a matrix is known by its values.
PREFIXES = {TEXT: "text.", VISION: "tower.", "model.multi_modal_projector.": "adapter."}


class Graph:
    """An exported graph under the knife."""

    def __init__(self, path, model):
        self.path = path
        self.proto = onnx.load(path)
        self.nodes = self.proto.graph.node
        self.tensors = {tensor.name: tensor for tensor in self.proto.graph.initializer}
        by_value = {self.value(name).tobytes(): name for name in self.tensors}
        self.weights = {}
        for name, weight in model.state_dict().items():
            short = name
            for prefix, exported in PREFIXES.items():
                short = short.replace(prefix, exported)
            transposed = np.ascontiguousarray(weight.numpy().T).tobytes()
            if (found := short if short in self.tensors else by_value.get(transposed)) is not None:
                self.weights[name] = found

    def value(self, tensor):
        return numpy_helper.to_array(self.tensors[tensor]).copy()

    def set(self, tensor, value):
        array = np.ascontiguousarray(value, np.float32)
        self.tensors[tensor].CopyFrom(numpy_helper.from_array(array, tensor))

    def scale(self, factor, *parts):
        """Multiply every weight whose name has all parts."""
        found = [name for name in self.weights if all(part in name for part in parts)]
        assert found, parts
        for name in found:
            self.set(self.weights[name], self.value(self.weights[name]) * factor)

    def constant(self, value):
        name = f"spoilt_constant_{len(self.proto.graph.initializer)}"
        self.proto.graph.initializer.append(numpy_helper.from_array(np.asarray(value), name))
        return name

    def after(self, tensor, *steps):
        """Send whoever reads a tensor through new nodes.

        Args:
            tensor: an input of the graph, or a node's output.
            steps: operator, inputs, attributes. Each gives "0", "1" ..., which later ones may
                read; "x" is the tensor.
        """
        names = {"x": tensor, **{str(i): f"spoilt_{tensor}_{i}" for i in range(len(steps))}}
        new = [
            helper.make_node(kind, [names.get(i, i) for i in inputs], [names[str(at)]], **options)
            for at, (kind, inputs, options) in enumerate(steps)
        ]
        for node in self.nodes:
            for index, name in enumerate(node.input):
                if name == tensor:
                    node.input[index] = new[-1].output[0]
        old = list(self.nodes)
        place = next((i + 1 for i, node in enumerate(old) if tensor in node.output), 0)
        del self.nodes[:]
        self.nodes.extend([*old[:place], *new, *old[place:]])

    def save(self):
        onnx.save(self.proto, self.path)


def causal_mask(graph):
    """What the mask shows ahead of a token is hidden, as a causal operator does."""
    one, rows, columns = graph.constant(np.float32([1])), graph.constant([2]), graph.constant([3])
    graph.after(
        "attn_bias",
        ("Shape", ["x"], {}),
        ("Gather", ["0", rows], {}),
        ("Gather", ["0", columns], {}),
        ("Concat", ["1", "2"], {"axis": 0}),
        ("Expand", [one, "3"], {}),
        ("Sub", ["2", "1"], {}),
        ("Squeeze", ["5"], {}),
        ("Trilu", ["4", "6"], {"upper": 0}),
        ("Cast", ["7"], {"to": TensorProto.BOOL}),
        ("Where", ["8", "x", graph.constant(np.float32(HIDDEN))], {}),
    )


def swapped_sine_and_cosine(graph):
    for node in graph.nodes:
        node.op_type = {"Cos": "Sin", "Sin": "Cos"}.get(node.op_type, node.op_type)


def wrong_theta(graph):
    """Another base of the angles: theta ** 1.1."""
    name = next(name for name in graph.tensors if name.endswith("rotary_emb.inv_freq"))
    graph.set(name, graph.value(name) ** 1.1)


def one_off_behind_the_past(graph):
    """Positions that count from one too many once there is a cache."""
    graph.after(
        "position_ids",
        ("Shape", ["past_key_0"], {}),
        ("Gather", ["0", graph.constant(2)], {}),
        ("Min", ["1", graph.constant(1)], {}),
        ("Add", ["x", "2"], {}),
    )


def short_table(graph):
    """A table of angles that ends after half the positions."""
    graph.after("position_ids", ("Min", ["x", graph.constant(2047)], {}))


def half_precision_angles(graph):
    angles = next(node for node in graph.nodes if any(i.endswith("inv_freq") for i in node.input))
    graph.after(
        angles.output[0],
        ("Cast", ["x"], {"to": TensorProto.FLOAT16}),
        ("Cast", ["0"], {"to": TensorProto.FLOAT}),
    )


def present_before_past(graph):
    """New values before the old ones, in one layer."""
    node = next(node for node in graph.nodes if "present_value_0" in node.output)
    node.input[:] = reversed(node.input)


def unmasked_short_passes(graph):
    """A kernel for few new tokens that shows them all of each other; one alone has no other."""
    graph.after(
        "attn_bias",
        ("Shape", ["x"], {}),
        ("Gather", ["0", graph.constant(2)], {}),
        ("Less", ["1", graph.constant(8)], {}),
        ("Where", ["2", graph.constant(np.float32(0)), "x"], {}),
    )


def two_layers_swapped(graph):
    for name, tensor in graph.weights.items():
        if f"{TEXT}layers.0." in name:
            other = graph.weights[name.replace("layers.0.", "layers.1.")]
            mine, theirs = graph.value(tensor), graph.value(other)
            graph.set(tensor, theirs)
            graph.set(other, mine)


def a_dropped_layer(graph):
    """A block that adds nothing."""
    graph.scale(0, f"{TEXT}layers.1.", "o_proj.weight")
    graph.scale(0, f"{TEXT}layers.1.", "down_proj.weight")


def weights_of_a_step_before(graph):
    """Another checkpoint of the same training: weights that differ by one in a hundred."""
    random = np.random.default_rng(0)
    for name, tensor in graph.weights.items():
        if name.startswith(TEXT):
            value = graph.value(tensor)
            graph.set(tensor, value * (1 + 0.01 * random.standard_normal(value.shape)))


def transposed_windows(graph):
    """Pooling reads column by column what was cut row by row."""
    grid = Manifest.load(graph.path.parent).vision.image_size // 14
    side, view = graph.constant(grid), graph.constant(grid * grid)
    graph.after(
        "pooling",
        ("Mod", ["x", view], {}),
        ("Sub", ["x", "0"], {}),
        ("Mod", ["0", side], {}),
        ("Div", ["0", side], {}),
        ("Mul", ["2", side], {}),
        ("Add", ["1", "4"], {}),
        ("Add", ["5", "3"], {}),
    )


def pixels_from_zero_to_one(graph):
    """Patches of 0..1 where the model reads -1..1."""
    half = graph.constant(np.float32(0.5))
    graph.after("patches", ("Mul", ["x", half], {}), ("Add", ["0", half], {}))


def blue_before_red(graph):
    graph.after(
        "patches",
        ("Reshape", ["x", graph.constant([0, 0, -1, 3])], {}),
        ("Gather", ["0", graph.constant([2, 1, 0])], {"axis": 3}),
        ("Reshape", ["1", graph.constant([0, 0, 588])], {}),
    )


def padding_that_counts(graph):
    """The pooling's attention without its mask."""
    pooling = [node for node in graph.nodes if node.op_type == "Attention"][-1]
    del pooling.input[3:]


def norms_without_weights(graph):
    for name, tensor in graph.weights.items():
        if name.startswith(VISION) and "norm1.weight" in name:
            graph.set(tensor, np.ones_like(graph.value(tensor)))


FAULTS = {  # where each is, and by what it is found
    causal_mask: ("decoder.onnx", "logits differ"),
    swapped_sine_and_cosine: ("decoder.onnx", "logits differ"),
    wrong_theta: ("decoder.onnx", "logits differ"),
    one_off_behind_the_past: ("decoder.onnx", "logits differ"),
    short_table: ("decoder.onnx", "late logits differ"),
    half_precision_angles: ("decoder.onnx", "logits differ"),
    present_before_past: ("decoder.onnx", "logits differ"),
    unmasked_short_passes: ("decoder.onnx", "logits along the answer differ"),
    two_layers_swapped: ("decoder.onnx", "logits differ"),
    a_dropped_layer: ("decoder.onnx", "logits differ"),
    weights_of_a_step_before: ("decoder.onnx", "logits differ"),
    transposed_windows: ("vision.onnx", "visual features differ"),
    pixels_from_zero_to_one: ("vision.onnx", "visual features differ"),
    blue_before_red: ("vision.onnx", "visual features differ"),
    padding_that_counts: ("vision.onnx", "visual features differ"),
    norms_without_weights: ("vision.onnx", "visual features differ"),
}
UNSEEN_IN = {  # what a precision's own rounding hides
    "float32": set(),
    "float16": set(),
    "int4": {half_precision_angles, weights_of_a_step_before},
    "bfloat16": {
        half_precision_angles,
        one_off_behind_the_past,
        short_table,
        unmasked_short_passes,
        weights_of_a_step_before,
    },
}
# All norms of a fresh random model have weights of one: nothing to leave out.
OF_RANDOM_MODEL = [fault for fault in FAULTS if fault is not norms_without_weights]


@pytest.fixture(scope="session")
def nano_model():
    return load_checkpoint(NANO / "checkpoint")


@pytest.fixture
def spoil(tmp_path):
    """Copy an engine, change one graph, and let the manifest vouch for it."""

    def do(source, model, name, *faults):
        folder = tmp_path / "engine"
        shutil.copytree(source, folder, ignore=shutil.ignore_patterns("checkpoint"))
        graph = Graph(folder / name, model)
        for fault in faults:
            fault(graph)
        graph.save()
        return vouched(folder, name)

    return do


def vouched(folder, name):
    """The folder, its manifest brought up to date without a look at what was changed."""
    manifest = Manifest.parse(json.loads((folder / FILE_NAME).read_text()))
    files = {**manifest.files, name: file_entry(folder / name)}
    replace(manifest, files=files).write(folder)
    return folder


def name_of(fault):
    return fault.__name__


@pytest.mark.parametrize("fault", FAULTS, ids=name_of)
def test_a_fault_in_the_shipped_engine_is_refused_at_load(spoil, nano_model, fault):
    graph, found_by = FAULTS[fault]
    folder = spoil(NANO, nano_model, graph, fault)
    with pytest.raises(EngineError, match=f"computes wrongly here .*golden example's {found_by}"):
        load_engine(folder, threads=1)


@pytest.mark.parametrize("fault", OF_RANDOM_MODEL, ids=name_of)
def test_a_fault_is_found_by_the_drawn_example_of_a_random_model_too(spoil, exported, model, fault):
    graph, found_by = FAULTS[fault]
    folder = spoil(exported, model, graph, fault)
    with pytest.raises(EngineError, match=f"computes wrongly here .*golden example's {found_by}"):
        verify_golden(load_engine(folder, threads=1, self_test="off"))


@pytest.mark.parametrize("fault", FAULTS, ids=name_of)
def test_wider_tolerances_still_find_it(spoil, nano_model, fault):
    """What another precision needs, with the faults of a float32 engine beside it."""
    golden = Golden.load(NANO / GOLDEN_FILE)
    engine = load_engine(
        spoil(NANO, nano_model, FAULTS[fault][0], fault), threads=1, self_test="off"
    )
    unseen = set()
    for precision in UNSEEN_IN:
        dtype = "float16" if precision == "int4" else precision
        facts = golden_facts(golden, dtype, is_quantized=precision == "int4")
        try:
            examine(engine, golden, facts)
        except EngineError:
            continue
        unseen.add(precision)
    assert unseen == {precision for precision, faults in UNSEEN_IN.items() if fault in faults}


@pytest.mark.parametrize("name", ["vision.onnx", "decoder.onnx"])
def test_a_graph_that_is_read_and_written_unchanged_passes(spoil, nano_model, name):
    assert verify_golden(load_engine(spoil(NANO, nano_model, name), threads=1)) < 1e-4


def test_positions_that_are_all_moved_alike_change_nothing(spoil, nano_model):
    """Attention knows distances only: what the example does not see is no mistake."""

    def moved(graph):
        graph.after("position_ids", ("Add", ["x", graph.constant(3)], {}))

    assert verify_golden(load_engine(spoil(NANO, nano_model, "decoder.onnx", moved), threads=1))


def larger_inside(graph):
    """The same function in float32: thousands of times larger within a block, and back again."""
    graph.scale(3e4, f"{TEXT}layers.1.", "up_proj.weight")
    graph.scale(1 / 3e4, f"{TEXT}layers.1.", "down_proj.weight")


def in_half_precision(graph):
    """Every operator of the graph, as a converter that knows nothing of angles does it."""
    graph.proto.CopyFrom(
        convert_float_to_float16(graph.proto, keep_io_types=True, disable_shape_infer=True)
    )


def products_in_half_precision(graph):
    """Weights and what comes of multiplying with them."""
    for node in [node for node in graph.nodes if node.op_type == "MatMul"]:
        if node.input[1] in graph.tensors:
            graph.set(node.input[1], graph.value(node.input[1]).astype(np.float16))
        graph.after(
            node.output[0],
            ("Cast", ["x"], {"to": TensorProto.FLOAT16}),
            ("Cast", ["0"], {"to": TensorProto.FLOAT}),
        )


def test_angles_in_float16_are_found_at_late_positions(spoil, nano_model):
    facts = golden_facts(Golden.load(NANO / GOLDEN_FILE), "float16")
    folder = spoil(NANO, nano_model, "decoder.onnx", in_half_precision)
    engine = load_engine(folder, threads=1, self_test="off")
    with pytest.raises(EngineError, match="late logits differ by"):
        examine(engine, Golden.load(folder / GOLDEN_FILE), facts)


def test_overflow_of_float16_is_found_and_named(spoil, nano_model):
    facts = golden_facts(Golden.load(NANO / GOLDEN_FILE), "float16")

    def error(*faults):
        folder = spoil(NANO, nano_model, "decoder.onnx", *faults)
        engine = load_engine(folder, threads=1, self_test="off")
        found = examine(engine, Golden.load(folder / GOLDEN_FILE), facts)
        shutil.rmtree(folder)
        return found

    assert error(larger_inside) < 1e-3
    assert 1e-3 < error(products_in_half_precision) < facts.logit_tolerance
    with pytest.raises(EngineError, match="640 of 640 values .* logits are inf or NaN: activatio"):
        error(larger_inside, products_in_half_precision)


@pytest.fixture
def stale(exported, model, make_checkpoint, tmp_path):
    """An engine folder with the decoder that another checkpoint's export would write."""
    folder = shutil.copytree(exported, tmp_path / "stale")
    other = load_checkpoint(make_checkpoint(1)).state_dict()
    graph = Graph(folder / "decoder.onnx", model)
    for name, tensor in graph.weights.items():
        value = other[name].numpy()
        is_as_it_was = np.array_equal(graph.value(tensor), model.state_dict()[name].numpy())
        graph.set(tensor, value if is_as_it_was else value.T)
    graph.save()
    return folder


def test_a_decoder_of_another_checkpoint_is_refused_by_its_hash(stale):
    with pytest.raises(EngineError, match=r"decoder\.onnx was altered: its sha256 is not the one"):
        load_engine(stale, threads=1)


def test_a_decoder_of_another_checkpoint_is_refused_where_the_manifest_vouches_for_it(stale):
    with pytest.raises(EngineError, match="computes wrongly here .* logits differ"):
        load_engine(vouched(stale, "decoder.onnx"), threads=1)


class LastTokensKept(OnnxEngine):
    """Cuts a cache at the wrong end."""

    def keep_kv(self, kv, kept):
        return super().keep_kv(replace(kv, columns_P=kv.columns_P[::-1].copy()), kept)


class NothingCut(OnnxEngine):
    """Leaves what was cut where it can be seen, and moves what comes behind it."""

    def keep_kv(self, kv, kept):
        return super().keep_kv(kv, np.append(kept[:-1], kv.length - 1))


@pytest.mark.parametrize("engine_class", [LastTokensKept, NothingCut])
def test_a_cache_that_is_cut_wrongly_is_found(engine_class):
    with pytest.raises(EngineError, match="logits after a cut of the cache differ"):
        verify_golden(engine_class(NANO, threads=1))

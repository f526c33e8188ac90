"""Sizes of the released models and of an exported engine, from their dimensions."""

import json

import onnx
import pytest

from molmo2_ros.errors import EngineError
from molmo2_ros.machine.models import MODELS, find_model, of_engine
from molmo2_ros.runtime.engine import NANO

BILLION = 1e9


@pytest.mark.parametrize(
    ("name", "blocks", "head", "connector", "total"),
    [  # as published: weights of layers and head, of the connector (M), of the language model
        ("Molmo2-4B", 3.63, 0.39, 57, 4.0),
        ("Molmo2-8B", 6.95, 0.62, 88, 8.2),
        ("Molmo2-O-7B", 6.48, 0.41, 80, 7.3),
    ],
)
def test_released_models_have_the_published_sizes(name, blocks, head, connector, total):
    model = MODELS[name]
    assert round(model.block_weights / BILLION, 2) == blocks
    assert round(model.head_weights / BILLION, 2) == head
    assert round(model.connector_weights / 1e6) == connector
    # The 4B's published total counts its table of tokens once, as the head is a copy of it.
    tables = model.head_weights + (0 if name == "Molmo2-4B" else model.embedding_weights)
    assert (model.block_weights + tables) / BILLION == pytest.approx(total, abs=0.05)
    assert round(model.tower_weights / 1e6, -1) == 380


def test_vision_takes_as_much_arithmetic_as_published():
    model = MODELS["Molmo2-8B"]
    assert round(model.tower_flops() / 1e12, 3) == 0.617
    attention = 4 * 25 * 1152 * 729**2
    assert round(attention / 1e12, 2) == 0.06


@pytest.mark.parametrize(
    ("name", "kib"), [("Molmo2-4B", 144), ("Molmo2-8B", 144), ("Molmo2-O-7B", 512)]
)
def test_cache_of_a_token_has_the_published_size(name, kib):
    assert MODELS[name].kv_values_per_token * 2 == kib * 1024


@pytest.mark.parametrize(
    ("asked", "found"),
    [
        ("Molmo2-4B", "Molmo2-4B"),
        ("allenai/molmo2-o-7b", "Molmo2-O-7B"),
        ("Molmo2-VideoPoint-4B", "Molmo2-4B"),
        ("nano", "molmo2-nano"),
        (str(NANO), "molmo2-nano"),
    ],
)
def test_models_are_found_by_name_or_folder(asked, found):
    assert find_model(asked).name == found


def test_an_engines_graphs_hold_as_many_weights_as_its_dimensions_say():
    """The real graphs: matrices that are multiplied, biases and norms left out."""
    nano = of_engine(NANO)

    def matrices(graph):
        tensors = onnx.load(NANO / f"{graph}.onnx").graph.initializer
        return sum(
            tensor.dims[0] * tensor.dims[1]
            for tensor in tensors
            if len(tensor.dims) == 2 and min(tensor.dims) > 8 and tensor.data_type == 1
        )

    positions = nano.tower.patches * nano.tower.width
    assert matrices("vision") == nano.tower_weights + nano.connector_weights + positions
    assert matrices("decoder") == pytest.approx(
        nano.block_weights + nano.head_weights + nano.embedding_weights, rel=0.01
    )


def test_an_unknown_model_is_refused_with_the_known(tmp_path):
    with pytest.raises(EngineError, match=r"'Molmo3' is no known model.*Molmo2-4B, Molmo2-8B, Mo"):
        find_model("Molmo3")
    with pytest.raises(EngineError, match=r"no manifest\.json in"):
        find_model(str(tmp_path))


@pytest.mark.parametrize("content", [None, "{", "{}", '{"text_config": {}}', "[]"])
def test_an_engine_without_its_configuration_is_refused(engine_folder, content):
    path = engine_folder / "manifest.json"
    manifest = json.loads(path.read_text())
    del manifest["files"]["config.json"]
    path.write_text(json.dumps(manifest))
    config = engine_folder / "config.json"
    config.unlink() if content is None else config.write_text(content)
    with pytest.raises(EngineError, match=r"config\.json does not tell the model's dimensions"):
        of_engine(engine_folder)

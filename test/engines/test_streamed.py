"""The reference whose weights are in memory only while they are used."""

import numpy as np
import pytest
import torch

from molmo2_ros.engines.checkpoint import (
    load_checkpoint,
    open_skeleton,
    token_facts,
    vision_facts,
)
from molmo2_ros.engines.parity import make_golden
from molmo2_ros.engines.skeleton import parameter_shapes
from molmo2_ros.engines.streamed import stream_checkpoint
from molmo2_ros.engines.weights import CheckpointWeights


@pytest.fixture(scope="module")
def streamed(sharded):
    skeleton = open_skeleton(sharded, torch.float32)
    return stream_checkpoint(sharded, CheckpointWeights(sharded, parameter_shapes(skeleton)))


def num_held(model):
    """Bytes of the parameters that are in memory."""
    storages = {value.untyped_storage().data_ptr(): value for value in model.parameters()}
    return sum(value.untyped_storage().nbytes() for value in storages.values())


def test_streamed_model_writes_and_computes_bit_for_bit_what_the_loaded_one_does(streamed, sharded):
    loaded = load_checkpoint(sharded)
    goldens = [
        make_golden(
            model, sharded, vision_facts(sharded, model.config), token_facts(sharded, model)
        )
        for model in (streamed, loaded)
    ]
    np.testing.assert_array_equal(goldens[0].logits, goldens[1].logits)
    np.testing.assert_array_equal(goldens[0].tokens, goldens[1].tokens)
    assert len(goldens[0].tokens) > 0


def test_streamed_model_holds_nothing_between_its_turns(streamed):
    assert num_held(streamed) < 100
    held = []
    layer = streamed.model.language_model.layers[1]
    layer.mlp.up_proj.register_forward_hook(lambda *_: held.append(num_held(streamed)))
    with torch.no_grad():
        streamed(input_ids=torch.tensor([[1, 2, 3]]))
    assert num_held(streamed) < 100
    # Hooks run in the order of their making: this one after the weight went again.
    assert max(held) < 100


def test_a_failing_module_lets_go_of_its_weights(streamed):
    module = streamed.model.language_model.layers[0].mlp.up_proj
    with pytest.raises(RuntimeError, match="shapes cannot be multiplied"):
        module(torch.zeros(2, 3))
    assert num_held(streamed) < 100


def test_skeleton_takes_no_memory_whatever_it_describes(checkpoint):
    for dtype in (torch.float32, torch.float16):
        skeleton = open_skeleton(checkpoint, dtype)
        assert {value.dtype for value in skeleton.parameters()} == {dtype}
        assert num_held(skeleton) < 100
        # Tables that transformers computes stay as precise as they are.
        assert skeleton.model.language_model.rotary_emb.inv_freq.dtype == torch.float32

import math

import pytest
import torch
from torch import nn

from molmo2_ros.training.config import RateConfig
from molmo2_ros.training.optimizer import learning_rate, part_of


def test_the_rate_rises_then_falls_as_a_cosine_to_its_share():
    rate = RateConfig(lr=1.0, warmup_steps=2)
    rates = [learning_rate(step, rate, 6, 0.1) for step in range(7)]
    # The cosine's four steps: 1, (1 + cos 45) / 2, 1 / 2, (1 + cos 135) / 2, 0.
    falls = [1, 0.853553, 0.5, 0.146447, 0]
    assert rates == pytest.approx([0.5, 1.0, *(0.1 + 0.9 * fall for fall in falls)], abs=1e-5)
    assert learning_rate(99, rate, 6, 0.1) == pytest.approx(0.1)
    assert math.isclose(learning_rate(0, RateConfig(lr=1.0, warmup_steps=0), 1, 0.1), 1.0)


def test_parts_go_by_names_with_or_without_adapters():
    assert part_of("model.vision_tower.layers.0.mlp.fc1.weight") == "vit"
    assert part_of("base_model.model.model.multi_modal_projector.image_projector.up.weight") == (
        "connector"
    )
    assert part_of("lm_head.weight") == "llm"


def test_dropout_touches_answers_alone_where_it_is_told_to(model_of_two_layers):
    from molmo2_ros.training.dropout import ResidualDropout

    model = model_of_two_layers
    dropout = ResidualDropout(model, 0.5, answers_only=True)
    layer = model.model.language_model.layers[0]
    is_answer = torch.tensor([[False, True, False]])
    torch.manual_seed(0)
    with dropout.on(is_answer):
        output = layer.mlp(torch.ones(1, 3, 8))
    assert torch.equal(output[0, 0], torch.ones(8))
    assert torch.equal(output[0, 2], torch.ones(8))
    assert set(output[0, 1].tolist()) == {0.0, 2.0}
    layer.eval()
    assert torch.equal(layer.mlp(torch.ones(1, 3, 8)), torch.ones(1, 3, 8))
    layer.train()
    with pytest.raises(AssertionError, match="within on"):
        layer.mlp(torch.ones(1, 3, 8))


def test_dropout_touches_every_token_where_it_is_not(model_of_two_layers):
    from molmo2_ros.training.dropout import ResidualDropout

    ResidualDropout(model_of_two_layers, 0.5, answers_only=False)
    output = model_of_two_layers.model.language_model.layers[1].mlp(torch.ones(1, 50, 8))
    assert 0.4 < float((output == 0).float().mean()) < 0.6


@pytest.fixture
def model_of_two_layers():
    """What the hooks look at of a model."""
    layers = []
    for _ in range(2):
        layer = nn.Module()
        layer.norm_after = False
        layer.self_attn, layer.mlp = nn.Identity(), nn.Identity()
        layers.append(layer)
    model = nn.Module()
    model.model = nn.Module()
    model.model.language_model = nn.Module()
    model.model.language_model.layers = nn.ModuleList(layers)
    return model

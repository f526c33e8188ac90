"""A pack of trees against each question alone, through the stock model's own path."""

import dataclasses

import pytest
import torch
from transformers import Molmo2ForConditionalGeneration

from molmo2_ros.runtime.engine import NANO
from molmo2_ros.training.recipe.attention import use_stock_attention, use_tree_attention
from molmo2_ros.training.recipe.batch import collate, forward, tree_mask
from molmo2_ros.training.recipe.loss import weighted_loss
from molmo2_ros.training.recipe.messages import IGNORED, PREFIX

CHECKPOINT = NANO / "checkpoint"
NEAR = 1e-4


def alone(model, writer, visuals, tree, branch):
    """Logits of one branch's trained tokens as stock transformers computes one sequence.

    No mask and no positions are given: the model makes them from the types of the tokens.
    """
    here = (tree.branch == PREFIX) | (tree.branch == branch)
    ids = torch.from_numpy(tree.ids[here])[None]
    visual = visuals[tree.name]
    patches, windows = (torch.from_numpy(a) for a in (visual.patches_KNC, visual.windows_MW))
    if tree.name == "words":
        seen = {}
    elif tree.name == "clip":
        side = int((len(windows) // len(patches)) ** 0.5)
        seen = {
            "pixel_values_videos": patches,
            "video_token_pooling": windows,
            "video_grids": torch.tensor([[len(patches), side, side]]),
        }
    else:
        seen = {
            "pixel_values": patches,
            "image_token_pooling": windows,
            "image_grids": torch.tensor([[len(windows), 1, 0, 0]]),
        }
    types = torch.from_numpy(tree.is_visual[here]).long()[None]
    with torch.no_grad():
        logits = model(input_ids=ids, mm_token_type_ids=types, use_cache=False, **seen).logits[0]
    trained = [i for i, label in enumerate(tree.labels[here]) if label != IGNORED]
    return logits[[i - 1 for i in trained]]


@pytest.fixture(scope="module")
def wanted(model, writer, visuals, trees):
    """Logits of all trained tokens, tree by tree and branch by branch, each question alone."""
    return torch.cat(
        [
            alone(model, writer, visuals, tree, branch)
            for tree in trees
            for branch in range(1, int(tree.branch.max()) + 1)
        ]
    )


def packed(model, batch):
    with torch.no_grad():
        return forward(model, batch)


def test_a_pack_has_the_logits_and_the_loss_of_its_questions_one_by_one(model, trees, wanted):
    batch = collate(trees)
    logits = packed(model, batch)
    assert logits.shape == wanted.shape
    assert (logits - wanted).abs().max() < NEAR
    losses = [
        weighted_loss(each, batch.labels_L, batch.weights_L, divide_by=1.0)
        for each in (logits, wanted)
    ]
    assert abs(losses[0].total - losses[1].total) < NEAR
    assert losses[0].num_right == losses[1].num_right


def test_attention_tree_by_tree_computes_the_same_pack(trees, wanted):
    model = Molmo2ForConditionalGeneration.from_pretrained(CHECKPOINT, dtype=torch.float32).eval()
    use_tree_attention(model)
    assert (packed(model, collate(trees)) - wanted).abs().max() < NEAR
    backwards = collate(trees)
    swapped = dataclasses.replace(backwards, tree_sizes=backwards.tree_sizes[::-1])
    assert (packed(model, swapped) - wanted).abs().max() > 100 * NEAR  # it is what computes
    with pytest.raises(ValueError, match=r"attention over 9 tokens of trees of \[\], expected"):
        model(torch.arange(9)[None])
    use_stock_attention(model)
    assert (packed(model, collate(trees)) - wanted).abs().max() < NEAR


def test_words_alone_have_the_logits_of_a_model_without_a_tower(model, trees, wanted, monkeypatch):
    *_, words = trees
    batch = collate([words])
    assert batch.patches_KNC.shape == (0, *trees[0].patches_KNC.shape[1:])
    monkeypatch.setattr(model.model, "get_image_features", None)  # nobody asks for any
    logits = packed(model, batch)
    assert (logits - wanted[-len(logits) :]).abs().max() < NEAR


def test_a_blank_changes_no_logit_and_brings_the_tower_gradients_of_zero(model, writer, trees):
    *_, words = trees
    plain, with_blank = collate([words]), collate([words, writer.blank()])
    assert len(with_blank.patches_KNC) == 1
    assert (packed(model, with_blank) - packed(model, plain)).abs().max() < NEAR
    model.zero_grad()
    forward(model, with_blank).sum().backward()
    tower = [p.grad for name, p in model.named_parameters() if "vision_tower" in name]
    assert tower
    assert all(gradient is not None and not gradient.any() for gradient in tower)
    model.zero_grad()


def causal(batch):
    mask = torch.ones_like(batch.mask_11SS[0, 0]).tril()[None, None]
    return dataclasses.replace(batch, mask_11SS=batch.mask_11SS & mask)


def run_on(batch):
    return dataclasses.replace(batch, positions_1S=torch.arange(batch.positions_1S.shape[1])[None])


def branches_see_each_other(batch, trees):
    return dataclasses.replace(batch, mask_11SS=mask_with(trees, branch=lambda branch: branch * 0))


def examples_see_each_other(batch, trees):
    return dataclasses.replace(
        batch, mask_11SS=mask_with(trees, example=lambda example: example * 0)
    )


def mask_with(trees, example=lambda e: e, branch=lambda b: b):
    examples = torch.cat([torch.full((t.num_tokens,), i) for i, t in enumerate(trees)])
    branches = torch.cat([torch.from_numpy(t.branch) for t in trees])
    visual = torch.cat([torch.from_numpy(t.is_visual) for t in trees])
    return tree_mask(example(examples), branch(branches), visual)[None, None]


@pytest.mark.parametrize(
    "wrong",
    [
        lambda batch, trees: causal(batch),
        lambda batch, trees: run_on(batch),
        branches_see_each_other,
        examples_see_each_other,
    ],
    ids=["causal mask", "positions that run on", "branches in view", "other examples in view"],
)
def test_a_pack_that_is_put_together_wrongly_is_far_off(model, trees, wanted, wrong):
    logits = packed(model, wrong(collate(trees), trees))
    assert (logits - wanted).abs().max() > 100 * NEAR


def test_gradients_reach_every_part(model, trees):
    model.zero_grad()
    batch = collate(trees)
    loss = weighted_loss(forward(model, batch), batch.labels_L, batch.weights_L, divide_by=1.0)
    loss.total.backward()
    without = [
        name
        for name, parameter in model.named_parameters()
        if parameter.grad is None or not parameter.grad.any()
    ]
    model.zero_grad()
    assert without == []


def test_who_sees_whom():
    # Two examples: BOS, two visual tokens, two branches of one token; BOS and one branch.
    example = torch.tensor([0, 0, 0, 0, 0, 1, 1])
    branch = torch.tensor([0, 0, 0, 1, 2, 0, 1])
    visual = torch.tensor([0, 1, 1, 0, 0, 0, 0], dtype=torch.bool)
    assert tree_mask(example, branch, visual).int().tolist() == [
        [1, 0, 0, 0, 0, 0, 0],
        [1, 1, 1, 0, 0, 0, 0],  # a visual token sees the one behind it
        [1, 1, 1, 0, 0, 0, 0],
        [1, 1, 1, 1, 0, 0, 0],
        [1, 1, 1, 0, 1, 0, 0],  # the second branch does not see the first
        [0, 0, 0, 0, 0, 1, 0],  # nor the second example anything of the first
        [0, 0, 0, 0, 0, 1, 1],
    ]

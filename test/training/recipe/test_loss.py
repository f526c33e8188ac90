import math

import pytest
import torch

from molmo2_ros.training.recipe.loss import step_weight, weighted_loss

# Two tokens of a vocabulary of two: probabilities 1/2, 1/2 and 3/4, 1/4.
LOGITS = torch.tensor([[0.0, 0.0], [math.log(3.0), 0.0]])
LABELS = torch.tensor([0, 1])
WEIGHTS = torch.tensor([0.5, 2.0])


def test_the_loss_is_the_weighted_sum_over_the_weight_of_the_step():
    loss = weighted_loss(LOGITS, LABELS, WEIGHTS, divide_by=2.5)
    entropy = 0.5 * math.log(2) + 2.0 * math.log(4)
    z = 0.5 * math.log(2) ** 2 + 2.0 * math.log(4) ** 2  # the sums of exponentials are 2 and 4
    assert loss.cross_entropy == pytest.approx(entropy)
    assert loss.z == pytest.approx(z)
    assert float(loss.total) == pytest.approx((entropy + 1e-4 * z) / 2.5)
    assert loss.weight == pytest.approx(2.5)
    assert loss.num_right == 1


def test_two_micro_batches_have_the_loss_and_gradient_of_one():
    results = []
    for parts in ([slice(0, 2)], [slice(0, 1), slice(1, 2)]):
        logits = LOGITS.clone().requires_grad_()
        total = sum(
            weighted_loss(logits[p], LABELS[p], WEIGHTS[p], divide_by=step_weight(2.5)).total
            for p in parts
        )
        total.backward()
        results.append((float(total.detach()), logits.grad))
    assert results[0][0] == pytest.approx(results[1][0])
    assert torch.allclose(results[0][1], results[1][1])


def test_half_precision_is_summed_in_single():
    logits = torch.full((1, 50_000), 5.0, dtype=torch.bfloat16)
    loss = weighted_loss(logits, torch.tensor([7]), torch.tensor([1.0]), divide_by=1.0)
    assert loss.cross_entropy == pytest.approx(math.log(50_000), abs=1e-3)

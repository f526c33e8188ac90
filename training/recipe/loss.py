"""The loss: cross-entropy of the trained tokens by their weights, and the z-loss.

Letters: L trained tokens, V vocabulary.
Source: the authors' trainer: the weighted sum over a device's tokens, divided by the mean over the
devices of their weight in the whole step; gradients are then averaged over the devices.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.distributed as dist
import torch.nn.functional as F

Z_WEIGHT = 1e-4


@dataclass(frozen=True, slots=True, kw_only=True)
class Loss:
    """What a micro-batch adds to the loss of a step.

    Args:
        total: to be differentiated: both parts, divided by the step's weight.
        cross_entropy: its weighted sum, not divided.
        z: the same of the squared logarithm of the partition function.
        weight: sum of the tokens' weights.
        num_right: trained tokens that the model would have written.
    """

    total: torch.Tensor
    cross_entropy: float
    z: float
    weight: float
    num_right: int


def step_weight(weight: float, device: torch.device | None = None) -> float:
    """What losses of a step are divided by on each device.

    Args:
        weight: sum over this device's tokens in all micro-batches of the step.
        device: where to reduce; needed where processes work together.

    Returns:
        the mean over all processes.
    """
    if not dist.is_initialized() or dist.get_world_size() == 1:
        return weight
    total = torch.tensor(weight, dtype=torch.float64, device=device)
    dist.all_reduce(total)
    return float(total) / dist.get_world_size()


def weighted_loss(
    logits_LV: torch.Tensor,
    labels_L: torch.Tensor,
    weights_L: torch.Tensor,
    *,
    divide_by: float,
    z_weight: float = Z_WEIGHT,
) -> Loss:
    """The loss of one micro-batch.

    Args:
        logits_LV: of any floating dtype; summed in float32.
        labels_L: int64.
        weights_L: float32.
        divide_by: `step_weight` of the whole step.
        z_weight: of log(Z) ** 2.
    """
    logits_LV = logits_LV.float()
    entropy_L = F.cross_entropy(logits_LV, labels_L, reduction="none")
    z_L = logits_LV.logsumexp(-1) ** 2
    entropy, z = (weights_L * entropy_L).sum(), (weights_L * z_L).sum()
    return Loss(
        total=(entropy + z_weight * z) / divide_by,
        cross_entropy=float(entropy.detach()),
        z=float(z.detach()),
        weight=float(weights_L.sum()),
        num_right=int((logits_LV.detach().argmax(-1) == labels_L).sum()),
    )

"""What a nano is trained on besides the text: dense labels and where three heads should look.

The text alone does not teach a small model to localise within hours of CPU; dense heads on the
visual tokens and three supervised attention heads do. Neither exists at inference: the heads are
dropped at export, and the attention heads are the stock model's own.

Letters: B trees, S tokens, T frames of a clip, K frames of all clips, N patches, M visual tokens a
frame, D width.
"""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import nn

from molmo2_ros.simulation.objects import CATEGORIES, COLOUR_NAMES
from molmo2_ros.training.nano.model import ModelConfig
from molmo2_ros.training.nano.trees import Look, TreeBatch
from molmo2_ros.training.recipe.messages import IGNORED
from molmo2_ros.training.scenes import GONE, SEEN, Sightings

if TYPE_CHECKING:
    from transformers import Molmo2ForConditionalGeneration

NUM_CLASSES = len(CATEGORIES) + 1  # background first
NUM_COLOURS = len(COLOUR_NAMES)
BACKGROUND_WEIGHT = 0.15
SUPERVISED_LAYER = 2  # of the language model; its heads 0 (digits) and 1 (what next)
BACK_LAYER = 1  # its head 0 looks back at what was last written of the same object
MAX_FRAMES = 16  # of the frame head
_OBJECT_COVER, _EMPTY_COVER = 0.2, 0.04  # share of a patch from/below which it is an object/nothing


class DenseHeads(nn.Module):
    """Training-only linear readers of patches and visual tokens."""

    def __init__(self, config: ModelConfig) -> None:
        super().__init__()
        self.patch = nn.Linear(config.vision_width, NUM_CLASSES + NUM_COLOURS + 2)
        self.token = nn.Linear(config.text_width, NUM_CLASSES + NUM_COLOURS + 2 + 40)
        self.frame = nn.Linear(config.text_width, MAX_FRAMES)
        self.link = nn.Linear(config.text_width, 2 * config.token_grid**2)


@dataclass(frozen=True, slots=True, kw_only=True)
class DenseLabels:
    """What each patch and each visual token of K frames shows; IGNORED where unclear."""

    patch_class: torch.Tensor  # int64 [K, N]
    patch_colour: torch.Tensor  # int64 [K, N]
    patch_offset: torch.Tensor  # float32 [K, N, 2] to the object's centre, in units of two patches
    token_class: torch.Tensor  # int64 [K, M]: of the object whose centre lies in the token
    token_colour: torch.Tensor  # int64 [K, M]
    token_centre: torch.Tensor  # float32 [K, M, 2] in 0..1


def dense_labels(
    instances_KHW: npt.NDArray[np.uint8],
    sightings: Sequence[Sightings],
    config: ModelConfig,
    device: torch.device,
) -> DenseLabels:
    """Label the patches and visual tokens of stills.

    Args:
        instances_KHW: instance masks at the model's input size.
        sightings: one per still, of one frame each.
        config: sizes.
        device: where to put the labels.
    """
    rows = [
        _label_still(mask, sighting, config)
        for mask, sighting in zip(instances_KHW, sightings, strict=True)
    ]
    columns = [torch.from_numpy(np.stack(column)).to(device) for column in zip(*rows, strict=True)]
    return DenseLabels(
        patch_class=columns[0],
        patch_colour=columns[1],
        patch_offset=columns[2],
        token_class=columns[3],
        token_colour=columns[4],
        token_centre=columns[5],
    )


def _label_still(
    mask: npt.NDArray[np.uint8], sightings: Sightings, config: ModelConfig
) -> tuple[npt.NDArray[np.generic], ...]:
    grid, patch, side = config.grid, config.patch_size, config.token_grid
    objects, centre, state = sightings.objects, sightings.centre[0], sightings.state[0]
    cover = np.stack(
        [(mask == j + 1).reshape(grid, patch, grid, patch).sum((1, 3)) for j in range(len(objects))]
    ) / (patch**2)
    best, share = cover.argmax(0), cover.max(0)
    is_object = share >= _OBJECT_COVER
    patch_class = np.where(is_object, objects[best, 0] + 1, 0)
    patch_class[~is_object & (share > _EMPTY_COVER)] = IGNORED
    patch_class[is_object & (state[best] != SEEN)] = IGNORED
    patch_colour = np.where(patch_class > 0, objects[best, 1], IGNORED)
    patch_colour[patch_colour < 0] = IGNORED
    middle = (np.arange(grid) + 0.5) / grid
    offset = np.stack(
        [centre[best][..., 0] - middle[None, :], centre[best][..., 1] - middle[:, None]], -1
    )
    token_class = np.zeros(side**2, np.int64)
    token_colour = np.full(side**2, IGNORED, np.int64)
    token_centre = np.zeros((side**2, 2), np.float32)
    for j in np.argsort(sightings.area[0]):  # the largest object of a token is written last
        if state[j] == GONE:
            continue
        x, y = centre[j]
        token = min(int(y * side), side - 1) * side + min(int(x * side), side - 1)
        if state[j] != SEEN:
            token_class[token] = IGNORED
            continue
        token_class[token] = objects[j, 0] + 1
        token_colour[token] = objects[j, 1] if objects[j, 1] >= 0 else IGNORED
        token_centre[token] = x, y
    return (
        patch_class.ravel().astype(np.int64),
        patch_colour.ravel().astype(np.int64),
        (offset * grid / 2).reshape(-1, 2).astype(np.float32),
        token_class,
        token_colour,
        token_centre,
    )


def link_labels(
    sightings: Sequence[Sightings], token_grid: int, device: torch.device
) -> torch.Tensor:
    """Where the object of a visual token was before: int64 [B, T, M, 2] tokens of a frame.

    First in the last frame that showed it, then in the first one; IGNORED where a token holds no
    object's centre, and where the object is seen for the first time.
    """
    num_frames, num_tokens = len(sightings[0].shown), token_grid**2
    labels = np.full((len(sightings), num_frames, num_tokens, 2), IGNORED, np.int64)
    for row, clip in enumerate(sightings):
        cell = np.minimum((clip.centre * token_grid).astype(np.int64), token_grid - 1)
        token = cell[..., 1] * token_grid + cell[..., 0]
        for j in range(token.shape[1]):
            frames = np.flatnonzero(clip.shown[:, j])
            for last, frame in zip(frames, frames[1:], strict=False):
                labels[row, frame, token[frame, j]] = token[last, j], token[frames[0], j]
    return torch.from_numpy(labels).to(device)


@dataclass(frozen=True, slots=True, kw_only=True)
class DenseLoss:
    """The loss and how well the heads read."""

    loss: torch.Tensor
    patch_accuracy: float  # category of patches on objects
    token_accuracy: float  # category of tokens that hold an object's centre
    digit_accuracy: float  # first digits of x and y read off those tokens


def dense_loss(
    heads: DenseHeads,
    patches_KNC: torch.Tensor,
    features_KMD: torch.Tensor,
    labels: DenseLabels,
    token_grid: int,
) -> DenseLoss:
    """Cross-entropies for category, colour and digits, smooth L1 for offsets."""
    class_weight = torch.ones(NUM_CLASSES, device=patches_KNC.device)
    class_weight[0] = BACKGROUND_WEIGHT
    end_colour = NUM_CLASSES + NUM_COLOURS

    def classes(logits: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
        return F.cross_entropy(
            logits[..., :NUM_CLASSES].flatten(0, 1),
            wanted.flatten(),
            class_weight,
            ignore_index=IGNORED,
        )

    def colours(logits: torch.Tensor, wanted: torch.Tensor) -> torch.Tensor:
        chosen = wanted != IGNORED
        if not chosen.any():
            return logits.sum() * 0.0
        return F.cross_entropy(logits[chosen][:, NUM_CLASSES:end_colour], wanted[chosen])

    patch_logits = heads.patch(patches_KNC)
    on_object = labels.patch_class > 0
    loss = classes(patch_logits, labels.patch_class)
    loss = loss + 0.3 * colours(patch_logits, labels.patch_colour)
    offsets = patch_logits[on_object][:, end_colour:]
    if len(offsets):
        loss = loss + 0.5 * F.smooth_l1_loss(offsets, labels.patch_offset[on_object])

    token_logits = heads.token(features_KMD)
    holds_centre = labels.token_class > 0
    loss = loss + classes(token_logits, labels.token_class)
    loss = loss + 0.3 * colours(token_logits, labels.token_colour)
    held = token_logits[holds_centre]
    digit_accuracy = 0.0
    if len(held):
        centre = labels.token_centre[holds_centre]
        within = centre * token_grid - (centre * token_grid).floor()
        loss = loss + 2.0 * F.smooth_l1_loss(held[:, end_colour : end_colour + 2], within, beta=0.1)
        hundredths = (centre * 100).round().clamp(0, 99).long()
        digits = torch.stack([hundredths // 10, hundredths % 10], -1).flatten()
        digit_logits = held[:, end_colour + 2 :].reshape(-1, 10)
        loss = loss + 0.5 * F.cross_entropy(digit_logits, digits)
        correct = (digit_logits.argmax(-1) == digits).float().reshape(-1, 2, 2)
        digit_accuracy = float(correct[..., 0].mean())
    return DenseLoss(
        loss=loss,
        patch_accuracy=_accuracy(patch_logits, labels.patch_class, on_object),
        token_accuracy=_accuracy(token_logits, labels.token_class, holds_centre),
        digit_accuracy=digit_accuracy,
    )


def _accuracy(logits: torch.Tensor, wanted: torch.Tensor, where: torch.Tensor) -> float:
    right = (logits[..., :NUM_CLASSES].argmax(-1) == wanted) & where
    return float(right.sum() / where.sum().clamp(min=1))


@dataclass(frozen=True, slots=True, kw_only=True)
class TextLoss:
    """Losses of a batch of trees and how often the model was right."""

    text: torch.Tensor  # weighted cross-entropy of the answer tokens
    looks: torch.Tensor  # cross-entropy of the two heads that look at visual tokens
    back: torch.Tensor  # of the head that looks back; 0 where nothing is written twice
    frames: torch.Tensor  # cross-entropy of the frame head; 0 for stills
    links: torch.Tensor  # cross-entropy of the link head; 0 without labels
    token_accuracy: float
    digit_look_accuracy: float
    next_look_accuracy: float
    back_look_accuracy: float
    link_accuracy: float  # of the place in the last frame that showed the object


class TextReader:
    """Runs the language model over trees and remembers the supervised layers' inputs.

    The stock modules are not changed: forward pre-hooks keep what reaches the layers, and queries
    and keys of the supervised heads are computed again from it with the layers' own weights.
    """

    def __init__(self, model: Molmo2ForConditionalGeneration) -> None:
        self._model = model
        self._seen: dict[int, tuple[torch.Tensor, tuple[torch.Tensor, torch.Tensor]]] = {}
        for layer in (BACK_LAYER, SUPERVISED_LAYER):
            self._attention(layer).register_forward_pre_hook(
                functools.partial(self._remember, layer), with_kwargs=True
            )

    def _attention(self, layer: int) -> Any:
        return self._model.model.language_model.layers[layer].self_attn

    def _remember(
        self, layer: int, _module: nn.Module, _args: object, kwargs: dict[str, Any]
    ) -> None:
        self._seen[layer] = kwargs["hidden_states"], kwargs["position_embeddings"]

    def hidden_states(self, batch: TreeBatch, features_BXD: torch.Tensor) -> torch.Tensor:
        """Last hidden states [B, S, D]; X = frames times visual tokens a frame."""
        text = self._model.model.language_model
        embedded = text.embed_tokens(batch.ids_BS)
        added = torch.zeros_like(embedded).index_copy(1, batch.visual_index, features_BXD)
        return text(
            inputs_embeds=embedded + added,
            attention_mask=batch.mask_B1SS,
            position_ids=batch.positions_BS,
            use_cache=False,
        ).last_hidden_state

    def loss(
        self,
        batch: TreeBatch,
        features_BXD: torch.Tensor,
        heads: DenseHeads,
        links_BTM2: torch.Tensor | None = None,
    ) -> TextLoss:
        """All losses of a batch of trees; the labels of the link head are `link_labels`."""
        hidden = self.hidden_states(batch, features_BXD)
        labels = batch.labels_BS[:, 1:]
        wanted = labels != IGNORED
        logits = self._model.lm_head(hidden[:, :-1][wanted])
        weights = batch.weights_BS[:, 1:][wanted]
        cross_entropy = F.cross_entropy(logits, labels[wanted], reduction="none")
        digit_loss, digit_right = self._look_loss(
            batch, batch.digit_looks, layer=SUPERVISED_LAYER, head=0
        )
        next_loss, next_right = self._look_loss(
            batch, batch.next_looks, layer=SUPERVISED_LAYER, head=1
        )
        back_loss, back_right = self._look_loss(batch, batch.back_looks, layer=BACK_LAYER, head=0)
        link_loss, link_right = self._link_loss(batch, heads, links_BTM2)
        return TextLoss(
            text=(cross_entropy * weights).sum() / weights.sum(),
            looks=torch.cat([digit_loss, next_loss]).mean(),
            back=back_loss.mean() if len(back_loss) else hidden.new_zeros(()),
            frames=self._frame_loss(batch, heads),
            links=link_loss,
            token_accuracy=float((logits.argmax(-1) == labels[wanted]).float().mean()),
            digit_look_accuracy=digit_right,
            next_look_accuracy=next_right,
            back_look_accuracy=back_right,
            link_accuracy=link_right,
        )

    def _look_loss(
        self, batch: TreeBatch, looks: Sequence[Sequence[Look]], *, layer: int, head: int
    ) -> tuple[torch.Tensor, float]:
        """Cross-entropy per look of one head's attention to the wanted keys, and its accuracy."""
        inputs, (cos, sin) = self._seen[layer]
        attention = self._attention(layer)
        size = attention.head_dim
        query_weight = attention.q_proj.weight[head * size : (head + 1) * size]
        key_weight = attention.k_proj.weight[:size]  # heads 0 and 1 share key/value head 0
        keys = _rotate(attention.k_norm(inputs @ key_weight.T), cos, sin)
        losses, right = [inputs.new_zeros(0)], [inputs.new_zeros(0)]
        for row, row_looks in enumerate(looks):  # not all at once: that would gather S keys a look
            if not row_looks:
                continue
            position = torch.tensor([look.position for look in row_looks], device=inputs.device)
            query = attention.q_norm(inputs[row, position] @ query_weight.T)
            query = _rotate(query, cos[row, position], sin[row, position])
            scores = (query @ keys[row].T) * attention.scaling
            scores = scores.masked_fill(~batch.mask_B1SS[row, 0, position], -1e9)
            owner = torch.tensor(
                [i for i, look in enumerate(row_looks) for _ in look.keys], device=inputs.device
            )
            key = torch.tensor([k for look in row_looks for k in look.keys], device=inputs.device)
            share = torch.tensor(
                [1 / len(look.keys) for look in row_looks for _ in look.keys], device=inputs.device
            )
            log_share = scores.log_softmax(-1)[owner, key]
            losses.append(inputs.new_zeros(len(row_looks)).index_add(0, owner, -log_share * share))
            hit = (scores.argmax(-1)[owner] == key).float()
            right.append(inputs.new_zeros(len(row_looks)).index_add(0, owner, hit))
        hits = torch.cat(right)
        return torch.cat(losses), float(hits.mean()) if len(hits) else 0.0

    def _frame_loss(self, batch: TreeBatch, heads: DenseHeads) -> torch.Tensor:
        """Which frame each visual token belongs to, read where the supervised heads read."""
        inputs, _ = self._seen[SUPERVISED_LAYER]
        if batch.num_frames == 1:
            return inputs.new_zeros(())
        num_tokens = len(batch.visual_index) // batch.num_frames
        frame = torch.arange(batch.num_frames, device=inputs.device).repeat_interleave(num_tokens)
        logits = heads.frame(inputs[:, batch.visual_index])
        return F.cross_entropy(logits.flatten(0, 1), frame.repeat(len(inputs)))

    def _link_loss(
        self, batch: TreeBatch, heads: DenseHeads, links_BTM2: torch.Tensor | None
    ) -> tuple[torch.Tensor, float]:
        """Where each object was before, read where the supervised heads read."""
        inputs, _ = self._seen[SUPERVISED_LAYER]
        if links_BTM2 is None or not (links_BTM2 != IGNORED).any():
            return inputs.new_zeros(()), 0.0
        wanted = links_BTM2.flatten(0, 2)
        holds = wanted[:, 0] != IGNORED
        logits = heads.link(inputs[:, batch.visual_index].flatten(0, 1)[holds])
        logits = logits.reshape(len(logits), 2, -1)
        loss = F.cross_entropy(logits.flatten(0, 1), wanted[holds].flatten())
        right = logits[:, 0].argmax(-1) == wanted[holds][:, 0]
        return loss, float(right.float().mean())


def _rotate(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """Rotary embedding as the stock attention applies it, without the head axis."""
    half = x.shape[-1] // 2
    return x * cos + torch.cat([-x[..., half:], x[..., :half]], -1) * sin

"""What a nano is trained on besides the text: dense labels and where five heads should look.

The text alone does not teach a small model to localise within hours of CPU; dense heads on the
visual tokens and supervised attention heads do. Neither exists at inference: the heads are
dropped at export, and the attention heads are the stock model's own.

Letters: B trees, S tokens, T frames of a clip, K frames of all clips, N patches, M visual tokens a
frame, D width.
"""

from __future__ import annotations

import functools
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import torch
import torch.nn.functional as F
from torch import nn

from molmo2_ros.simulation.objects import CATEGORIES, COLOUR_NAMES
from molmo2_ros.training.nano.model import ModelConfig
from molmo2_ros.training.nano.trees import Looks, TreeBatch
from molmo2_ros.training.recipe.messages import IGNORED
from molmo2_ros.training.scenes import GONE, SEEN, Sightings

if TYPE_CHECKING:
    from transformers import Molmo2ForConditionalGeneration

NUM_CLASSES = len(CATEGORIES) + 1  # background first
NUM_COLOURS = len(COLOUR_NAMES)
BACKGROUND_WEIGHT = 0.15
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

    def to(self, device: torch.device) -> DenseLabels:
        """The same on a device."""
        return DenseLabels(**{f.name: getattr(self, f.name).to(device) for f in fields(self)})


def dense_labels(
    instances_KHW: npt.NDArray[np.uint8],
    sightings: Sequence[Sightings],
    config: ModelConfig,
) -> DenseLabels:
    """Label the patches and visual tokens of stills.

    Args:
        instances_KHW: instance masks at the model's input size.
        sightings: one per still, of one frame each.
        config: sizes.
    """
    rows = [
        _label_still(mask, sighting, config)
        for mask, sighting in zip(instances_KHW, sightings, strict=True)
    ]
    columns = [torch.from_numpy(np.stack(column)) for column in zip(*rows, strict=True)]
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


def link_labels(sightings: Sequence[Sightings], token_grid: int) -> torch.Tensor:
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
    return torch.from_numpy(labels)


@dataclass(frozen=True, slots=True, kw_only=True)
class DenseLoss:
    """The loss and how well the heads read; shares are tensors, so that no device is waited for."""

    loss: torch.Tensor
    patch_accuracy: torch.Tensor  # category of patches on objects
    token_accuracy: torch.Tensor  # category of tokens that hold an object's centre
    digit_accuracy: torch.Tensor  # first digits of x and y read off those tokens


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
    digit_accuracy = loss.new_zeros(())
    if len(held):
        centre = labels.token_centre[holds_centre]
        within = centre * token_grid - (centre * token_grid).floor()
        loss = loss + 2.0 * F.smooth_l1_loss(held[:, end_colour : end_colour + 2], within, beta=0.1)
        hundredths = (centre * 100).round().clamp(0, 99).long()
        digits = torch.stack([hundredths // 10, hundredths % 10], -1).flatten()
        digit_logits = held[:, end_colour + 2 :].reshape(-1, 10)
        loss = loss + 0.5 * F.cross_entropy(digit_logits, digits)
        correct = (digit_logits.argmax(-1) == digits).float().reshape(-1, 2, 2)
        digit_accuracy = correct[..., 0].mean()
    return DenseLoss(
        loss=loss,
        patch_accuracy=_accuracy(patch_logits, labels.patch_class, on_object),
        token_accuracy=_accuracy(token_logits, labels.token_class, holds_centre),
        digit_accuracy=digit_accuracy,
    )


def _accuracy(logits: torch.Tensor, wanted: torch.Tensor, where: torch.Tensor) -> torch.Tensor:
    right = (logits[..., :NUM_CLASSES].argmax(-1) == wanted) & where
    return right.sum() / where.sum().clamp(min=1)


@dataclass(frozen=True, slots=True, kw_only=True)
class TextLoss:
    """Losses of a batch of trees and how often the model was right; all 0-dimensional tensors."""

    text: torch.Tensor  # weighted cross-entropy of the answer tokens
    looks: torch.Tensor  # cross-entropy of the two heads that look at visual tokens
    back: torch.Tensor  # of the three heads that look back; 0 where there is nothing to look at
    frames: torch.Tensor  # cross-entropy of the frame head; 0 for stills
    links: torch.Tensor  # cross-entropy of the link head; 0 without labels
    accuracy: Mapping[str, torch.Tensor]  # of the tokens and of each head


class TextReader:
    """Runs the language model over trees and remembers the supervised layers' inputs.

    The stock modules are not changed: forward pre-hooks keep what reaches the layers, and queries
    and keys of the supervised heads are computed again from it with the layers' own weights.

    Args:
        model: whose language model to run.
        look_layer: whose heads 0 (digits) and 1 (what next) look at visual tokens.
        back_layer: whose heads look at what was written or seen before: 0 at the same digit, 1 at
            the end of the same object's point, 2 from visual token to visual token.
    """

    def __init__(
        self, model: Molmo2ForConditionalGeneration, *, look_layer: int = 2, back_layer: int = 1
    ) -> None:
        self._model = model
        self._look_layer, self._back_layer = look_layer, back_layer
        self._seen: dict[int, tuple[torch.Tensor, tuple[torch.Tensor, torch.Tensor]]] = {}
        for layer in {back_layer, look_layer}:
            self._attention(layer).register_forward_pre_hook(
                functools.partial(self._remember, layer), with_kwargs=True
            )

    def _attention(self, layer: int) -> Any:
        return self._model.model.language_model.layers[layer].self_attn

    def _remember(
        self, layer: int, _module: nn.Module, _args: object, kwargs: dict[str, Any]
    ) -> None:
        self._seen[layer] = kwargs["hidden_states"], kwargs["position_embeddings"]

    def hidden_states(
        self, batch: TreeBatch, features_BXD: torch.Tensor, mask_B1SS: torch.Tensor
    ) -> torch.Tensor:
        """Last hidden states [B, S, D]; X = frames times visual tokens a frame."""
        text = self._model.model.language_model
        embedded = text.embed_tokens(batch.ids_BS)
        added = torch.zeros_like(embedded).index_copy(1, batch.visual_index, features_BXD)
        return text(
            inputs_embeds=embedded + added,
            attention_mask=mask_B1SS,
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
        mask_B1SS = batch.mask_B1SS()
        hidden = self.hidden_states(batch, features_BXD, mask_B1SS)
        labels = batch.labels_BS[:, 1:]
        wanted = labels != IGNORED
        logits = self._model.lm_head(hidden[:, :-1][wanted])
        weights = batch.weights_BS[:, 1:][wanted]
        cross_entropy = F.cross_entropy(logits, labels[wanted], reduction="none")
        accuracy = {"token": (logits.argmax(-1) == labels[wanted]).float().mean()}
        losses = {}
        for name, looks, layer, head in (
            ("look", batch.digit_looks, self._look_layer, 0),
            ("next", batch.next_looks, self._look_layer, 1),
            ("back", batch.back_looks, self._back_layer, 0),
            ("last", batch.last_looks, self._back_layer, 1),
            ("link", batch.link_looks, self._back_layer, 2),
        ):
            losses[name], accuracy[name] = self._look_loss(mask_B1SS, looks, layer, head)
        links, accuracy["place"] = self._link_loss(batch, heads, links_BTM2)
        return TextLoss(
            text=(cross_entropy * weights).sum() / weights.sum(),
            looks=torch.cat([losses["look"], losses["next"]]).mean(),
            back=sum((_mean(losses[n]) for n in ("back", "last", "link")), hidden.new_zeros(())),
            frames=self._frame_loss(batch, heads),
            links=links,
            accuracy=accuracy,
        )

    def _look_loss(
        self, mask_B1SS: torch.Tensor, looks: Looks, layer: int, head: int
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Cross-entropy of each look of one head's attention to its wanted keys, and its accuracy.

        Returns:
            float32 [L], and the share of looks whose strongest key is a wanted one.
        """
        inputs_BSD, (cos, sin) = self._seen[layer]
        attention = self._attention(layer)
        size, rows = attention.head_dim, torch.arange(len(inputs_BSD), device=inputs_BSD.device)
        of_keys = head * attention.k_proj.out_features // attention.q_proj.out_features
        query_weight = attention.q_proj.weight[head * size : (head + 1) * size]
        key_weight = attention.k_proj.weight[of_keys * size : (of_keys + 1) * size]
        keys_BSd = _rotate(attention.k_norm(inputs_BSD @ key_weight.T), cos, sin)
        where = rows[:, None], looks.position_BP
        query_BPd = attention.q_norm(inputs_BSD[where] @ query_weight.T)
        query_BPd = _rotate(query_BPd, cos[where], sin[where])
        scores_BPS = (query_BPd @ keys_BSd.mT) * attention.scaling
        scores_BPS = scores_BPS.masked_fill(~mask_B1SS[:, 0][where], -1e9)
        row, slot = looks.row_L[looks.look_Q], looks.slot_L[looks.look_Q]
        log_share_Q = scores_BPS.log_softmax(-1)[row, slot, looks.key_Q]
        none = inputs_BSD.new_zeros(len(looks.row_L))
        hits_Q = (scores_BPS.argmax(-1)[row, slot] == looks.key_Q).float()
        hits_L = none.index_add(0, looks.look_Q, hits_Q)
        return none.index_add(0, looks.look_Q, -log_share_Q * looks.share_Q), _mean(hits_L)

    def _frame_loss(self, batch: TreeBatch, heads: DenseHeads) -> torch.Tensor:
        """Which frame each visual token belongs to, read where the supervised heads read."""
        inputs, _ = self._seen[self._look_layer]
        if batch.num_frames == 1:
            return inputs.new_zeros(())
        num_tokens = len(batch.visual_index) // batch.num_frames
        frame = torch.arange(batch.num_frames, device=inputs.device).repeat_interleave(num_tokens)
        logits = heads.frame(inputs[:, batch.visual_index])
        return F.cross_entropy(logits.flatten(0, 1), frame.repeat(len(inputs)))

    def _link_loss(
        self, batch: TreeBatch, heads: DenseHeads, links_BTM2: torch.Tensor | None
    ) -> tuple[torch.Tensor, torch.Tensor]:
        """Where each object was before, read where the supervised heads read."""
        inputs, _ = self._seen[self._look_layer]
        if links_BTM2 is None or not (links_BTM2 != IGNORED).any():
            return inputs.new_zeros(()), inputs.new_zeros(())
        wanted = links_BTM2.flatten(0, 2)
        holds = wanted[:, 0] != IGNORED
        logits = heads.link(inputs[:, batch.visual_index].flatten(0, 1)[holds])
        logits = logits.reshape(len(logits), 2, -1)
        loss = F.cross_entropy(logits.flatten(0, 1), wanted[holds].flatten())
        return loss, (logits[:, 0].argmax(-1) == wanted[holds][:, 0]).float().mean()


def _mean(values: torch.Tensor) -> torch.Tensor:
    """0 of no values."""
    return values.mean() if len(values) else values.new_zeros(())


def _rotate(x: torch.Tensor, cos: torch.Tensor, sin: torch.Tensor) -> torch.Tensor:
    """Rotary embedding as the stock attention applies it, without the head axis."""
    half = x.shape[-1] // 2
    return x * cos + torch.cat([-x[..., half:], x[..., :half]], -1) * sin

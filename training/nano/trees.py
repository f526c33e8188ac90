"""Message trees: one visual prefix, several questions, each a branch that sees prefix and itself.

Positions restart at the end of the prefix in every branch, so a packed branch computes exactly what
the question would alone. Source: Molmo2's `tokenize_message_list` and its branch attention.

Letters: B trees, S tokens of the longest one, T frames, M visual tokens a frame, L looks, P most
looks of a tree, Q wanted keys.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field, fields

import numpy as np
import numpy.typing as npt
import torch
from tokenizers import Tokenizer

from molmo2_ros.training.recipe.batch import tree_mask
from molmo2_ros.training.recipe.messages import IGNORED, PREFIX
from molmo2_ros.training.scenes import Question, Sightings, Target

_PADDING = -1  # a branch of its own


@dataclass(frozen=True, slots=True, kw_only=True)
class Look:
    """Training signal for one attention head: at `position`, look at one of `keys`."""

    position: int
    keys: tuple[int, ...]


@dataclass(slots=True, kw_only=True)
class Tree:
    """One row before padding."""

    ids: list[int]
    branch: list[int]
    positions: list[int]
    labels: list[int]
    weights: list[float]
    #: While the digits of a point are written: its visual token.
    digit_looks: list[Look] = field(default_factory=list)
    #: While it is decided what comes next: the next point's visual token, or BOS for "no more".
    next_looks: list[Look] = field(default_factory=list)
    #: While the digits of a point are written: the same digit of the same object's point before.
    back_looks: list[Look] = field(default_factory=list)
    #: From an object's id to the digits of its point: the end of the same object's point before.
    last_looks: list[Look] = field(default_factory=list)
    #: From the visual token of an object: its visual token in the last frame that showed it.
    link_looks: list[Look] = field(default_factory=list)


@dataclass(frozen=True, slots=True, kw_only=True)
class Looks:
    """The looks of one attention head in a batch, flat; int64 but for the shares."""

    position_BP: torch.Tensor  # padded with 0
    row_L: torch.Tensor
    slot_L: torch.Tensor  # 0 .. P - 1
    look_Q: torch.Tensor  # 0 .. L - 1, whose key it is
    key_Q: torch.Tensor  # token of the row
    share_Q: torch.Tensor  # float32, 1 / number of keys of its look

    def to(self, device: torch.device) -> Looks:
        """The same on a device."""
        return Looks(**{f.name: getattr(self, f.name).to(device) for f in fields(self)})


@dataclass(frozen=True, slots=True, kw_only=True)
class TreeBatch:
    """Padded trees."""

    ids_BS: torch.Tensor  # int64
    branch_BS: torch.Tensor  # int64, 0 for the prefix, -1 for padding
    positions_BS: torch.Tensor  # int64
    labels_BS: torch.Tensor  # int64, IGNORED outside answers
    weights_BS: torch.Tensor  # float32
    visual_S: torch.Tensor  # bool, visual tokens and their frames' markers; the same in every row
    visual_index: torch.Tensor  # int64 [T * M], where features are added; the same in every row
    num_frames: int
    digit_looks: Looks
    next_looks: Looks
    back_looks: Looks
    last_looks: Looks
    link_looks: Looks

    def to(self, device: torch.device) -> TreeBatch:
        """The same on a device."""
        moved = {
            f.name: getattr(self, f.name).to(device) for f in fields(self) if f.name != "num_frames"
        }
        return TreeBatch(num_frames=self.num_frames, **moved)

    def mask_B1SS(self) -> torch.Tensor:
        """Who sees whom, bool, made where the batch is: it is larger than all else in it."""
        return padded_mask(self.branch_BS, self.visual_S)[:, None]


class TreeWriter:
    """Writes clips and questions as token trees.

    Args:
        tokenizer: with all special tokens of the released layout.
        token_grid: visual tokens a side of a frame.
    """

    def __init__(self, tokenizer: Tokenizer, token_grid: int) -> None:
        self._tokenizer = tokenizer
        self._token_grid = token_grid
        self._bos = self._token_id("<|im_end|>")
        self._patch = self._token_id("<im_patch>")
        frame_tokens = ("<frame_start>", "<frame_end>", "<im_patch>")
        self._visual_ids = {self._token_id(token) for token in frame_tokens}

    def prefix(self, stamps_s: Sequence[float]) -> list[int]:
        """BOS and the clip: `0.0 <frame_start>...<frame_end> 0.5 <frame_start>...`."""
        num_tokens = self._token_grid**2
        ids = [self._bos]
        for number, stamp in enumerate(stamps_s):
            ids += self._encode(f"{' ' if number else ''}{stamp:.1f} <frame_start>")
            ids += [self._patch] * num_tokens
            ids += self._encode("<frame_end>")
        return ids

    def write(
        self,
        stamps_s: Sequence[float],
        questions: Sequence[Question],
        sightings: Sightings | None = None,
    ) -> Tree:
        """One clip with its questions as branches; `sightings` say where its objects are."""
        prefix = self.prefix(stamps_s)
        start = len(prefix)
        tree = Tree(
            ids=list(prefix),
            branch=[PREFIX] * start,
            positions=list(range(start)),
            labels=[IGNORED] * start,
            weights=[0.0] * start,
        )
        first_patch = [
            i for i, token in enumerate(prefix) if token == self._patch and prefix[i - 1] != token
        ]
        if sightings is not None:
            self._add_link_looks(tree, first_patch, sightings)
        for number, question in enumerate(questions, 1):
            asked = self._encode(
                f"<|im_start|>user\n{question.text}<|im_end|>\n<|im_start|>assistant\n"
            )
            answer = self._encode(f"{question.answer}<|im_end|>")
            offset = len(tree.ids) + len(asked)
            size = len(asked) + len(answer)
            tree.ids += asked + answer
            tree.branch += [number] * size
            tree.positions += range(start, start + size)
            tree.labels += [IGNORED] * len(asked) + answer
            tree.weights += [0.0] * len(asked) + [len(answer) ** -0.5] * len(answer)
            keys = [
                first_patch[target.frame] + self._token_of(target) for target in question.targets
            ]
            self._add_looks(tree, answer, offset, keys)
            self._add_back_looks(tree, asked, answer, offset, question)
        return tree

    def _add_looks(self, tree: Tree, answer: list[int], offset: int, keys: list[int]) -> None:
        """Say where two attention heads should look while an answer is written.

        Args:
            tree: gets the looks.
            answer: its tokens.
            offset: index of answer[0] in the row; the token before it predicts it.
            keys: index of each point's visual token in the row.
        """
        bos = 0
        # Whether there is anything shows at any point; which one is first is asked after that.
        tree.next_looks.append(Look(position=offset - 1, keys=tuple(keys) or (bos,)))
        if not keys:
            return
        runs = self._coordinate_runs(answer)
        if len(runs) != 2 * len(keys):
            raise AssertionError(f"{len(runs)} coordinates for {len(keys)} points")
        for position in range(offset, offset + runs[0] - 1):
            tree.next_looks.append(Look(position=position, keys=(keys[0],)))
        for number, run in enumerate(runs):
            for position in (offset + run - 1, offset + run):
                tree.digit_looks.append(Look(position=position, keys=(keys[number // 2],)))
        for number in range(len(keys)):
            last_digit = runs[2 * number + 1] + 2
            if number + 1 == len(keys):
                tree.next_looks.append(Look(position=offset + last_digit, keys=(bos,)))
                continue
            next_run = runs[2 * number + 2]
            for index in range(last_digit, next_run - 1):
                tree.next_looks.append(Look(position=offset + index, keys=(keys[number + 1],)))

    def _add_back_looks(
        self, tree: Tree, asked: list[int], answer: list[int], offset: int, question: Question
    ) -> None:
        """Say where one attention head finds what was last written of the same object."""
        before = {}
        if question.kind == "seed":  # the point that the question gives
            before[1] = [offset - len(asked) + run for run in self._coordinate_runs(asked)]
        runs = self._coordinate_runs(answer)
        for number, target in enumerate(question.targets):
            here = [offset + run for run in runs[2 * number : 2 * number + 2]]
            for run, last in zip(here, before.get(target.object_id, ()), strict=False):
                tree.back_looks.append(Look(position=run - 1, keys=(last,)))
                tree.back_looks.append(Look(position=run, keys=(last + 1,)))
            if target.object_id in before:
                end = before[target.object_id][1] + 2
                # The id stands two tokens before the first digit; the last choice is that of y.
                for position in range(here[0] - 2, here[1] + 1):
                    tree.last_looks.append(Look(position=position, keys=(end,)))
            before[target.object_id] = here

    def _add_link_looks(self, tree: Tree, first_patch: list[int], sightings: Sightings) -> None:
        """Say where the visual token of an object finds the object a frame before."""
        side = self._token_grid
        cell = np.minimum((sightings.centre * side).astype(np.int64), side - 1)
        token = cell[..., 1] * side + cell[..., 0]
        for j in range(token.shape[1]):
            frames = np.flatnonzero(sightings.shown[:, j])
            for last, frame in zip(frames, frames[1:], strict=False):
                here, before = (first_patch[t] + int(token[t, j]) for t in (frame, last))
                tree.link_looks.append(Look(position=here, keys=(before,)))

    def _coordinate_runs(self, answer: list[int]) -> list[int]:
        """Indices at which three digits follow one another: the coordinates, not stamps or ids."""
        digit = [(self._tokenizer.id_to_token(i) or "").isdigit() for i in answer]
        return [i for i in range(len(answer) - 2) if all(digit[i : i + 3])]

    def _token_of(self, target: Target) -> int:
        side = self._token_grid
        column = min(int(target.x * side), side - 1)
        row = min(int(target.y * side), side - 1)
        return row * side + column

    def _token_id(self, token: str) -> int:
        token_id = self._tokenizer.token_to_id(token)
        if token_id is None:
            raise ValueError(f"the tokenizer has no {token!r}; train_nano_tokenizer makes one")
        return int(token_id)

    def _encode(self, text: str) -> list[int]:
        return list(self._tokenizer.encode(text, add_special_tokens=False).ids)

    def collate(self, trees: Sequence[Tree], num_frames: int) -> TreeBatch:
        """Pad trees over clips of the same number of frames into one batch."""
        size = max(len(tree.ids) for tree in trees)

        def padded(
            rows: Sequence[Sequence[float]], fill: float, dtype: npt.DTypeLike = np.int64
        ) -> torch.Tensor:
            whole = np.full((len(rows), size), fill, dtype)
            for line, row in zip(whole, rows, strict=True):
                line[: len(row)] = row
            return torch.from_numpy(whole)

        prefix = trees[0].ids[: trees[0].branch.count(PREFIX)]
        visual = torch.zeros(size, dtype=torch.bool)
        visual[: len(prefix)] = torch.tensor([token in self._visual_ids for token in prefix])
        patches = [i for i, token in enumerate(prefix) if token == self._patch]
        return TreeBatch(
            ids_BS=padded([t.ids for t in trees], 0),
            branch_BS=padded([t.branch for t in trees], _PADDING),
            positions_BS=padded([t.positions for t in trees], 0),
            labels_BS=padded([t.labels for t in trees], IGNORED),
            weights_BS=padded([t.weights for t in trees], 0.0, np.float32),
            visual_S=visual,
            visual_index=torch.tensor(patches),
            num_frames=num_frames,
            digit_looks=_flatten([t.digit_looks for t in trees]),
            next_looks=_flatten([t.next_looks for t in trees]),
            back_looks=_flatten([t.back_looks for t in trees]),
            last_looks=_flatten([t.last_looks for t in trees]),
            link_looks=_flatten([t.link_looks for t in trees]),
        )


def _flatten(rows: Sequence[Sequence[Look]]) -> Looks:
    position = np.zeros((len(rows), max(1, *(len(row) for row in rows))), np.int64)
    for line, row in zip(position, rows, strict=True):
        line[: len(row)] = [look.position for look in row]
    looks = [look for row in rows for look in row]
    counts = [len(look.keys) for look in looks]
    return Looks(
        position_BP=torch.from_numpy(position),
        row_L=torch.tensor([i for i, row in enumerate(rows) for _ in row], dtype=torch.int64),
        slot_L=torch.tensor([i for row in rows for i in range(len(row))], dtype=torch.int64),
        look_Q=torch.from_numpy(np.repeat(np.arange(len(looks)), counts)),
        key_Q=torch.tensor([key for look in looks for key in look.keys], dtype=torch.int64),
        share_Q=torch.from_numpy(np.repeat([1 / n for n in counts], counts).astype(np.float32)),
    )


def padded_mask(branch_BS: torch.Tensor, visual_S: torch.Tensor) -> torch.Tensor:
    """Who sees whom in padded trees of one clip's size each, bool [B, S, S].

    Padding forms a branch of its own, so that no row of the mask is empty.
    """
    one_tree = torch.zeros_like(branch_BS)
    return tree_mask(one_tree, branch_BS, visual_S.expand_as(branch_BS))

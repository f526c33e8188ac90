"""Message trees: one visual prefix, several questions, each a branch that sees prefix and itself.

Positions restart at the end of the prefix in every branch, so a packed branch computes exactly what
the question would alone. Source: Molmo2's `tokenize_message_list` and its branch attention.

Letters: B trees, S tokens of the longest one, T frames, M visual tokens a frame.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import torch
from tokenizers import Tokenizer

from molmo2_ros.training.recipe.batch import tree_mask
from molmo2_ros.training.recipe.messages import IGNORED, PREFIX
from molmo2_ros.training.scenes import Question, Target

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


@dataclass(frozen=True, slots=True, kw_only=True)
class TreeBatch:
    """Padded trees; tensors on the training device."""

    ids_BS: torch.Tensor  # int64
    mask_B1SS: torch.Tensor  # bool, True where seen
    positions_BS: torch.Tensor  # int64
    labels_BS: torch.Tensor  # int64, IGNORED outside answers
    weights_BS: torch.Tensor  # float32
    visual_index: torch.Tensor  # int64 [T * M], where features are added; the same in every row
    num_frames: int
    digit_looks: tuple[tuple[Look, ...], ...]  # per row
    next_looks: tuple[tuple[Look, ...], ...]
    back_looks: tuple[tuple[Look, ...], ...]


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

    def write(self, stamps_s: Sequence[float], questions: Sequence[Question]) -> Tree:
        """One clip with its questions as branches."""
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
            before[target.object_id] = here

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

    def collate(self, trees: Sequence[Tree], num_frames: int, device: torch.device) -> TreeBatch:
        """Pad trees over clips of the same number of frames into one batch."""
        size = max(len(tree.ids) for tree in trees)

        def padded(rows: Sequence[Sequence[float]], fill: float) -> torch.Tensor:
            return torch.tensor([list(row) + [fill] * (size - len(row)) for row in rows])

        ids = padded([t.ids for t in trees], 0)
        branch = padded([t.branch for t in trees], _PADDING)
        visual_row = [i in self._visual_ids and b == PREFIX for i, b in _prefix_of(trees[0])]
        visual = torch.zeros(size, dtype=torch.bool)
        visual[: len(visual_row)] = torch.tensor(visual_row)
        mask = padded_mask(branch, visual)
        patches = [i for i, (token, _) in enumerate(_prefix_of(trees[0])) if token == self._patch]
        return TreeBatch(
            ids_BS=ids.to(device),
            mask_B1SS=mask[:, None].to(device),
            positions_BS=padded([t.positions for t in trees], 0).to(device),
            labels_BS=padded([t.labels for t in trees], IGNORED).to(device),
            weights_BS=padded([t.weights for t in trees], 0.0).float().to(device),
            visual_index=torch.tensor(patches, device=device),
            num_frames=num_frames,
            digit_looks=tuple(tuple(t.digit_looks) for t in trees),
            next_looks=tuple(tuple(t.next_looks) for t in trees),
            back_looks=tuple(tuple(t.back_looks) for t in trees),
        )


def padded_mask(branch_BS: torch.Tensor, visual_S: torch.Tensor) -> torch.Tensor:
    """Who sees whom in padded trees of one clip's size each, bool [B, S, S].

    Padding forms a branch of its own, so that no row of the mask is empty.
    """
    one_tree = torch.zeros_like(branch_BS)
    return tree_mask(one_tree, branch_BS, visual_S.expand_as(branch_BS))


def _prefix_of(tree: Tree) -> list[tuple[int, int]]:
    return [(i, b) for i, b in zip(tree.ids, tree.branch, strict=True) if b == PREFIX]

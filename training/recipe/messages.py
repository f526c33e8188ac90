"""Message trees: one visual prefix, each question a branch that sees the prefix and itself.

Positions restart behind the prefix in every branch, so that a branch computes what its question
would compute alone. A conversation of several turns is one branch.

Letters: S tokens, K views, N patches a view, C values a patch, M visual tokens, W patches a window.
Source: Molmo2's `tokenize_message_list`; weights of tokens as its trainer gives them.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from molmo2_ros.errors import DataError
from molmo2_ros.prompt.crops import CropSettings, image_patches
from molmo2_ros.prompt.layout import (
    Prompt,
    clip_prefix,
    empty_prefix,
    images_prefix,
    question_suffix,
)
from molmo2_ros.prompt.patches import clip_patches, clip_pooling
from molmo2_ros.prompt.subtitles import Subtitle
from molmo2_ros.prompt.tokenizer import PromptTokenizer
from molmo2_ros.runtime.manifest import VisionFacts

IGNORED = -100  # label of a token that is not trained
PREFIX = 0  # branch of what every branch sees
_WEIGHT = 2.0  # over the root of a message's tokens, over the root of the number of branches


@dataclass(frozen=True, slots=True, kw_only=True)
class Turn:
    """A question and the answer that is trained.

    Args:
        question: the user's words.
        answer: the model's; may be empty (everything asked for is hidden).
        weight: of each token of the answer and of the one that ends it; None: 2 / sqrt(n) /
            sqrt(branches), n tokens being trained in the message.
    """

    question: str
    answer: str
    weight: float | None = None


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Visual:
    """What an example shows, ready for the model."""

    prefix: Prompt  # BOS and the visual tokens
    patches_KNC: npt.NDArray[np.float32]  # -1..1; K is 0 where nothing is shown
    windows_MW: npt.NDArray[np.int64]  # into the K * N patches, -1 where padded


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class TokenTree:
    """One example as tokens; all arrays but the patches have S entries."""

    name: str
    ids: npt.NDArray[np.int64]
    branch: npt.NDArray[np.int64]  # PREFIX, then 1 for the first branch, 2 for the second, ...
    positions: npt.NDArray[np.int64]
    labels: npt.NDArray[np.int64]  # the token itself where it is trained, else IGNORED
    weights: npt.NDArray[np.float32]  # of the loss at that token
    is_visual: npt.NDArray[np.bool_]
    patches_KNC: npt.NDArray[np.float32]
    windows_MW: npt.NDArray[np.int64]
    num_dropped: int = 0  # branches that did not fit

    @property
    def num_tokens(self) -> int:
        """S."""
        return len(self.ids)

    @property
    def num_crops(self) -> int:
        """K: views that the vision tower reads."""
        return len(self.patches_KNC)


class TreeWriter:
    """Writes pictures and turns as the model reads them.

    Args:
        tokenizer: the model's.
        vision: the model's sizes.
    """

    def __init__(self, tokenizer: PromptTokenizer, vision: VisionFacts) -> None:
        self.tokenizer = tokenizer
        self._vision = vision
        self._grid = vision.image_size // vision.patch_size

    def clip(
        self,
        frames: Sequence[npt.NDArray[np.uint8]],
        times_s: Sequence[float],
        subtitles: Sequence[Subtitle] = (),
    ) -> Visual:
        """Frames of a clip, each behind its stamp.

        Args:
            frames: uint8 [H, W, 3] RGB each.
            times_s: seconds from the clip's first frame, one a frame.
            subtitles: of the clip.

        Raises:
            ImageError: no frame, or two that print the same stamp.
        """
        vision = self._vision
        windows = clip_pooling(len(frames), self._grid, vision.video_pooling)
        num_tokens = len(windows) // max(len(frames), 1)
        return Visual(
            prefix=clip_prefix(self.tokenizer, times_s, num_tokens, subtitles),
            patches_KNC=clip_patches(list(frames), vision.image_size, vision.patch_size),
            windows_MW=windows,
        )

    def images(
        self, images: Sequence[npt.NDArray[np.uint8]], max_crops: int | None = None
    ) -> Visual:
        """Still images, numbered where there are several.

        Args:
            images: uint8 [H, W, 3] RGB each.
            max_crops: tiles of one image at most; None for the model's own.

        Raises:
            ImageError: there is none.
        """
        vision = self._vision
        settings = CropSettings(
            image_size=vision.image_size,
            patch_size=vision.patch_size,
            pooling=vision.image_pooling,
            max_crops=vision.max_crops if max_crops is None else max_crops,
            overlap_margins=vision.overlap_margins,
            use_single_crop_col_tokens=vision.use_single_crop_col_tokens,
        )
        cut = image_patches(images, settings)
        prefix = images_prefix(
            self.tokenizer,
            cut.grids,
            use_single_crop_col_tokens=vision.use_single_crop_col_tokens,
        )
        return Visual(prefix=prefix, patches_KNC=cut.patches_KNC, windows_MW=cut.pooling_MW)

    def nothing(self) -> Visual:
        """No picture, where an example is words alone: BOS, and arrays without views."""
        patch = self._vision.patch_size
        return Visual(
            prefix=empty_prefix(self.tokenizer),
            patches_KNC=np.zeros((0, self._grid**2, 3 * patch**2), np.float32),
            windows_MW=np.zeros((0, 1), np.int64),
        )

    def blank(self) -> TokenTree:
        """A black frame of which nothing is asked, so that it has no part in any loss.

        It makes a pack without pictures run the vision tower and connector, with gradients of 0.
        """
        side = self._vision.image_size
        visual = self.clip([np.zeros((side, side, 3), np.uint8)], [0.0])
        return _join("blank", visual, [], num_dropped=0)

    def write(
        self,
        name: str,
        visual: Visual,
        branches: Sequence[Sequence[Turn]],
        *,
        max_tokens: int,
        rng: np.random.Generator | None = None,
    ) -> TokenTree:
        """One example as a tree.

        Args:
            name: of the example.
            visual: what it shows.
            branches: the turns of each; one turn but for conversations.
            max_tokens: the last branches are left out where the tree would be longer. Words alone
                are cut off there.
            rng: shuffles the branches; None keeps their order.

        Raises:
            DataError: there is no branch, or not even one fits.
        """
        if not branches or not all(branches):
            raise DataError(f"example {name} has no question, or a branch without one")
        order = list(range(len(branches)))
        if rng is not None:
            rng.shuffle(order)
        written = [self._branch(branches[i], len(branches)) for i in order]
        prefix = visual.prefix
        kept, length = [], len(prefix)
        for branch in written:
            if length + len(branch.ids) > max_tokens:
                break
            kept.append(branch)
            length += len(branch.ids)
        if not kept and not len(visual.patches_KNC):
            kept = [cut] if (cut := written[0].cut(max_tokens - length)).is_trained else []
        if not kept:
            raise DataError(
                f"example {name} takes {length + len(written[0].ids)} tokens with its first "
                f"question alone, expected at most {max_tokens}; show fewer frames"
            )
        return _join(name, visual, kept, num_dropped=len(written) - len(kept))

    def _branch(self, turns: Sequence[Turn], num_branches: int) -> _Branch:
        end = self.tokenizer.ids.turn_end
        ids: list[int] = []
        trained: list[tuple[int, int, float | None]] = []  # begin, end, weight
        for turn in turns:
            ids += ([*self.tokenizer.encode_text("\n")] if ids else []) + [
                int(i) for i in question_suffix(self.tokenizer, turn.question).ids
            ]
            answer = [*self.tokenizer.encode_text(turn.answer), end]
            trained.append((len(ids), len(ids) + len(answer), turn.weight))
            ids += answer
        # In a tree the token that ends an answer is not counted, though it has the same weight.
        counted = sum(stop - begin - (num_branches > 1) for begin, stop, _ in trained)
        usual = _WEIGHT / max(counted, 1) ** 0.5 / num_branches**0.5
        labels = np.full(len(ids), IGNORED, np.int64)
        weights = np.zeros(len(ids), np.float32)
        for begin, stop, weight in trained:
            labels[begin:stop] = ids[begin:stop]
            weights[begin:stop] = usual if weight is None else weight
        return _Branch(ids=np.array(ids, np.int64), labels=labels, weights=weights)


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Branch:
    ids: npt.NDArray[np.int64]
    labels: npt.NDArray[np.int64]
    weights: npt.NDArray[np.float32]

    @property
    def is_trained(self) -> bool:
        return bool((self.labels != IGNORED).any())

    def cut(self, num: int) -> _Branch:
        """Its first tokens."""
        return _Branch(ids=self.ids[:num], labels=self.labels[:num], weights=self.weights[:num])


def _join(name: str, visual: Visual, branches: Sequence[_Branch], num_dropped: int) -> TokenTree:
    prefix = visual.prefix
    start, sizes = len(prefix), [len(branch.ids) for branch in branches]
    text = np.zeros(sum(sizes), np.bool_)
    numbers = np.repeat(np.arange(1, len(branches) + 1), sizes)
    restarted = [np.arange(start, start + size) for size in sizes]
    nothing = np.full(start, IGNORED, np.int64)
    return TokenTree(
        name=name,
        ids=np.concatenate([prefix.ids, *(branch.ids for branch in branches)]),
        branch=np.concatenate([np.full(start, PREFIX), numbers]).astype(np.int64),
        positions=np.concatenate([np.arange(start), *restarted]).astype(np.int64),
        labels=np.concatenate([nothing, *(branch.labels for branch in branches)]),
        weights=np.concatenate([np.zeros(start, np.float32), *(b.weights for b in branches)]),
        is_visual=np.concatenate([prefix.is_visual, text]),
        patches_KNC=visual.patches_KNC,
        windows_MW=visual.windows_MW,
        num_dropped=num_dropped,
    )

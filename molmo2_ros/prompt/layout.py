r"""The token sequence that Molmo2 reads, and which tokens see which.

    BOS 0.0 <frame_start>(patches)<frame_end> 0.5 <frame_start>...<frame_end>[SUBTITLES]
    <|im_start|>user\nQUESTION<|im_end|>\n<|im_start|>assistant\n

The clip stands right after BOS and before the user's turn, so one prefix serves any number of
questions. Letters: S tokens, M visual tokens with features, P past tokens, T = P + S.
Source: the released text_preprocessor and chat template; Molmo2Processor for the visual part.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from molmo2_ros.camera.clip import stamp_text
from molmo2_ros.errors import ImageError, QueryError
from molmo2_ros.prompt.crops import ImageGrid
from molmo2_ros.prompt.subtitles import Subtitle, subtitle_text
from molmo2_ros.prompt.tokenizer import PromptTokenizer

HIDDEN = float(np.finfo(np.float32).min)  # added to the attention of what must not be seen


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Prompt:
    """A piece of prompt: the visual prefix, a question, or both."""

    ids: npt.NDArray[np.int64]  # [S]
    is_visual: npt.NDArray[np.bool_]  # [S], tokens that see each other both ways
    patch_indices: npt.NDArray[np.int64]  # [M], where the M features are added

    def __len__(self) -> int:
        return len(self.ids)


def clip_prefix(
    tokenizer: PromptTokenizer,
    times_s: Sequence[float],
    tokens_per_frame: int,
    subtitles: Sequence[Subtitle] = (),
) -> Prompt:
    """BOS and the frames of a clip, each after its time.

    Args:
        tokenizer: the model's.
        times_s: seconds from the first frame; at one decimal no two may be alike.
        tokens_per_frame: visual tokens of a frame, such as 81.
        subtitles: those that are shown within a second of a frame are written after the frames.

    Raises:
        ImageError: there is no frame, or two print the same stamp.
    """
    stamps = [stamp_text(time_s) for time_s in times_s]
    if not stamps:
        raise ImageError("clip has no frame, expected at least one; wait for the camera")
    if len(set(stamps)) < len(stamps):
        twice = next(stamp for stamp in stamps if stamps.count(stamp) > 1)
        raise ImageError(
            f"two frames of the clip print the stamp {twice}, so that no answer could tell them "
            "apart; choose frames at least 0.1 s apart (sample_clip does)"
        )
    ids = tokenizer.ids
    frame = [ids.frame_start, *[ids.im_patch] * tokens_per_frame, ids.frame_end]
    tokens = [ids.bos]
    for index, stamp in enumerate(stamps):
        tokens += tokenizer.encode_text(f" {stamp} " if index else f"{stamp} ")
        tokens += frame
    shown = subtitle_text(times_s, subtitles)
    return _prompt(tokenizer, tokens + (tokenizer.encode_text(shown) if shown else []))


def images_prefix(
    tokenizer: PromptTokenizer,
    grids: Sequence[ImageGrid],
    *,
    use_single_crop_col_tokens: bool = False,
) -> Prompt:
    """BOS and still images, numbered where there are several.

    Args:
        tokenizer: the model's.
        grids: visual tokens of each image (ImagePatches.grids).
        use_single_crop_col_tokens: close the rows of the low-resolution view with a column token
            too; the released models do not.

    Raises:
        ImageError: there is no image.
    """
    if not grids:
        raise ImageError("there is no image, expected at least one")
    ids = tokenizer.ids
    tokens = [ids.bos]
    for number, grid in enumerate(grids, start=1):
        if len(grids) > 1:
            tokens += tokenizer.encode_text(f"Image {number}")
        low_row = [ids.im_patch] * grid.low[1]
        if use_single_crop_col_tokens:
            low_row.append(ids.im_col)
        high_row = [ids.im_patch] * grid.high[1] + [ids.im_col]
        tokens += [ids.low_res_im_start, *low_row * grid.low[0], ids.im_end]
        tokens += [ids.im_start, *high_row * grid.high[0], ids.im_end]
    return _prompt(tokenizer, tokens)


def empty_prefix(tokenizer: PromptTokenizer) -> Prompt:
    """BOS alone, where nothing is shown."""
    return _prompt(tokenizer, [tokenizer.ids.bos])


def question_suffix(tokenizer: PromptTokenizer, text: str) -> Prompt:
    """The user's turn and the head of the answer.

    Args:
        tokenizer: the model's.
        text: the question (prompt.query.question_text); control tokens in it are plain text.

    Raises:
        QueryError: the question is empty.
    """
    if not text:
        raise QueryError('question is empty, expected words such as "Track the red mug."')
    ids = tokenizer.ids
    tokens = [ids.turn_start, *tokenizer.encode_text(f"user\n{text}"), ids.turn_end]
    tokens += [*tokenizer.encode_text("\n"), ids.turn_start, *tokenizer.encode_text("assistant\n")]
    return _prompt(tokenizer, tokens)


def join(*parts: Prompt) -> Prompt:
    """One prompt of several pieces in their order."""
    starts = np.cumsum([0, *(len(part) for part in parts[:-1])])
    indices = [part.patch_indices + start for part, start in zip(parts, starts, strict=True)]
    return Prompt(
        ids=np.concatenate([part.ids for part in parts]),
        is_visual=np.concatenate([part.is_visual for part in parts]),
        patch_indices=np.concatenate(indices),
    )


def prefix_bias(is_visual: npt.NDArray[np.bool_]) -> npt.NDArray[np.float32]:
    """Additive mask of tokens without a past: causal, and visual tokens see all visual ones.

    Args:
        is_visual: [S].

    Returns:
        float32 [S, S], 0 where row sees column and HIDDEN where not.
    """
    return _bias(np.tri(len(is_visual), dtype=np.bool_) | np.outer(is_visual, is_visual))


def suffix_bias(num_new: int, num_past: int) -> npt.NDArray[np.float32]:
    """Additive mask of text after a past: all of the past, and causal among the new tokens.

    Returns:
        float32 [num_new, num_past + num_new].
    """
    return _bias(np.tri(num_new, num_past + num_new, num_past, dtype=np.bool_))


def _bias(seen: npt.NDArray[np.bool_]) -> npt.NDArray[np.float32]:
    bias = np.full(seen.shape, HIDDEN, np.float32)
    bias[seen] = 0
    return bias


def _prompt(tokenizer: PromptTokenizer, tokens: list[int]) -> Prompt:
    ids = np.array(tokens, np.int64)
    return Prompt(
        ids=ids,
        is_visual=tokenizer.is_visual(ids),
        patch_indices=np.flatnonzero(ids == tokenizer.ids.im_patch).astype(np.int64),
    )

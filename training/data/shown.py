"""An example as the model gets it: the moments that are shown, the words, and the tokens."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
import numpy.typing as npt

from molmo2_ros.prompt.subtitles import Subtitle
from molmo2_ros.training.data.answers import Written, write_turn
from molmo2_ros.training.data.example import Example, Task
from molmo2_ros.training.data.media import (
    MAX_TRACK_FPS,
    USUAL_FPS,
    Sampling,
    load_clip,
    load_images,
)
from molmo2_ros.training.recipe.messages import TokenTree, TreeWriter, Turn


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class Shown:
    """One example, as the model gets it.

    Args:
        example: what is known.
        pictures: the frames that are shown, or the images: uint8 [H, W, 3] RGB each; empty for
            words alone.
        times_s: of the frames, seconds from the clip's beginning; empty for images and words.
        written: a question and answer for each annotation, in their order.
        tree: its tokens.
    """

    example: Example
    pictures: list[npt.NDArray[np.uint8]]
    times_s: list[float]
    written: list[Written]
    tree: TokenTree


def show(
    folder: Path,
    example: Example,
    writer: TreeWriter,
    *,
    max_frames: int,
    max_tokens: int,
    max_tiles: int | None = None,
    rng: np.random.Generator | None = None,
    hints: bool = False,
) -> Shown:
    """Load what an example looks at, and write what is known about it.

    Args:
        folder: of the data set.
        example: one of it.
        writer: the model's.
        max_frames: of a clip.
        max_tokens: of the tree; the last annotations are left out where it would be longer.
        max_tiles: of a still image; None for the model's own.
        rng: chooses the wordings and shuffles the branches; None for the first wordings, in order.
        hints: of style and length before each question, see `write_turn`.

    Raises:
        DataError: a file is missing or broken, or not even one annotation fits into a tree.
    """
    media = example.media
    times_s: list[float] = []
    pictures: list[npt.NDArray[np.uint8]] = []
    if media.is_empty:
        visual = writer.nothing()
    elif media.is_clip:
        clip = load_clip(folder, media, sampling_of(example, max_frames))
        pictures, times_s = clip.frames, clip.times_s
        subtitles = [Subtitle(start_s=a, end_s=b, text=text) for a, b, text in media.subtitles]
        visual = writer.clip(pictures, times_s, subtitles)
    else:
        pictures = load_images(folder, media)
        visual = writer.images(pictures, max_tiles)
    written = [write_turn(a, media, times_s, rng, hints=hints) for a in example.annotations]
    turns = [Turn(question=w.question, answer=w.answer, weight=w.weight) for w in written]
    branches = [turns] if example.dialogue else [[turn] for turn in turns]
    tree = writer.write(example.name, visual, branches, max_tokens=max_tokens, rng=rng)
    return Shown(example=example, pictures=pictures, times_s=times_s, written=written, tree=tree)


def sampling_of(example: Example, max_frames: int) -> Sampling:
    """Tracks are shown densely: the model was trained to follow from up to ten frames a second."""
    tracks = [a for a in example.annotations if a.task in (Task.TRACK, Task.TRACK_FROM_POINT)]
    if not tracks:
        return Sampling(max_frames=max_frames)
    rate = min(a.fps or USUAL_FPS for a in tracks)
    return Sampling(fps=MAX_TRACK_FPS, max_frames=max_frames, dense=True, answer_fps=rate)

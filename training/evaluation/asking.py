"""A data set's examples shown to a model: the pictures that it reads, and its answers."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path

from molmo2_ros.answers.answer import Answer
from molmo2_ros.asking import AnyGrounder
from molmo2_ros.camera.clip import Clip
from molmo2_ros.camera.frame import Frame
from molmo2_ros.errors import DataError, ImageError, QueryError
from molmo2_ros.prompt.subtitles import Subtitle
from molmo2_ros.training.data.dataset import Dataset
from molmo2_ros.training.data.example import Example
from molmo2_ros.training.data.media import USUAL_FPS, LoadedClip, Sampling, load_clip, load_images
from molmo2_ros.training.evaluation.answer_log import AnswerLog
from molmo2_ros.training.evaluation.questions import Asked, ask_for

Progress = Callable[[Iterable[int], int, str], Iterable[int]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Shown:
    """What a model reads of an example.

    Args:
        frames: images, or those of a clip.
        times_s: of a clip's frames, from its first one; empty for images.
    """

    frames: tuple[Frame, ...]
    times_s: tuple[float, ...] = ()

    @property
    def shapes(self) -> list[tuple[int, int]]:
        """Height and width of each."""
        return [(frame.height, frame.width) for frame in self.frames]


@dataclass(frozen=True, slots=True, kw_only=True)
class Answered:
    """One question and what was said to it."""

    example: Example
    shown: Shown
    asked: Asked
    answer: Answer


@dataclass(slots=True, kw_only=True)
class LeftOut:
    """Questions without a score: counts, and of each reason the first example."""

    unscored: Counter[str] = field(default_factory=Counter)  # no measure or no truth
    refused: Counter[str] = field(default_factory=Counter)  # the engine cannot be asked
    firsts: dict[str, str] = field(default_factory=dict)
    num_cut: int = 0  # tracks of which only the beginning could be shown

    def note(self, counter: Counter[str], example: str, error: Exception) -> None:
        """Count one."""
        reason = str(error)
        counter[reason] += 1
        self.firsts.setdefault(reason, example)


def ask_dataset(
    grounder: AnyGrounder,
    dataset: Dataset,
    left_out: LeftOut,
    *,
    limit: int | None = None,
    progress: Progress,
    log: AnswerLog | None = None,
) -> Iterator[Answered]:
    """Ask all questions of a data set that can be asked and scored.

    Args:
        grounder: what is measured.
        dataset: whose examples are asked about.
        left_out: gets what is not.
        limit: examples at most, the first ones; None for all.
        progress: wraps the numbers of the examples; gets how many there are and a title.
        log: keeps the answers; those that it has are not asked for again.

    Raises:
        DataError: an example's pictures cannot be read, or not one question can be scored.
        QueryError: not one question can be asked of this model.
        ServerError, EngineError: the model failed.
    """
    numbers = dataset.wanted()[:limit]
    num_answered = 0
    for number in progress(numbers, len(numbers), dataset.about.name):
        for answered in _ask_example(grounder, dataset.folder, dataset[number], left_out, log):
            num_answered += 1
            yield answered
    if not num_answered:
        _refuse(dataset, grounder, left_out)


def _refuse(dataset: Dataset, grounder: AnyGrounder, left_out: LeftOut) -> None:
    num = left_out.refused.total() + left_out.unscored.total()
    what = f"none of the {num} questions of {dataset.folder}"
    if left_out.refused:
        reason, _ = left_out.refused.most_common(1)[0]
        raise QueryError(f"{what} can be asked of {grounder.model.name}: {reason}")
    reason, _ = left_out.unscored.most_common(1)[0]
    raise DataError(
        f"{what} can be scored: {reason}; expected points or masks, multiple choice, or replies of "
        "a few words"
    )


def _ask_example(
    grounder: AnyGrounder,
    folder: Path,
    example: Example,
    left_out: LeftOut,
    log: AnswerLog | None,
) -> Iterator[Answered]:
    for numbers, shown in _showings(grounder, folder, example):
        asked: list[Asked] = []
        for number in numbers:
            try:
                asked.append(ask_for(grounder, example, number, shown.times_s))
            except DataError as error:
                left_out.note(left_out.unscored, example.name, error)
            except QueryError as error:
                left_out.note(left_out.refused, example.name, error)
        left_out.num_cut += sum(_is_cut(each, shown) for each in asked)
        known = _known(grounder, example, shown, asked, log)
        for each, answer in known:
            yield Answered(example=example, shown=shown, asked=each, answer=answer)
        told = {id(each) for each, _ in known}
        for group in _together(example, [each for each in asked if id(each) not in told]):
            try:
                answers = _answers(grounder, example, shown, group)
            except (QueryError, ImageError) as error:  # such as a clip that is too long
                for _ in group:
                    left_out.note(left_out.refused, example.name, error)
                continue
            for each, answer in zip(group, answers, strict=True):
                if log is not None:
                    log.keep(example.name, each.text, answer)
                yield Answered(example=example, shown=shown, asked=each, answer=answer)


def _known(
    grounder: AnyGrounder,
    example: Example,
    shown: Shown,
    asked: Sequence[Asked],
    log: AnswerLog | None,
) -> list[tuple[Asked, Answer]]:
    """Those questions that were answered before."""
    if log is None:
        return []
    are_images = _reads_images(grounder, example, shown)
    found = [
        (each, log.find(example.name, each.text, each.query, shown.frames, are_images))
        for each in asked
    ]
    return [(each, answer) for each, answer in found if answer is not None]


def _reads_images(grounder: AnyGrounder, example: Example, shown: Shown) -> bool:
    """Whether stills are read in tiles; one that cannot be is a clip of one frame."""
    can = "crops" in grounder.model.skills or len(shown.frames) > 1
    return not example.media.is_clip and can


def _together(example: Example, asked: Sequence[Asked]) -> list[list[Asked]]:
    """Questions that are decoded together: about a clip, in words or not, of one limit."""
    if not example.media.is_clip:
        return [[each] for each in asked]
    groups: dict[tuple[bool, int | None], list[Asked]] = {}
    for each in asked:
        groups.setdefault((each.query.kind.is_in_words, each.max_new_tokens), []).append(each)
    return list(groups.values())


def _showings(
    grounder: AnyGrounder, folder: Path, example: Example
) -> Iterator[tuple[Sequence[int], Shown]]:
    """The example's questions in groups that read the same pictures."""
    everything = range(len(example.annotations))
    if not example.media.is_clip:
        images = load_images(folder, example.media)
        frames = tuple(Frame(image=image, stamp_ns=i) for i, image in enumerate(images))
        yield everything, Shown(frames=frames)
        return
    groups: dict[float | None, list[int]] = {}
    for number in everything:
        annotation = example.annotations[number]
        rate = (annotation.fps or USUAL_FPS) if annotation.task.is_track else None
        groups.setdefault(rate, []).append(number)
    for answer_fps, numbers in groups.items():
        clip = _shown_clip(grounder, folder, example, answer_fps)
        stamped = zip(clip.frames, clip.times_s, strict=True)
        frames = tuple(Frame(image=image, stamp_ns=round(t * 1e9)) for image, t in stamped)
        yield numbers, Shown(frames=frames, times_s=tuple(clip.times_s))


def _shown_clip(
    grounder: AnyGrounder, folder: Path, example: Example, answer_fps: float | None
) -> LoadedClip:
    """A clip as the model was trained to read it: tracks densely and from the beginning."""
    facts = grounder.model.sampling
    if answer_fps is None:
        sampling = Sampling(fps=facts.point_fps, max_frames=facts.max_frames)
        return load_clip(folder, example.media, sampling)
    if facts.track_fps > USUAL_FPS:
        sampling = Sampling(
            fps=facts.track_fps, max_frames=facts.max_frames, dense=True, answer_fps=answer_fps
        )
        return load_clip(folder, example.media, sampling)
    clip = load_clip(folder, example.media, Sampling(fps=facts.track_fps, max_frames=1 << 16))
    num = facts.max_frames
    return LoadedClip(frames=clip.frames[:num], times_s=clip.times_s[:num])


def _is_cut(asked: Asked, shown: Shown) -> bool:
    """Whether a track is known to go on behind the last frame that is shown."""
    if not asked.annotation.task.is_track:
        return False
    told = [p.time_s or 0.0 for thing in asked.annotation.objects for p in thing.points]
    return bool(told) and max(told) > shown.times_s[-1] + 0.5 / (asked.annotation.fps or USUAL_FPS)


def _answers(
    grounder: AnyGrounder, example: Example, shown: Shown, group: Sequence[Asked]
) -> list[Answer]:
    queries, limit = [each.query for each in group], group[0].max_new_tokens
    if _reads_images(grounder, example, shown):
        (query,) = queries
        return [grounder.answer_images(shown.frames, query, max_new_tokens=limit)]
    subtitles = [
        Subtitle(start_s=start, end_s=end, text=text)
        for start, end, text in example.media.subtitles
    ]
    return grounder.answer_all(
        Clip(shown.frames),
        queries,
        max_new_tokens=limit,
        subtitles=subtitles if queries[0].kind.is_in_words else (),
    )

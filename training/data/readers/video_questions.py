"""Molmo2-AskModelAnything, -VideoCapQA and -VideoSubtitleQA: questions about whole videos."""

from __future__ import annotations

from collections.abc import Callable, Iterator

from molmo2_ros.errors import DataError
from molmo2_ros.training.data.example import Annotation, Example, Media, Task
from molmo2_ros.training.data.readers.fields import Fields
from molmo2_ros.training.data.readers.report import Why
from molmo2_ros.training.data.readers.source import Source
from molmo2_ros.training.data.readers.table import rows

WRITTEN_BY_MODEL = "language-model"  # the source of questions that were made from captions
CHOICE_COLUMNS = ("video_id", "Question", "Answer", "NegativeAnswers")

Subtitles = tuple[tuple[float, float, str], ...]


def read_ask_model_anything(source: Source, *, split: str | None = None) -> Iterator[Example]:
    """One example a video, with a branch for each question that a person asked.

    Args:
        source: hub columns `video_id`, `question`, `answer`; videos by id.
        split: of the hub: HumanQA.

    Source: allenai/molmo2 `Molmo2HumanQA`.
    """
    table = rows(source.folder, ("video_id", "question", "answer"), split=split)
    yield from _by_video(source, table, _free_question)


def read_video_cap_qa(source: Source, *, split: str | None = None) -> Iterator[Example]:
    """One example a video, with a branch for each multiple choice made from its caption.

    Args:
        source: hub columns `video_id`, `Question`, `Answer`, `NegativeAnswers`; videos by id. The
            right answer is put at a random place among the wrong ones.
        split: of the hub: CapQA.

    Source: allenai/molmo2 `Molmo2SynCaptionsQA`.
    """
    yield from _by_video(source, rows(source.folder, CHOICE_COLUMNS, split=split), _choice)


def read_video_subtitle_qa(source: Source, *, split: str | None = None) -> Iterator[Example]:
    """The same with the video's subtitles, which stand before the questions.

    Args:
        source: the columns of VideoCapQA, and `subtitle`: records of `start`, `end` in seconds
            and `text`, equal in all rows of a video; the first row's are taken.
        split: of the hub: SubtitleQA.

    Source: allenai/molmo2 `Molmo2SynCaptionsSubtitleQA`.
    """
    table = rows(source.folder, (*CHOICE_COLUMNS, "subtitle"), split=split)
    yield from _by_video(source, table, _choice, _subtitles)


def _by_video(
    source: Source,
    table: Iterator[Fields],
    ask: Callable[[Source, Fields], Annotation | None],
    read_subtitles: Callable[[Fields], Subtitles] = lambda row: (),
) -> Iterator[Example]:
    """Groups rows in memory: a video's rows need not stand together."""
    asked: dict[str, list[Annotation]] = {}
    videos: dict[str, tuple[str, Subtitles]] = {}
    for row in table:
        try:
            video_id = row.text("video_id")
            annotation = ask(source, row)
            if annotation is None:
                continue
            if video_id not in videos:
                videos[video_id] = (row.place, read_subtitles(row))
        except DataError as error:
            source.malformed(row.place, error)
            continue
        asked.setdefault(video_id, []).append(annotation)
    for video_id, branches in asked.items():
        place, subtitles = videos[video_id]
        path = source.find(place, video_id)
        if path is not None:
            yield Example(
                name=video_id,
                media=Media(video=str(path), subtitles=subtitles),
                annotations=tuple(branches),
            )


def _free_question(source: Source, row: Fields) -> Annotation | None:
    answer = row.text("answer")
    if not answer:
        source.report.skip(row.place, Why.RULE, "no answer")
        return None
    return Annotation(
        task=Task.REPLY, question=_question(row, "question"), answer=answer, style="user_qa"
    )


def _choice(source: Source, row: Fields) -> Annotation:
    question, answer = _question(row, "Question"), row.text("Answer")
    choices = row.texts("NegativeAnswers")
    if answer in choices:
        raise DataError(f"{row.place}: {answer!r} is both the right answer and a wrong one")
    rng = source.rng(f"{row.text('video_id')} {question}")
    choices.insert(int(rng.integers(len(choices) + 1)), answer)
    return Annotation(
        task=Task.REPLY,
        question=question,
        answer=answer,
        choices=tuple(choices),
        style="video_multiple_choice",
        source=WRITTEN_BY_MODEL,
    )


def _question(row: Fields, column: str) -> str:
    question = row.text(column)
    if not question:
        raise DataError(f"{row.place}: {column!r} is empty, expected a question")
    return question


def _subtitles(row: Fields) -> Subtitles:
    lines = []
    for line in row.records("subtitle"):
        begin_s, end_s = line.number("start"), line.number("end")
        if not 0 <= begin_s <= end_s:
            raise DataError(f"{line.place}: subtitle from {begin_s:g} to {end_s:g} s")
        lines.append((begin_s, end_s, line.text("text")))
    return tuple(sorted(lines))

"""Answers kept line by line as they come: an evaluation that was killed goes on behind them.

With a large model an evaluation takes hours. What was answered is not asked again, and can be
scored again without the model's time. The first line says of which model and data set they are.
"""

from __future__ import annotations

import json
import os
from dataclasses import asdict, dataclass, replace
from pathlib import Path

from molmo2_ros.answers.answer import Answer, read_answer
from molmo2_ros.camera.frame import Frame
from molmo2_ros.errors import DataError
from molmo2_ros.prompt.query import Query
from molmo2_ros.runtime.strict_json import read_dataclass

_CURE = "remove the file, or name another one (--answers)"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Kept:
    """One answer, with what its text does not say."""

    example: str
    question: str
    text: str
    truncated: bool
    degenerate: bool
    problems: tuple[str, ...]
    confidences: tuple[float | None, ...]  # of its points, in their order


class AnswerLog:
    """Answers of one model to one data set.

    Args:
        path: of the file, made where it is missing.
        model: as the command was told it.
        dataset: its name.

    Raises:
        DataError: the file is of another model or data set, holds something else, or cannot be
            written.
    """

    def __init__(self, path: Path, *, model: str, dataset: str) -> None:
        self._path = path
        self._kept: dict[tuple[str, str], _Kept] = {}
        about = {"model": model, "dataset": dataset}
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._read(about)
            self._file = path.open("ab")
        except OSError as error:
            raise DataError(f"cannot keep answers in {path}: {error}") from error
        if not self._file.tell():
            self._write(about)

    def find(
        self, example: str, question: str, query: Query, frames: tuple[Frame, ...], are_images: bool
    ) -> Answer | None:
        """The answer that was given before, if there is one.

        Args:
            example: name of what it is about.
            question: as the model read it.
            query: as it was asked.
            frames: that the model read.
            are_images: as in `read_answer`.
        """
        kept = self._kept.get((example, question))
        if kept is None:
            return None
        answer = read_answer(
            query, kept.text, frames, are_images=are_images, truncated=kept.truncated
        )
        points = zip(answer.points, kept.confidences, strict=False)
        return replace(
            answer,
            points=tuple(replace(point, confidence=sure) for point, sure in points),
            degenerate=kept.degenerate,
            problems=kept.problems,
        )

    def keep(self, example: str, question: str, answer: Answer) -> None:
        """Write an answer; it is in the file when this returns.

        Raises:
            DataError: the disk is full; the answers before stay.
        """
        kept = _Kept(
            example=example,
            question=question,
            text=answer.text,
            truncated=answer.truncated,
            degenerate=answer.degenerate,
            problems=answer.problems,
            confidences=tuple(point.confidence for point in answer.points),
        )
        self._write(asdict(kept))

    def _write(self, content: object) -> None:
        try:
            self._file.write(json.dumps(content, ensure_ascii=False).encode() + b"\n")
            self._file.flush()
        except OSError as error:
            raise DataError(
                f"cannot keep answers in {self._path}: {error}; those before are kept: make room "
                "and start again"
            ) from error

    def _read(self, about: dict[str, str]) -> None:
        """Take what is there, and drop a last line that was cut off."""
        if not self._path.exists():
            return
        whole = 0
        for number, line in enumerate(self._path.read_bytes().splitlines(keepends=True), 1):
            if not line.endswith(b"\n"):
                break
            whole += len(line)
            place = f"{self._path}, line {number}"
            try:
                content = json.loads(line)
            except ValueError as error:
                raise DataError(f"{place} is no JSON: {error}; {_CURE}") from error
            if number > 1:
                kept = read_dataclass(_Kept, content, place, _CURE, DataError)
                self._kept[kept.example, kept.question] = kept
            elif content != about:
                raise DataError(f"{place}: answers of {content}, expected {about}; {_CURE}")
        os.truncate(self._path, whole)


def open_log(path: Path | None, model: str, dataset: str) -> AnswerLog | None:
    """A log where one is wanted.

    Args, raises: as `AnswerLog`; None for no path.
    """
    return None if path is None else AnswerLog(path, model=model, dataset=dataset)

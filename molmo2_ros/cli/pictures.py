"""Asking about pictures that are not a video."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace

from tqdm import tqdm

from molmo2_ros.asking import AnyGrounder
from molmo2_ros.camera.clip import Clip
from molmo2_ros.camera.frame import Frame
from molmo2_ros.cli.findings import Result, finding_of
from molmo2_ros.prompt.query import Detail, Query


def ask_pictures(
    grounder: AnyGrounder,
    files: Sequence[str],
    frames: Sequence[Frame],
    query: Query,
    *,
    detail: Detail | None = None,
) -> Result:
    """Ask about all pictures at once where the model can compare them, else about each.

    Args:
        grounder: the model.
        files: the pictures' paths.
        frames: the pictures.
        query: one that reads no clip.
        detail: None for tiles if the model was taught to read them, else one view.

    Raises:
        QueryError: the model cannot answer it.
    """
    skills = grounder.model.skills
    if detail is None and query.detail is Detail.FRAMES and "crops" in skills:
        detail = Detail.CROPS
    query = query if detail is None else replace(query, detail=detail)
    if len(frames) > 1 and query.detail is Detail.CROPS and "images" in skills:
        answer = grounder.answer_images(frames, query)
        answers = [answer]
        findings = [
            finding_of(answer, point, frames[(point.image_index or 1) - 1], point.image_index)
            for point in answer.points
        ]
    else:
        answers, findings = [], []
        bar = tqdm(frames, desc="asking", unit="picture", disable=None if len(frames) > 1 else True)
        for number, frame in enumerate(bar, 1):
            answer = grounder.answer(Clip((frame,)), query)
            answers.append(answer)
            image = number if len(frames) > 1 else None
            findings += [finding_of(answer, point, frame, image) for point in answer.points]
    return Result(
        query=query,
        engine=grounder.model.name,
        files=tuple(files),
        answers=tuple(answers),
        findings=tuple(findings),
    )

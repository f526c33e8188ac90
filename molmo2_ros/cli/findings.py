"""What `molmo2 ask` found, as a table for people and as JSON for programs."""

from __future__ import annotations

import json
import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

from molmo2_ros.answers.answer import Answer, AnsweredPoint
from molmo2_ros.camera.frame import Frame
from molmo2_ros.prompt.query import Query, QueryKind, label, question_text

_NS = 1_000_000_000


@dataclass(frozen=True, slots=True, kw_only=True)
class Finding:
    """One point: a row of the table."""

    stamp_ns: int  # from the start of the video; the picture's place times PICTURE_RATE_HZ
    image: int | None  # number of the picture among several, from 1
    track_id: int  # names an object throughout a video
    u: float  # pixels
    v: float
    label: str
    confidence: float  # 0..1, NaN where unknown


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """All that was asked and found."""

    query: Query
    engine: str  # the model's name
    files: tuple[str, ...]
    answers: tuple[Answer, ...]  # in time order
    findings: tuple[Finding, ...]  # in time order

    @property
    def label(self) -> str:
        """What was asked for, without article."""
        return label(self.query)

    @property
    def question(self) -> str:
        """The question as the model read it."""
        is_together = len(self.answers) == 1 and not self.query.over_clip
        return question_text(self.query, len(self.files) if is_together else 1)


def finding_of(
    answer: Answer, point: AnsweredPoint, frame: Frame, image: int | None = None
) -> Finding:
    """A point of an answer as it stands, under the id that the model gave it.

    Args:
        answer: holds the point.
        point: one of its points.
        frame: on which the point is.
        image: number of that picture among several, from 1.
    """
    return Finding(
        stamp_ns=frame.stamp_ns,
        image=image,
        track_id=point.object_id,
        u=min(point.x * frame.width, frame.width - 1.0),
        v=min(point.y * frame.height, frame.height - 1.0),
        label=answer.label or label(answer.query),
        confidence=math.nan if point.confidence is None else point.confidence,
    )


def as_table(result: Result) -> str:
    """Rows of points, and below them what is not a point: words, counts, and what was odd."""
    blocks = []
    if result.findings:
        blocks.append(_points_table(result))
    if result.query.kind.is_in_words:
        blocks.append("\n".join(answer.text.strip() for answer in result.answers))
    elif result.query.kind is QueryKind.COUNT:
        blocks.append(_counts(result))
    elif not result.findings:
        none = all(answer.none for answer in result.answers)
        blocks.append("There are none." if none else "No point was found.")
    notes = [
        f"note: {_when(result, answer)}{problem}"
        for answer in result.answers
        for problem in (*_cut(answer), *answer.problems)
    ]
    if notes:
        blocks.append("\n".join(notes))
    return "\n\n".join(blocks)


def as_json(result: Result) -> str:
    """One object; numbers that are unknown are null."""
    payload = {
        "files": list(result.files),
        "engine": result.engine,
        "query": {
            "kind": result.query.kind.value,
            "words": result.query.words,
            "question": result.question,
        },
        "points": [_point_json(finding) for finding in result.findings],
        "answers": [_answer_json(answer) for answer in result.answers],
    }
    return json.dumps(payload, indent=2, ensure_ascii=False, allow_nan=False)


def _points_table(result: Result) -> str:
    numbered = any(finding.image is not None for finding in result.findings)
    place = "image" if numbered else "time s"
    width = max(len("label"), *(len(finding.label) for finding in result.findings))
    lines = [f"{place:>7}  {'id':>3}  {'x px':>7}  {'y px':>7}  {'label':<{width}}  confidence"]
    for finding in result.findings:
        at = f"{finding.image}" if numbered else f"{finding.stamp_ns / _NS:.1f}"
        sure = "" if math.isnan(finding.confidence) else f"{finding.confidence:.2f}"
        lines.append(
            f"{at:>7}  {finding.track_id:>3}  {finding.u:>7.1f}  {finding.v:>7.1f}  "
            f"{finding.label:<{width}}  {sure:>10}"
        )
    return "\n".join(lines)


def _counts(result: Result) -> str:
    return "\n".join(
        f"{_when(result, answer)}{'?' if answer.count is None else answer.count} {result.label}"
        for answer in result.answers
    )


def _when(result: Result, answer: Answer) -> str:
    """Which answer of several is meant."""
    if len(result.answers) == 1:
        return ""
    if len(result.files) > 1:
        return f"image {result.answers.index(answer) + 1}: "
    return f"{answer.stamps_ns[-1] / _NS:.1f} s: "


def _cut(answer: Answer) -> Sequence[str]:
    if not answer.truncated:
        return ()
    return (f"the answer was cut off after {answer.timing.num_answer_tokens} tokens",)


def _point_json(finding: Finding) -> dict[str, Any]:
    return {
        "time_s": round(finding.stamp_ns / _NS, 3),
        "image": finding.image,
        "id": finding.track_id,
        "x_px": round(finding.u, 2),
        "y_px": round(finding.v, 2),
        "label": finding.label,
        "confidence": None if math.isnan(finding.confidence) else round(finding.confidence, 4),
    }


def _answer_json(answer: Answer) -> dict[str, Any]:
    timing = answer.timing
    return {
        "from_s": round(answer.stamps_ns[0] / _NS, 3),
        "to_s": round(answer.stamps_ns[-1] / _NS, 3),
        "num_frames": len(answer.stamps_ns),
        "text": answer.text,
        "count": answer.count,
        "none": answer.none,
        "truncated": answer.truncated,
        "problems": list(answer.problems),
        "encode_s": round(timing.encode_s, 4),
        "prefill_s": round(timing.prefill_s, 4),
        "decode_s": round(timing.decode_s, 4),
        "num_answer_tokens": timing.num_answer_tokens,
    }

"""The full answer and the standing queries as JSON, the payloads of ~/answer and ~/queries."""

from __future__ import annotations

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

from molmo2_ros.answers.answer import Answer
from molmo2_ros.camera.frame import Frame
from molmo2_ros.camera.stamp import stamp_json
from molmo2_ros.prompt.query import Query
from molmo2_ros.scheduler import Counts
from molmo2_ros.standing import StandingQuery
from molmo2_ros.tracking.target import Target


def answer_payload(
    answer: Answer,
    rows: Sequence[Target],
    query_id: int,
    frame: Frame,
    *,
    refused: bool = False,
) -> dict[str, Any]:
    """One answer, whole or partial, as the object that ~/answer holds.

    Args:
        answer: what the model said.
        rows: its points as targets, one per point and answered frame.
        query_id: 0 for a free question (~/ask).
        frame: the newest of the answer's clip.
        refused: the model cannot be asked this; the reason is the answer's only problem.
    """
    return {
        "stamp": stamp_json(answer.stamps_ns[-1]),
        "frame_id": frame.frame_id,
        "query": query_json(answer.query, query_id),
        "text": answer.text,
        "label": answer.label,
        "count": answer.count,
        "none": answer.none,
        "partial": answer.partial,
        "truncated": answer.truncated,
        "refused": refused,
        "problems": list(answer.problems),
        "degenerate": answer.degenerate,
        "image": {"width": frame.width, "height": frame.height},
        "clip_stamps": [stamp_json(stamp_ns) for stamp_ns in answer.stamps_ns],
        "points": [
            {
                "object_id": point.object_id,
                "time_s": point.time_s,
                "x": point.x,
                "y": point.y,
                "image_index": point.image_index,
                "confidence": _number(point.confidence),
            }
            for point in answer.points
        ],
        "tracks": _tracks_json(rows),
        "timing": {
            "encode_s": round(answer.timing.encode_s, 4),
            "prefill_s": round(answer.timing.prefill_s, 4),
            "decode_s": round(answer.timing.decode_s, 4),
            "num_prompt_tokens": answer.timing.num_prompt_tokens,
            "num_answer_tokens": answer.timing.num_answer_tokens,
            "num_passes": answer.timing.num_passes,
            "num_drafted": answer.timing.num_drafted,
            "num_accepted": answer.timing.num_accepted,
            "num_frames_encoded": answer.timing.num_frames_encoded,
        },
    }


@dataclass(frozen=True, slots=True, kw_only=True)
class QueryState:
    """How a standing query fares."""

    rate_hz: float = 0.0  # measured answers a second
    counts: Counts = Counts()
    refused: str | None = None  # why the model cannot be asked this


def queries_payload(
    standing: Sequence[StandingQuery],
    states: Mapping[int, QueryState],
    now_s: float,
    *,
    default_rate_hz: float,
    is_active: bool,
    engine: str,
    skills: Sequence[str],
) -> dict[str, Any]:
    """What is being asked, on which terms, and how each query fares, as ~/queries holds it.

    Args:
        standing: all standing queries.
        states: by query id, of those that the engine was asked or refused.
        now_s: on the clock of `StandingQuery.expires_s`.
        default_rate_hz: wished of queries that name no rate; 0 for as often as possible.
        is_active: the node is in the lifecycle state active.
        engine: name of the loaded model, "" for none.
        skills: what the model can be asked.
    """
    return {
        "active": is_active,
        "engine": engine,
        "skills": list(skills),
        "queries": [
            {
                **query_json(entry.query, entry.id),
                "label": entry.label,
                "given_by": entry.given_by,
                "paused": entry.paused,
                "priority": entry.query.terms.priority,
                "time_left_s": _number(entry.time_left_s(now_s)),
                "wanted_rate_hz": entry.query.terms.rate_hz or default_rate_hz or None,
                **_state_json(states.get(entry.id, QueryState())),
            }
            for entry in standing
        ],
    }


def payload_json(payload: Mapping[str, Any]) -> str:
    """The text of a message.

    Raises:
        ValueError: a number is NaN or infinite, which no reader of JSON knows.
    """
    return json.dumps(payload, ensure_ascii=False, allow_nan=False)


def _state_json(state: QueryState) -> dict[str, Any]:
    counts = state.counts
    return {
        "rate_hz": round(state.rate_hz, 2),
        "counts": {
            "asked": counts.num_asked,
            "answered": counts.num_answered,
            "late": counts.num_late,
            "cancelled": counts.num_cancelled,
            "missed": counts.num_missed,
        },
        "refused": state.refused,
    }


def query_json(query: Query, query_id: int) -> dict[str, Any]:
    """A query with its number."""
    return {
        "id": query_id,
        "name": query.name,
        "kind": query.kind.value,
        "words": query.words,
        "detail": query.detail.value,
        "span": query.span.value,
    }


def _tracks_json(rows: Sequence[Target]) -> list[dict[str, Any]]:
    """Rows of one track together, oldest first."""
    tracks: dict[int, list[Target]] = {}
    for row in rows:
        tracks.setdefault(row.track_id, []).append(row)
    return [
        {
            "track_id": track_id,
            "label": track[0].label,
            "points": [
                {
                    "stamp": stamp_json(row.stamp_ns),
                    "u": round(row.u, 2),
                    "v": round(row.v, 2),
                    "xyz": None if row.point_m is None else [round(c, 4) for c in row.point_m],
                    "z_std": _number(row.z_std_m),
                    "confidence": _number(row.confidence),
                }
                for row in sorted(track, key=lambda row: row.stamp_ns)
            ],
        }
        for track_id, track in sorted(tracks.items())
    ]


def _number(value: float | None) -> float | None:
    return None if value is None or not math.isfinite(value) else round(value, 4)

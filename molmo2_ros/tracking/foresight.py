"""Remembers the last answer to each question and moves it on to the clip asked about next."""

from __future__ import annotations

from collections import OrderedDict
from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from molmo2_ros.answers.answer import Answer
from molmo2_ros.answers.drafts import AnswerDraft, Places, RepeatedDraft, foresee, foresee_first
from molmo2_ros.camera.frame import Frame
from molmo2_ros.prompt.query import Detail, Query, Span, question_text
from molmo2_ros.prompt.tokenizer import PromptTokenizer
from molmo2_ros.runtime.decoding import DraftSource
from molmo2_ros.tracking.grey import GreyFrame
from molmo2_ros.tracking.replay import Start, replay


@dataclass(frozen=True, slots=True, kw_only=True, eq=False)
class _Remembered:
    """The last answer to a question."""

    answer: Answer
    newest: Frame  # of its clip
    ids: tuple[int, ...]


class Foresight:
    """Drafts for questions that are asked again and again.

    Args:
        tokenizer: the model's.
        max_questions: answers remembered (and with each its newest frame); the least recently asked
            goes first.
    """

    def __init__(self, tokenizer: PromptTokenizer, max_questions: int) -> None:
        self._tokenizer = tokenizer
        self._max_questions = max_questions
        self._last: OrderedDict[tuple[str, Span, Detail, str], _Remembered] = OrderedDict()

    def draft(
        self, query: Query, frames: Sequence[Frame], stamps: Sequence[str]
    ) -> DraftSource | None:
        """What the answer about a clip will probably say.

        Args:
            query: what is asked.
            frames: of the clip, in time order.
            stamps: of the frames, as printed in the prompt.

        Returns:
            None for a question in words that was not asked before.
        """
        last = self._last.get(_key(query, frames))
        if last is None:
            foreseen = foresee_first(query, stamps)
        elif not (last.answer.points or last.answer.none):
            return RepeatedDraft(last.ids)
        else:
            newest, by_stamp = last.newest, {frame.stamp_ns: frame for frame in frames}

            def carry(places: Places, to_ns: int) -> Places:
                seen = {i: newest.from_upright(*place) for i, place in places.items()}
                moved = carried(seen, newest, by_stamp[to_ns])
                return {i: newest.to_upright(*place) for i, place in moved.items()}

            answer = _as_shown(last.answer, newest)
            foreseen = foresee(answer, stamps, [frame.stamp_ns for frame in frames], carry)
        return None if foreseen is None else AnswerDraft(self._tokenizer, foreseen)

    def learn(self, answer: Answer, frames: Sequence[Frame], ids: Sequence[int]) -> None:
        """Remember an answer about a clip, unless the model had lost the thread.

        Args:
            answer: what it said.
            frames: of the clip.
            ids: tokens of the answer.
        """
        if answer.degenerate:
            return
        key = _key(answer.query, frames)
        self._last[key] = _Remembered(answer=answer, newest=frames[-1], ids=tuple(ids))
        self._last.move_to_end(key)
        if len(self._last) > self._max_questions:
            self._last.popitem(last=False)


def _as_shown(answer: Answer, frame: Frame) -> Answer:
    """An answer whose points are places of the upright picture, as they are written."""
    if not frame.turns:
        return answer
    shown = {point: frame.to_upright(point.x, point.y) for point in answer.points}
    points = tuple(replace(point, x=x, y=y) for point, (x, y) in shown.items())
    return replace(answer, points=points)


def carried(places: Places, before: Frame, after: Frame) -> Places:
    """Where points of one frame are in a later one, by optical flow.

    Args:
        places: x, y in 0..1 by object id.
        before: the frame on which they were seen.
        after: a frame of the same camera.

    Returns:
        the same ids; those that left the picture are missing, and where the camera's format changed
        the places stay as they were.
    """
    size = np.array([before.width, before.height])
    if (after.width, after.height) != (before.width, before.height):
        return places
    starts = [
        Start(stamp_ns=before.stamp_ns, u=x * before.width - 0.5, v=y * before.height - 0.5)
        for x, y in places.values()
    ]
    grey = GreyFrame.of(after)
    order, patches = replay(starts, [GreyFrame.of(before), grey])
    moved = (grey.to_camera(patches.points_N2) + 0.5) / size
    ids = list(places)
    return {
        ids[index]: (float(x), float(y))
        for index, (x, y) in zip(order, moved, strict=True)
        if 0 <= x < 1 and 0 <= y < 1
    }


def _key(query: Query, frames: Sequence[Frame]) -> tuple[str, Span, Detail, str]:
    return question_text(query), query.span, query.detail, frames[-1].frame_id

"""A larger Molmo2 as a labeller: an engine folder here, or a server."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np

from molmo2_ros.answers.answer import Answer, point_stamp_ns
from molmo2_ros.asking import AnyGrounder
from molmo2_ros.camera.clip import Clip
from molmo2_ros.camera.frame import Frame
from molmo2_ros.errors import AnswerError, ConfigError
from molmo2_ros.opening import facts_of, grounder_of, open_model
from molmo2_ros.prompt.query import Query, QueryKind
from molmo2_ros.remote.server import RemoteServer
from molmo2_ros.training.logs.labellers import MadeLabels, MadePoint

_UNKNOWN_CONFIDENCE = 0.5  # of a server that tells no probabilities


class Teacher:
    """Asks a model to track what the phrase names, or to point to it in a clip of one frame.

    Args:
        grounder: the model.
        name: of the model.
    """

    def __init__(self, grounder: AnyGrounder, name: str) -> None:
        self._grounder = grounder
        self.source = f"teacher_{name}"

    def label(self, frames: Sequence[Frame], phrase: str) -> MadeLabels:
        """The teacher's answer; one that was cut or lost the thread is no label.

        Raises:
            AnswerError: the answer is degenerate or was cut.
            Molmo2Error: the model cannot be asked, or failed.
        """
        kind = QueryKind.TRACK if len(frames) > 1 else QueryKind.POINT
        query = Query(name="label", kind=kind, words=phrase)
        self._grounder.check(query)
        answer = self._grounder.answer(Clip(tuple(frames)), query)
        if answer.degenerate or answer.truncated:
            why = "; ".join(answer.problems) or "it was cut at the token limit"
            raise AnswerError(f"the answer about {phrase!r} is no label: {why}")
        return MadeLabels(points=_points(answer, frames), none=answer.none)


def _points(answer: Answer, frames: Sequence[Frame]) -> tuple[MadePoint, ...]:
    stamps_ns = np.array([frame.stamp_ns for frame in frames])
    made: dict[tuple[int, int], MadePoint] = {}
    for point in answer.points:
        index = int(np.argmin(np.abs(stamps_ns - point_stamp_ns(answer, point))))
        known = point.confidence is not None and np.isfinite(point.confidence)
        confidence = point.confidence if known else _UNKNOWN_CONFIDENCE
        assert confidence is not None
        made[index, point.object_id] = MadePoint(
            frame=index,
            x=min(max(point.x, 0.0), 1.0),
            y=min(max(point.y, 0.0), 1.0),
            confidence=min(max(confidence, 0.0), 1.0),
            thing=point.object_id,
        )
    return tuple(made.values())


def teacher(argument: str) -> Teacher:
    """Open the model.

    Args:
        argument: an engine folder, "nano", or the URL of a server.

    Raises:
        ConfigError: no model is named.
        EngineError: it cannot be loaded, or the server cannot be reached.
    """
    if not argument:
        raise ConfigError(
            "labeller teacher needs a model: teacher=ENGINE_FOLDER:PHRASE, or "
            "teacher=http://HOST:PORT:PHRASE for a server"
        )
    model = open_model(argument)
    if isinstance(model, RemoteServer):
        model.connect()
    return Teacher(grounder_of(model), facts_of(model).name)

"""Listens to running nodes for `molmo2 top`: their stages, their queries, what they answered."""

from __future__ import annotations

import json
import math
import threading
import time
from collections import deque
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from typing import Any

from diagnostic_msgs.msg import DiagnosticArray
from rclpy.node import Node
from std_msgs.msg import String

from molmo2_ros.ros import qos

MAX_ANSWERS = 200
MAX_LINES = 200  # of /diagnostics: other nodes write there too
_MAX_TEXT = 300  # characters
_PARTS = (
    "camera", "tracking", "metres", "engine", "answers", "queries", "process",
    "source", "recording", "page",
)  # fmt: skip


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """A line of /diagnostics.

    Args:
        name: NODE: PART.
        level: 0 for well, 1 for a warning, 2 for an error.
        message: what is wrong and what to do, where something is.
        values: figures by name, as text.
    """

    name: str
    level: int
    message: str
    values: Mapping[str, str]


@dataclass(frozen=True, slots=True, kw_only=True)
class Picture:
    """All that is known at one moment.

    Args:
        age_s: since the last /diagnostics with one of our lines; infinite before the first.
        stages: in the nodes' order.
        queries: what stands, of each node: NODE and the entries of ~/queries.
        answers: lines about the last whole answers, oldest first.
        num_answers: whole answers so far, more than are kept.
    """

    age_s: float
    stages: tuple[Stage, ...]
    queries: tuple[tuple[str, Mapping[str, Any]], ...]
    answers: tuple[str, ...]
    num_answers: int


class TopWatch(Node):
    """Keeps the newest of each; callbacks come from the thread that spins it.

    Args:
        nodes: names of grounding nodes.
    """

    def __init__(self, nodes: Sequence[str], **node_arguments: Any) -> None:
        super().__init__("molmo2_top", **node_arguments)
        self._lock = threading.Lock()  # guards the five below
        self._stages: dict[str, Stage] = {}
        self._told_s = -math.inf
        self._queries: dict[str, list[Mapping[str, Any]]] = {}
        self._answers: deque[str] = deque(maxlen=MAX_ANSWERS)
        self._num_answers = 0
        reliable = qos.result_qos()
        self.create_subscription(DiagnosticArray, "/diagnostics", self._on_diagnostics, reliable)
        for name in nodes:
            heard = partial(self._on_queries, name)
            self.create_subscription(String, f"{name}/queries", heard, qos.state_qos())
            answered = partial(self._on_answer, name)
            self.create_subscription(String, f"{name}/answer", answered, reliable)

    def picture(self) -> Picture:
        """What is known now."""
        with self._lock:  # guards what the callbacks write
            return Picture(
                age_s=time.monotonic() - self._told_s,
                stages=tuple(self._stages.values()),
                queries=tuple(
                    (node, entry) for node, entries in self._queries.items() for entry in entries
                ),
                answers=tuple(self._answers),
                num_answers=self._num_answers,
            )

    def _on_diagnostics(self, message: DiagnosticArray) -> None:
        ours = [
            Stage(
                name=status.name[:_MAX_TEXT],
                level=status.level[0],
                message=status.message,
                values={entry.key: entry.value[:_MAX_TEXT] for entry in status.values},
            )
            for status in message.status
            if status.name.partition(": ")[2] in _PARTS
        ]
        with self._lock:  # guards _stages and _told_s
            for stage in ours:
                if stage.name in self._stages or len(self._stages) < MAX_LINES:
                    self._stages[stage.name] = stage
                    self._told_s = time.monotonic()

    def _on_queries(self, node: str, message: String) -> None:
        found = _object(message.data).get("queries", [])
        if isinstance(found, list):
            with self._lock:  # guards _queries
                self._queries[node] = [entry for entry in found if isinstance(entry, dict)]

    def _on_answer(self, node: str, message: String) -> None:
        found = _object(message.data)
        query, timing = found.get("query"), found.get("timing")
        if found.get("partial") or not isinstance(query, dict) or not isinstance(timing, dict):
            return
        spent = [timing.get(f"{part}_s") for part in ("encode", "prefill", "decode")]
        took_ms = 1e3 * sum(part for part in spent if isinstance(part, float))
        text = " ".join(str(found.get("text", "")).split())[:_MAX_TEXT]
        problems = found.get("problems")
        told = f" ({'; '.join(map(str, problems))[:_MAX_TEXT]})" if problems else ""
        with self._lock:  # guards _answers and _num_answers
            self._answers.append(f"{node} {query.get('name')}: {text}{told}  {took_ms:.0f} ms")
            self._num_answers += 1


def _object(text: str) -> dict[str, Any]:
    """A JSON object; empty where somebody else's text is none."""
    try:
        found = json.loads(text)
    except (ValueError, RecursionError):  # no JSON, or nested too deep
        return {}
    return found if isinstance(found, dict) else {}

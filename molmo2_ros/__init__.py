"""Molmo2 on robots: ask cameras in plain language, get points and tracks.

    from molmo2_ros import Grounder, load_engine, parse_query
    answer = Grounder(load_engine()).answer(clip, parse_query("Point to the red mug"))

Names are imported when they are first used, so that `import molmo2_ros` costs nothing.
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from molmo2_ros.answers.answer import Answer
    from molmo2_ros.camera.clip import Clip
    from molmo2_ros.camera.frame import Frame
    from molmo2_ros.grounder import Grounder
    from molmo2_ros.prompt.query import Query, parse_query
    from molmo2_ros.runtime.engine import load_engine
    from molmo2_ros.tracking.target import Target
    from molmo2_ros.tracking.tracker import Tracker

__all__ = [
    "Answer",
    "Clip",
    "Frame",
    "Grounder",
    "Query",
    "Target",
    "Tracker",
    "load_engine",
    "parse_query",
]

_HOMES = {
    "Answer": "answers.answer",
    "Clip": "camera.clip",
    "Frame": "camera.frame",
    "Grounder": "grounder",
    "Query": "prompt.query",
    "Target": "tracking.target",
    "Tracker": "tracking.tracker",
    "load_engine": "runtime.engine",
    "parse_query": "prompt.query",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(import_module(f"{__name__}.{_HOMES[name]}"), name)


def __dir__() -> list[str]:
    return sorted([*globals(), *__all__])

"""Pairs of colour and category that a nano never meets in training, and is measured on.

Each colour and each category is met in other pairs, so a model that has learned what "purple" and
what "bottle" are can answer about a purple bottle; one that has learned pairs by heart cannot.
"""

from __future__ import annotations

import json
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any

from molmo2_ros.simulation.objects import CATEGORIES, CATEGORY_NAMES, COLOUR_NAMES
from molmo2_ros.simulation.world import SceneObject
from molmo2_ros.training import phrases

_NAMED = (("blue", "plate"), ("green", "book"), ("yellow", "mug"), ("red", "can"))
ALL_PAIRS = tuple(
    (category, colour) for category, kind in enumerate(CATEGORIES) for colour in kind.colours
)
# (index into CATEGORIES, index into COLOUR_NAMES): four of the 35 in ALL_PAIRS.
HELD_OUT_PAIRS = frozenset(
    (CATEGORY_NAMES.index(category), COLOUR_NAMES.index(colour)) for colour, category in _NAMED
)
_LABELS = frozenset(
    phrases.noun(*pair, plural=plural) for pair in HELD_OUT_PAIRS for plural in (False, True)
)


def holds_held_out_pair(objects: Iterable[SceneObject]) -> bool:
    """Whether one of a scene's objects is of a pair that is held out."""
    return any((thing.category, thing.colour) in HELD_OUT_PAIRS for thing in objects)


def names_held_out_pair(label: str) -> bool:
    """Whether a question's label ("blue can", "blue cans") names a pair that is held out.

    Such a question has no place in training even where the answer is that there are none: the model
    would learn that there never are.
    """
    return label in _LABELS


def trained_without_pairs(checkpoint: Path) -> bool:
    """Whether a checkpoint's training kept the held-out pairs out of view, as far as it is told.

    Args:
        checkpoint: in the folder of a run, or in that of an engine with a manifest.
    """
    for name in ("manifest.json", "config.json"):
        path = checkpoint.resolve().parent / name
        if path.exists():
            told = json.loads(path.read_text(encoding="utf-8"))
            told = told["training"]["config"] if "training" in told else told
            return isinstance(told, dict) and excludes_pairs(told)
    return False


def excludes_pairs(config: Mapping[str, Any]) -> bool:
    """Whether a training's configuration says so; one that says nothing had them in view."""
    return bool(config.get("exclude_pairs", False))

"""Who labels clips without a person: the interface, the built-in ones, and plug-ins.

A labeller is given the frames of a clip and a phrase, and gives points with their confidence. It is
named `NAME[=ARGUMENT]:PHRASE`, as in "hog:person", "haar=frontalface_default:face" or
"teacher=engines/molmo2-4b:red mug"; NAME is built in, an entry point of the group
`molmo2_ros.labellers`, or `module:attribute`. See docs/training.md.
"""

from __future__ import annotations

import importlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from importlib.metadata import entry_points
from typing import Protocol

from molmo2_ros.camera.frame import Frame
from molmo2_ros.errors import ConfigError
from molmo2_ros.training.data.example import HUMAN, SYNTHETIC

GROUP = "molmo2_ros.labellers"


@dataclass(frozen=True, slots=True, kw_only=True)
class MadePoint:
    """One point that a labeller gives.

    Args:
        frame: index of the frame in the clip.
        x: 0..1 of the width, from the left.
        y: 0..1 of the height, from the top.
        confidence: 0..1, that there is such a thing at that place.
        thing: equal for points of one thing; None where the labeller does not follow things, which
            are then joined by optical flow.
    """

    frame: int
    x: float
    y: float
    confidence: float
    thing: int | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class MadeLabels:
    """What a labeller says about one clip.

    Args:
        points: in any order.
        none: it is sure that there is none of what was asked for; without points and without this
            nothing is known, and the clip gets no label.
    """

    points: tuple[MadePoint, ...] = ()
    none: bool = False


class Labeller(Protocol):
    """Makes labels. An object may be used for many clips, from one thread."""

    @property
    def source(self) -> str:
        """Its name as it stands beside each label that it made; never "human"."""
        ...

    def label(self, frames: Sequence[Frame], phrase: str) -> MadeLabels:
        """Point to what a phrase names.

        Args:
            frames: of one clip, in the order of time; all of one size.
            phrase: what to look for, such as "person" or "red mug".

        Raises:
            ServerError: with `may_pass`: whoever labels is away. The log is left there, and the
                next run goes on with this clip.
            Molmo2Error: this clip cannot be labelled; it is counted, and the next one follows.
        """
        ...


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelWish:
    """What `--label` asks for.

    Args:
        name: of the labeller.
        argument: what the labeller is made with, "" for nothing.
        phrase: what it is to look for: the label's words.
    """

    name: str
    argument: str
    phrase: str

    @property
    def text(self) -> str:
        """As on the command line."""
        return f"{self.name}{'=' if self.argument else ''}{self.argument}:{self.phrase}"


def parse_wish(text: str) -> LabelWish:
    """Read `NAME[=ARGUMENT]:PHRASE`; the phrase has no colon, the argument may have some.

    Raises:
        ConfigError: a part is missing.
    """
    left, colon, phrase = text.rpartition(":")
    name, _, argument = left.partition("=")
    if not (colon and name.strip() and phrase.strip()):
        raise ConfigError(
            f"label {text!r}, expected LABELLER[=ARGUMENT]:PHRASE such as hog:person; labellers: "
            f"{', '.join(sorted(known_labellers()))}"
        )
    return LabelWish(name=name.strip(), argument=argument, phrase=" ".join(phrase.split()))


def known_labellers() -> dict[str, str]:
    """`module:attribute` by name: the built-in ones and those of installed packages."""
    built_in = {
        "hog": "molmo2_ros.training.logs.detectors:hog",
        "haar": "molmo2_ros.training.logs.detectors:haar",
        "teacher": "molmo2_ros.training.logs.teacher:teacher",
    }
    plugged = {entry.name: entry.value for entry in entry_points(group=GROUP)}
    return {**plugged, **built_in}


def make_labeller(wish: LabelWish) -> Labeller:
    """Find a labeller's maker and let it make one.

    The maker is called with the argument; an object that already has `label` is taken as it is.

    Raises:
        ConfigError: there is no such labeller, or it claims to be a person.
    """
    place = wish.name if ":" in wish.name else known_labellers().get(wish.name)
    if place is None:
        raise ConfigError(
            f"no labeller {wish.name!r}; there are {', '.join(sorted(known_labellers()))}, those "
            f"of the entry point group {GROUP}, and module:attribute"
        )
    module, _, attribute = place.partition(":")
    try:
        found = getattr(importlib.import_module(module), attribute)
    except (ImportError, AttributeError) as error:
        raise ConfigError(f"labeller {wish.name!r} at {place} cannot be loaded: {error}") from error
    maker: Callable[[str], Labeller] = found
    is_made = not isinstance(found, type) and hasattr(found, "label")
    made = found if is_made else maker(wish.argument)
    if not isinstance(made.source, str) or made.source in ("", HUMAN, SYNTHETIC):
        raise ConfigError(
            f"labeller {wish.name!r} calls itself {made.source!r}, expected a name of its own: "
            f"{HUMAN!r} and {SYNTHETIC!r} are for labels that no labeller makes"
        )
    return made

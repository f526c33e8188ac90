"""What was said in a log beside its pictures: recorded answers, and operators' corrections."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

import numpy as np

from molmo2_ros.bags.bag import Bag
from molmo2_ros.bags.skips import Skips
from molmo2_ros.errors import DataError
from molmo2_ros.training.logs.topics import (
    TEXT,
    Correction,
    Decoder,
    RecordedAnswer,
    read_answer,
    read_correction,
)

ANSWER_END = "/answer"  # of the names of topics that carry our answers
CORRECTION_END = "/corrections"
_NEAR_NS = 250_000_000  # of a correction's stamp and its picture's
T = TypeVar("T")


@dataclass(frozen=True, slots=True, kw_only=True)
class LogTopics:
    """What of a bag is read.

    Args:
        image: the camera's topic, raw or compressed.
        answers: topics with our answers; None: all whose name ends in /answer.
        corrections: topics with corrections; None: all whose name ends in /corrections.
    """

    image: str
    answers: tuple[str, ...] | None = None
    corrections: tuple[str, ...] | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Spoken:
    """What was said.

    Args:
        answers: in the order of recording.
        corrections: by the stamp of the picture that they speak of.
    """

    answers: Sequence[RecordedAnswer]
    corrections: Mapping[int, Sequence[Correction]]


def read_spoken(bag: Bag, topics: LogTopics, decoder: Decoder, skips: Skips) -> Spoken:
    """Read all text of a log that belongs to one camera.

    Raises:
        DataError: a topic that was named is missing or carries something else.
    """

    def texts(
        names: tuple[str, ...] | None, end: str, read: Callable[[str, str], T | None]
    ) -> Iterator[T]:
        there = bag.topics
        if names is None:
            names = tuple(t for t, kind in there.items() if kind == TEXT and t.endswith(end))
        bag.require(names, (TEXT,))
        for message in bag.messages(names) if names else ():
            try:
                found = read(decoder.text(message), message.place)
            except DataError as error:
                skips.add("text message", str(error))
                continue
            if found is not None:
                yield found

    corrections = standing(texts(topics.corrections, CORRECTION_END, read_correction))
    return Spoken(
        answers=list(texts(topics.answers, ANSWER_END, read_answer)),
        corrections=_by_picture(corrections, bag, topics.image, decoder, skips),
    )


def standing(corrections: Iterable[Correction]) -> list[Correction]:
    """Without those that were taken back later: nothing is known of them, not even an absence."""
    kept: list[Correction] = []
    for correction in corrections:
        if correction.retracted:
            about = (correction.words, correction.stamp_ns, correction.frame_id)
            kept = [one for one in kept if (one.words, one.stamp_ns, one.frame_id) != about]
        else:
            kept.append(correction)
    return kept


def _by_picture(
    corrections: Sequence[Correction], bag: Bag, topic: str, decoder: Decoder, skips: Skips
) -> dict[int, list[Correction]]:
    """Corrections by the stamp of the picture nearest to theirs."""
    found: dict[int, list[Correction]] = defaultdict(list)
    if not corrections:
        return found
    messages = (m for m in bag.messages([topic]) if len(m.data) >= Decoder.MIN_BYTES)
    stamps_ns = np.array([decoder.stamp_ns(message) for message in messages], np.int64)
    for correction in corrections:
        far_ns = np.abs(stamps_ns - correction.stamp_ns)
        if not far_ns.size or far_ns.min() > _NEAR_NS:
            skips.add(
                "correction without a picture",
                f"the correction about {correction.words!r} at {correction.stamp_ns} ns: no "
                f"picture of {topic} is within {_NEAR_NS / 1e9:g} s of it",
            )
            continue
        found[int(stamps_ns[far_ns.argmin()])].append(correction)
    return found

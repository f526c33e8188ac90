"""What is asked about a camera's clip, and the words in which Molmo2 is asked it."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable
from dataclasses import dataclass, replace
from enum import Enum
from typing import TypeVar

from molmo2_ros.errors import QueryError

Number = TypeVar("Number", int, float)

MAX_CHARACTERS = 2000
MAX_ANSWER_FPS = 10.0
MAX_RATE_HZ = 60.0
MAX_PRIORITY = 10
MAX_LIFETIME_S = 86400.0


class QueryKind(str, Enum):
    """What kind of answer is wanted; the values are the words that users write."""

    TRACK = "track"
    POINT = "point"
    COUNT = "count"
    ASK = "ask"


class Detail(str, Enum):
    """Which of Molmo2's two visual paths reads the picture."""

    FRAMES = "frames"  # one square view per frame, video pooling
    CROPS = "crops"  # low-resolution view plus tiled crops of the newest frame, image pooling


@dataclass(frozen=True, slots=True, kw_only=True)
class SeedPoint:
    """A given point to track from (Molmo2's `video_single_point_track_per_frame`).

    Raises:
        QueryError: a value is out of range.
    """

    time_s: float  # seconds from the clip's first frame
    x: float  # 0..1 of the frame's width
    y: float  # 0..1 of the frame's height

    def __post_init__(self) -> None:
        if not (0 <= self.x <= 1 and 0 <= self.y <= 1 and 0 <= self.time_s < 1e6):
            raise QueryError(
                f"start point is x {self.x}, y {self.y} at {self.time_s} s, expected x and y in "
                "0..1 of the frame and a time from 0: divide pixels by the frame's size"
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class Terms:
    """On which terms a question stands among others; the model does not read them.

    Args:
        rate_hz: wished answers a second, at most 60; None leaves it to whoever asks.
        priority: 1 to 10. Where the engine cannot keep up, one of priority 3 gets about three times
            as many answers as one of priority 1 (see scheduler.py).
        lifetime_s: seconds after which it leaves by itself, at most a day; None for never.

    Raises:
        QueryError: a value is out of range.
    """

    rate_hz: float | None = None
    priority: int = 1
    lifetime_s: float | None = None

    def __post_init__(self) -> None:
        if self.rate_hz is not None and not 0 < self.rate_hz <= MAX_RATE_HZ:
            raise QueryError(
                f"rate of a standing query is {self.rate_hz} hz, expected above 0 and at most "
                f"{MAX_RATE_HZ:g}; leave it out to be answered as often as the engine can"
            )
        if not 1 <= self.priority <= MAX_PRIORITY:
            raise QueryError(
                f"priority of a standing query is {self.priority}, expected 1 (the default) to "
                f"{MAX_PRIORITY}"
            )
        if self.lifetime_s is not None and not 0 < self.lifetime_s <= MAX_LIFETIME_S:
            raise QueryError(
                f"a standing query is to last {self.lifetime_s} s, expected above 0 and at most "
                f"{MAX_LIFETIME_S:g}; leave it out to ask until it is removed"
            )


@dataclass(frozen=True, slots=True, kw_only=True)
class Query:
    """One question.

    Args:
        name: short identifier, unique among the standing queries of a camera.
        kind: what is wanted.
        words: the thing with its article as the user said it ("the red mug", "all mugs"), or the
            whole question for `ask`.
        detail: which visual path.
        answer_fps: rate of a track's answer in frames per second (1 or 2 were trained); None for
            the model's default of 2.
        seed: start point of a track.
        terms: how often, how urgently and how long it is asked where it stands.

    Raises:
        QueryError: the words are empty, too long, or hold control characters or a model's control
            tokens; the rate or the start point does not suit the kind.
    """

    name: str
    kind: QueryKind
    words: str
    detail: Detail = Detail.FRAMES
    answer_fps: float | None = None
    seed: SeedPoint | None = None
    terms: Terms = Terms()

    def __post_init__(self) -> None:
        _check_words(self.words)
        if self.answer_fps is not None:
            if self.kind is not QueryKind.TRACK:
                raise QueryError(
                    f"a {self.kind.value} query has no rate, met {self.answer_fps} fps; leave it "
                    "out or write track:"
                )
            if not 0 < self.answer_fps <= MAX_ANSWER_FPS:
                raise QueryError(
                    f"answers at {self.answer_fps} fps, expected above 0 and at most "
                    f"{MAX_ANSWER_FPS}; 1 and 2 were trained"
                )
        if self.seed is not None and self.kind is not QueryKind.TRACK:
            raise QueryError(
                f"a {self.kind.value} query has no start point; leave it out or write track:"
            )


# Names that the model's tokenizer gives a meaning of their own. Words never become these tokens
# (prompt/tokenizer.py); whoever writes them is told instead of getting an answer about them.
_CONTROL_TOKEN = re.compile(
    r"<\|[A-Za-z0-9_]{1,40}\|>"
    r"|<(?:im_(?:patch|col|start|end|low)|low_res_im_start|frame_(?:start|end))>"
)


def parse_query(text: str, default_name: str = "") -> Query:
    """Read a question as people write it: `[name=][kind[options]:] words`.

    Options, separated by commas: `crops` (read the newest frame in tiles), `1 fps` (frames a second
    that a track's answer speaks of), `from X Y` or `from X Y at T` (start point in 0..1 of the
    frame, T in seconds from the clip's start); of a standing query also `2 hz` (answers a second),
    `priority 3` and `for 30 s` (see Terms). Without a kind it is guessed from the words, and what
    fits none is asked as it stands.

    Args:
        text: for example "Track the red mug", "count: mugs", "cup=point[crops]: the red cup",
            "track[1 fps]: the lemon", "mug=track[2 hz, for 60 s]: the red mug",
            "Is the drawer open?".
        default_name: name where the text gives none; where both are missing, one is made of the
            words.

    Raises:
        QueryError: the text is empty, too long, or malformed.
    """
    _check_text(text)
    name, rest = _split_name(text.strip())
    kind_name, options, words = _split_kind(rest)
    kind, words, answer_fps = _kind_and_words(kind_name, words)
    detail, option_fps, seed, terms = _options(options)
    return Query(
        name=name or default_name or _name_from(words) or kind.value,
        kind=kind,
        words=words,
        detail=detail,
        answer_fps=answer_fps if option_fps is None else option_fps,
        seed=seed,
        terms=terms,
    )


def asked_once(query: Query) -> Query:
    """The question itself, where it is not going to stand.

    Raises:
        QueryError: it has terms, which only a standing one can have.
    """
    if query.terms != Terms():
        raise QueryError(
            f"question {query.words[:60]!r} is asked once and has a rate, a priority or a time to "
            "last, expected none; leave the option out, or let it stand (~/query)"
        )
    return query


def question_text(query: Query) -> str:
    """The question in a form that Molmo2 was trained on.

    Returns:
        "Track the red mug.", "Track the red mug at 1 FPS", "Point to all mugs.",
        "How many mugs are there?", the single-point form with its style where there is a start
        point, or the words as they stand for `ask`.

    Source: template families of the released training code and of the model card.
    """
    if query.kind is QueryKind.ASK:
        return query.words
    if query.kind is QueryKind.COUNT:
        return f"How many {label(query)} are there?"
    if query.kind is QueryKind.POINT:
        return f"Point to {_with_article(query.words)}."
    if query.seed is not None:
        seed = query.seed
        point = f"{seed.time_s:.1f} 1 {round(seed.x * 1000):03d} {round(seed.y * 1000):03d}"
        rate = _rate_text(2.0 if query.answer_fps is None else query.answer_fps)
        return (
            "video_single_point_track_per_frame: "
            f'Track <points coords="{point}">{label(query)}</points> in {rate} FPS.'
        )
    # "Track all mugs." is in no family; several things are named in the plural.
    words = re.sub(r"^all\s+(?:of\s+)?(?:the\s+)?", "the ", query.words, flags=re.IGNORECASE)
    if query.answer_fps is None:
        return f"Track {_with_article(words)}."
    return f"Track {_with_article(words)} at {_rate_text(query.answer_fps)} FPS"


def label(query: Query) -> str:
    """The thing without article or "all": what the answer's tag names."""
    if query.kind is QueryKind.ASK:
        return query.words
    return _ARTICLE.sub("", query.words, count=1) or query.words


_NAME = re.compile(r"([A-Za-z][A-Za-z0-9_-]{0,63})\s*=(?!=)\s*")
_KIND = re.compile(r"(track|point|count|ask)\s*(?:\[([^\]]*)\])?\s*:\s*", re.IGNORECASE)
_RATE = re.compile(r"(?:\s+(?:at|in)\s+(\d+(?:\.\d+)?)\s*fps)$", re.IGNORECASE)
_FROM = re.compile(r"from\s+(\S+)\s+(\S+)(?:\s+at\s+(\S+))?", re.IGNORECASE)
_FPS = re.compile(r"(\S+?)\s*fps", re.IGNORECASE)
_HZ = re.compile(r"(\S+?)\s*hz", re.IGNORECASE)
_PRIORITY = re.compile(r"priority\s+(\S+)", re.IGNORECASE)
_FOR = re.compile(r"for\s+(\S+?)\s*s", re.IGNORECASE)
_ARTICLE = re.compile(
    r"^(?:all\s+(?:of\s+)?(?:the\s+)?|every\s+|each\s+|any\s+|the\s+|an?\s+)(?=\S)", re.IGNORECASE
)
# Words that stand where an article would; after them none is added.
_DETERMINER = re.compile(
    r"^(?:the|an?|all|any|both|each|every\w*|my|your|our|his|her|its|their|this|that|these|those|"
    r"some|what\w*|who\w*|where\w*)\b",
    re.IGNORECASE,
)

# Tried in this order: what follows the verb is the thing.
_GUESSES: tuple[tuple[QueryKind, re.Pattern[str], str], ...] = tuple(
    (kind, re.compile(pattern, re.IGNORECASE | re.DOTALL), form)
    for kind, pattern, form in (
        (QueryKind.TRACK, r"(?:track|follow)\s+(.+)", "{0}"),
        (QueryKind.POINT, r"point\s+(?:to|at|out)\s+(.+)", "{0}"),
        (QueryKind.POINT, r"(?:find|locate)\s+(?!out\b)(.+)", "{0}"),
        (QueryKind.POINT, r"where\s+is\s+(.+)", "{0}"),
        (QueryKind.POINT, r"where\s+are\s+(?:all\s+)?(?:of\s+)?(?:the\s+)?(.+)", "all {0}"),
        (
            QueryKind.COUNT,
            r"how\s+many\s+(.+?)\s+(?:are|is)\s+there(?:\s+in\s+(?:the|this)\s+(?:image|video))?",
            "{0}",
        ),
        (QueryKind.COUNT, r"how\s+many\s+(.+?)\s+(?:are|is)\s+there\s+(.+)", "{0} {1}"),
        (
            QueryKind.COUNT,
            r"how\s+many\s+(.+?)\s+(?:are|is|can\s+you\s+see|do\s+you\s+see)(?:\s+visible)?",
            "{0}",
        ),
        (QueryKind.COUNT, r"count\s+(.+)", "{0}"),
    )
)


def _check_text(text: str) -> None:
    if not text.strip():
        raise QueryError('query is empty, expected words such as "Track the red mug"')
    if len(text) > MAX_CHARACTERS:
        raise QueryError(
            f"query has {len(text)} characters, expected at most {MAX_CHARACTERS}; ask shorter, or "
            "one thing at a time"
        )


def _check_words(words: str) -> None:
    _check_text(words)
    for character in words:
        # Cs are halves of UTF-16 pairs: no text in UTF-8 can hold them.
        if unicodedata.category(character) in ("Cc", "Cs") and character not in "\n\t":
            raise QueryError(
                f"query holds the control character U+{ord(character):04X}; write plain text"
            )
    token = _CONTROL_TOKEN.search(words)
    if token:
        raise QueryError(
            f"query holds {token.group()!r}, a control token of the model, expected plain words; "
            "leave it out"
        )


def _split_name(text: str) -> tuple[str, str]:
    match = _NAME.match(text)
    return (match.group(1), text[match.end() :]) if match else ("", text)


def _split_kind(text: str) -> tuple[str, str, str]:
    match = _KIND.match(text)
    if not match:
        return "", "", text
    return match.group(1).lower(), match.group(2) or "", text[match.end() :]


def _kind_and_words(kind_name: str, words: str) -> tuple[QueryKind, str, float | None]:
    """The kind said or guessed, the thing asked about, and a rate that stands in the words."""
    if kind_name == QueryKind.ASK.value:
        return QueryKind.ASK, words.strip(), None
    core = words.strip().rstrip(".?! \t\n")
    rate = _RATE.search(core)
    for kind, pattern, form in _GUESSES:
        rated = rate if kind is QueryKind.TRACK else None
        match = pattern.fullmatch(core[: rated.start()] if rated else core)
        if match and kind_name in ("", kind.value):
            return kind, form.format(*match.groups()), float(rated.group(1)) if rated else None
    if not kind_name:
        return QueryKind.ASK, words.strip(), None
    if kind_name == QueryKind.TRACK.value and rate:
        return QueryKind.TRACK, core[: rate.start()], float(rate.group(1))
    return QueryKind(kind_name), core, None


def _options(text: str) -> tuple[Detail, float | None, SeedPoint | None, Terms]:
    detail, answer_fps, seed, terms = Detail.FRAMES, None, None, Terms()
    for option in filter(None, (part.strip() for part in text.split(","))):
        if option.lower() in ("crops", "frames"):
            detail = Detail(option.lower())
        elif fps := _FPS.fullmatch(option):
            answer_fps = _number(fps.group(1), option)
        elif hz := _HZ.fullmatch(option):
            terms = replace(terms, rate_hz=_number(hz.group(1), option))
        elif priority := _PRIORITY.fullmatch(option):
            terms = replace(terms, priority=_whole(priority.group(1), option))
        elif lifetime := _FOR.fullmatch(option):
            terms = replace(terms, lifetime_s=_number(lifetime.group(1), option))
        elif start := _FROM.fullmatch(option):
            x, y, time_s = start.groups(default="0")
            seed = SeedPoint(
                x=_number(x, option), y=_number(y, option), time_s=_number(time_s, option)
            )
        else:
            raise QueryError(
                f"unknown query option {option!r}, expected crops, frames, 1 fps, a start point "
                "such as from 0.52 0.31, or of a standing query 2 hz, priority 3, for 30 s"
            )
    return detail, answer_fps, seed, terms


def _number(text: str, option: str) -> float:
    return _read(float, text, option, "a number such as 0.5")


def _whole(text: str, option: str) -> int:
    return _read(int, text, option, "a whole number such as 3")


def _read(as_number: Callable[[str], Number], text: str, option: str, expected: str) -> Number:
    try:
        return as_number(text)
    except ValueError:
        raise QueryError(f"query option {option!r} holds {text!r}, expected {expected}") from None


def _name_from(words: str) -> str:
    thing = _ARTICLE.sub("", words, count=1).lower()
    return re.sub(r"[^a-z0-9]+", "_", thing)[:32].strip("_")


def _with_article(words: str) -> str:
    """Add "the" where a bare noun stands; names and numbers stay as they are."""
    if _DETERMINER.match(words) or not words[0].islower():
        return words
    return f"the {words}"


def _rate_text(fps: float) -> str:
    return f"{fps:g}"

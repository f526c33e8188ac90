"""What is asked about a camera's clip, and the words in which Molmo2 is asked it."""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Callable
from dataclasses import dataclass, replace
from enum import Enum
from typing import Any, TypeVar

from molmo2_ros.camera.stamp import stamp_decimal
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
    CAPTION = "caption"

    @property
    def is_in_words(self) -> bool:
        """Whether the answer is prose: nothing is asked for that could be pointed at."""
        return self in (QueryKind.ASK, QueryKind.CAPTION)


class Detail(str, Enum):
    """Which of Molmo2's two visual paths reads the picture."""

    FRAMES = "frames"  # one square view per frame, video pooling
    CROPS = "crops"  # low-resolution view plus tiled crops of the newest frame, image pooling


class Span(str, Enum):
    """How much of a camera's clip a question is about."""

    NEWEST = "newest"  # its newest frame alone
    CLIP = "clip"  # all of its frames


@dataclass(frozen=True, slots=True, kw_only=True)
class SeedPoint:
    """A given point to track from (Molmo2's `video_single_point_track_per_frame`).

    Raises:
        QueryError: a value is out of range.
    """

    time_s: float  # seconds from the clip's first frame; 0 where `stamp_ns` says when
    x: float  # 0..1 of the frame's width
    y: float  # 0..1 of the frame's height
    stamp_ns: int | None = None  # of the camera's frame on which it was seen (see anchors.py)

    def __post_init__(self) -> None:
        if not (0 <= self.x <= 1 and 0 <= self.y <= 1 and 0 <= self.time_s < 1e6):
            raise QueryError(
                f"start point is x {self.x}, y {self.y} at {self.time_s} s, expected x and y in "
                "0..1 of the frame and a time from 0: divide pixels by the frame's size"
            )
        if self.stamp_ns is not None and not 0 <= self.stamp_ns < 2**63:
            raise QueryError(
                f"start point is on a frame of {self.stamp_ns} ns, expected the stamp of a frame"
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
            whole question for `ask`. For `caption` "short", "long", or the whole request.
        detail: which visual path.
        over_clip: points and counts of the whole clip, each thing or event once on a frame where
            it is seen, instead of those on the newest frame.
        answer_fps: rate of a track's answer in frames per second (1 or 2 were trained); None for
            the model's default of 2.
        seed: start point of a track.
        style: of a question in words: name of a trained manner of answering, such as
            "video_short_answer"; None for a chat's.
        terms: how often, how urgently and how long it is asked where it stands.

    Raises:
        QueryError: the words are empty, too long, or hold control characters or a model's control
            tokens; an option does not suit the kind.
    """

    name: str
    kind: QueryKind
    words: str
    detail: Detail = Detail.FRAMES
    over_clip: bool = False
    answer_fps: float | None = None
    seed: SeedPoint | None = None
    style: str | None = None
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
        if self.over_clip:
            self._check_span()
        if self.style is not None:
            self._check_style(self.style)

    @property
    def span(self) -> Span:
        """How much of the clip it reads."""
        points = self.kind in (QueryKind.POINT, QueryKind.COUNT) and not self.over_clip
        return Span.NEWEST if points or self.detail is Detail.CROPS else Span.CLIP

    def _check_span(self) -> None:
        if self.kind not in (QueryKind.POINT, QueryKind.COUNT):
            raise QueryError(
                f"a {self.kind.value} query reads the whole clip already; leave `clip` out"
            )
        if self.detail is Detail.CROPS:
            raise QueryError(
                "`clip` asks about all frames and `crops` reads the newest alone; leave one out"
            )

    def _check_style(self, style: str) -> None:
        if not self.kind.is_in_words:
            raise QueryError(
                f"a {self.kind.value} query has its own trained form, met the style {style!r}; "
                "leave it out or write ask:"
            )
        if not _STYLE.fullmatch(style):
            raise QueryError(
                f"style is {style!r}, expected the name of a trained one such as "
                "video_short_answer; leave it out for a chat's answer"
            )


_STYLE = re.compile(r"[a-z][a-z0-9_]{0,63}", re.ASCII)
# Trained requests that name neither an image nor a video, so that they suit both.
_CAPTIONS = {"short": "Brief Caption:", "long": "Write a long caption"}
# Names that the model's tokenizer gives a meaning of their own. Words never become these tokens
# (prompt/tokenizer.py); whoever writes them is told instead of getting an answer about them.
_CONTROL_TOKEN = re.compile(
    r"<\|[A-Za-z0-9_]{1,40}\|>"
    r"|<(?:im_(?:patch|col|start|end|low)|low_res_im_start|frame_(?:start|end))>"
)


def parse_query(text: str, default_name: str = "") -> Query:
    """Read a question as people write it: `[name=][kind[options]:] words`.

    Options, separated by commas: `crops` (read the newest frame in tiles), `clip` (points and
    counts of the whole clip instead of its newest frame), `1 fps` (frames a second that a track's
    answer speaks of), `from X Y` or `from X Y at T` (start point in 0..1 of the frame, T in seconds
    from the clip's start), `style NAME` (a trained manner of answering in words); of a standing
    query also `from X Y on SEC.NANOSEC` (start point on the camera's frame of this stamp; the thing
    is tracked on from there as the clip slides), `2 hz` (answers a second), `priority 3` and
    `for 30 s` (see Terms). Without a kind it is guessed from the words, and what fits none is asked
    as it stands.

    Args:
        text: for example "Track the red mug", "count: mugs", "cup=point[crops]: the red cup",
            "count[clip]: mugs", "track[1 fps]: the lemon", "mug=track[2 hz, for 60 s]: the red
            mug", "caption: short", "Is the drawer open?".
        default_name: name where the text gives none; where both are missing, one is made of the
            words.

    Raises:
        QueryError: the text is empty, too long, or malformed.
    """
    _check_text(text)
    name, rest = _split_name(text.strip())
    if name:
        check_name(name)
    kind_name, options, words = _split_kind(rest)
    kind, words, answer_fps = _kind_and_words(kind_name, words)
    return Query(
        name=name or default_name or _name_from(words) or kind.value,
        kind=kind,
        words=words,
        **{"answer_fps": answer_fps, **_options(options)},
    )


def query_text(query: Query) -> str:
    """A query as people write it; `parse_query` reads the same query from it."""
    terms, seed = query.terms, query.seed
    options = [
        *(["crops"] if query.detail is Detail.CROPS else []),
        *(["clip"] if query.over_clip else []),
        *([f"style {query.style}"] if query.style else []),
        *([f"{query.answer_fps!r} fps"] if query.answer_fps is not None else []),
        *([_seed_text(seed)] if seed is not None else []),
        *([f"{terms.rate_hz!r} hz"] if terms.rate_hz is not None else []),
        *([f"priority {terms.priority}"] if terms.priority != 1 else []),
        *([f"for {terms.lifetime_s!r} s"] if terms.lifetime_s is not None else []),
    ]
    shown = f"[{', '.join(options)}]" if options else ""
    return f"{query.name}={query.kind.value}{shown}: {query.words}"


def _seed_text(seed: SeedPoint) -> str:
    if seed.stamp_ns is None:
        return f"from {seed.x!r} {seed.y!r} at {seed.time_s!r}"
    return f"from {seed.x!r} {seed.y!r} on {stamp_decimal(seed.stamp_ns)}"


def check_name(name: str) -> None:
    """Refuse what is no name of a query.

    Raises:
        QueryError: says what one is.
    """
    if not _PLAIN_NAME.fullmatch(name) or name.lower() == "all":
        raise QueryError(
            f"query name is {name[:80]!r}, expected a letter and then at most 63 letters, digits, "
            "_ or -, and not `all`"
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


def question_text(query: Query, num_images: int = 1) -> str:
    """The question in a form that Molmo2 was trained on.

    Args:
        query: what is asked.
        num_images: how many still images it is asked about at once; 1 also for a clip.

    Returns:
        "Track the red mug.", "Track the red mug at 1 FPS", "Point to all mugs.",
        "How many mugs are there?", of several images "How many mugs are there in all images?", the
        single-point form with its style where there is a start point, "Brief Caption:", or the
        words as they stand for `ask`, behind "video_short_answer: " where that is the style.

    Source: template families of the released training code and of the model card.
    """
    if query.kind.is_in_words:
        asked = query.words
        if query.kind is QueryKind.CAPTION:
            asked = _CAPTIONS.get(asked.lower(), asked)
        return f"{query.style}: {asked}" if query.style else asked
    if query.kind is QueryKind.COUNT:
        return f"How many {label(query)} are there{' in all images' if num_images > 1 else ''}?"
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
    if query.kind.is_in_words:
        return query.words
    return _ARTICLE.sub("", query.words, count=1) or query.words


_PLAIN_NAME = re.compile(r"[A-Za-z][A-Za-z0-9_-]{0,63}")
_NAME = re.compile(r"([A-Za-z][A-Za-z0-9_-]{0,63})\s*=(?!=)\s*")
_KIND = re.compile(r"(track|point|count|ask|caption)\s*(?:\[([^\]]*)\])?\s*:\s*", re.IGNORECASE)
_RATE = re.compile(r"(?:\s+(?:at|in)\s+(\d+(?:\.\d+)?)\s*fps)$", re.IGNORECASE)
_FROM = re.compile(r"from\s+(\S+)\s+(\S+)(?:\s+(at|on)\s+(\S+))?", re.IGNORECASE)
_STAMP = re.compile(r"(\d{1,10})\.(\d{9})", re.ASCII)
_FPS = re.compile(r"(\S+?)\s*fps", re.IGNORECASE)
_HZ = re.compile(r"(\S+?)\s*hz", re.IGNORECASE)
_PRIORITY = re.compile(r"priority\s+(\S+)", re.IGNORECASE)
_FOR = re.compile(r"for\s+(\S+?)\s*s", re.IGNORECASE)
_STYLED = re.compile(r"style\s+(\S+)", re.IGNORECASE)
_ARTICLE = re.compile(
    r"^(?:all\s+(?:of\s+)?(?:the\s+)?|every\s+|each\s+|any\s+|the\s+|an?\s+)(?=\S)", re.IGNORECASE
)
# Words that stand where an article would; after them none is added.
_DETERMINER = re.compile(
    r"^(?:the|an?|all|any|both|each|every\w*|my|your|our|his|her|its|their|this|that|these|those|"
    r"some|what\w*|who\w*|where\w*)\b",
    re.IGNORECASE,
)

# What follows is no sentence; a can is a thing unless it is followed by what somebody can.
_PLACES = r"(?:of|on|in|at|by|to|from|with|under|behind|beside|near|next|left|right|and|or)"
_NO_VERB = (
    r"(?!.*\b(?:is|are|was|were|am|be|been|do|does|did|has|have|had|could|will|would|shall|"
    rf"should|must|may|might|cannot|\w+n['\u2019]t|can\s+(?!{_PLACES}\b)\w+)\b)"
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
        (
            QueryKind.COUNT,
            rf"how\s+many\s+({_NO_VERB}(?!times\b|\w*seconds\b|minutes\b|hours\b|days\b)"
            rf"[\w-]+(?:\s+[\w-]+)?(?:\s+{_PLACES}\s+.+)?)",
            "{0}",
        ),
    )
)
# A thing and nothing said of it, as somebody calls out to a robot.
_THING = re.compile(
    rf"(?:the|an?|all(?!\s+(?:right|good|clear|done|set)\b)|both|each|every|my|your|our|these|those)"
    rf"[ \t]+{_NO_VERB}[^\s?]+(?:[ \t]+[^\s?]+){{0,7}}",
    re.IGNORECASE,
)
# Requests like those for captions in training.
_CAPTION = re.compile(
    r"(?:briefly\s+)?(?:describe|caption)\s+"
    r"(?:this|(?:this|the)\s+(?:image|picture|photo|video|clip|scene))"
    r"(?:\s+(?:briefly|in\s+detail))?(?:\s+from\s+\S+\s+to\s+\S+(?:\s+seconds)?)?"
    r"|(?:write|generate|create|construct)\s+an?\s+(?:(?:very\s+)?(?:long|short|brief|detailed)\s+)?"
    r"(?:caption|description)\b.*",
    re.IGNORECASE | re.DOTALL,
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
    if kind_name in (QueryKind.ASK.value, QueryKind.CAPTION.value):
        return QueryKind(kind_name), words.strip(), None
    core = words.strip().rstrip(".?! \t\n")
    rate = _RATE.search(core)
    for kind, pattern, form in _GUESSES:
        rated = rate if kind is QueryKind.TRACK else None
        match = pattern.fullmatch(core[: rated.start()] if rated else core)
        if match and kind_name in ("", kind.value):
            return kind, form.format(*match.groups()), float(rated.group(1)) if rated else None
    if not kind_name and _THING.fullmatch(words.strip()) and not words.strip().endswith((".", "?")):
        return QueryKind.POINT, core, None
    if not kind_name:
        is_caption = _CAPTION.fullmatch(core) is not None
        return QueryKind.CAPTION if is_caption else QueryKind.ASK, words.strip(), None
    if kind_name == QueryKind.TRACK.value and rate:
        return QueryKind.TRACK, core[: rate.start()], float(rate.group(1))
    return QueryKind(kind_name), core, None


def _options(text: str) -> dict[str, Any]:
    """The fields of a query that its options give."""
    fields: dict[str, Any] = {}
    terms = Terms()
    for option in filter(None, (part.strip() for part in text.split(","))):
        if option.lower() in ("crops", "frames"):
            fields["detail"] = Detail(option.lower())
        elif option.lower() == "clip":
            fields["over_clip"] = True
        elif fps := _FPS.fullmatch(option):
            fields["answer_fps"] = _number(fps.group(1), option)
        elif styled := _STYLED.fullmatch(option):
            fields["style"] = styled.group(1)
        elif hz := _HZ.fullmatch(option):
            terms = replace(terms, rate_hz=_number(hz.group(1), option))
        elif priority := _PRIORITY.fullmatch(option):
            terms = replace(terms, priority=_whole(priority.group(1), option))
        elif lifetime := _FOR.fullmatch(option):
            terms = replace(terms, lifetime_s=_number(lifetime.group(1), option))
        elif start := _FROM.fullmatch(option):
            fields["seed"] = _seed(start, option)
        else:
            raise QueryError(
                f"unknown query option {option!r}, expected crops, frames, clip, 1 fps, a start "
                "point such as from 0.52 0.31, a style such as style video_short_answer, or of a "
                "standing query 2 hz, priority 3, for 30 s"
            )
    return {**fields, "terms": terms}


def _seed(start: re.Match[str], option: str) -> SeedPoint:
    x, y, preposition, when = start.groups()
    given = SeedPoint(x=_number(x, option), y=_number(y, option), time_s=0.0)
    if preposition is None or preposition.lower() == "at":
        return replace(given, time_s=_number(when or "0", option))
    stamp = _STAMP.fullmatch(when)
    if stamp is None:
        raise QueryError(
            f"query option {option!r} holds {when!r}, expected a frame's stamp in seconds with all "
            "nine decimals, such as 1700000000.250000000"
        )
    stamp_ns = int(stamp.group(1)) * 1_000_000_000 + int(stamp.group(2))
    return replace(given, stamp_ns=stamp_ns)


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
    name = re.sub(r"[^a-z0-9]+", "_", thing)[:32].strip("_")
    return "" if name == "all" else name  # a command's word for every query


def _with_article(words: str) -> str:
    """Add "the" where a bare noun stands; names and numbers stay as they are."""
    if _DETERMINER.match(words) or not words[0].islower():
        return words
    return f"the {words}"


def _rate_text(fps: float) -> str:
    return f"{fps:g}"

"""A page that stands alone: the worst answers with their pictures, the truth drawn in.

Nothing is fetched, and all words of data sets and models are escaped: it may be opened wherever
they come from.
"""

from __future__ import annotations

import base64
import html
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from molmo2_ros.training.data.answers import SAME_S
from molmo2_ros.training.evaluation.scoring import Mark, Scored
from molmo2_ros.training.evaluation.truth import NEAR

PAGE_FILE = "failures.html"
SHEET_FILE = "failures.jpg"
TILE_WIDTH, LARGE_TILE_WIDTH = 260, 420  # pixels; the second of one or two pictures
MAX_TILES = 8  # of one question
_COLUMNS, _GAP, _QUALITY = 4, 4, 88
_MOST_TEXT = 1200  # characters of an answer
_MOST_LINE = 130  # characters of a line on the sheet
_SHEET_QUALITY = 70
_TRUTH, _SAID, _EDGE = (30, 160, 70), (215, 40, 140), (255, 255, 255)

Image = npt.NDArray[np.uint8]


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """One question with its pictures."""

    scored: Scored
    strip: bytes  # JPEG


def draw_strip(one: Scored, pictures: Sequence[Image], places: Sequence[float]) -> bytes:
    """The pictures side by side with truth and answer, as JPEG.

    Of a long clip those are shown on which truth or answer have a point, spread evenly.

    Args:
        one: with its marks.
        pictures: uint8 [H, W, 3] RGB each.
        places: of each.
    """
    at = [[mark for mark in one.marks if abs(mark.at - place) < SAME_S] for place in places]
    if len(pictures) == 1:
        at = [list(one.marks)]
    told = [i for i, marks in enumerate(at) if marks] if len(pictures) > MAX_TILES else []
    chosen = told or list(range(len(pictures)))
    if len(chosen) > MAX_TILES:
        spread = np.linspace(0, len(chosen) - 1, MAX_TILES)
        chosen = [chosen[round(float(i))] for i in spread]
    tile_width = LARGE_TILE_WIDTH if len(chosen) <= 2 else TILE_WIDTH
    stamps = [f"{place:g}" if len(pictures) > 1 else "" for place in places]
    tiles = [_tile(pictures[i], at[i], stamps[i], tile_width) for i in chosen]
    sheet = _sheet(tiles)
    quality = [cv2.IMWRITE_JPEG_QUALITY, _QUALITY]
    return bytes(cv2.imencode(".jpg", np.ascontiguousarray(sheet[..., ::-1]), quality)[1])


def _sheet(tiles: Sequence[Image]) -> Image:
    """Rows of four, uint8 [H, W, 3] RGB."""
    height, width = max(len(tile) for tile in tiles), tiles[0].shape[1]
    columns = min(len(tiles), _COLUMNS)
    rows = -(-len(tiles) // columns)
    sheet = np.full((rows * (height + _GAP), columns * (width + _GAP), 3), 255, np.uint8)
    for number, tile in enumerate(tiles):
        top, left = number // columns * (height + _GAP), number % columns * (width + _GAP)
        sheet[top : top + len(tile), left : left + width] = tile
    return sheet


def _tile(picture: Image, marks: Sequence[Mark], stamp: str, tile_width: int) -> Image:
    height, width = picture.shape[:2]
    size = tile_width, max(round(height * tile_width / width), 1)
    how = cv2.INTER_AREA if width > tile_width else cv2.INTER_CUBIC
    tile = np.ascontiguousarray(cv2.resize(picture, size, interpolation=how), np.uint8)
    for mark in sorted(marks, key=lambda m: not m.is_truth):
        centre = round(mark.x * size[0]), round(mark.y * size[1])
        if mark.is_truth:
            cv2.circle(tile, centre, 13, _EDGE, 4, cv2.LINE_AA)
            cv2.circle(tile, centre, 13, _TRUTH, 2, cv2.LINE_AA)
        else:
            cv2.circle(tile, centre, 5, _EDGE, -1, cv2.LINE_AA)
            cv2.circle(tile, centre, 3, _SAID, -1, cv2.LINE_AA)
            _write(tile, mark.name, (centre[0] + 7, centre[1] - 5), _SAID)
    _write(tile, stamp, (4, 15), (30, 30, 30))
    return tile


def _write(tile: Image, text: str, place: tuple[int, int], colour: tuple[int, int, int]) -> None:
    for thickness, paint in ((4, _EDGE), (1, colour)):
        cv2.putText(
            tile, text, place, cv2.FONT_HERSHEY_SIMPLEX, 0.45, paint, thickness, cv2.LINE_AA
        )


def draw_sheet(failures: Mapping[str, Sequence[Failure]], each: int = 2) -> bytes:
    """The worst answers of each main measure below each other with their words, as JPEG.

    Args:
        failures: by main measure, the worst first; one at least.
        each: of them are shown of each measure.
    """
    parts: list[Image] = []
    for group in failures.values():
        for failure in group[:each]:
            strip = np.asarray(cv2.imdecode(np.frombuffer(failure.strip, np.uint8), 1), np.uint8)
            parts += [_words(failure.scored), strip[..., ::-1]]
    width = max(part.shape[1] for part in parts)
    sheet = np.full((sum(map(len, parts)), width, 3), 255, np.uint8)
    top = 0
    for part in parts:
        sheet[top : top + len(part), : part.shape[1]] = part
        top += len(part)
    quality = [cv2.IMWRITE_JPEG_QUALITY, _SHEET_QUALITY]
    return bytes(cv2.imencode(".jpg", np.ascontiguousarray(sheet[..., ::-1]), quality)[1])


def _words(one: Scored) -> Image:
    """Question, truth and answer as three lines, each cut where the sheet ends."""
    lines = (
        (f"{one.question}   ({one.main} {one.score:.2f})", (30, 30, 30)),
        (f"expected: {one.expected}", _TRUTH),
        (f"answered: {one.said or '(nothing)'}", _SAID),
    )
    band = np.full((8 + 18 * len(lines), _COLUMNS * (TILE_WIDTH + _GAP), 3), 255, np.uint8)
    for number, (line, colour) in enumerate(lines):
        _write(band, line[:_MOST_LINE], (4, 20 + 18 * number), colour)
    return band


# --- the page ----------------------------------------------------------------------------------

_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 70rem; padding: 0 1rem;
  color: #1c1c1c; background: #fff; }
section { border-top: 1px solid #bbb; padding: .8rem 0; }
img { max-width: 100%; height: auto; }
h3 { margin: 0 0 .4rem; font-size: 1.05rem; }
dl { display: grid; grid-template-columns: 7rem 1fr; gap: .1rem .8rem; margin: .5rem 0 0; }
dt { color: #666; } dd { margin: 0; overflow-wrap: anywhere; }
code { font: 13px ui-monospace, monospace; white-space: pre-wrap; }
.truth { color: #1ea046; } .said { color: #d7288c; }
"""


def failures_page(title: str, failures: Mapping[str, Sequence[Failure]]) -> Iterator[str]:
    """The whole page.

    Args:
        title: what was measured on what.
        failures: by main measure, the worst first.
    """
    heading = html.escape(f"Worst answers: {title}")
    yield (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta http-equiv="Content-Security-Policy" '
        "content=\"default-src 'none'; img-src data:; style-src 'unsafe-inline'\">"
        f"<title>{heading}</title><style>{_STYLE}</style></head><body><h1>{heading}</h1>"
        '<p><b class="truth">Green rings</b> are the truth, <b class="said">pink points</b> what '
        "the model answered, with the ids that it wrote. A point is right where it lies on the "
        "object, in its mask; where the data has no mask, "
        f"within {100 * NEAR:g} % of the picture's diagonal of the ring's middle. Numbers in the "
        "corner of a picture are seconds of the clip, or the image's number. Of equal scores the "
        "answer that the model was surest of comes first.</p>"
    )
    if not failures:
        yield "<p>Every answer has the full score.</p>"
    for main, group in failures.items():
        yield f"<h2>{html.escape(main)}</h2>"
        for failure in group:
            yield from _section(failure)
    yield "</body></html>\n"


def _section(failure: Failure) -> Iterator[str]:
    one = failure.scored
    picture = base64.b64encode(failure.strip).decode("ascii")
    sure = [point.confidence for point in one.judged if np.isfinite(point.confidence)]
    facts = [
        ("question", f"<code>{html.escape(one.question)}</code>"),
        ("expected", f"<code>{html.escape(_short(one.expected))}</code>"),
        ("answered", f"<code>{html.escape(_short(one.said)) or '(nothing)'}</code>"),
        ("score", f"{html.escape(one.main)} {one.score:.2f}{_others(one)}"),
    ]
    if sure:
        facts.append(("confidence", f"{np.mean(sure):.2f} of its points on average"))
    yield f"<section><h3>{html.escape(one.example)}</h3>"
    yield f'<img alt="truth and answer" src="data:image/jpeg;base64,{picture}"><dl>'
    yield "".join(f"<dt>{name}</dt><dd>{value}</dd>" for name, value in facts)
    yield "</dl></section>"


def _others(one: Scored) -> str:
    shown = ("pointing_precision", "pointing_recall", "video_pointing_precision",
             "video_pointing_recall", "hota", "hidden_left_out")  # fmt: skip
    found = [f"{name} {np.mean(one.measures[name]):.2f}" for name in shown if name in one.measures]
    return f" ({', '.join(found)})" if found else ""


def _short(text: str) -> str:
    return text if len(text) <= _MOST_TEXT else f"{text[:_MOST_TEXT]} ... ({len(text)} characters)"

"""What the model will see of a data set: a sheet of pictures, and a page with every token.

The page stands alone (pictures inside, nothing fetched) and everything that comes from the data set
is escaped: it may be looked at in any browser, whoever made the data.
"""

from __future__ import annotations

import base64
import html
from collections.abc import Iterator, Sequence
from itertools import islice
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt

from molmo2_ros.camera.clip import stamp_text
from molmo2_ros.errors import ConfigError, DataError
from molmo2_ros.prompt.tokenizer import PromptTokenizer
from molmo2_ros.runtime.manifest import Manifest
from molmo2_ros.training.data.answers import SAME_S
from molmo2_ros.training.data.dataset import Dataset
from molmo2_ros.training.data.example import LabelledObject
from molmo2_ros.training.data.media import load_picture
from molmo2_ros.training.data.shown import Shown, show
from molmo2_ros.training.recipe.messages import IGNORED, PREFIX, TokenTree, TreeWriter

SHEET_FILE, PAGE_FILE = "sheet.png", "view.html"
TILE = 240  # pixels of a picture on the page, square as the model sees it
MAX_FRAMES = 12  # of one example
MAX_TOKENS = 1 << 20  # every annotation is to be seen
_SHEET_COLUMNS = 6
_COLOURS = ((66, 135, 245), (240, 140, 20), (40, 170, 80), (200, 60, 160), (120, 90, 210))

Image = npt.NDArray[np.uint8]


def write_view(dataset: Dataset, engine: Path, out: Path, *, num: int) -> tuple[Path, Path]:
    """Draw the first examples of a data set.

    Args:
        dataset: to look at.
        engine: whose tokenizer and picture sizes are used.
        out: folder for both files.
        num: examples.

    Returns:
        the sheet and the page.

    Raises:
        ConfigError: `num` is below 1.
        DataError: media that cannot be read, or the files cannot be written.
        EngineError: the engine's folder is none.
    """
    if num < 1:
        raise ConfigError(f"{num} examples to show, expected at least 1")
    tokenizer = PromptTokenizer(engine)
    writer = TreeWriter(tokenizer, Manifest.load(engine, verify=False).vision)
    shown = [
        show(dataset.folder, example, writer, max_frames=MAX_FRAMES, max_tokens=MAX_TOKENS)
        for example in islice(dataset, num)
    ]
    tiles = [_tiles(each, dataset.folder) for each in shown]
    sheet, page = out / SHEET_FILE, out / PAGE_FILE
    try:
        out.mkdir(parents=True, exist_ok=True)
        sheet.write_bytes(cv2.imencode(".png", draw_sheet(tiles)[..., ::-1])[1].tobytes())
        page.write_text("".join(_page(dataset, shown, tiles, tokenizer)), encoding="utf-8")
    except OSError as error:
        raise DataError(f"cannot write to {out}: {error}") from error
    return sheet, page


def draw_sheet(tiles_of: Sequence[Sequence[Image]]) -> Image:
    """The tiles of all examples in rows, uint8 [H, W, 3] RGB."""
    tiles = [tile for tiles in tiles_of for tile in tiles]
    missing = -len(tiles) % _SHEET_COLUMNS if tiles else _SHEET_COLUMNS  # words alone have none
    tiles += [np.full((TILE, TILE, 3), 255, np.uint8)] * missing
    rows = [np.hstack(tiles[i : i + _SHEET_COLUMNS]) for i in range(0, len(tiles), _SHEET_COLUMNS)]
    return np.vstack(rows)


def _tiles(shown: Shown, folder: Path) -> list[Image]:
    """Its pictures, square as the model gets them, with what is known drawn in."""
    things = [thing for annotation in shown.example.annotations for thing in annotation.objects]
    places = zip(shown.pictures, _places(shown), strict=True)
    return [_tile(folder, picture, things, place) for picture, place in places]


def _places(shown: Shown) -> list[float]:
    """What points and masks name the pictures by: a frame's time, an image's number."""
    return shown.times_s or [float(i) for i in range(1, len(shown.pictures) + 1)]


def _tile(folder: Path, picture: Image, things: Sequence[LabelledObject], at: float) -> Image:
    tile = np.ascontiguousarray(cv2.resize(picture, (TILE, TILE), interpolation=cv2.INTER_AREA))
    for number, thing in enumerate(things):
        colour = _COLOURS[number % len(_COLOURS)]
        for place, path in thing.masks:
            if abs(place - at) < SAME_S:
                mask = load_picture(folder / path)[..., 0]
                small = cv2.resize(mask, (TILE, TILE), interpolation=cv2.INTER_NEAREST)
                outlines, _ = cv2.findContours(
                    (small > 127).astype(np.uint8), cv2.RETR_EXTERNAL, cv2.CHAIN_APPROX_SIMPLE
                )
                cv2.drawContours(tile, outlines, -1, colour, 1, cv2.LINE_AA)
        for point in thing.seen():
            shown_at = point.time_s if point.image is None else float(point.image)
            if shown_at is not None and abs(shown_at - at) < SAME_S:
                centre = round(point.x * TILE), round(point.y * TILE)
                cv2.circle(tile, centre, 5, (255, 255, 255), -1, cv2.LINE_AA)
                cv2.circle(tile, centre, 4, colour, -1, cv2.LINE_AA)
    return np.asarray(tile, np.uint8)


# --- the page ----------------------------------------------------------------------------------

_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; margin: 2rem auto; max-width: 78rem; padding: 0 1rem;
  color: #1c1c1c; background: #fff; }
section { border-top: 1px solid #bbb; padding: 1rem 0; }
figure { display: inline-block; margin: 0 .5rem .5rem 0; }
figcaption, .facts { color: #555; font-size: 13px; }
.tokens { font-family: ui-monospace, monospace; font-size: 13px; white-space: pre-wrap;
  margin: .5rem 0; }
.tokens span { border-radius: 3px; margin-right: 1px; background: #eee; }
.tokens .trained { background: #bfe6c4; }
@media (prefers-color-scheme: dark) { body { color: #ddd; background: #181818; }
  .tokens span { background: #333; } .tokens .trained { background: #1f5a2a; }
  figcaption, .facts { color: #aaa; } }
"""


def _page(
    dataset: Dataset,
    shown: Sequence[Shown],
    tiles_of: Sequence[Sequence[Image]],
    tokenizer: PromptTokenizer,
) -> Iterator[str]:
    title = html.escape(f"Data set {dataset.about.name}")
    yield (
        '<!doctype html><html lang="en"><head><meta charset="utf-8">'
        '<meta http-equiv="Content-Security-Policy" '
        "content=\"default-src 'none'; img-src data:; style-src 'unsafe-inline'\">"
        f"<title>{title}</title><style>{_STYLE}</style></head><body><h1>{title}</h1>"
    )
    sources = ", ".join(f"{n} by {html.escape(s)}" for s, n in dataset.about.sources.items())
    yield (
        f"<p>{len(dataset)} examples, annotations: {sources}. The first {len(shown)} as the model "
        "sees them. Tokens on green are trained; point at one for its weight.</p>"
    )
    for each, tiles in zip(shown, tiles_of, strict=True):
        yield from _section(each, tiles, tokenizer)
    yield "</body></html>\n"


def _section(shown: Shown, tiles: Sequence[Image], tokenizer: PromptTokenizer) -> Iterator[str]:
    tree = shown.tree
    num_visual = int(tree.is_visual.sum())
    yield f"<section><h2>{html.escape(shown.example.name)}</h2><p class='facts'>"
    yield f"{tree.num_tokens} tokens, {num_visual} of them visual, {tree.num_crops} views</p>"
    for tile, place in zip(tiles, _places(shown), strict=True):
        name = f"{stamp_text(place)} s" if shown.times_s else f"image {place:.0f}"
        encoded = cv2.imencode(".jpg", tile[..., ::-1])[1].tobytes()
        data = base64.b64encode(encoded).decode("ascii")
        yield f'<figure><img width="{TILE}" height="{TILE}" alt="{name}" '
        yield f'src="data:image/jpeg;base64,{data}"><figcaption>{name}</figcaption></figure>'
    for number in range(PREFIX + 1, int(tree.branch.max()) + 1):
        if not shown.example.dialogue:
            annotation, written = shown.example.annotations[number - 1], shown.written[number - 1]
            yield f"<p class='facts'>{html.escape(written.style)}, labels by "
            yield f"{html.escape(annotation.source)}</p>"
        yield f'<div class="tokens">{"".join(_tokens(tree, number, tokenizer))}</div>'
    yield "</section>"


def _tokens(tree: TokenTree, branch: int, tokenizer: PromptTokenizer) -> Iterator[str]:
    here = np.flatnonzero(tree.branch == branch)
    for index in here:
        text = html.escape(tokenizer.decode([int(tree.ids[index])], keep_control=True))
        if tree.labels[index] == IGNORED:
            yield f"<span>{text}</span>"
        else:
            yield f'<span class="trained" title="weight {tree.weights[index]:.3g}">{text}</span>'

"""Draws docs/images/architecture.svg: the rooms, what passes between them, and who calls them.

python docs/architecture_picture.py > docs/images/architecture.svg
"""

from __future__ import annotations

from xml.sax.saxutils import escape

WIDTH, HEIGHT = 1120, 560
INK, PAPER, PALE, ACCENT, LOOP = "#1d2733", "#ffffff", "#eef3f8", "#1f6fb2", "#a8521a"
BOX_W, BOX_H = 168, 92

# Room, what it does, left edge, upper edge.
ROOMS = (
    ("camera", ("light to frames", "to a sliding clip"), 40, 210),
    ("prompt", ("clip and question", "to patches, tokens, mask"), 260, 210),
    ("runtime", ("a frame encoded once,", "tokens to tokens"), 480, 210),
    ("answers", ("tokens to typed points,", "drafts read ahead"), 700, 210),
    ("tracking", ("answered points carried", "to the frame of now"), 920, 210),
    ("ros", ("nodes: topics, lifecycle,", "parameters, diagnostics"), 260, 40),
    ("cli", ("molmo2 ask, doctor,", "engine, train ..."), 480, 40),
    ("web", ("the live page and its", "interface for programs"), 700, 40),
    ("remote", ("the same questions to", "a model on a server"), 920, 40),
    ("simulation", ("a table, an arm, the truth:", "a camera to test with"), 40, 410),
    ("training", ("bags, corrections, labels", "to a better checkpoint"), 480, 410),
    ("bags", ("recordings of topics,", "read without ROS"), 700, 410),
    ("engines", ("checkpoint to graphs,", "plans, quantised weights"), 260, 410),
    ("machine", ("what this board has, and", "can run (molmo2 doctor)"), 920, 410),
)
# From, to, words, colour; between neighbours of a row, or straight up and down.
ARROWS = (
    ("camera", "prompt", "clip", INK),
    ("prompt", "runtime", "prompt", INK),
    ("runtime", "answers", "tokens", INK),
    ("answers", "tracking", "points", INK),
    ("simulation", "camera", "frames", LOOP),
    ("training", "engines", "weights", LOOP),
    ("bags", "training", "logs", LOOP),
)


def text(x: float, y: float, words: str, *, size: int = 13, colour: str = INK, **more: str) -> str:
    """One line of text, centred unless told otherwise."""
    attributes = {"text-anchor": "middle", **{k.replace("_", "-"): v for k, v in more.items()}}
    told = " ".join(f'{key}="{value}"' for key, value in attributes.items())
    place = f'x="{x:g}" y="{y:g}" font-size="{size}" fill="{colour}"'
    return f"<text {place} {told}>{escape(words)}</text>"


def arrow(x1: float, y1: float, x2: float, y2: float, colour: str) -> str:
    """A straight line with a head."""
    head = "loop" if colour == LOOP else "flow"
    return (
        f'<line x1="{x1:g}" y1="{y1:g}" x2="{x2:g}" y2="{y2:g}" stroke="{colour}" '
        f'stroke-width="2" marker-end="url(#{head})"/>'
    )


def room(name: str, does: tuple[str, str], x: float, y: float) -> list[str]:
    """A box with a room's name and two lines of what it does."""
    middle = x + BOX_W / 2
    return [
        f'<rect x="{x}" y="{y}" width="{BOX_W}" height="{BOX_H}" rx="8" fill="{PALE}" '
        f'stroke="{ACCENT}" stroke-width="1.5"/>',
        text(middle, y + 30, f"{name}/", size=17, colour=ACCENT, font_weight="bold"),
        text(middle, y + 55, does[0]),
        text(middle, y + 74, does[1]),
    ]


def between(start: str, end: str, words: str, colour: str) -> list[str]:
    """An arrow from one room to its neighbour, with what passes."""
    places = {name: (x, y) for name, _, x, y in ROOMS}
    (x1, y1), (x2, y2) = places[start], places[end]
    if y1 == y2:
        left, right = (x1 + BOX_W, x2) if x2 > x1 else (x1, x2 + BOX_W)
        y = y1 + BOX_H / 2
        return [
            arrow(left, y, right + (-6 if x2 > x1 else 6), y, colour),
            text((left + right) / 2, y - 9, words, size=12, colour=colour),
        ]
    x = x1 + BOX_W / 2
    return [
        arrow(x, y1, x, y2 + BOX_H + 6, colour),
        text(x + 8, (y1 + y2 + BOX_H) / 2 + 4, words, size=12, colour=colour, text_anchor="start"),
    ]


def grounder() -> list[str]:
    """The loop round the five rooms, and those that call it."""
    lines = [
        f'<rect x="24" y="172" width="1080" height="148" rx="12" fill="none" stroke="{INK}" '
        'stroke-width="1.5" stroke-dasharray="6 4"/>',
        text(40, 194, "Grounder: the only wiring of the rooms", colour=INK, text_anchor="start"),
    ]
    for x in (344, 564, 784):  # ros, cli, web
        lines.append(arrow(x, 132, x, 166, INK))
    lines += [
        text(354, 154, "clip, questions; points, answers", size=12, text_anchor="start"),
        arrow(1004, 166, 1004, 138, INK),
        text(1012, 157, "or there", size=12, text_anchor="start"),
        text(124, 76, "cameras in:", size=13, font_weight="bold"),
        text(124, 94, "image, camera_info, depth", size=12),
        text(124, 112, "out: ~/points, ~/answer, ~/target", size=12),
        arrow(228, 86, 254, 86, INK),
    ]
    return lines


def loop() -> list[str]:
    """From what was seen and corrected to the next engine."""
    return [
        f'<path d="M344 410 L344 352 L564 352 L564 326" fill="none" stroke="{LOOP}" '
        'stroke-width="2" marker-end="url(#loop)"/>',
        text(
            352,
            344,
            "engine, proved by its golden example",
            size=12,
            colour=LOOP,
            text_anchor="start",
        ),
        f'<path d="M784 320 L784 404" fill="none" stroke="{LOOP}" stroke-width="2" '
        'marker-end="url(#loop)"/>',
        text(792, 360, "recorded bags,", size=12, colour=LOOP, text_anchor="start"),
        text(792, 376, "corrections", size=12, colour=LOOP, text_anchor="start"),
        text(
            560,
            538,
            "In the middle row imports go from right to left only; errors.py stands before all. "
            "test/test_architecture.py holds it.",
        ),
    ]


def document() -> str:
    """The whole picture."""
    marker = (
        '<marker id="{0}" viewBox="0 0 10 10" refX="8" refY="5" markerWidth="7" markerHeight="7" '
        'orient="auto"><path d="M0 0 L10 5 L0 10 z" fill="{1}"/></marker>'
    )
    parts = [
        f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 20 {WIDTH} {HEIGHT - 20}" '
        'font-family="Helvetica, Arial, sans-serif" role="img" '
        'aria-label="The rooms of molmo2_ros and what passes between them">',
        f"<defs>{marker.format('flow', INK)}{marker.format('loop', LOOP)}</defs>",
        f'<rect width="{WIDTH}" height="{HEIGHT}" fill="{PAPER}"/>',
        *grounder(),
    ]
    for name, does, x, y in ROOMS:
        parts += room(name, does, x, y)
    for start, end, words, colour in ARROWS:
        parts += between(start, end, words, colour)
    return "\n".join([*parts, *loop(), "</svg>"])


if __name__ == "__main__":
    print(document())

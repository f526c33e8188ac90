"""`molmo2 top`: running nodes in a terminal, stage by stage.

Text that comes from topics is drawn as it stands: nothing in it is taken for markup.
"""

from __future__ import annotations

import argparse
import sys
import threading
import time
from collections.abc import Iterable, Iterator, Sequence
from contextlib import contextmanager, suppress
from typing import ClassVar

import rclpy
from rclpy.context import Context
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rclpy.signals import SignalHandlerOptions
from rich.console import Console
from rich.table import Table
from rich.text import Text
from textual.app import App, ComposeResult
from textual.binding import BindingType
from textual.widgets import DataTable, Footer, RichLog, Static

from molmo2_ros.ros.top_watch import Picture, Stage, TopWatch

_PERIOD_S = 0.5
_QUIET_S = 3.0  # without /diagnostics: nodes tell each second
_LEVELS = (("ok", "green"), ("warning", "yellow"), ("error", "red"), ("stale", "magenta"))
_STAGE_COLUMNS = ("stage", "is", "says")
_QUERY_COLUMNS = ("query", "kind", "words", "answers/s", "wished", "answered", "late", "missed")
# What is looked at first, of each stage; of others the first values.
_FIGURES = {
    "camera": ("rate_hz", "age_s", "frames_dropped", "frames_lost_in_transport"),
    "tracking": ("targets", "oldest_s", "targets_lost", "carry_ms"),
    "metres": ("cause", "points_in_metres"),
    "engine": ("runtime", "precision", "checksum", "self_test"),
    "answers": (
        "answers_rate_hz", "usual_s", "last_encode_s", "last_prefill_s", "last_decode_s",
        "drafts_accepted_share", "answers_degenerate",
    ),
    "queries": ("answers_rate_hz", "detections"),
    "process": ("memory_mb", "cores", "threads"),
}  # fmt: skip
_NUM_OTHER = 4


def stage_rows(stages: Iterable[Stage]) -> Iterator[tuple[Text, ...]]:
    """A line of the table for each stage; see _STAGE_COLUMNS."""
    for stage in stages:
        level, colour = _LEVELS[min(stage.level, len(_LEVELS) - 1)]
        wanted = _FIGURES.get(stage.name.partition(": ")[2], tuple(stage.values)[:_NUM_OTHER])
        figures = [f"{key} {stage.values[key]}" for key in wanted if key in stage.values]
        told = [stage.message, *figures] if stage.level else figures or [stage.message]
        yield plain(stage.name), Text(level, colour), plain("  ".join(told))


def query_rows(picture: Picture) -> Iterator[tuple[Text, ...]]:
    """A line of the table for each standing query; see _QUERY_COLUMNS."""
    for _, entry in picture.queries:
        refused, counts = entry.get("refused"), entry.get("counts")
        counted = counts if isinstance(counts, dict) else {}
        told = [
            entry.get("kind"),
            refused or entry.get("words"),
            entry.get("rate_hz"),
            entry.get("wanted_rate_hz"),
            *(counted.get(key) for key in ("answered", "late", "missed")),
        ]
        name = plain(entry.get("name"), "red" if refused else "")
        yield name, *(plain(value) for value in told)


def plain(value: object, style: str = "") -> Text:
    """What somebody else wrote, without what a terminal would obey; nothing for None."""
    text = "" if value is None else str(value)
    return Text("".join(c if c.isprintable() else "\N{REPLACEMENT CHARACTER}" for c in text), style)


def header(picture: Picture) -> Text:
    """How all is, in one line."""
    if not picture.stages:
        return Text("no node of this package tells of itself on /diagnostics", "red")
    if picture.age_s > _QUIET_S:
        return Text(f"nothing on /diagnostics for {picture.age_s:.0f} s", "red")
    worst = max(stage.level for stage in picture.stages)
    level, colour = _LEVELS[min(worst, len(_LEVELS) - 1)]
    nodes = list(dict.fromkeys(stage.name.partition(": ")[0] for stage in picture.stages))
    return plain(f"{level}: {', '.join(nodes)}, {len(picture.queries)} queries stand", colour)


class TopApp(App[None]):
    """The view.

    Args:
        watch: what is shown; spun by another thread.
    """

    TITLE = "molmo2 top"
    CSS = """
    #state { height: 1; padding: 0 1; }
    #stages { height: auto; max-height: 50%; }
    #queries { height: auto; max-height: 30%; }
    #answers { height: 1fr; border-top: solid $primary; padding: 0 1; }
    """
    BINDINGS: ClassVar[list[BindingType]] = [("q", "quit", "Quit")]

    def __init__(self, watch: TopWatch) -> None:
        super().__init__()
        self._watch = watch
        self._num_shown = 0

    def compose(self) -> ComposeResult:
        """One line of state, stages, queries, and the answers as they come."""
        yield Static(id="state")
        yield DataTable(id="stages", cursor_type="none")
        yield DataTable(id="queries", cursor_type="none")
        yield RichLog(id="answers", wrap=True, max_lines=500)
        yield Footer()

    def on_mount(self) -> None:
        """Begin to look."""
        self.query_one("#stages", DataTable).add_columns(*_STAGE_COLUMNS)
        self.query_one("#queries", DataTable).add_columns(*_QUERY_COLUMNS)
        self.set_interval(_PERIOD_S, self.look)
        self.look()

    def look(self) -> None:
        """Draw what is known now."""
        picture = self._watch.picture()
        self.query_one("#state", Static).update(header(picture))
        for place, rows in (
            ("#stages", stage_rows(picture.stages)),
            ("#queries", query_rows(picture)),
        ):
            table: DataTable[Text] = self.query_one(place, DataTable)
            table.clear()
            table.add_rows(rows)
        new = min(picture.num_answers - self._num_shown, len(picture.answers))
        for line in picture.answers[len(picture.answers) - new :]:
            self.query_one("#answers", RichLog).write(plain(line), expand=True)
        self._num_shown = picture.num_answers


def print_once(watch: TopWatch, wait_s: float, console: Console) -> int:
    """Wait for nodes to tell of themselves, and print it.

    Returns:
        0; 1 if none did, or one of them has an error.
    """
    end = time.monotonic() + wait_s
    while not watch.picture().stages and time.monotonic() < end:
        time.sleep(0.05)
    picture = watch.picture()
    console.print(header(picture))
    for columns, rows in (
        (_STAGE_COLUMNS, stage_rows(picture.stages)),
        (_QUERY_COLUMNS, query_rows(picture)),
    ):
        table = Table(*columns, box=None, pad_edge=False)
        for row in rows:
            table.add_row(*row)
        if table.row_count:
            console.print(table)
    return int(not picture.stages or any(stage.level >= 2 for stage in picture.stages))


@contextmanager
def watching(nodes: Sequence[str]) -> Iterator[TopWatch]:
    """A node that listens while the block runs, in a context of its own."""
    context = Context()
    rclpy.init(args=[], context=context, signal_handler_options=SignalHandlerOptions.NO)
    watch = TopWatch(nodes, context=context)
    executor = SingleThreadedExecutor(context=context)
    executor.add_node(watch)

    def spin() -> None:
        with suppress(ExternalShutdownException):
            executor.spin()

    thread = threading.Thread(target=spin, name="spin", daemon=True)
    thread.start()
    try:
        yield watch
    finally:
        executor.shutdown()
        thread.join(5.0)
        watch.destroy_node()
        context.try_shutdown()


def run(options: argparse.Namespace) -> int:
    """What `molmo2 top` does."""
    with watching(options.node or ["grounding"]) as watch:
        if options.once or not sys.stdout.isatty():
            return print_once(watch, options.wait, Console(soft_wrap=True))
        TopApp(watch).run()
    return 0

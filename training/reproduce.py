"""Ask a model an evaluation set of the Molmo2 paper, and print its figures beside the paper's.

    python -m molmo2_ros.training.reproduce molmo2-vp --engine torch:allenai/Molmo2-8B \
        --data Molmo2-VideoPointEval/ --media videos/

`--data` is the downloaded set in its hub's or its authors' own files (docs/datasets.md); it is
converted once, into `--work`, and then asked as any data set. `--list` tells all sets.
"""

from __future__ import annotations

import argparse
import json
import sys
import time
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from molmo2_ros.errors import ConfigError, Molmo2Error
from molmo2_ros.training.data.convert import convert, read_options
from molmo2_ros.training.data.dataset import Dataset
from molmo2_ros.training.evaluation.answer_log import open_log
from molmo2_ros.training.evaluation.any_engine import open_any
from molmo2_ros.training.evaluation.context import context, show_progress
from molmo2_ros.training.evaluation.on_dataset import Outcome, evaluate_dataset
from molmo2_ros.training.evaluation.published import (
    FAMILY,
    PublishedSet,
    published_sets,
    published_table,
)
from molmo2_ros.training.evaluation.report import Report
from molmo2_ros.training.evaluation.result import Result
from molmo2_ros.training.evaluation.segmenter import open_segmenter

NOT_OURS = (
    "The paper's numbers are the paper's (arXiv 2601.10611v4): none of them was measured by this "
    "package, which has not been run with released weights on these sets."
)
_RECIPE_FILE = "reproduce.json"  # how a converted set was made


@dataclass(frozen=True, slots=True, kw_only=True)
class Row:
    """One measure: ours, and the paper's by model, per cent."""

    figure: str
    means: str
    value: float | None  # None: not measured
    low: float | None
    high: float | None
    cases: int
    paper: Mapping[str, float]


def compare(chosen: PublishedSet, result: Result) -> list[Row]:
    """A set's measures beside those of the paper.

    Args:
        chosen: the set.
        result: of the evaluation.
    """
    table = published_table(chosen.table)
    rows = []
    for measure in chosen.measures:
        name, column = measure.ours, measure.theirs
        is_there = name in result["figures"]
        rows.append(
            Row(
                figure=name,
                means=measure.means,
                value=round(100 * result["figures"][name], 2) if is_there else None,
                low=round(100 * result["low"][name], 2) if is_there else None,
                high=round(100 * result["high"][name], 2) if is_there else None,
                cases=int(result["cases"].get(name, 0)),
                paper={
                    model: values[column]
                    for model, values in table.items()
                    if column is not None and column in values
                },
            )
        )
    return rows


def lines(title: str, engine: str, table: str, rows: Sequence[Row]) -> Iterator[str]:
    """The comparison for people."""
    yield f"{title}, per cent; the paper's {table.replace('_', ' ')} on the right"
    yield ""
    heads = "".join(f"{name:>13}" for name in FAMILY)
    yield f"{'figure':<26}{engine[-20:]:>21}{'95 % interval':>18}{'cases':>7}{heads}"
    for row in rows:
        ours, interval = "not measured", ""
        if row.value is not None:
            ours, interval = f"{row.value:.1f}", f"{row.low:.1f} .. {row.high:.1f}"
        theirs = "".join(f"{_told(row.paper.get(model)):>13}" for model in FAMILY)
        yield f"{row.figure:<26}{ours:>21}{interval:>18}{row.cases:>7}{theirs}"
    yield ""
    for row in rows:
        yield f"{row.figure}: {row.means}"


def main(arguments: Sequence[str] | None = None) -> int:
    """Command line."""
    options = _parser().parse_args(arguments)
    started = time.monotonic()
    try:
        sets = published_sets()
        if options.list:
            print("\n".join(f"{name:<18}{chosen.title}" for name, chosen in sets.items()))
            return 0
        chosen = _chosen(sets, options)
        outcome, read = _run(chosen, options)
    except Molmo2Error as error:
        print(f"reproduce: {error}", file=sys.stderr)
        return 2
    result = outcome.result
    rows = compare(chosen, result)
    if options.json:
        settings = {
            "set": options.set,
            "title": chosen.title,
            "engine": options.engine,
            "limit": options.limit,
            **outcome.settings,
            "seconds": round(time.monotonic() - started, 1),
        }
        whole = {
            "name": "reproduce",
            **context(),
            "settings": settings,
            "note": NOT_OURS,
            "rows": [_plain(row) for row in rows],
            **result,
        }
        print(json.dumps(whole, indent=2))
        return 0
    table = lines(chosen.title, options.engine, chosen.table, rows)
    print("\n".join([*table, "", *outcome.notes, *read, "", NOT_OURS]))
    return 0


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("set", nargs="?", help="such as molmo2-vp; --list tells all")
    parser.add_argument("--list", action="store_true", help="the sets, and nothing else")
    parser.add_argument(
        "--engine", default="engines/nano", help="folder, http address, or torch:CHECKPOINT"
    )
    parser.add_argument("--data", type=Path, help="folder of the downloaded set")
    parser.add_argument("--media", type=Path, help="folder or index of its videos or images")
    parser.add_argument("--work", type=Path, help="for the converted set (runs/reproduce/SET)")
    parser.add_argument(
        "--option", action="append", default=[], metavar="KEY=VALUE", help="of the reader, in YAML"
    )
    parser.add_argument("--limit", type=int, help="the first examples alone")
    parser.add_argument("--sam2", type=Path, metavar="FOLDER", help="checkpoint of SAM 2, for J&F")
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument(
        "--dtype", choices=("float32", "bfloat16"), default="float32", help="of torch:CHECKPOINT"
    )
    parser.add_argument(
        "--answers", type=Path, metavar="FILE", help="keep answers there, and go on behind them"
    )
    parser.add_argument("--json", action="store_true", help="one JSON object on stdout")
    parser.add_argument(
        "--report", type=Path, metavar="FOLDER", help="plots, and a page of the worst failures"
    )
    return parser


def _chosen(sets: Mapping[str, PublishedSet], options: argparse.Namespace) -> PublishedSet:
    if options.set not in sets:
        raise ConfigError(f"no set {options.set!r}, expected one of {', '.join(sets)}")
    if options.data is None:
        raise ConfigError("--data is missing, expected the folder of the downloaded set")
    if options.limit is not None and options.limit < 1:
        raise ConfigError(f"--limit is {options.limit}, expected one example at least")
    return sets[options.set]


def _run(chosen: PublishedSet, options: argparse.Namespace) -> tuple[Outcome, list[str]]:
    """Convert, ask and score; and what the reader told."""
    segmenter = None if options.sam2 is None else open_segmenter(options.sam2)
    opened = open_any(options.engine, threads=options.threads, dtype=options.dtype)
    work = options.work or Path("runs") / "reproduce" / options.set
    recipe = {
        **chosen.options,
        **(chosen.masks_of_all_frames if segmenter is not None else {}),
        **read_options(options.option),
    }
    _note_recipe(work, {"set": options.set, "data": str(options.data.resolve()), **recipe})
    read = convert(
        chosen.reader,
        options.data,
        work,
        media=options.media,
        options=recipe,
        limit=options.limit,
    )
    report = None if options.report is None else Report(options.report)
    outcome = evaluate_dataset(
        opened.grounder,
        Dataset.open(work),
        limit=options.limit,
        progress=show_progress,
        report=report,
        segmenter=segmenter,
        log=open_log(options.answers, options.engine, options.set),
    )
    if report is not None:
        report.write(f"{opened.name} on {chosen.title}")
    return outcome, read.lines()


def _note_recipe(work: Path, recipe: Mapping[str, Any]) -> None:
    """Write how a set is converted, or refuse a folder where it was converted otherwise."""
    path = work / _RECIPE_FILE
    if path.exists():
        before = json.loads(path.read_text(encoding="utf-8"))
        if before != recipe:
            raise ConfigError(
                f"{work} holds a set that was converted as {before}, expected {dict(recipe)}; "
                "remove it, or name another folder (--work)"
            )
        return
    try:
        work.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(recipe, indent=2) + "\n", encoding="utf-8")
    except OSError as error:
        raise ConfigError(f"cannot write to {work}: {error}") from error


def _plain(row: Row) -> dict[str, Any]:
    names = ("figure", "means", "value", "low", "high", "cases")
    return {**{name: getattr(row, name) for name in names}, "paper": dict(row.paper)}


def _told(value: float | None) -> str:
    return "-" if value is None else f"{value:.1f}"


if __name__ == "__main__":
    raise SystemExit(main())

"""The model card of an embedded engine: what it is, how it was made, what it reaches, how it fails.

`python -m molmo2_ros.training.nano.card --engine engines/nano [--report FOLDER]` writes README.md
and curves.svg into the engine's folder, from what `publish` and the evaluator left there; the
pictures of failures come from the evaluator's report.
"""

from __future__ import annotations

import argparse
import json
import shutil
import sys
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from molmo2_ros.errors import DataError, Molmo2Error
from molmo2_ros.runtime.manifest import Manifest

CURVES = "curves.jsonl"  # of a run: one line every few steps, means over the steps since the last
EVALUATION = "evaluation.json"  # the evaluator's report on the published engine
PLOT = "curves.svg"
FAILURES = "failures.jpg"
_WIDTH = 100

# figure of the evaluator: in words
_FIGURES = {
    "pointing_f1": "pointing F1",
    "counting_exact": "counting exact, 0 to 6 objects",
    "counting_close": "counting, at most one off",
    "absent_accuracy": "absent things denied (stills)",
    "absent_hard": "of these hard ones: they share colour or category with something in view",
    "tracking_f1": "tracking F1, 8 frames",
    "tracking_f1_several": "tracking F1, two or three alike things",
    "hidden_left_out": "frames left out in which the object is hidden or gone",
    "ids_one_to_one": "ids one to one, two or three alike things",
    "format_valid": "valid syntax",
    "seen_pairs_f1": "pointing F1 of pairs of colour and category that training saw",
    "held_out_pairs_f1": "the same of the pairs that it left out",
    "phrasing_spread": "largest difference of pointing F1 between three phrasings",
}
# curve: in words; the first of a panel names it
_PANELS = (
    ("dense heads: share right", ("patch", "token", "digit")),
    ("stills: share right", ("still_token", "still_look", "still_next")),
    ("clips: share right", ("clip_token", "clip_look", "clip_next", "clip_place")),
)


def write_card(engine: Path) -> Path:
    """Write README.md, and the plot of the learning curves if there are any.

    Args:
        engine: folder with manifest.json and what EVALUATION and CURVES name.

    Returns:
        The card.

    Raises:
        DataError: there is no report of the evaluator, or it is of another engine.
        EngineError: the folder holds no engine.
    """
    manifest, measured = Manifest.load(engine), _read_report(engine)
    curves = _read_curves(engine / CURVES) if (engine / CURVES).exists() else []
    if curves:
        plot_curves(curves, engine / PLOT)
    card = engine / "README.md"
    failing = _weakest(measured, (engine / FAILURES).exists())
    parts = [_head(manifest), _figures(measured), failing, _recipe(manifest, curves)]
    card.write_text("\n".join(parts), encoding="utf-8")
    return card


def _take_failures(report: Path, engine: Path) -> None:
    """The sheet of failures of a report, beside the card."""
    try:
        shutil.copyfile(report / FAILURES, engine / FAILURES)
    except OSError as error:
        raise DataError(
            f"cannot take {report / FAILURES} to {engine}: {error}; `evaluate --report` makes it"
        ) from error


def _read_report(engine: Path) -> dict[str, Any]:
    path = engine / EVALUATION
    try:
        measured: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError) as error:
        raise DataError(
            f"cannot read {path}: {error}; `python -m molmo2_ros.training.evaluate --json` makes it"
        ) from error
    missing = [key for key in ("figures", "low", "high", "cases", "finer") if key not in measured]
    if missing:
        raise DataError(f"{path} lacks {', '.join(missing)}; expected the evaluator's JSON")
    return measured


def _read_curves(path: Path) -> list[dict[str, Any]]:
    """The lines of a run in order; of a step that is there twice, after a kill, the last."""
    lines = [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]
    return list({(line["stage"], line["step"]): line for line in lines}.values())


def _head(manifest: Manifest) -> str:
    side, layers = manifest.vision.image_size, manifest.text.num_layers
    kinds = len(manifest.vocabulary)
    about = _paragraph(
        f"The model inside molmo2_ros: `transformers`' own Molmo2 classes in small ({side} pixels",
        f"a side, a language model of {layers} layers), trained from nothing on simulated tables.",
        f"It knows {kinds} kinds of objects and nothing else of the world. It is there so that the",
        "whole path from camera to tracks runs and can be tested anywhere; for real scenes load a",
        "released Molmo2, or train this one on pictures of your own (docs/training.md).",
    )
    facts = _paragraph(
        f"Licence: {manifest.source.license}. Skills: {', '.join(manifest.skills)}.",
        f"Objects: {', '.join(manifest.vocabulary)}.",
    )
    return f"# {manifest.name}\n\n{about}\n\n{facts}\n"


def _figures(measured: dict[str, Any]) -> str:
    settings = measured["settings"]
    scenes = settings["scenes"]
    about = _paragraph(
        f"{scenes} stills and {settings['clips']} clips of {settings['frames']} frames of fresh",
        f"shapes, textures and camera paths (seed {settings['seed']}), through the ONNX engine:",
        f"`python -m molmo2_ros.training.evaluate --engine engines/nano --scenes {scenes}`.",
    )
    rows = [
        f"| {words} | {measured['figures'][key]:.3f} | {measured['low'][key]:.3f} .. "
        f"{measured['high'][key]:.3f} | {measured['cases'][key]} |"
        for key, words in _FIGURES.items()
        if key in measured["figures"]
    ]
    table = "\n".join(["| figure | value | 95 % interval | cases |", "|---|---|---|---|", *rows])
    return f"## What it reaches\n\n{about}\n\n{table}\n"


def _weakest(measured: dict[str, Any], has_pictures: bool) -> str:
    hits = {k[: -len(" hit")]: v for k, v in measured["finer"].items() if k.endswith(" hit")}
    areas = {k: v for k, v in measured["finer"].items() if k.startswith("area >= ")}
    worst = sorted(hits, key=hits.__getitem__)[:6]
    about = _paragraph(
        f"Found least often: {', '.join(f'{name} {hits[name]:.2f}' for name in worst)}. By visible",
        "area at the model's input:",
        ", ".join(f"from {k.split()[-1]} px {v:.2f}" for k, v in areas.items()) + ".",
        "It is unsure of things of which less than a third is in view, and it answers about things",
        "that it does not know as if they were one of its kinds, or not there.",
    )
    shown = _paragraph(
        "The answers that were worst, green rings the truth, pink points what it answered:"
    )
    pictures = f"\n{shown}\n\n![Worst answers]({FAILURES})\n" if has_pictures else ""
    return f"## Where it fails\n\n{about}\n{pictures}"


def _recipe(manifest: Manifest, curves: Sequence[dict[str, Any]]) -> str:
    training = manifest.training
    pairs = "left out" if training.config.get("exclude_pairs") else "in view"
    about = _paragraph(
        f"`make nano`, seed {training.seed}, commit {training.commit}. Data: tables that the",
        "package renders itself, with exact masks; no picture and no text of anybody else. Four",
        f"pairs of colour and category are {pairs} (training/pairs.py).",
    )
    rows = [
        f"| {stage['name']} | {stage['steps']} | {_batch(stage)} | {stage['lr']} |"
        for stage in training.config["stages"]
    ]
    head = ["| stage | steps | batch of a step | peak learning rate |", "|---|---|---|---|"]
    table = "\n".join([*head, *rows])
    plot = f"\n![Shares that were right over the steps]({PLOT})\n" if curves else ""
    return f"## How it was made\n\n{about}\n\n{table}\n{plot}"


def _paragraph(*parts: str) -> str:
    return textwrap.fill(" ".join(parts), _WIDTH, break_on_hyphens=False)


def _batch(stage: dict[str, Any]) -> str:
    parts = [f"{stage[key]} {key}" for key in ("images", "stills") if stage.get(key)]
    if stage.get("clips"):
        numbers = stage["clips"].values()
        parts.append(f"{min(numbers)} to {max(numbers)} clips")
    return ", ".join(parts)


def plot_curves(curves: Sequence[dict[str, Any]], path: Path) -> None:
    """Draw the shares that were right, over the steps of all stages.

    Args:
        curves: lines of a run in order.
        path: picture to write, of a type that matplotlib knows by its ending.
    """
    from matplotlib.figure import Figure

    figure = Figure(figsize=(9, 6.5), layout="constrained")
    axes = figure.subplots(len(_PANELS), 1, sharex=True)
    ends, before, offset = [], None, 0
    at = []
    for line in curves:
        if before is not None and line["stage"] != before["stage"]:
            offset += before["step"]
            ends.append((offset, line["stage"]))
        at.append(offset + line["step"])
        before = line
    for axis, (title, names) in zip(axes, _PANELS, strict=True):
        for name in names:
            points = [(x, line[name]) for x, line in zip(at, curves, strict=True) if name in line]
            if points:
                axis.plot(*zip(*points, strict=True), label=name.split("_")[-1])
        for end, _stage in ends:
            axis.axvline(end, color="0.8", linewidth=1)
        axis.set(ylabel=title, ylim=(0, 1))
        if axis.get_legend_handles_labels()[0]:
            axis.legend(loc="lower right", ncols=4)
    axes[-1].set_xlabel("step; vertical lines: where a stage begins")
    figure.savefig(path, metadata={"Date": None} if path.suffix == ".svg" else None)


def main(arguments: list[str] | None = None) -> int:
    """Command line."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--engine", type=Path, default=Path("engines/nano"))
    parser.add_argument("--report", type=Path, help="folder of the evaluator's --report")
    options = parser.parse_args(arguments)
    try:
        if options.report is not None:
            _take_failures(options.report, options.engine)
        print(write_card(options.engine))
    except Molmo2Error as error:
        print(f"card: {error}", file=sys.stderr)
        return 2
    return 0


if __name__ == "__main__":
    raise SystemExit(main())

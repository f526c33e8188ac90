"""`molmo2 doctor`: what this machine can run, and how fast a device can be at most."""

from __future__ import annotations

import argparse
import json
import sys
from dataclasses import asdict
from pathlib import Path
from typing import Any

from molmo2_ros.cli.plan import as_plan_json, as_plan_table
from molmo2_ros.errors import ConfigError
from molmo2_ros.machine.capacity import check_capacity, needs
from molmo2_ros.machine.check import FAIL, Check
from molmo2_ros.machine.devices import DEVICES, find_device
from molmo2_ros.machine.facts import Machine
from molmo2_ros.machine.models import MODELS, find_model
from molmo2_ros.machine.precision import PRECISIONS, Precision, find_precision, precision_of
from molmo2_ros.machine.probes import probe
from molmo2_ros.machine.roofline import Workload, plan
from molmo2_ros.machine.runtimes import check_runtimes
from molmo2_ros.machine.transport import check_transport
from molmo2_ros.runtime.engine import engine_folder
from molmo2_ros.runtime.manifest import Manifest

EXIT_CANNOT_RUN = 1
_DESCRIPTION = """\
Look at this machine and say what it can run: GPU and driver, ONNX Runtime with its
execution providers and whether their kernels fit the GPU, TensorRT, ROS 2 and the
transport of its images, memory against each model, disk. One line each, and below a
line what to type where something is missing. Nothing is changed.

With --plan it looks at nothing: it computes how fast a device can be at most, from the
bytes that each stage reads and the arithmetic that it does. Nothing of that is measured.
"""
_EPILOG = f"""\
examples:
  molmo2 doctor
  molmo2 doctor --engine ~/engines/molmo2-4b     exit code 1 where that cannot run here
  molmo2 doctor --plan Molmo2-4B --device agx-orin --precision int4

models: {", ".join(MODELS)}, molmo2-nano, or an engine folder
devices: {", ".join(DEVICES)}
"""


def add_parser(commands: Any) -> None:
    """Add `doctor` to the command line."""
    parser = commands.add_parser(
        "doctor",
        help="say what this machine can run, or how fast a device can be at most",
        description=_DESCRIPTION,
        epilog=_EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--json", action="store_true", help="print one JSON object, not a table")
    parser.add_argument(
        "--engine", metavar="ENGINE", help="also say whether this folder or name can run here"
    )
    parser.add_argument("--plan", metavar="MODEL", help="compute bounds of a model on --device")
    parser.add_argument("--device", metavar="DEVICE", help="of --plan; see below")
    parser.add_argument(
        "--precision",
        metavar="NAME",
        help=f"of --plan: {', '.join(PRECISIONS)} (default: bf16, or an engine's own)",
    )
    usual = Workload()
    for name, words in (
        ("frames", "frames of the clip"),
        ("answer-tokens", "tokens of the answer"),
        ("verify-tokens", "tokens of a pass that verifies a draft"),
    ):
        default = getattr(usual, name.replace("-", "_"))
        parser.add_argument(
            f"--{name}", type=int, metavar="N", help=f"of --plan: {words} (default: {default})"
        )
    parser.set_defaults(run=run)


def run(options: argparse.Namespace) -> int:
    """Print the lines or the plan.

    Returns:
        0, or 1 where something that is there or was asked for cannot run.

    Raises:
        Molmo2Error: an unknown model, device or precision, or an option without --plan.
    """
    if options.plan is not None:
        _print_plan(options)
        return 0
    stray = [name for name in _PLAN_OPTIONS if getattr(options, name) is not None]
    if stray:
        raise ConfigError(
            f"--{stray[0].replace('_', '-')} belongs to --plan, which is missing; give --plan MODEL"
        )
    machine = probe()
    checks = diagnose(machine, options.engine and engine_folder(options.engine))
    print(as_json(machine, checks) if options.json else as_table(checks))
    return EXIT_CANNOT_RUN if any(check.state == FAIL for check in checks) else 0


_PLAN_OPTIONS = ("device", "precision", "frames", "answer_tokens", "verify_tokens")


def diagnose(machine: Machine, engine: Path | None = None) -> list[Check]:
    """Every line about a machine.

    Args:
        machine: its facts.
        engine: folder of an engine that has to run there.
    """
    return [*check_runtimes(machine), *check_transport(machine), *check_capacity(machine, engine)]


def as_table(checks: list[Check]) -> str:
    """A line for each check, its cure below it, and a last line that counts."""
    width = max(len(check.name) for check in checks)
    lines = []
    for check in checks:
        lines.append(f"{check.state:<5} {check.name:<{width}}  {check.found}")
        if check.cure:
            lines.append(f"{'':<5} {'':<{width}}  -> {check.cure}")
    counts = {state: sum(c.state == state for c in checks) for state in ("ok", "warn", "fail")}
    told = ", ".join(f"{number} {state}" for state, number in counts.items())
    return "\n".join([*lines, "", told])


def as_json(machine: Machine, checks: list[Check]) -> str:
    """One object: `can_run`, `checks`, `memory`, and the facts in `machine`."""
    payload = {
        "can_run": all(check.state != FAIL for check in checks),
        "checks": [asdict(check) for check in checks],
        "memory": [{**asdict(need), "fits": need.fits} for need in needs(machine)],
        "machine": {k: v for k, v in asdict(machine).items() if k != "loadable"},
    }
    return json.dumps(payload, indent=2, allow_nan=False, default=sorted)


def _print_plan(options: argparse.Namespace) -> None:
    if options.device is None:
        raise ConfigError(f"--plan needs --device, one of {', '.join(DEVICES)}")
    given = {name: getattr(options, name) for name in _PLAN_OPTIONS[2:]}
    workload = Workload(**{name: value for name, value in given.items() if value is not None})
    device, model = find_device(options.device), find_model(options.plan)
    made = plan(model, device, _precision(options), workload)
    print(as_plan_json(made) if options.json else as_plan_table(made))
    if not made.fits:
        print(f"note: {model.name} does not fit into {device.title}", file=sys.stderr)


def _precision(options: argparse.Namespace) -> Precision:
    """As named, else the engine's own, else bfloat16."""
    if options.precision is not None:
        return find_precision(options.precision)
    folder = Path(options.plan)
    if options.plan not in MODELS and folder.is_dir():
        return precision_of(Manifest.load(folder, verify=False))
    return PRECISIONS["bf16"]

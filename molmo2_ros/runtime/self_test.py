"""A loaded engine proves itself by its golden example, once on each machine.

What was found right is remembered in the user's cache directory, never in the engine's folder,
which may be read-only: a file for each engine (its files' hashes), runtime, and machine (processor,
GPU, driver). Another version of any of them is another proof to give. What was found wrong is
never remembered. A cache that cannot be read or written costs one more self-test and nothing else.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import platform
import time
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from molmo2_ros.errors import EngineError
from molmo2_ros.runtime.durable import replace_text
from molmo2_ros.runtime.engine import Engine
from molmo2_ros.runtime.golden import verify_golden

SELF_TESTS = ("refuse", "warn", "off")  # what follows where an engine computes something else

_LOG = logging.getLogger(__name__)
_VERSION = 1  # of what is compared; another one is another proof
# What makes a machine another one for kernels: lines of these files that begin so, or all of them.
_MACHINE_FILES: Mapping[str, tuple[str, ...]] = {
    "/proc/cpuinfo": ("model name", "flags", "Features", "CPU implementer", "CPU part"),
    "/proc/device-tree/model": (),
    "/proc/driver/nvidia/version": (),
    "/etc/nv_tegra_release": (),
}
_GPU_FILES = "driver/nvidia/gpus/*/information"  # below /proc


@dataclass(frozen=True, slots=True, kw_only=True)
class SelfTest:
    """Whether an engine computes here what its model computes."""

    state: str  # "passed", "failed", or "off" where nobody asked
    checksum: str  # of the engine's files
    error: float | None = None  # largest of a logit; None where nothing was compared
    tested_at_s: float | None = None  # seconds since 1970
    remembered: bool = False  # the proof was given before
    problem: str = ""  # what differs, and what to do

    @property
    def text(self) -> str:
        """For people: state, when, error."""
        if self.tested_at_s is None:
            return self.state
        when = time.strftime("%Y-%m-%d %H:%M:%S", time.localtime(self.tested_at_s))
        error = "" if self.error is None else f", logits within {self.error:.2g}"
        return f"{self.state} {when}{error}"


def prove(engine: Engine, mode: str = "refuse") -> SelfTest:
    """Let an engine compute its golden example, unless it did so on this machine before.

    Args:
        engine: freshly loaded.
        mode: one of `SELF_TESTS`: raise, only warn, or do nothing at all.

    Raises:
        EngineError: an unknown mode; or, in mode "refuse", the engine computes something else or
            has no example.
    """
    check_mode(mode)
    checksum = engine.manifest.checksum
    if mode == "off":
        return SelfTest(state="off", checksum=checksum)
    facts = _facts(engine)
    path = _cache_file(facts)
    known = None if path is None else _remembered(path, facts)
    verdict = known or _examined(engine, mode)
    if known is None and path is not None and verdict.state == "passed":
        _remember(path, facts, verdict)
    _LOG.log(
        logging.WARNING if verdict.problem else logging.INFO,
        "self-test of %s (%s): %s%s",
        engine.manifest.name,
        checksum[:12],
        verdict.text,
        f". {verdict.problem}" if verdict.problem else "",
    )
    return verdict


def check_mode(mode: str) -> None:
    """Refuse what is none of `SELF_TESTS`, before an engine is loaded for it.

    Raises:
        EngineError: it is none.
    """
    if mode not in SELF_TESTS:
        raise EngineError(f"self_test is {mode!r}, expected one of {', '.join(SELF_TESTS)}")


def _examined(engine: Engine, mode: str) -> SelfTest:
    checksum, now_s = engine.manifest.checksum, time.time()
    try:
        error = verify_golden(engine)
    except EngineError as problem:
        if mode == "refuse":
            raise EngineError(
                f"{problem}. To run it all the same set self_test to `warn`"
            ) from problem
        return SelfTest(state="failed", checksum=checksum, tested_at_s=now_s, problem=str(problem))
    return SelfTest(state="passed", checksum=checksum, error=error, tested_at_s=now_s)


def _facts(engine: Engine) -> dict[str, Any]:
    """All that a proof depends on."""
    golden = engine.manifest.golden
    return {
        "version": _VERSION,
        "engine": engine.manifest.checksum,
        "golden": None if golden is None else asdict(golden),
        "runtime": engine.runtime,
        "machine": machine_facts(),
    }


def machine_facts(root: Path = Path("/")) -> dict[str, str]:
    """Processor, board, GPU and driver, as far as Linux tells; a digest of each file.

    Args:
        root: where /proc and /etc are.
    """
    facts = {"processor": f"{platform.machine()} {platform.processor()}"}
    paths = [root / name.lstrip("/") for name in _MACHINE_FILES]
    starts = [*_MACHINE_FILES.values()]
    for path in sorted((root / "proc").glob(_GPU_FILES)):
        paths.append(path)
        starts.append(("Model", "GPU Firmware"))
    for path, wanted in zip(paths, starts, strict=True):
        try:
            lines = path.read_text(encoding="utf-8", errors="replace").splitlines()
        except OSError:
            continue  # another kind of machine
        kept = sorted({line for line in lines if line.startswith(wanted)} if wanted else lines)
        facts[str(path)] = hashlib.sha256("\n".join(kept).encode()).hexdigest()[:16]
    return facts


def _cache_file(facts: Mapping[str, Any]) -> Path | None:
    """Where a proof would stand; None for a user without a home."""
    given = Path(os.environ.get("XDG_CACHE_HOME", ""))
    try:
        root = given if given.is_absolute() else Path.home() / ".cache"
    except RuntimeError:
        return None
    name = hashlib.sha256(json.dumps(facts, sort_keys=True).encode()).hexdigest()[:32]
    return root / "molmo2_ros" / "self_test" / f"{name}.json"


def _remembered(path: Path, facts: Mapping[str, Any]) -> SelfTest | None:
    try:
        content = json.loads(path.read_text(encoding="utf-8"))
        if content["facts"] != facts:
            return None
        return SelfTest(
            state="passed",
            checksum=str(facts["engine"]),
            error=float(content["error"]),
            tested_at_s=float(content["tested_at_s"]),
            remembered=True,
        )
    except (OSError, ValueError, KeyError, TypeError):
        return None  # not there, or spoilt: the self-test runs again


def _remember(path: Path, facts: Mapping[str, Any], verdict: SelfTest) -> None:
    """Write a whole file or none: two nodes may start at once, and a robot loses power."""
    content = {"facts": facts, "error": verdict.error, "tested_at_s": verdict.tested_at_s}
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        replace_text(path, json.dumps(content, indent=1))
    except OSError as error:
        _LOG.info("the self-test is not remembered, %s cannot be written (%s)", path, error)

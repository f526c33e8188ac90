"""One line of `molmo2 doctor`: what was found, whether it will do, and what to type if not."""

from __future__ import annotations

from dataclasses import dataclass

OK, WARN, FAIL = "ok", "warn", "fail"


@dataclass(frozen=True, slots=True, kw_only=True)
class Check:
    """A judgement about one thing."""

    name: str  # stable: programs look for it
    state: str  # "ok", "warn": something is lost without it, "fail": what is there cannot work
    found: str
    cure: str = ""  # a command or what to change; "" where nothing is to be done


def ok(name: str, found: str) -> Check:
    """It will do."""
    return Check(name=name, state=OK, found=found)


def warn(name: str, found: str, cure: str) -> Check:
    """It goes without, at a price."""
    return Check(name=name, state=WARN, found=found, cure=cure)


def fail(name: str, found: str, cure: str) -> Check:
    """What is there or was asked for cannot work."""
    return Check(name=name, state=FAIL, found=found, cure=cure)

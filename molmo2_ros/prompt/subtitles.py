"""Subtitles of a video: read from SRT or WebVTT, written into the prompt as in training."""

from __future__ import annotations

import re
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from molmo2_ros.camera.clip import stamp_text
from molmo2_ros.errors import DataError

_SHOWN_WITHIN_S = 1.0  # of a frame; source: the released video preprocessor's `frame_1`
_TIME = r"(?:(\d+):)?(\d{1,2}):(\d{1,2})[,.](\d{1,3})"
_CUE = re.compile(rf"\s*{_TIME}\s*-->\s*{_TIME}")
_TAG = re.compile(r"</?[a-zA-Z][^<>]*>|\{\\[^{}]*\}")


@dataclass(frozen=True, slots=True, kw_only=True)
class Subtitle:
    """Words spoken during a video."""

    start_s: float  # seconds from the clip's first frame
    end_s: float
    text: str  # data: a control token spelt in it stays plain text


def subtitle_text(times_s: Sequence[float], subtitles: Sequence[Subtitle]) -> str:
    r"""The subtitles' part of a prompt: empty without any, else a heading and lines.

    Only those are written that are shown within a second of a frame; the heading stays also where
    that leaves none, as in training.

    Args:
        times_s: of the frames, seconds from the first.
        subtitles: in the order of their time.

    Example:
        "subtitle\n12.0 - 14.5 Now take the red mug.\n".
    """
    if not subtitles:
        return ""
    lines = [
        f"{stamp_text(line.start_s)} - {stamp_text(line.end_s)} {line.text}\n"
        for line in subtitles
        if any(
            line.start_s - _SHOWN_WITHIN_S <= time_s <= line.end_s + _SHOWN_WITHIN_S
            for time_s in times_s
        )
    ]
    return "".join(["subtitle\n", *lines])


def read_subtitles(path: str | Path) -> tuple[Subtitle, ...]:
    """Read an SRT or WebVTT file, formatting tags removed and the lines of a cue joined.

    Raises:
        DataError: it cannot be read, or holds no subtitle.
    """
    try:
        content = Path(path).read_text(encoding="utf-8-sig")
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error.strerror}; check the path") from error
    except UnicodeDecodeError as error:
        raise DataError(
            f"{path} is not UTF-8 (byte {error.start}); convert it: iconv -f LATIN1 -t UTF-8"
        ) from error
    found: list[Subtitle] = []
    for block in re.split(r"\n\s*\n", content.replace("\r\n", "\n")):
        lines = block.strip().split("\n")
        at = next((i for i, line in enumerate(lines) if _CUE.match(line)), None)
        if at is None:
            continue
        start_s, end_s = _times(lines[at])
        text = " ".join(filter(None, (_TAG.sub("", line).strip() for line in lines[at + 1 :])))
        if text and end_s >= start_s:
            found.append(Subtitle(start_s=start_s, end_s=end_s, text=text))
    if not found:
        raise DataError(
            f"{path} holds no subtitle; expected SRT or WebVTT, with lines such as "
            "00:00:01,000 --> 00:00:03,500"
        )
    return tuple(sorted(found, key=lambda line: (line.start_s, line.end_s)))


def _times(line: str) -> tuple[float, float]:
    match = _CUE.match(line)
    assert match is not None  # the caller found the line by it
    groups = [group or "0" for group in match.groups()]

    def seconds(hours: str, minutes: str, whole: str, fraction: str) -> float:
        return int(hours) * 3600 + int(minutes) * 60 + int(whole) + float(f"0.{fraction}")

    return seconds(*groups[:4]), seconds(*groups[4:])

"""The faults of soak.py: what is done to a running system, and how it is known to work again."""

from __future__ import annotations

import shutil
import signal
import socket
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from diagnostic_msgs.msg import DiagnosticStatus

from benchmarks.soak_rig import Child, Rig
from molmo2_ros.ros.demo_process import ros_arguments

LASTS_S = 3.0
STOPPED_S = 5.0
HOURS_S = 3 * 3600.0
CORRUPT_SHARE = 0.2
PATIENCE_S = 30.0  # for what should take three
START_S = 90.0  # until a system that was just started points at things
IN_FLIGHT_S = 0.5  # an answer about an image of before may still come
DISK_MB = 24
QUERIES = ("point: the red mug", "track: the lemon", "point: the blue mug")
# A server without a GPU reads a whole clip anew for each answer, which takes it longer than 3 s.
REMOTE_QUERIES = (QUERIES[0], QUERIES[2])
RECORDING = "recorder: recording"


@dataclass(frozen=True, slots=True, kw_only=True)
class Fault:
    """One fault.

    Args:
        name: as in the figures.
        inject: does it, from the begin to the end; returns when it was over, on the clock of
            `time.monotonic`.
        stops_model: meanwhile nothing can be confirmed.
        recovery: waits until all works again; returns when that was, None where it never was.
            None for fresh, right points.
    """

    name: str
    inject: Callable[[Rig], float]
    stops_model: bool = False
    recovery: Callable[[Rig, float], float | None] | None = None


def _camera_stops(rig: Rig) -> float:
    rig.order(is_on=False)
    time.sleep(LASTS_S)
    rig.order(is_on=True)
    return time.monotonic()


def _format_changes(rig: Rig) -> float:
    rig.order(halved=True, encoding="bgr8")
    return time.monotonic()


def _format_returns(rig: Rig) -> float:
    rig.order(halved=False, encoding="rgb8")
    return time.monotonic()


def _stamps_jump_back(rig: Rig) -> float:
    rig.order(stamp_offset_s=-HOURS_S)
    return time.monotonic()


def _stamps_jump_forward(rig: Rig) -> float:
    rig.order(stamp_offset_s=HOURS_S)
    return time.monotonic()


def _stamps_return(rig: Rig) -> float:
    rig.order(stamp_offset_s=0.0)
    return time.monotonic()


def _frames_corrupt(rig: Rig) -> float:
    rig.order(corrupt_share=CORRUPT_SHARE)
    time.sleep(LASTS_S)
    rig.order(corrupt_share=0.0)
    return time.monotonic()


def _camera_killed(rig: Rig) -> float:
    for camera in rig.cameras.values():
        camera.kill()
    time.sleep(1.0)
    return max(rig.restart_camera(name) for name in list(rig.cameras))


def _node_stopped(rig: Rig) -> float:
    rig.node.send(signal.SIGSTOP)
    time.sleep(STOPPED_S)
    rig.node.send(signal.SIGCONT)
    return time.monotonic()


def _engine_fails(rig: Rig) -> float:
    rig.fail_file.touch()
    time.sleep(LASTS_S)
    rig.fail_file.unlink()
    return time.monotonic()


def _engine_deleted(rig: Rig) -> float:
    shutil.rmtree(rig.engine)
    return time.monotonic()


def _disk_full(rig: Rig) -> float:
    """The recorder's disk is a small one of its own, which a file of somebody else's fills."""
    folder = rig.folder / "disk"
    folder.mkdir()
    camera = rig.watcher.cameras[0]
    arguments = ros_arguments(
        folder=str(folder / "logs"),
        image_topics=[f"{camera}/image" if camera else "image"],
        rate_hz=15.0,
        min_free_mb=0.0,
        max_disk_mb=1000.0,
        split_mb=100.0,
        flush_period_s=0.1,
        diagnostics_period_s=0.1,
    )
    mount = f'mount -t tmpfs -o size={DISK_MB}m none "$0" && exec "$@"'
    node = [sys.executable, "-m", "molmo2_ros.ros.recorder_node", *arguments]
    # A mount of its own process alone, gone with it; needs no root where users may have namespaces.
    recorder = rig.start(
        "recorder",
        ["--user", "--map-root-user", "--mount", "sh", "-c", mount, str(folder), *node],
        shutil.which("unshare"),
    )
    until(lambda: _num_recorded(rig, 0.0) > 10, "pictures on the disk", START_S)
    filling = Path(f"/proc/{recorder.pid}/root{folder}/filling")
    _fill(filling)
    until(lambda: _recorder_complains(rig), "an error on /diagnostics", PATIENCE_S)
    time.sleep(LASTS_S)
    filling.unlink()
    return time.monotonic()


def _fill(path: Path) -> None:
    """Write until the disk has no byte left."""
    with path.open("wb", buffering=0) as file:
        for size in (1 << 16, 1 << 12, 1):
            try:
                while file.write(bytes(size)) == size:
                    pass
            except OSError:
                continue


def _num_recorded(rig: Rig, since_s: float) -> int:
    """Messages on the disk by what the recorder said last; 0 where it said nothing or failed."""
    told = rig.watcher.status(RECORDING, since_s)
    is_fine = told is not None and told[0] != DiagnosticStatus.ERROR[0]
    return int(told[2]["messages"]) if told is not None and is_fine else 0


def _recorder_complains(rig: Rig) -> bool:
    told = rig.watcher.status(RECORDING, 0.0)
    return told is not None and told[0] == DiagnosticStatus.ERROR[0] and "make room" in told[1]


def _recorder_goes_on(rig: Rig, since_s: float) -> float | None:
    """When the recorder said, without an error, that more had been written than before."""
    told = rig.watcher.status(RECORDING, 0.0)
    before = 0 if told is None else int(told[2]["messages"])
    end_s = since_s + PATIENCE_S
    while time.monotonic() < end_s:
        if _num_recorded(rig, since_s) > before:
            return time.monotonic()
        time.sleep(0.02)
    return None


def until(condition: Callable[[], bool], what: str, patience_s: float) -> None:
    """Wait until something is so.

    Raises:
        RuntimeError: it was not in time.
    """
    end_s = time.monotonic() + patience_s
    while not condition():
        if time.monotonic() > end_s:
            raise RuntimeError(f"there was no {what} within {patience_s:.0f} s")
        time.sleep(0.05)


class Server:
    """molmo2-nano behind vLLM's interface, as a process that can be killed."""

    def __init__(self) -> None:
        with socket.create_server(("127.0.0.1", 0)) as listener:
            self._port = int(listener.getsockname()[1])
        self.url = f"http://127.0.0.1:{self._port}/v1"
        self._child: Child | None = None

    def start(self, rig: Rig) -> float:
        """Start it; when it listened."""
        command = "from benchmarks.nano_server import main; main()"
        self._child = rig.start("server", ["-c", command, "--port", str(self._port)])
        self._child.wait_for("http")
        return time.monotonic()

    def goes(self, rig: Rig) -> float:
        """The fault: killed, and started again after a while."""
        assert self._child is not None
        self._child.kill()
        time.sleep(LASTS_S)
        return self.start(rig)


FAULTS = (
    Fault(name="camera_stopped", inject=_camera_stops),
    Fault(name="format_changed", inject=_format_changes),
    Fault(name="format_changed_back", inject=_format_returns),
    Fault(name="stamps_back", inject=_stamps_jump_back),
    Fault(name="stamps_forward", inject=_stamps_jump_forward),
    Fault(name="stamps_back_to_now", inject=_stamps_return),
    Fault(name="corrupt_frames", inject=_frames_corrupt),
    Fault(name="camera_killed", inject=_camera_killed),
    Fault(name="node_stopped", inject=_node_stopped),
    Fault(name="engine_raises", inject=_engine_fails, stops_model=True),
    Fault(name="disk_full", inject=_disk_full, recovery=_recorder_goes_on),
    # The last one of this node: its files do not come back.
    Fault(name="engine_deleted", inject=_engine_deleted),
)
COMPRESSED = Fault(name="corrupt_jpegs", inject=_frames_corrupt)
REMOTE = "server_gone"
NAMES = (*(fault.name for fault in FAULTS), COMPRESSED.name, REMOTE)


def run_faults(
    folder: Path,
    cameras: Sequence[str],
    num_frames: int,
    names: Sequence[str],
    told: Callable[[str], None],
) -> list[dict[str, Any]]:
    """Inject faults one after another; a row of each.

    Args:
        folder: for the processes.
        cameras: names, as in Rig.
        num_frames: likewise.
        names: of `NAMES`.
        told: takes a line about each that ends.
    """
    rows: list[dict[str, Any]] = []

    def inject(rig: Rig, faults: Sequence[Fault]) -> None:
        for fault in faults:
            rows.append(_measure(rig, fault))
            told(f"{fault.name}: {rows[-1]}")

    chosen = [fault for fault in FAULTS if fault.name in names]
    if chosen:
        with Rig(folder, cameras, QUERIES, num_frames) as rig:
            inject(rig, chosen)
    if COMPRESSED.name in names:
        with Rig(folder, cameras, QUERIES, num_frames, transport="compressed") as rig:
            inject(rig, [COMPRESSED])
    if REMOTE in names:
        server = Server()
        settings: dict[str, Any] = {"engine": server.url, "remote_frame_size": 168}
        with Rig(folder, cameras, REMOTE_QUERIES, num_frames, **settings) as rig:
            server.start(rig)
            inject(rig, [Fault(name=REMOTE, inject=server.goes, stops_model=True)])
    return rows


def _measure(rig: Rig, fault: Fault) -> dict[str, Any]:
    """One fault: from a system that works, through it, until the system works again."""
    before_s = time.monotonic()
    if rig.watcher.wait_for_points(before_s, START_S) is None:
        raise RuntimeError(
            f"no right points before {fault.name}: {rig.watcher.honesty(before_s, 1e12)}; "
            f"{rig.node.text()[-2000:]}"
        )
    num_exceptions = rig.num_exceptions
    begin_s = time.monotonic()
    over_s = fault.inject(rig)
    if fault.recovery is None:
        at_s = rig.watcher.wait_for_points(over_s, PATIENCE_S)
    else:
        at_s = fault.recovery(rig, over_s)
    end_s = time.monotonic() if at_s is None else at_s
    outage_s = (begin_s + IN_FLIGHT_S, over_s) if fault.stops_model else None
    honesty = rig.watcher.honesty(begin_s, end_s, outage_s)
    return {
        "case": fault.name,
        "recovered_s": round(end_s - over_s, 3),
        "recovered": int(at_s is not None),
        "honest": int(honesty.is_honest),
        "messages": honesty.messages,
        "points": honesty.rows,
        "wrong": honesty.wrong,
        "frozen": honesty.unsent + honesty.repeated + honesty.unconfirmed + honesty.impossible,
        "oldest_s": round(honesty.oldest_s, 2),
        "exceptions": rig.num_exceptions - num_exceptions,
    }


def scratch() -> tempfile.TemporaryDirectory[str]:
    """A folder for the processes, whose name is told on failures."""
    return tempfile.TemporaryDirectory(prefix="soak_")

"""The processes of soak.py: cameras, the grounding node and what a fault needs beside them."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from benchmarks.soak_camera import SENT
from benchmarks.soak_watch import Truth, Watcher, draw_frames
from molmo2_ros.ros.demo_process import ros_arguments
from molmo2_ros.runtime.engine import NANO

HERE = Path(__file__).parent
START_S = 60.0  # of a process on a busy machine
END_S = 30.0
TRACEBACK = "Traceback (most recent call last)"
SEEDS = (2, 0)  # of the tables that the cameras see


class Child:
    """A process with a log and orders on its standard input.

    Args:
        command: after the interpreter, unless it begins with a program of its own.
        log: gets its output.
        program: that runs it, None for this interpreter.
    """

    def __init__(self, command: Sequence[str], log: Path, program: str | None = None) -> None:
        self.log = log
        with log.open("ab") as output:
            self._process = subprocess.Popen(
                [program or sys.executable, *command],
                stdin=subprocess.PIPE,
                stdout=output,
                stderr=subprocess.STDOUT,
                env={**os.environ, "PYTHONUNBUFFERED": "1"},
                text=True,
            )

    @property
    def pid(self) -> int:
        """Number of the process."""
        return self._process.pid

    @property
    def is_alive(self) -> bool:
        """It runs."""
        return self._process.poll() is None

    def order(self, **fields: Any) -> None:
        """Tell a camera how to behave."""
        assert self._process.stdin is not None
        self._process.stdin.write(json.dumps(fields) + "\n")
        self._process.stdin.flush()

    def text(self) -> str:
        """What it has printed."""
        return self.log.read_text(errors="replace")

    def wait_for(self, words: str) -> str:
        """The rest of the first line that begins with some words.

        Raises:
            RuntimeError: it ended, or none came.
        """
        end_s = time.monotonic() + START_S
        while time.monotonic() < end_s and self.is_alive:
            for line in self.text().splitlines():
                if line.startswith(words):
                    return line.removeprefix(words)
            time.sleep(0.02)
        raise RuntimeError(f"{self.log.name} never said {words!r}: {self.text()[-2000:]}")

    def send(self, number: signal.Signals) -> None:
        """Send a signal."""
        self._process.send_signal(number)

    def kill(self) -> None:
        """End it as a crash would."""
        self._process.kill()
        self._process.wait()

    def end(self) -> None:
        """End it as Ctrl-C does."""
        if not self.is_alive:
            return
        self._process.send_signal(signal.SIGCONT)
        self._process.send_signal(signal.SIGINT)
        assert self._process.stdin is not None
        self._process.stdin.close()
        try:
            self._process.wait(END_S)
        except subprocess.TimeoutExpired:
            self.kill()


class Rig:
    """Cameras and one grounding node that sees them all, and who listens to it.

    Args:
        folder: for frames, logs and the engine's copy.
        cameras: names; "" for a single one without a name.
        queries: of every camera from the start.
        num_frames: drawn of each camera's table, played there and back.
        transport: "raw" or "compressed".
        parameters: more of the node.
    """

    def __init__(
        self,
        folder: Path,
        cameras: Sequence[str],
        queries: Sequence[str],
        num_frames: int,
        *,
        transport: str = "raw",
        **parameters: Any,
    ) -> None:
        self.folder, self._transport = folder, transport
        self.engine = folder / "engine"
        self.fail_file = folder / "fail"
        self.others: list[Child] = []  # ended with the rig
        if not self.engine.is_dir():
            # What an engine is, without the checkpoint that it was exported from.
            shutil.copytree(NANO, self.engine, ignore=shutil.ignore_patterns("checkpoint"))
        self._frames = {name: folder / f"frames_{SEEDS[i]}.npz" for i, name in enumerate(cameras)}
        for (_, path), seed in zip(self._frames.items(), SEEDS, strict=False):
            if not path.is_file():
                draw_frames(path, seed, num_frames)
        self.watcher = Watcher(cameras, [Truth(path) for path in self._frames.values()])
        self.cameras = {name: self.start_camera(name) for name in cameras}
        wanted: dict[str, Any] = {
            "engine": str(self.engine),
            "queries": list(queries) or [""],
            "threads": 1,
            "use_depth": False,
            "image_transport": transport,
            "diagnostics_period_s": 0.2,
            **({} if list(cameras) == [""] else {"cameras": list(cameras)}),
            **parameters,
        }
        command = [str(HERE / "soak_node.py"), str(self.fail_file), *ros_arguments(**wanted)]
        self.node = Child(command, folder / f"grounding_node_{transport}.log")

    def __enter__(self) -> Rig:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for child in (self.node, *self.cameras.values(), *self.others):
            child.end()
        self.watcher.close()

    def start_camera(self, name: str) -> Child:
        """Start a camera's process; it ends with the rig."""
        command = [str(HERE / "soak_camera.py"), str(self._frames[name])]
        log = self.folder / f"camera_{name}_{time.monotonic_ns()}.log"
        camera = Child([*command, "--name", name, "--transport", self._transport], log)
        self.watcher.follow(name, log)
        return camera

    def restart_camera(self, name: str) -> float:
        """Start a camera again; when its first image left."""
        self.cameras[name] = self.start_camera(name)
        return float(json.loads(self.cameras[name].wait_for(SENT))["sent_s"])

    def start(self, name: str, command: Sequence[str], program: str | None = None) -> Child:
        """Start another process that ends with the rig."""
        child = Child(command, self.folder / f"{name}_{time.monotonic_ns()}.log", program)
        self.others.append(child)
        return child

    def order(self, **fields: Any) -> None:
        """Tell all cameras how to behave."""
        for camera in self.cameras.values():
            camera.order(**fields)

    @property
    def num_exceptions(self) -> int:
        """Tracebacks in the node's output."""
        return self.node.text().count(TRACEBACK)

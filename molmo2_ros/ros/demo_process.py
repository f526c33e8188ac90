"""Nodes of a demonstration as processes with their own logs, and listening to what they say."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import rclpy
from rclpy.executors import SingleThreadedExecutor
from rclpy.node import Node
from rclpy.signals import SignalHandlerOptions

from molmo2_ros.ros import compat

_END_PATIENCE_S = 30.0
_NUM_LOG_LINES = 12


def ros_arguments(**parameters: Any) -> list[str]:
    """Parameters as a command line; JSON is also YAML, which is what rcl reads."""
    arguments = ["--ros-args"]
    for name, value in parameters.items():
        arguments += ["-p", f"{name}:={json.dumps(value, ensure_ascii=False)}"]
    return arguments


def prepare_environment() -> None:
    """A ROS domain of our own on this machine, and the prefix that the ROS wheels do not set."""
    os.environ.setdefault("ROS_DOMAIN_ID", str(1 + os.getpid() % 100))
    os.environ.setdefault("ROS_AUTOMATIC_DISCOVERY_RANGE", "LOCALHOST")
    if (Path(sys.prefix) / "share" / "ament_index").is_dir():
        os.environ.setdefault("AMENT_PREFIX_PATH", sys.prefix)


class DemoProcess:
    """Starts `molmo2_ros.ros.<name>` with this interpreter.

    The interpreter and LD_LIBRARY_PATH stay as they are: a child of the ROS wheels with another
    library path would not find them.

    Args:
        name: of the module.
        arguments: its command line.
        logs: folder for its log.
    """

    def __init__(self, name: str, arguments: list[str], logs: Path) -> None:
        self._name = name
        self._log_path = logs / f"{name}.log"
        with self._log_path.open("w") as log:
            self._process = subprocess.Popen(
                [sys.executable, "-m", f"molmo2_ros.ros.{name}", *arguments],
                stdout=log,
                stderr=subprocess.STDOUT,
                env={**os.environ, "PYTHONUNBUFFERED": "1"},
            )

    @property
    def pid(self) -> int:
        """Number of the process."""
        return self._process.pid

    def problem(self) -> str:
        """How the process died, "" while it runs."""
        code = self._process.poll()
        if code is None:
            return ""
        return f"{self._name} ended with exit code {code}:\n{self._log_tail()}"

    def end(self) -> str:
        """Interrupt the process as Ctrl-C does.

        Returns:
            what was wrong with its end, "" for a clean one or one already told by `problem`.
        """
        if self._process.poll() is not None:
            return ""
        self._process.send_signal(signal.SIGINT)
        try:
            code = self._process.wait(_END_PATIENCE_S)
        except subprocess.TimeoutExpired:
            self._process.kill()
            self._process.wait()
            return f"{self._name} did not end within {_END_PATIENCE_S:.0f} s of Ctrl-C"
        if code:
            return f"{self._name} ended with exit code {code} on Ctrl-C:\n{self._log_tail()}"
        return ""

    def _log_tail(self) -> str:
        lines = self._log_path.read_text(errors="replace").splitlines()
        return "\n".join(f"    {line}" for line in lines[-_NUM_LOG_LINES:])


def watch(
    join: Callable[[], Node],
    processes: Sequence[DemoProcess],
    look: Callable[[float], str | None],
    interrupted: Sequence[int],
) -> str:
    """Listen to nodes until one dies, it is over or somebody interrupts.

    Args:
        join: makes the node that listens.
        processes: whose nodes it listens to.
        look: asked ten times a second or more, with the seconds since the start; None to go on, ""
            when it is over, otherwise what is wrong.
        interrupted: not empty as soon as it shall end.

    Returns:
        what went wrong, "" if nothing did.
    """
    rclpy.init(args=[], signal_handler_options=SignalHandlerOptions.NO)
    executor = SingleThreadedExecutor()
    node = join()
    executor.add_node(node)
    start = time.monotonic()
    try:
        while not interrupted and rclpy.ok():
            executor.spin_once(timeout_sec=0.1)
            problem = next(filter(None, (process.problem() for process in processes)), None)
            end = problem or look(time.monotonic() - start)
            if end is not None:
                return end
        return ""
    finally:
        node.destroy_node()
        compat.shut_down()

"""The start and the end of a node's process, safe against two SIGINTs in a row."""

from __future__ import annotations

import gc
import logging
import signal
import sys
import time
from collections.abc import Callable
from typing import Any

import rclpy
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rclpy.signals import SignalHandlerOptions, install_signal_handlers

from molmo2_ros.errors import Molmo2Error
from molmo2_ros.ros import compat
from molmo2_ros.ros.diagnostics import RosLogHandler

_ENDING = (signal.SIGINT, signal.SIGTERM)
_AGAIN_S = 1.0  # so much later a signal is no echo of the first one


def run_node(make: Callable[[], Any], args: list[str] | None, *, shares_memory: bool) -> int:
    """Spin one node until it is interrupted or says that it is done.

    A terminal's SIGINT and launch's both reach the node. With the usual KeyboardInterrupt the
    second one hits the clean-up of the first and the process dies, and what is being imported
    takes it for a fault of its own. Here SIGINT raises nothing: once the node has started, rclpy's
    own handler shuts the context down, which ends the loop. Where the start takes long, as that of
    a large engine does, one that comes a second later, or SIGTERM after SIGINT, breaks it off at
    its next step in Python.

    Args:
        make: builds the node after rclpy.init; the node has `close()` and `is_done`.
        args: command line, None for sys.argv.
        shares_memory: whether this process publishes large images (compat.offer_shared_memory).

    Returns:
        exit code: 0, or 2 where a parameter was refused.
    """
    interrupt = _Interrupt()
    try:
        return _run(make, args, interrupt, shares_memory=shares_memory)
    except KeyboardInterrupt:
        return 0
    finally:
        _let_go()


class _Interrupt:
    """Remembers that a signal to end came; one that comes again later, until `quiet`, raises."""

    def __init__(self) -> None:
        self._first: tuple[int, float] | None = None  # its number, and when
        self._raises = True
        for number in _ENDING:
            signal.signal(number, self._on_signal)

    @property
    def came(self) -> bool:
        """Whether the process shall end."""
        return self._first is not None

    def quiet(self) -> None:
        """Raise no more."""
        self._raises = False

    def _on_signal(self, number: int, _: object) -> None:
        now_s = time.monotonic()
        if self._first is None:
            self._first = number, now_s
            return
        first, first_s = self._first
        # Those that come within one call of native code are all told after it.
        if self._raises and (number != first or now_s - first_s > _AGAIN_S):
            self._raises = False
            raise KeyboardInterrupt


def _run(
    make: Callable[[], Any],
    args: list[str] | None,
    interrupt: _Interrupt,
    *,
    shares_memory: bool,
) -> int:
    transport = compat.offer_shared_memory() if shares_memory else ""
    node: Any = None
    code = 0
    try:
        gc.freeze()  # modules stay: a look at all their objects would hold up points
        # rclpy's handlers would shut the context down under a node that configures itself.
        rclpy.init(args=args, signal_handler_options=SignalHandlerOptions.NO)
        node = make()
        route_log(node)
        if transport:
            node.get_logger().info(transport)
        executor = SingleThreadedExecutor()
        executor.add_node(node)
        node.start()
        interrupt.quiet()
        install_signal_handlers(SignalHandlerOptions.ALL)
        while rclpy.ok() and not node.is_done and not interrupt.came:
            executor.spin_once(timeout_sec=0.2)
    except Molmo2Error as error:
        print(f"{type(error).__name__}: {error}", file=sys.stderr)
        code = 2
    except (KeyboardInterrupt, ExternalShutdownException):
        pass
    except Exception as error:
        # Jazzy and Humble find a context that was shut down while they began to wait invalid.
        if node is None or not compat.is_shutting_down(error, node.context):
            raise
    finally:
        interrupt.quiet()
        for number in _ENDING:
            signal.signal(number, signal.SIG_IGN)
        if node is not None:
            node.close()
            node.destroy_node()
        compat.shut_down()
    return code


def _let_go() -> None:
    """Free what the node held, then let the interpreter end without a look at every object.

    The context's DDS participant lies in a cycle of references; what it has in shared memory goes
    with it. Each of the interpreter's own last collections would take as long as this one.
    """
    gc.unfreeze()
    gc.collect()
    gc.freeze()


def route_log(node: Any) -> None:
    """Show the rooms' own log records (logger "molmo2_ros") as the node's."""
    rooms = logging.getLogger("molmo2_ros")
    rooms.setLevel(logging.INFO)
    rooms.addHandler(RosLogHandler(node.get_logger()))

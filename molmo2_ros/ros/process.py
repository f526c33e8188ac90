"""The start and the end of a node's process, safe against two SIGINTs in a row."""

from __future__ import annotations

import gc
import logging
import signal
import sys
from collections.abc import Callable
from typing import Any

import rclpy
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor

from molmo2_ros.errors import Molmo2Error
from molmo2_ros.ros import compat
from molmo2_ros.ros.diagnostics import RosLogHandler


def run_node(make: Callable[[], Any], args: list[str] | None, *, shares_memory: bool) -> int:
    """Spin one node until it is interrupted or says that it is done.

    A terminal's SIGINT and launch's both reach the node. With the usual KeyboardInterrupt the
    second one hits the clean-up of the first and the process dies. Here SIGINT raises nothing:
    rclpy's own handler shuts the context down, which ends the loop.

    Args:
        make: builds the node after rclpy.init; the node has `close()` and `is_done`.
        args: command line, None for sys.argv.
        shares_memory: whether this process publishes large images (compat.offer_shared_memory).

    Returns:
        exit code: 0, or 2 where a parameter was refused.
    """
    signal.signal(signal.SIGINT, lambda *_: None)
    try:
        return _run(make, args, shares_memory=shares_memory)
    finally:
        _let_go()


def _run(make: Callable[[], Any], args: list[str] | None, *, shares_memory: bool) -> int:
    transport = compat.offer_shared_memory() if shares_memory else ""
    node: Any = None
    code = 0
    try:
        rclpy.init(args=args)
        node = make()
        route_log(node)
        if transport:
            node.get_logger().info(transport)
        executor = SingleThreadedExecutor()
        executor.add_node(node)
        node.start()
        gc.freeze()  # modules and parameters stay: a look at all of them would hold up points
        while rclpy.ok() and not node.is_done:
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
        signal.signal(signal.SIGINT, signal.SIG_IGN)
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

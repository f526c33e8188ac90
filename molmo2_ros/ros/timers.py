"""Timers as fast as life, also where use_sim_time slows or stops a node's own clock."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from rclpy.clock import Clock, ClockType
from rclpy.node import Node


def steady_timer(node: Node, period_s: float, callback: Callable[[], None]) -> Any:
    """Call back again and again while the node is spun.

    What a node tells of itself must come though a simulation pauses: its own timers stand still
    until the first message on /clock.
    """
    return node.create_timer(period_s, callback, clock=Clock(clock_type=ClockType.STEADY_TIME))

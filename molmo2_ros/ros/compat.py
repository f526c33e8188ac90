"""Every difference between the ROS distributions from Humble to Lyrical, found by feature.

No other file of this room may use a name that Humble's rclpy lacks (test/ros/test_compat.py).
"""

from __future__ import annotations

import importlib
import logging
import os
from collections.abc import Callable, MutableMapping
from pathlib import Path
from types import ModuleType
from typing import TYPE_CHECKING, Any

import rclpy
import rclpy.utilities
from rclpy.lifecycle import TransitionCallbackReturn
from rclpy.node import Node
from rclpy.parameter import Parameter

if TYPE_CHECKING:
    from rclpy.context import Context
    from rclpy.lifecycle import LifecycleNode

_log = logging.getLogger(__name__)

PROFILE_FILE = "fastdds_shared_memory.xml"
_TRANSPORT_VARIABLES = (
    "FASTDDS_DEFAULT_PROFILES_FILE",
    "FASTRTPS_DEFAULT_PROFILES_FILE",
    "FASTDDS_BUILTIN_TRANSPORTS",
)


def profile_variable() -> str:
    """The environment variable that names Fast DDS's profile file in this distribution.

    Humble and Jazzy read FASTRTPS_ only; Kilted and later read FASTDDS_ and warn about the other.
    `with rclpy.init()` came with Kilted.
    """
    kilted = hasattr(rclpy, "InitContextManager")
    return "FASTDDS_DEFAULT_PROFILES_FILE" if kilted else "FASTRTPS_DEFAULT_PROFILES_FILE"


def offer_shared_memory(environ: MutableMapping[str, str] = os.environ) -> str:
    """Let this process publish large images through shared memory; call before rclpy.init.

    Nothing is changed where the user chose a transport, another middleware, or set
    MOLMO2_ROS_SHARED_MEMORY=0.

    Returns:
        what was done and why, one line for the log.

    Source: measured, 720p rgb8 at 30 Hz, best effort: 35 of 360 images arrive by default, 360
        of 360 with this profile on the publisher's side.
    """
    if environ.get("MOLMO2_ROS_SHARED_MEMORY") == "0":
        return "shared memory left alone: MOLMO2_ROS_SHARED_MEMORY=0"
    rmw = environ.get("RMW_IMPLEMENTATION", "rmw_fastrtps_cpp")
    if "fastrtps" not in rmw:
        return f"shared memory left alone: the middleware is {rmw}"
    for name in _TRANSPORT_VARIABLES:
        if environ.get(name):
            return f"shared memory left alone: {name}={environ[name]}"
    profile = config_file(PROFILE_FILE)
    if profile is None:
        return f"no shared memory: {PROFILE_FILE} was not found; large images may get lost"
    environ[profile_variable()] = str(profile)
    return f"shared memory on: {profile_variable()}={profile}"


def config_file(name: str) -> Path | None:
    """A file of config/, beside the package in a checkout or in the installed share folder."""
    beside = Path(__file__).resolve().parents[2] / "config" / name
    if beside.is_file():
        return beside
    try:
        from ament_index_python.packages import get_package_share_directory

        installed = Path(get_package_share_directory("molmo2_ros")) / "config" / name
    except (ImportError, LookupError, OSError):
        return _pip_data_file(name)
    return installed if installed.is_file() else _pip_data_file(name)


def _pip_data_file(name: str) -> Path | None:
    import sys

    path = Path(sys.prefix) / "share" / "molmo2_ros" / "config" / name
    return path if path.is_file() else None


def shut_down(context: Context | None = None) -> None:
    """Shut the context down unless a signal handler already did."""
    rclpy.utilities.try_shutdown(context=context)


def declare_string_array(node: Node, name: str, default: tuple[str, ...], descriptor: Any) -> None:
    """Declare a list of strings that may be empty.

    rclpy calls an empty list a byte array, so the type is left open to it and checked by us.
    """
    descriptor.dynamic_typing = True
    node.declare_parameter(name, list(default), descriptor)


def watch_parameters(
    node: Node,
    judge: Callable[[list[Parameter[Any]]], Any],
    apply: Callable[[list[Parameter[Any]]], None],
) -> None:
    """Judge new values, and apply them once all are accepted.

    Args:
        node: its parameters are watched.
        judge: returns a SetParametersResult and changes nothing.
        apply: called after acceptance; at the end of judging where there is no post-set callback
            (Humble).
    """
    add_post = getattr(node, "add_post_set_parameters_callback", None)
    if add_post is not None:
        node.add_on_set_parameters_callback(judge)
        add_post(apply)
        return

    def judge_and_apply(parameters: list[Parameter[Any]]) -> Any:
        result = judge(parameters)
        if result.successful:
            apply(parameters)
        return result

    node.add_on_set_parameters_callback(judge_and_apply)


def subscribe(
    node: Node,
    kind: Any,
    topic: str,
    callback: Callable[[Any], None],
    profile: Any,
    on_lost: Callable[[int], None] | None = None,
) -> Any:
    """Subscribe, and where the distribution and middleware can tell, count lost messages.

    Args:
        node: that subscribes.
        kind: message class.
        topic: its name.
        callback: for each message.
        profile: quality of service.
        on_lost: told how many more messages got lost in transport.
    """
    if on_lost is None:
        return node.create_subscription(kind, topic, callback, profile)
    try:
        events = importlib.import_module("rclpy.event_handler")
    except ImportError:  # Humble
        events = importlib.import_module("rclpy.qos_event")
    callbacks = events.SubscriptionEventCallbacks(
        message_lost=lambda status: on_lost(int(status.total_count_change))
    )
    try:
        return node.create_subscription(kind, topic, callback, profile, event_callbacks=callbacks)
    except Exception as error:  # named differently from distribution to distribution
        if "UnsupportedEventType" not in type(error).__name__:
            raise
        return node.create_subscription(kind, topic, callback, profile)


def transition(node: LifecycleNode, name: str) -> bool:
    """Run `configure`, `activate`, `deactivate` or `cleanup` of a node in this process.

    Returns:
        True if it succeeded; an invalid one raises on Humble and Jazzy and returns ERROR later on.
    """
    try:
        outcome = getattr(node, f"trigger_{name}")()
    except Exception as error:  # the class is private to rclpy's C++ part
        if type(error).__name__ not in ("RCLError", "InvalidHandle"):
            raise
        _log.error("lifecycle transition %s refused: %s", name, error)
        return False
    return bool(outcome == TransitionCallbackReturn.SUCCESS)


def refuse_invalid_transitions(node: LifecycleNode) -> None:
    """Answer a lifecycle client that asks for an invalid transition with "no".

    Up to Jazzy the request raises in the executor instead, which ends the whole node.
    """
    service = getattr(node, "_service_change_state", None)  # rclpy's own, without a public name
    if service is None:
        return
    change_state = service.callback

    def change_state_or_refuse(request: Any, response: Any) -> Any:
        try:
            return change_state(request, response)
        except Exception as error:
            if type(error).__name__ != "RCLError":
                raise
            _log.error("lifecycle transition refused: %s", error)
            response.success = False
            return response

    service.callback = change_state_or_refuse


def is_shutting_down(error: BaseException, context: Context) -> bool:
    """Whether a failed publish only says that the context was shut down meanwhile."""
    return not context.ok() and type(error).__name__ in ("RCLError", "InvalidHandle")


def vision_msgs() -> ModuleType | None:
    """vision_msgs.msg where the distribution has it; the ROS wheels of PyPI do not."""
    try:
        return importlib.import_module("vision_msgs.msg")
    except ImportError:
        return None


def tf2_ros() -> ModuleType | None:
    """tf2_ros where the distribution has it; the ROS wheels of PyPI do not."""
    try:
        return importlib.import_module("tf2_ros")
    except ImportError:
        return None


def cv_bridge() -> Any | None:
    """A CvBridge where the distribution has one (PyPI's package of that name is ROS 1's)."""
    try:
        return importlib.import_module("cv_bridge").CvBridge()
    except (ImportError, AttributeError, SyntaxError):
        return None

"""Names that Humble's rclpy lacks stay in compat.py, and what is found there works here."""

import ast
import sys
import xml.etree.ElementTree as ET
from pathlib import Path
from types import SimpleNamespace

import pytest
import rclpy
import rclpy.event_handler
from rcl_interfaces.msg import SetParametersResult
from rclpy.context import Context
from rclpy.node import Node
from rclpy.parameter import Parameter
from std_msgs.msg import String

from molmo2_ros.ros import compat, qos

ROOM = Path(compat.__file__).parent

# rclpy names that came after Humble. Source: its branch, file by file, against Kilted's wheels.
BANNED_NAMES = {
    "AsyncParameterClient",
    "BEST_AVAILABLE",
    "EventsExecutor",
    "InitContextManager",
    "ParameterEventHandler",
    "TimerInfo",
    "add_post_set_parameters_callback",
    "add_pre_set_parameters_callback",
    "configure_introspection",
    "events_executor",
    "get_publisher_count",
    "list_parameters",
    "parameter_client",
    "parameter_event_handler",
    "set_logger_level",
    "wait_for_node",
}
BANNED_ARGUMENTS = {
    "autostart",
    "content_filter_options",
    "enable_logger_service",
    "rosout_qos_profile",
}


def banned_uses(source):
    """Lines of Python that Humble would refuse, as 'line: name'."""
    found = []
    for node in ast.walk(ast.parse(source)):
        if isinstance(node, ast.Attribute) and node.attr in BANNED_NAMES:
            found.append(f"{node.lineno}: {node.attr}")
        if isinstance(node, ast.ImportFrom):
            names = {alias.name for alias in node.names} & BANNED_NAMES
            found += [f"{node.lineno}: import {name}" for name in names]
        if isinstance(node, ast.Call):
            is_dataclass_field = isinstance(node.func, ast.Name)
            for keyword in node.keywords:
                if keyword.arg in BANNED_ARGUMENTS and not is_dataclass_field:
                    found.append(f"{node.lineno}: {keyword.arg}=")
        if isinstance(node, ast.With):
            for item in node.items:
                call = item.context_expr
                if isinstance(call, ast.Call) and ast.unparse(call.func) == "rclpy.init":
                    found.append(f"{node.lineno}: with rclpy.init()")
    return found


@pytest.mark.parametrize(
    "source",
    [
        "with rclpy.init(): pass",
        "from rclpy.parameter_client import AsyncParameterClient",
        "node.create_timer(1.0, tick, autostart=False)",
        "node.add_post_set_parameters_callback(tick)",
        "qos = ReliabilityPolicy.BEST_AVAILABLE",
    ],
)
def test_the_ban_sees_each_kind_of_name(source):
    assert banned_uses(source)


def test_no_file_but_compat_uses_a_name_that_humble_lacks():
    uses = {
        path.name: banned_uses(path.read_text())
        for path in sorted(ROOM.glob("*.py"))
        if path.name != "compat.py"
    }

    assert {name: found for name, found in uses.items() if found} == {}


@pytest.fixture
def node(domain_id):
    """A real node that nobody hears."""
    context = Context()
    rclpy.init(args=[], context=context, domain_id=domain_id)
    node = rclpy.create_node("node", context=context)
    yield node
    node.destroy_node()
    context.try_shutdown()


@pytest.mark.parametrize(
    "lacks", [(), ("add_post_set_parameters_callback",)], ids=["own", "Humble"]
)
def test_values_are_applied_once_all_are_accepted_and_never_when_one_is_refused(
    node, monkeypatch, lacks
):
    for name in lacks:
        monkeypatch.delattr(Node, name)
    said = []

    def judge(parameters):
        values = [parameter.value for parameter in parameters]
        said.append(("judged", values))
        return SetParametersResult(successful=max(values) < 10, reason="too much")

    def apply(parameters):
        said.append(("applied", [parameter.value for parameter in parameters]))

    node.declare_parameters("", [("a", 1), ("b", 2)])
    compat.watch_parameters(node, judge, apply)
    refused = node.set_parameters_atomically([Parameter("a", value=3), Parameter("b", value=30)])
    assert (refused.successful, refused.reason) == (False, "too much")
    assert node.set_parameters_atomically(
        [Parameter("a", value=4), Parameter("b", value=5)]
    ).successful
    assert said == [("judged", [3, 30]), ("judged", [4, 5]), ("applied", [4, 5])]
    assert [node.get_parameter(name).value for name in "ab"] == [4, 5]


@pytest.mark.parametrize("is_humble", [False, True], ids=["own", "Humble"])
def test_lost_messages_are_counted_whatever_the_module_of_events_is_called(
    node, monkeypatch, is_humble
):
    if is_humble:  # there the same classes stand in rclpy.qos_event
        monkeypatch.setitem(sys.modules, "rclpy.qos_event", rclpy.event_handler)
        monkeypatch.setitem(sys.modules, "rclpy.event_handler", None)
    lost = []
    subscription = compat.subscribe(
        node, String, "topic", lambda _: None, qos.image_qos("best_effort"), lost.append
    )
    handlers = subscription.event_handlers
    (ours,) = [handler for handler in handlers if handler.callback.__module__ == compat.__name__]
    ours.callback(SimpleNamespace(total_count_change=3))  # as the middleware's status names it
    assert lost == [3]


def test_profile_variable_before_kilted_is_the_one_that_humble_and_jazzy_read(monkeypatch):
    monkeypatch.delattr(rclpy, "InitContextManager", raising=False)
    assert compat.profile_variable() == "FASTRTPS_DEFAULT_PROFILES_FILE"


def test_shared_memory_names_a_profile_that_fast_dds_understands():
    environ = {}

    done = compat.offer_shared_memory(environ)

    (variable, path), *rest = environ.items()
    assert rest == []
    assert variable == compat.profile_variable()
    assert "shared memory on" in done
    text = Path(path).read_text()
    assert "<type>SHM</type>" in text
    assert ET.fromstring(text).tag.endswith("profiles")


@pytest.mark.parametrize(
    "environ",
    [
        {"MOLMO2_ROS_SHARED_MEMORY": "0"},
        {"RMW_IMPLEMENTATION": "rmw_cyclonedds_cpp"},
        {"FASTDDS_DEFAULT_PROFILES_FILE": "/mine.xml"},
        {"FASTRTPS_DEFAULT_PROFILES_FILE": "/mine.xml"},
        {"FASTDDS_BUILTIN_TRANSPORTS": "LARGE_DATA"},
    ],
)
def test_a_transport_that_the_user_chose_is_left_alone(environ):
    before = dict(environ)

    done = compat.offer_shared_memory(environ)

    assert environ == before
    assert "left alone" in done


def test_vision_msgs_and_cv_bridge_are_none_where_they_are_not_installed():
    # The ROS wheels have neither; on a robot both are found.
    assert compat.vision_msgs() is None or compat.vision_msgs().__name__ == "vision_msgs.msg"
    assert compat.cv_bridge() is None or hasattr(compat.cv_bridge(), "imgmsg_to_cv2")

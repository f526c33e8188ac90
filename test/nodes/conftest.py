"""One node under test on a ROS domain of its own, and a robot that talks to it over real DDS."""

import importlib.util
import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
import rclpy
from lifecycle_msgs.msg import Transition
from lifecycle_msgs.srv import ChangeState, GetState
from rcl_interfaces.srv import SetParameters
from rclpy.context import Context
from rclpy.executors import ExternalShutdownException, SingleThreadedExecutor
from rclpy.parameter import Parameter
from sensor_msgs.msg import CameraInfo, Image

from molmo2_ros.ros import compat, images, qos
from molmo2_ros.simulation.source import TableSource

ROOT = Path(__file__).parents[2]
PATIENCE_S = 120.0  # a busy machine; nothing waits this long when all is well
# DDS drops the response to a client whose reader the server has not found yet, on a busy machine.
LOST_AFTER_S = 20.0
REACHED = {
    "configure": "inactive",
    "activate": "active",
    "deactivate": "inactive",
    "cleanup": "unconfigured",
}
# Humble has no type hashes: types made there would prove nothing. Jazzy and later have them.
HAS_TYPE_HASHES = importlib.util.find_spec("rosidl_generator_type_description") is not None
collect_ignore = [] if HAS_TYPE_HASHES else ["test_detections.py"]


class NodeUnderTest:
    """Start a node, send, wait for what it says, change its state, stop it."""

    def __init__(self, domain_id):
        self.domain_id = domain_id
        self.received = {}
        self.arrived_ns = {}  # when, by the system clock
        self.node = None  # the node itself where it lives in this process
        self.process = None
        self._playing = threading.Event()
        self._news = threading.Condition()  # guards received
        self._threads = []
        self._contexts = []
        self._publishers = {}
        self._clients = {}
        self._robot = self.spin(lambda context: rclpy.create_node("robot", context=context))

    def spin(self, make):
        """A node on a context of its own, spun by a thread until the end of the test."""
        context = Context()
        rclpy.init(args=[], context=context, domain_id=self.domain_id)
        node = make(context)
        executor = SingleThreadedExecutor(context=context)
        executor.add_node(node)

        def spin():
            try:
                while context.ok():
                    executor.spin_once(timeout_sec=0.1)
            except ExternalShutdownException:
                pass
            except Exception as error:
                if not compat.is_shutting_down(error, context):
                    raise

        thread = threading.Thread(target=spin, daemon=True)
        thread.start()
        self._threads.append(thread)
        self._contexts.append(context)
        return node

    def start(self, node_class, *, load=None, **parameters):
        """Start a node in this process: same code, same DDS, no second interpreter to wait for."""
        arguments = {} if load is None else {"load": load}
        overrides = [Parameter(name, value=value) for name, value in parameters.items()]
        self.node = self.spin(
            lambda context: node_class(context=context, parameter_overrides=overrides, **arguments)
        )
        self.node.start()
        return self.node

    def start_process(self, module, *arguments, **parameters):
        """Start a node as launch would: a process with --ros-args."""
        command = [sys.executable, "-m", module, *arguments]
        if parameters:
            command.append("--ros-args")
        for name, value in parameters.items():
            command += ["-p", f"{name}:={value}"]
        environment = {**os.environ, "ROS_DOMAIN_ID": str(self.domain_id)}
        self.process = subprocess.Popen(
            command,
            cwd=ROOT,
            env=environment,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
        )
        return self.process

    def interrupt(self, times=1, apart_s=0.0):
        """Send SIGINT, as a terminal and launch both do."""
        for index in range(times):
            if index:
                time.sleep(apart_s)
            self.process.send_signal(signal.SIGINT)

    def wait_for_exit(self):
        """The exit code and all that the process printed."""
        output, _ = self.process.communicate(timeout=PATIENCE_S)
        return self.process.returncode, output

    def listen(self, topic, message_type, profile=None):
        """Keep what comes on a topic."""
        self.received[topic] = []
        self.arrived_ns[topic] = []

        def keep(message):
            with self._news:  # guards received
                self.arrived_ns[topic].append(time.time_ns())
                self.received[topic].append(message)
                self._news.notify_all()

        profile = profile or qos.image_qos("best_effort")
        self._robot.create_subscription(message_type, topic, keep, profile)

    def send(self, topic, message, profile=None):
        """Publish once somebody listens."""
        if topic not in self._publishers:
            profile = profile or qos.result_qos()
            self._publishers[topic] = self._robot.create_publisher(type(message), topic, profile)
        publisher = self._publishers[topic]
        self.until(lambda: publisher.get_subscription_count() > 0, f"a subscriber of {topic}")
        publisher.publish(message)

    def wait_for(self, topic, wanted=lambda message: True, after=0):
        """The first message of a topic that is wanted, from the `after`-th on."""
        found = []

        def look():
            found.extend(message for message in self.received[topic][after:] if wanted(message))
            return bool(found)

        with self._news:  # guards received
            came = self._news.wait_for(look, PATIENCE_S)
        last = str(self.received[topic][-1:])[:2000]
        assert came, f"no such message on {topic} in {PATIENCE_S} s; the last one: {last}"
        return found[0]

    def until(self, condition, what):
        """Wait until something becomes true."""
        end = time.monotonic() + PATIENCE_S
        while not condition():
            assert time.monotonic() < end, f"no {what} in {PATIENCE_S} s"
            time.sleep(0.01)

    def transition(self, node_name, name):
        """Ask for a lifecycle transition as `ros2 lifecycle set` does; True if it succeeded."""
        request = ChangeState.Request()
        request.transition.id = getattr(Transition, f"TRANSITION_{name.upper()}")
        future = self._ask(f"/{node_name}/change_state", ChangeState, request)
        if self._is_done(future):
            return future.result().success
        self.until(lambda: not self.state(node_name).endswith("ing"), f"end of {name}")
        return self.state(node_name) == REACHED[name]

    def state(self, node_name):
        """The label of the node's lifecycle state."""
        response = self.call(f"/{node_name}/get_state", GetState, GetState.Request())
        return response.current_state.label

    def call(self, name, service_type, request):
        """Call a service that may be called twice and return its response."""
        for _ in range(round(PATIENCE_S / LOST_AFTER_S)):
            future = self._ask(name, service_type, request)
            if self._is_done(future):
                return future.result()
        raise AssertionError(f"no answer of {name} in {PATIENCE_S} s")

    def _ask(self, name, service_type, request):
        if name not in self._clients:
            self._clients[name] = self._robot.create_client(service_type, name)
        client = self._clients[name]
        assert client.wait_for_service(timeout_sec=PATIENCE_S), f"no service {name}"
        return client.call_async(request)

    def _is_done(self, future):
        """Whether the response comes before it counts as lost."""
        end = time.monotonic() + LOST_AFTER_S
        while not future.done() and time.monotonic() < end:
            time.sleep(0.01)
        return future.done()

    def set_parameter(self, node_name, name, value):
        """Set a parameter as `ros2 param set` does; returns its result."""
        request = SetParameters.Request()
        request.parameters = [Parameter(name, value=value).to_parameter_msg()]
        return self.call(f"/{node_name}/set_parameters", SetParameters, request).results[0]

    def play(self, camera, rate_hz):
        """Publish a camera's frames until the end of the test, stamped as they leave."""

        def publish():
            period_s = 1.0 / rate_hz
            while not self._playing.wait(period_s):
                camera.publish_next(self._robot)

        self._playing.clear()
        thread = threading.Thread(target=publish, daemon=True)
        thread.start()
        self._threads.append(thread)

    @property
    def robot(self):
        """The node that talks to the one under test."""
        return self._robot

    def pause(self):
        """Publish no more frames."""
        self._playing.set()

    def stop(self):
        """End the node and the robot."""
        self._playing.set()
        if self.process is not None and self.process.poll() is None:
            self.process.kill()
            self.process.communicate()
        if self.node is not None:
            self.node.close()
        for context in self._contexts:
            context.try_shutdown()
        for thread in self._threads:
            thread.join(10.0)


class TableCamera:
    """Some frames of the simulated table, published round and round with their depth and optics."""

    def __init__(self, frames, frame_id, prefix=""):
        self._frames = frames
        self._prefix = prefix  # of its topics
        self._frame_id = frame_id
        self.depth_frame_id = frame_id
        self._publishers = None
        self._num_published = 0
        self.stamps_ns = []

    def publish_next(self, robot):
        """One frame, stamped now; optics and depth first, as a camera driver does."""
        if self._publishers is None:
            reliable = qos.image_qos("reliable")
            self._publishers = [
                robot.create_publisher(kind, f"{self._prefix}{topic}", reliable)
                for kind, topic in (
                    (CameraInfo, "camera_info"),
                    (CameraInfo, "depth/camera_info"),
                    (Image, "depth"),
                    (Image, "image"),
                )
            ]
        frame = self._frames[self._num_published % len(self._frames)]
        self._num_published += 1
        at = (robot.get_clock().now().nanoseconds, self._frame_id)
        info = images.camera_info_message(frame.camera, frame.width, frame.height, *at)
        messages = (
            info,
            info,
            images.depth_message(frame.depth_m, at[0], self.depth_frame_id),
            images.image_message(frame.image, *at),
        )
        self.stamps_ns.append(at[0])
        for publisher, message in zip(self._publishers, messages, strict=True):
            publisher.publish(message)


@pytest.fixture(scope="session")
def table_frames():
    """The first frames of the simulated table: a red mug, a lemon, a blue mug and others."""
    source = TableSource(seed=0, width=320, height=240, rate_hz=5.0)
    frames = [source.read() for _ in range(6)]
    # There and back again, so that the round has no jump.
    return frames + frames[-2:0:-1]


@pytest.fixture
def camera(table_frames):
    """A camera that looks at the table."""
    return TableCamera(table_frames, "table_optical")


@pytest.fixture
def camera_of(table_frames):
    """Makes cameras that look at the table, by what stands before their topics: `front/`."""
    return lambda prefix: TableCamera(table_frames, f"{prefix}optical", prefix)


@pytest.fixture
def node_under_test(domain_id):
    """A fresh NodeUnderTest, stopped afterwards."""
    node = NodeUnderTest(domain_id)
    yield node
    node.stop()

"""Clocks that stand still, and stamps that jump: points stay true and fresh."""

import time

import pytest
from diagnostic_msgs.msg import DiagnosticArray
from rosgraph_msgs.msg import Clock
from sensor_msgs.msg import Image, PointCloud2
from std_msgs.msg import String

from molmo2_ros.ros import images, qos
from molmo2_ros.ros.clouds import rows_of
from molmo2_ros.ros.grounding_node import GroundingNode

NS = 10**9
START_NS = 1_700_000_000 * NS
HOUR_NS = 3600 * NS


class Player:
    """Publishes pictures of the table with the stamps that it is told, as a bag's player does."""

    def __init__(self, node, frames):
        self._node = node
        self._frames = frames
        self._num = 0

    def play(self, first_ns, num, period_ns=NS // 10):
        for index in range(num):
            stamp_ns = first_ns + index * period_ns
            frame = self._frames[self._num % len(self._frames)]
            self._num += 1
            self._node.send(
                "image",
                images.image_message(frame.image, stamp_ns, "camera"),
                qos.image_qos("reliable"),
            )
            time.sleep(0.1)
        return first_ns + num * period_ns


def is_seen_after(stamp_ns):
    """Points on a frame from then on."""
    return lambda cloud: images.stamp_ns_of(cloud) >= stamp_ns and len(rows_of(cloud)) > 0


@pytest.mark.parametrize("jump_ns", [-HOUR_NS, HOUR_NS, -START_NS + NS], ids=["back", "on", "0"])
def test_stamps_that_jump_lose_the_targets_and_get_them_again(
    node_under_test, table_frames, jump_ns
):
    node = node_under_test
    node.listen("grounding/points", PointCloud2, qos.result_qos())
    node.start(GroundingNode, queries=["point: the red mug"])
    player = Player(node, table_frames)
    next_ns = player.play(START_NS, 15)
    node.wait_for("grounding/points", is_seen_after(START_NS))
    before = len(node.received["grounding/points"])

    player.play(next_ns + jump_ns, 15)

    after = [
        cloud
        for cloud in node.received["grounding/points"][before:]
        if abs(images.stamp_ns_of(cloud) - (next_ns + jump_ns)) < 60 * NS
    ]
    assert after, "points come at once"
    assert len(rows_of(after[0])) == 0, "nothing is carried over a jump"
    seen = [rows_of(cloud)[0] for cloud in after if len(rows_of(cloud))]
    assert seen, "it is found again"
    assert max(row["age"] for row in seen) < 2.0
    assert min(row["age"] for row in seen) >= 0.0


def test_under_simulated_time_a_clock_that_stands_still_or_jumps_back_stops_nothing(
    node_under_test, table_frames
):
    node = node_under_test
    node.listen("grounding/points", PointCloud2, qos.result_qos())
    node.listen("grounding/queries", String, qos.state_qos())
    node.start(GroundingNode, use_sim_time=True, queries=["mug=point[for 60 s, 5 hz]: the red mug"])
    player = Player(node, table_frames)

    def tick(now_ns):
        node.send("/clock", Clock(clock=images.time_message(now_ns)), qos.result_qos())

    def is_told():
        tick(START_NS)  # again, as the node may not have found this publisher yet
        return node.node.get_clock().now().nanoseconds == START_NS

    node.until(is_told, "simulated time")
    player.play(START_NS, 15)
    node.wait_for("grounding/points", is_seen_after(START_NS))

    # A bag that is played once more: time runs back to its beginning.
    tick(START_NS + 10 * NS)
    tick(START_NS)
    before = len(node.received["grounding/points"])
    player.play(START_NS, 15)
    node.wait_for("grounding/points", is_seen_after(START_NS), after=before)
    told = node.received["grounding/queries"][-1].data
    assert '"mug"' in told, "a query's time is that of people, not of the clock that jumped"


def test_a_camera_that_is_silent_is_told_though_simulated_time_stands(
    node_under_test, table_frames
):
    node = node_under_test
    node.listen("grounding/points", PointCloud2, qos.result_qos())
    node.listen("/diagnostics", DiagnosticArray)
    node.start(GroundingNode, use_sim_time=True, queries=["count: mugs"], diagnostics_period_s=0.2)
    player = Player(node, table_frames)
    player.play(START_NS, 5)
    node.wait_for("grounding/points")

    node.wait_for(
        "/diagnostics",
        lambda m: any("no image on image for" in status.message for status in m.status),
    )


def test_pictures_of_one_stamp_are_one_picture(node_under_test, table_frames):
    node = node_under_test
    node.listen("grounding/points", PointCloud2, qos.result_qos())
    node.listen("image", Image, qos.image_qos("reliable"))
    node.start(GroundingNode, queries=["count: mugs"])
    Player(node, table_frames).play(START_NS, 6, period_ns=0)

    node.until(lambda: len(node.received["image"]) == 6, "all pictures")
    time.sleep(0.5)
    assert len(node.received["grounding/points"]) <= 1

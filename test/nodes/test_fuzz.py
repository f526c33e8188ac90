"""A share of benchmarks/fuzz.py: messages that nobody should send, at the nodes' own callbacks."""

import random

import pytest
import rclpy
from rclpy.context import Context
from rclpy.executors import SingleThreadedExecutor
from rclpy.serialization import deserialize_message, serialize_message

from benchmarks import fuzz
from benchmarks.fuzz_messages import STRATEGIES, batch

NUM_EACH = 60


@pytest.fixture
def context(domain_id):
    """A context of a ROS domain of its own."""
    context = Context()
    rclpy.init(args=["--ros-args", "--log-level", "fatal"], context=context, domain_id=domain_id)
    yield context
    context.try_shutdown()


@pytest.mark.parametrize("node_class", [fuzz.FuzzedGrounding, fuzz.FuzzedRecorder, fuzz.FuzzedPage])
def test_nothing_that_is_sent_breaks_a_node_and_each_refusal_is_counted(
    node_class, context, tmp_path
):
    told = []
    fuzzed = node_class(
        SingleThreadedExecutor(context=context), fuzz.Bugs(), tmp_path, context=context
    )
    try:
        for kind in node_class.kinds:
            drawn = batch(kind, NUM_EACH, number=7)
            row = fuzz.fuzz_callbacks(kind, map(serialize_message, drawn), fuzzed, told.append)
            assert told == []
            assert (row["crashes"], row["hangs"]) == (0, 0), row
            assert row["refused_counted"] == row["refused"] > 0, row
            assert row["messages"] == len(drawn) > row["refused"], row
    finally:
        fuzzed.close()


def test_altered_bytes_keep_the_head_of_cdr_and_differ():
    kind, _ = STRATEGIES["query"]
    data = bytes(serialize_message(kind(data="point: the red mug")))
    numbers = random.Random(0)
    changed = [fuzz.altered(data, numbers) for _ in range(50)]
    assert {one[:4] for one in changed} == {data[:4]}
    assert sum(one != data for one in changed) > 40
    assert deserialize_message(data, kind).data == "point: the red mug"

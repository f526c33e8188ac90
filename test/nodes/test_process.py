"""What ends a node's process while it still starts."""

import os
import signal
import subprocess
import sys
import time

import pytest

# A node whose start takes for ever, as that of a large engine nearly does.
SLOW = """
import sys, time
from rclpy.node import Node
from molmo2_ros.ros.process import run_node

class Slow(Node):
    is_done = False
    def __init__(self):
        super().__init__("slow")
    def start(self):
        print("starts", flush=True)
        while True:
            time.sleep(0.01)
    def close(self):
        print("closed", flush=True)

sys.exit(run_node(Slow, [], shares_memory=False))
"""
PATIENCE_S = 120.0


@pytest.fixture
def slow(domain_id):
    """It starts, and goes on with that."""
    process = subprocess.Popen(
        [sys.executable, "-c", SLOW],
        env={**os.environ, "ROS_DOMAIN_ID": str(domain_id)},
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
        text=True,
    )
    while "starts" not in process.stdout.readline():
        assert process.poll() is None
    yield process
    process.kill()
    process.wait()


def ends_well(process):
    output, _ = process.communicate(timeout=PATIENCE_S)
    return process.returncode == 0 and output == "closed\n"


def test_a_second_interrupt_a_second_later_breaks_the_start_off(slow):
    slow.send_signal(signal.SIGINT)
    time.sleep(1.3)
    assert slow.poll() is None  # the first one waits for the end of the start
    slow.send_signal(signal.SIGINT)
    assert ends_well(slow)


def test_sigterm_after_an_interrupt_breaks_the_start_off_at_once(slow):
    slow.send_signal(signal.SIGINT)
    time.sleep(0.1)
    slow.send_signal(signal.SIGTERM)
    assert ends_well(slow)

"""What the process takes of the machine is what Linux says of it."""

import json
import subprocess
import sys
import time

import pytest

from molmo2_ros.ros.process_meter import ProcessMeter

# What a process of its own says before it takes memory, a thread and a file, and after. Each page
# is touched in place: an allocator keeps what it was given, and other tests leave threads behind.
_TAKE = """
import json, mmap, sys, threading
from molmo2_ros.ros.process_meter import ProcessMeter

meter = ProcessMeter()
before = meter.values()
release = threading.Event()
thread = threading.Thread(target=release.wait)
thread.start()
with mmap.mmap(-1, 60_000_000) as taken, open(sys.argv[1], "w"):
    for page in range(0, len(taken), mmap.PAGESIZE):
        taken[page] = 1
    now = meter.values()
release.set()
thread.join()
print(json.dumps([before, now]))
"""


def test_memory_threads_and_files_of_a_process_are_seen(tmp_path):
    told = subprocess.run(
        [sys.executable, "-c", _TAKE, tmp_path / "open"], check=True, stdout=subprocess.PIPE
    ).stdout
    before, now = json.loads(told)

    assert now["memory_mb"] - before["memory_mb"] == pytest.approx(60, abs=15)
    assert now["memory_peak_mb"] >= now["memory_mb"] * 0.9
    assert now["threads"] == before["threads"] + 1
    assert now["open_files"] == before["open_files"] + 1


def test_cores_are_those_since_the_last_look():
    meter = ProcessMeter()
    end = time.process_time() + 0.2
    while time.process_time() < end:
        pass

    busy = meter.values()["cores"]

    def idle():
        time.sleep(0.1)
        return meter.values()["cores"]

    # The quietest of some looks: threads that other tests left may wake up in one of them.
    assert busy > 3 * min(idle() for _ in range(5))


def test_a_system_without_proc_tells_what_it_can(tmp_path):
    values = ProcessMeter(proc=tmp_path / "missing").values()

    assert values["memory_peak_mb"] > 10
    assert {"memory_mb", "threads", "open_files"}.isdisjoint(values)

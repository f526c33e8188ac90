"""Memory that was freed goes back to the system."""

import json
import subprocess
import sys

# In a process of its own: nobody else's memory comes and goes there. What is taken last stays, so
# that malloc cannot give the top of its heap back by itself.
_TAKE_AND_FREE = """
import json
from molmo2_ros.ros.heap import trim_heap
from molmo2_ros.ros.process_meter import ProcessMeter

meter = ProcessMeter()
told = []
taken = [bytearray(b"x" * 100_000) for _ in range(600)]
last = taken.pop()
told.append(meter.values()["memory_mb"])
del taken
told.append(meter.values()["memory_mb"])
trim_heap()
told.append(meter.values()["memory_mb"])
print(json.dumps(told))
"""


def test_what_was_freed_is_returned():
    told = subprocess.run(
        [sys.executable, "-c", _TAKE_AND_FREE], check=True, stdout=subprocess.PIPE
    ).stdout
    taken_mb, freed_mb, trimmed_mb = json.loads(told)
    assert freed_mb > taken_mb - 20  # malloc keeps it
    assert trimmed_mb < taken_mb - 40

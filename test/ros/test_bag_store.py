"""Bags are split, old ones go, full disks pass, and a kill costs what was not flushed."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from benchmarks.recorded_bags import TEXT, text
from molmo2_ros.bags.bag import Bag
from molmo2_ros.bags.skips import Skips
from molmo2_ros.errors import ConfigError, DataError
from molmo2_ros.ros import bag_store
from molmo2_ros.ros.bag_store import BagStore, StoreSettings

ROOT = Path(__file__).parents[2]
TOPIC = "/grounding/answer"


def settings(folder, **changes):
    values = {"split_mb": 0.2, "split_s": 1000.0, "max_disk_mb": 1.0, "when_full": "drop_oldest",
              "min_free_mb": 0.0}  # fmt: skip
    return StoreSettings(folder=folder, **{**values, **changes})


def message(number, num_bytes=10_000):
    return text(f"{number} " + "x" * num_bytes)[1]


def write(store, numbers, num_bytes=10_000):
    for number in numbers:
        store.write(TOPIC, TEXT, number, message(number, num_bytes))


def read(folder, skips=None):
    """The numbers of all messages in all bags of a folder."""
    found = []
    for path in sorted(folder.iterdir()):
        with Bag(path, skips or Skips()) as bag:
            found += [m.log_ns for m in bag.messages([TOPIC])]
    return found


def disk_use(folder):
    return sum(path.stat().st_size for path in folder.rglob("*") if path.is_file())


def test_a_bag_that_grows_too_large_is_followed_by_another_and_nothing_is_lost(tmp_path):
    store = BagStore(settings(tmp_path))
    write(store, range(60))
    store.close()

    assert len(list(tmp_path.iterdir())) == 4  # 19 messages of 10 kB in each
    assert read(tmp_path) == list(range(60))


def test_a_bag_that_grows_too_old_is_followed_by_another(tmp_path):
    store = BagStore(settings(tmp_path, split_s=0.05))
    write(store, [1])
    time.sleep(0.06)
    write(store, [2])
    store.close()

    assert len(list(tmp_path.iterdir())) == 2


def test_the_oldest_bag_goes_where_the_space_is_used(tmp_path):
    foreign = tmp_path / "family_pictures"
    foreign.mkdir()
    (foreign / "a.mcap").write_bytes(b"x" * 500_000)
    store = BagStore(settings(tmp_path))
    for first in range(0, 300, 10):
        write(store, range(first, first + 10))
        assert disk_use(tmp_path) - 500_000 <= 1_000_000
    store.close()

    assert (foreign / "a.mcap").exists()
    (foreign / "a.mcap").unlink()
    foreign.rmdir()
    kept = read(tmp_path)
    assert kept == list(range(kept[0], 300))
    assert 50 < len(kept) < 100
    assert store.num_bags_dropped > 5


def test_bags_of_an_earlier_run_count_and_go_first(tmp_path):
    earlier = BagStore(settings(tmp_path))
    write(earlier, range(80))
    earlier.close()

    store = BagStore(settings(tmp_path))
    assert store.used_bytes == pytest.approx(disk_use(tmp_path), rel=0.02)
    write(store, range(80, 140))
    store.close()

    kept = read(tmp_path)
    assert kept == list(range(kept[0], 140))


def test_with_stop_nothing_is_removed_and_recording_goes_on_once_there_is_room(
    tmp_path, monkeypatch
):
    monkeypatch.setattr(bag_store, "_RETRY_S", 0.05)
    store = BagStore(settings(tmp_path, when_full="stop"))
    with pytest.raises(DataError, match="take all of max_disk_mb 1; move some of them away"):
        write(store, range(200))
    kept = read(tmp_path)
    assert kept == list(range(len(kept)))
    with pytest.raises(DataError, match="take all of max_disk_mb"):
        write(store, [200])

    oldest = min(tmp_path.iterdir())
    for file in oldest.iterdir():
        file.unlink()
    oldest.rmdir()
    time.sleep(0.06)
    write(store, [201])
    store.close()

    assert read(tmp_path)[-1] == 201


def test_a_disk_with_too_little_left_is_told(tmp_path):
    store = BagStore(settings(tmp_path, min_free_mb=1e9))

    with pytest.raises(DataError, match=r"has \d+ MB free, expected min_free_mb 1e\+09"):
        write(store, [1])


FULL_DISK = """
import json, resource, sys, time
from pathlib import Path
from molmo2_ros.errors import DataError
from molmo2_ros.ros import bag_store
bag_store._RETRY_S = 0.05
from test_store import settings, write
store = bag_store.BagStore(settings(Path(sys.argv[1]), split_mb=0.5))
write(store, range(3)); store.flush()
resource.setrlimit(resource.RLIMIT_FSIZE, (50_000, resource.RLIM_INFINITY))
told = []
for number in range(3, 33):
    try:
        write(store, [number]); store.flush()
    except DataError as error:
        told.append(str(error))
resource.setrlimit(resource.RLIMIT_FSIZE, (resource.RLIM_INFINITY, resource.RLIM_INFINITY))
time.sleep(0.06)
write(store, [99]); store.close()
print(json.dumps(told))
"""


def run(code, folder):
    """Run code that may import this file as `test_store`."""
    loader = (
        "import importlib.util, sys\n"
        f"spec = importlib.util.spec_from_file_location('test_store', {str(Path(__file__))!r})\n"
        "module = importlib.util.module_from_spec(spec); sys.modules['test_store'] = module\n"
        "spec.loader.exec_module(module)\n"
    )
    return subprocess.Popen(
        [sys.executable, "-c", loader + code, str(folder)],
        cwd=ROOT, stdout=subprocess.PIPE, text=True,
    )  # fmt: skip


def test_a_disk_that_fails_is_told_keeps_what_was_written_and_is_tried_again(tmp_path):
    process = run(FULL_DISK, tmp_path)
    output, _ = process.communicate(timeout=60)

    assert process.returncode == 0
    told = json.loads(output)
    assert told
    assert all("cannot be written (File too large); what was" in words for words in told[:1])
    kept = read(tmp_path)
    assert kept[:3] == [0, 1, 2]
    assert kept[-1] == 99


KILLED = """
import os, sys
from pathlib import Path
from test_store import settings, write
from molmo2_ros.ros.bag_store import BagStore
store = BagStore(settings(Path(sys.argv[1]), split_mb=50.0, max_disk_mb=200.0))
write(store, range(7)); store.flush()
write(store, range(7, 9))
print("written", flush=True)
os.read(0, 1)
"""


def test_after_a_kill_all_that_was_flushed_is_read(tmp_path):
    process = run(KILLED, tmp_path)
    assert process.stdout.readline() == "written\n"
    process.send_signal(signal.SIGKILL)
    process.wait()

    skips = Skips()
    assert read(tmp_path, skips) == list(range(7))
    assert skips.counts == {"metadata": 1, "end of a file": 1}
    assert os.listdir(next(tmp_path.iterdir())) == [f"{next(tmp_path.iterdir()).name}.mcap"]


def test_a_bag_that_could_never_be_dropped_is_refused(tmp_path):
    with pytest.raises(ConfigError, match="split_mb is 0.6 of max_disk_mb 1, expected at most"):
        settings(tmp_path, split_mb=0.6)

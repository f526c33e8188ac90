"""A file is replaced whole or not at all: by kills, full disks and several at once."""

import os
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest

from molmo2_ros.runtime.durable import replace_text, sync_below

ROOT = Path(__file__).parents[2]
KILLED = """
import os, signal, sys
from pathlib import Path
from molmo2_ros.runtime import durable
def kill(*_):
    os.kill(os.getpid(), signal.SIGKILL)
setattr(*((os, "fsync", kill) if sys.argv[2] == "fsync" else (Path, "replace", kill)))
durable.replace_text(Path(sys.argv[1]), "new" * 1000)
"""
FULL = """
import resource, sys
from pathlib import Path
from molmo2_ros.runtime import durable
resource.setrlimit(resource.RLIMIT_FSIZE, (1000, resource.RLIM_INFINITY))
try:
    durable.replace_text(Path(sys.argv[1]), "new" * 1000)
except OSError as error:
    sys.exit(error.strerror)
"""


def run(code, *arguments):
    return subprocess.run(
        [sys.executable, "-c", code, *map(str, arguments)],
        cwd=ROOT, capture_output=True, text=True, check=False,
    )  # fmt: skip


def test_a_text_takes_the_place_of_another_and_others_may_read_it(tmp_path):
    path = tmp_path / "history.json"
    for text in ("one", "two \u2028 \xe4"):
        replace_text(path, text)
        assert path.read_text(encoding="utf-8") == text
    assert os.listdir(tmp_path) == ["history.json"]
    plain = tmp_path / "plain"
    plain.write_text("")
    assert path.stat().st_mode == plain.stat().st_mode


@pytest.mark.parametrize("step", ["fsync", "replace"])
def test_a_kill_leaves_the_old_text(tmp_path, step):
    path = tmp_path / "a"
    path.write_text("old")
    assert run(KILLED, path, step).returncode == -signal.SIGKILL
    assert path.read_text() == "old"


def test_a_full_disk_leaves_the_old_text_and_nothing_else(tmp_path):
    path = tmp_path / "a"
    path.write_text("old")
    assert "File too large" in run(FULL, path).stderr
    assert path.read_text() == "old"
    assert os.listdir(tmp_path) == ["a"]


def test_of_many_at_once_one_wins_whole(tmp_path):
    texts = [str(number) * 100_000 for number in range(8)]
    threads = [threading.Thread(target=replace_text, args=(tmp_path / "a", t)) for t in texts]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert (tmp_path / "a").read_text() in texts
    assert os.listdir(tmp_path) == ["a"]


def test_all_below_a_folder_is_synced(tmp_path, monkeypatch):
    (tmp_path / "inner").mkdir()
    (tmp_path / "inner" / "file").write_text("x")
    synced = set()
    fsync = os.fsync

    def noted(handle):
        synced.add(os.fstat(handle).st_ino)
        fsync(handle)

    monkeypatch.setattr(os, "fsync", noted)
    sync_below(tmp_path)
    places = (tmp_path, tmp_path / "inner", tmp_path / "inner" / "file")
    assert synced == {path.stat().st_ino for path in places}

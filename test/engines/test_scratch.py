"""An export that is killed, interrupted, or beside another one; and a disk that is full."""

import os
import resource
import shutil
import signal
import subprocess
import sys
import time
from dataclasses import replace

import pytest

from molmo2_ros.engines.export import main
from molmo2_ros.engines.scratch import check_space, install, scratch_beside
from molmo2_ros.errors import EngineError
from molmo2_ros.runtime.engine import load_engine
from molmo2_ros.runtime.manifest import Manifest, file_entry

START = [sys.executable, "-m", "molmo2_ros.engines.export"]


def scratches(folder):
    return sorted(folder.glob(".engine.export-*"))


@pytest.fixture
def killed(checkpoint, tmp_path):
    """Start an export to `tmp_path`/engine, and kill it once it has written a graph."""
    process = subprocess.Popen([*START, str(checkpoint), str(tmp_path / "engine")])
    end = time.monotonic() + 120
    while not [path for folder in scratches(tmp_path) for path in folder.glob("engine/*.onnx")]:
        assert process.poll() is None, "the export ended before it could be killed"
        assert time.monotonic() < end
        time.sleep(0.01)
    os.kill(process.pid, signal.SIGKILL)
    process.wait()
    return tmp_path / "engine"


def test_killed_export_leaves_no_engine_and_the_next_one_cleans_up(killed):
    (left,) = scratches(killed.parent)
    assert not killed.exists()
    with pytest.raises(EngineError, match=r"no manifest.json in .*, expected an engine folder"):
        load_engine(left / "engine")
    with scratch_beside(killed):
        assert not left.exists()
    assert list(killed.parent.iterdir()) == []


def test_scratch_of_an_export_that_is_at_work_is_left_alone(tmp_path):
    with scratch_beside(tmp_path / "engine") as first, scratch_beside(tmp_path / "engine"):
        assert first.is_dir()
        assert len(scratches(tmp_path)) == 2
    assert scratches(tmp_path) == []


def test_scratch_of_another_engine_is_left_alone(tmp_path):
    with scratch_beside(tmp_path / "engine") as first, scratch_beside(tmp_path / "other"):
        assert first.is_dir()


def test_interrupted_export_cleans_up_itself(tmp_path):
    def interrupt():
        with scratch_beside(tmp_path / "engine") as built:
            (built / "decoder.onnx").write_bytes(b"half")
            raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        interrupt()
    assert list(tmp_path.iterdir()) == []


def test_installing_replaces_the_engine_and_keeps_what_is_not_of_it(exported, tmp_path):
    out = shutil.copytree(exported, tmp_path / "engine")
    manifest = Manifest.load(out)
    (out / "checkpoint").mkdir()
    (out / "notes.txt").write_text("mine")
    # The old engine had its weights beside the graph.
    (out / "decoder.onnx.data").write_bytes(b"old weights")
    entry = file_entry(out / "decoder.onnx.data")
    replace(manifest, files={**manifest.files, "decoder.onnx.data": entry}).write(out)
    install(shutil.copytree(exported, tmp_path / "built"), out)
    assert (out / "notes.txt").read_text() == "mine"
    assert (out / "checkpoint").is_dir()
    assert not (out / "decoder.onnx.data").exists()
    assert Manifest.load(out) == manifest


def test_folder_never_loads_between_the_moves_of_an_installation(exported, tmp_path):
    out = shutil.copytree(exported, tmp_path / "engine")
    built = shutil.copytree(exported, tmp_path / "built")
    (built / "tokenizer.json").unlink()
    (built / "tokenizer.json").mkdir()  # cannot take the place of a file: the moves end here
    with pytest.raises(OSError, match="tokenizer.json"):
        install(built, out)
    with pytest.raises(EngineError, match="no manifest.json"):
        load_engine(out)


def test_disk_without_room_is_refused_before_anything_is_written(tmp_path):
    with pytest.raises(EngineError, match=r"GB free, the engine takes 1000000000\.0 GB; make room"):
        check_space(tmp_path / "not" / "yet" / "there", 10**18)
    check_space(tmp_path / "not" / "yet" / "there", 1)


def test_disk_that_fills_up_ends_the_export_with_a_clear_line(checkpoint, tmp_path, capsys):
    out = tmp_path / "engine"
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (10_000, hard))
    try:
        assert main([str(checkpoint), str(out)]) == 2
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    error = capsys.readouterr().err
    assert f"{out} cannot be written ([Errno 27] File too large" in error
    assert "make room, or give another folder" in error
    assert list(tmp_path.iterdir()) == []

"""The self-test of a loaded engine: given once on each machine, and remembered elsewhere."""

import json
import logging
import os
import shutil
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from molmo2_ros.errors import EngineError
from molmo2_ros.runtime import self_test
from molmo2_ros.runtime.engine import NANO, load_engine
from molmo2_ros.runtime.golden import GOLDEN_FILE, Golden
from molmo2_ros.runtime.self_test import SelfTest, machine_facts, prove


@pytest.fixture(autouse=True)
def cache(tmp_path, monkeypatch):
    """An empty cache directory."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    return tmp_path / "cache"


def remembered(cache):
    return sorted((cache / "molmo2_ros" / "self_test").glob("*"))


@pytest.fixture
def wrong_engine(engine_folder, vouch_for):
    """An engine folder whose example is another model's."""
    golden = Golden.load(engine_folder / GOLDEN_FILE)
    replace(golden, logits=golden.logits + np.float32(0.1)).save(engine_folder / GOLDEN_FILE)
    vouch_for(engine_folder, GOLDEN_FILE)
    return engine_folder


def test_first_load_proves_and_the_second_remembers(cache):
    engine = load_engine(NANO, threads=1)
    (entry,) = remembered(cache)
    verdict = prove(engine)
    assert verdict.remembered
    assert verdict.state == "passed"
    assert verdict.error < 1e-4
    assert verdict.checksum == engine.manifest.checksum
    assert abs(verdict.tested_at_s - time.time()) < 60
    assert verdict.text.startswith(time.strftime("passed %Y-"))
    assert remembered(cache) == [entry]


def test_a_remembered_proof_costs_next_to_nothing():
    engine = load_engine(NANO, threads=1)
    spent = []
    for _ in range(5):
        begun = time.perf_counter()
        assert prove(engine).remembered
        spent.append(time.perf_counter() - begun)
    assert min(spent) < 0.02


def other_runtime(engine):
    engine.runtime = "onnxruntime 1.0 CPUExecutionProvider"


def other_tolerance(engine):
    golden = replace(engine.manifest.golden, logit_tolerance=0.5)
    engine.manifest = replace(engine.manifest, golden=golden)


def another_file(engine):
    files = engine.manifest.files
    engine.manifest = replace(engine.manifest, files={**files, "more": files["config.json"]})


@pytest.mark.parametrize("change", [other_runtime, other_tolerance, another_file])
def test_another_runtime_tolerance_or_file_is_another_proof(change):
    engine = load_engine(NANO, threads=1)
    change(engine)
    assert not prove(engine).remembered


def test_another_machine_is_another_proof(monkeypatch):
    engine = load_engine(NANO, threads=1)
    monkeypatch.setattr(self_test, "machine_facts", lambda: {"processor": "another"})
    assert not prove(engine).remembered
    assert prove(engine).remembered


def test_machine_is_told_by_processor_board_gpu_and_driver_and_not_by_its_load(tmp_path):
    def write(name, text):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        return machine_facts(tmp_path)

    known = [write("proc/cpuinfo", "model name : A\ncpu MHz : 1000\nflags : avx2\n")]
    assert write("proc/cpuinfo", "model name : A\ncpu MHz : 3000\nflags : avx2\n") == known[0]
    for name, text in (
        ("proc/cpuinfo", "model name : A\ncpu MHz : 1000\nflags : avx2 avx512f\n"),
        ("proc/device-tree/model", "NVIDIA Jetson AGX Orin\0"),
        ("proc/driver/nvidia/version", "NVRM version: 570.1"),
        ("proc/driver/nvidia/version", "NVRM version: 580.2"),
        ("proc/driver/nvidia/gpus/0000:01:00.0/information", "Model: RTX A\nIRQ: 5\n"),
        ("etc/nv_tegra_release", "# R36, REVISION: 4.3"),
    ):
        facts = write(name, text)
        assert facts not in known
        known.append(facts)


@pytest.mark.parametrize(
    "content",
    [b"", b"{", b"[]", b"null", b'{"facts": {}}', b"\xff\xfe", b'{"facts": 1, "error": "x"}'],
)
def test_a_spoilt_cache_means_that_the_test_runs_again(cache, content):
    engine = load_engine(NANO, threads=1)
    (entry,) = remembered(cache)
    good = json.loads(entry.read_text())
    for spoilt in (content, json.dumps({**good, "error": None}).encode()):
        entry.write_bytes(spoilt)
        assert not prove(engine).remembered
    assert prove(engine).remembered


def test_a_proof_of_something_else_under_the_same_name_is_not_believed(cache):
    engine = load_engine(NANO, threads=1)
    (entry,) = remembered(cache)
    content = json.loads(entry.read_text())
    content["facts"]["engine"] = "0" * 64
    entry.write_text(json.dumps(content))
    assert not prove(engine).remembered


def test_a_cache_that_cannot_be_written_costs_only_another_test(cache, caplog):
    cache.write_text("a file where the directory should be")
    caplog.set_level(logging.INFO)
    engine = load_engine(NANO, threads=1)
    assert "the self-test is not remembered" in caplog.text
    assert not prove(engine).remembered


def test_user_without_a_home_is_tested_each_time(monkeypatch):
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setattr(Path, "home", homeless)
    assert not prove(load_engine(NANO, threads=1)).remembered


def homeless():
    raise RuntimeError("Could not determine home directory.")


def test_a_relative_cache_directory_is_ignored(tmp_path, monkeypatch):
    """As the XDG base directories are defined."""
    monkeypatch.setenv("XDG_CACHE_HOME", "cache")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    monkeypatch.chdir(tmp_path)
    load_engine(NANO, threads=1)
    assert remembered(tmp_path / "home" / ".cache")
    assert not (tmp_path / "cache").exists()


def test_an_engine_that_computes_something_else_is_refused_each_time(wrong_engine, cache):
    for _ in range(2):
        with pytest.raises(EngineError, match=r"computes wrongly here .* set self_test to `warn`"):
            load_engine(wrong_engine, threads=1)
    assert not remembered(cache)


def test_warning_lets_it_run_and_says_so(wrong_engine, cache, caplog):
    caplog.set_level(logging.INFO)
    engine = load_engine(wrong_engine, threads=1, self_test="warn")
    (record,) = (r for r in caplog.records if "self-test" in r.message)
    assert record.levelno == logging.WARNING
    assert f"({engine.manifest.checksum[:12]}): failed " in record.message
    assert "computes wrongly here" in record.message
    verdict = prove(engine, "warn")
    assert (verdict.state, verdict.error, verdict.remembered) == ("failed", None, False)
    assert not remembered(cache)


def test_off_compares_nothing(wrong_engine, cache):
    engine = load_engine(wrong_engine, threads=1, self_test="off")
    assert prove(engine, "off") == SelfTest(state="off", checksum=engine.manifest.checksum)
    assert prove(engine, "off").text == "off"
    assert not remembered(cache)


def test_unknown_mode_is_refused_before_anything_is_loaded(tmp_path):
    with pytest.raises(EngineError, match="self_test is 'maybe', expected one of refuse, warn, of"):
        load_engine(tmp_path / "nowhere", self_test="maybe")


ANSWER = """
import sys
from molmo2_ros import Frame, Grounder, load_engine, parse_query
from molmo2_ros.camera.clip import Clip
from molmo2_ros.runtime.golden import Golden
engine = load_engine(sys.argv[1], threads=1)
golden = Golden.load(engine.folder / engine.manifest.golden.file)
frames = [Frame(image=f, stamp_ns=round(t * 1e9)) for f, t in zip(golden.frames, golden.times_s)]
print(Grounder(engine).answer(Clip(tuple(frames)), parse_query(golden.question)).text)
"""


def test_engine_folder_can_be_moved_read_only_and_used_from_anywhere(tmp_path, cache):
    """Self-contained: no other file of the package's engine, no absolute path, nothing written."""
    folder = tmp_path / "far away" / "engine"
    shutil.copytree(NANO, folder, ignore=shutil.ignore_patterns("checkpoint"))
    for path in (*folder.iterdir(), folder):
        path.chmod(0o555 if path.is_dir() else 0o444)
    elsewhere = tmp_path / "elsewhere"
    elsewhere.mkdir()
    (elsewhere / "link").symlink_to(folder)
    before = sorted(os.listdir(folder))
    texts = set()
    for given in (folder, "../far away/engine", "link"):
        result = subprocess.run(
            [sys.executable, "-c", ANSWER, str(given)],
            cwd=elsewhere,
            env={**os.environ, "PYTHONPATH": str(Path(__file__).parents[2])},
            check=True,
            capture_output=True,
            text=True,
        )
        texts.add(result.stdout)
    assert len(texts) == 1
    assert "<tracks" in texts.pop()
    assert sorted(os.listdir(folder)) == before
    assert len(remembered(cache)) == 1  # the path is no part of the proof
    folder.chmod(0o755)  # or pytest cannot clean up

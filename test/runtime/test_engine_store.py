import dataclasses
import json
import os
import shutil
import signal
import subprocess
import sys

import numpy as np
import pytest

from molmo2_ros import load_engine
from molmo2_ros.cli.main import main
from molmo2_ros.errors import EngineError
from molmo2_ros.runtime.engine import NANO, engine_folder
from molmo2_ros.runtime.engine_store import EngineStore, default_folder
from molmo2_ros.runtime.manifest import Manifest, file_entry


@pytest.fixture
def engine(tmp_path):
    """Copies of molmo2-nano, each with a name of its own."""

    def copy(number):
        folder = tmp_path / f"engine{number}"
        shutil.copytree(NANO, folder, ignore=shutil.ignore_patterns("checkpoint"))
        content = json.loads((folder / "manifest.json").read_text())
        (folder / "manifest.json").write_text(json.dumps({**content, "name": f"nano {number}"}))
        return folder

    return copy


@pytest.fixture
def store(tmp_path, monkeypatch):
    monkeypatch.setenv("MOLMO2_ROS_ENGINES", str(tmp_path / "store"))
    return EngineStore()


def name_of(folder):
    return Manifest.load(folder).name


def test_the_newest_engine_is_current_and_a_rollback_returns_to_the_one_before(store, engine):
    for number in (1, 2):
        assert name_of(store.install(engine(number), "yard").folder) == f"nano {number}"
    assert load_engine("yard").manifest.name == "nano 2"
    assert name_of(store.rollback("yard").folder) == "nano 1"
    assert name_of(engine_folder("yard")) == "nano 1"
    assert name_of(store.install(engine(3), "yard").folder) == "nano 3"
    assert name_of(store.rollback("yard").folder) == "nano 1"  # not the second, which was left
    with pytest.raises(EngineError, match=r"yard has one version, 0001-\w{8}, and none to go back"):
        store.rollback("yard")
    assert name_of(engine_folder("yard")) == "nano 1"


def test_as_many_versions_are_kept_as_were_asked_for(store, engine):
    for number in range(4):
        installed = store.install(engine(number), "yard", keep=2)
    folders = sorted(p.name for p in (store.folder / "yard").iterdir() if p.is_dir())
    assert list(installed.history) == folders
    assert [name[:4] for name in folders] == ["0003", "0004"]
    with pytest.raises(EngineError, match="keep is 1, expected at least 2"):
        store.install(engine(9), "yard", keep=1)


def test_an_engine_that_computes_wrongly_is_not_installed(store, engine):
    good, bad = engine(1), engine(2)
    manifest = Manifest.load(bad)
    store.install(good, "yard")
    golden = dict(np.load(bad / "golden.npz"))
    np.savez(bad / "golden.npz", **{**golden, "logits": golden["logits"] + 1})
    with pytest.raises(EngineError, match=r"engine2.*golden\.npz"):  # its hash is another one
        store.install(bad, "yard")
    files = {**manifest.files, "golden.npz": file_entry(bad / "golden.npz")}
    dataclasses.replace(manifest, files=files).write(bad)
    with pytest.raises(EngineError, match="engine2 was not installed: .*logits"):
        store.install(bad, "yard")
    assert name_of(store.find("yard").folder) == "nano 1"
    assert not (store.folder / "yard" / ".incoming").exists()


KILLED = """
import os, signal, sys
from pathlib import Path
from molmo2_ros.runtime import engine_store
write = engine_store._write
def killed(path, history):
    os.kill(os.getpid(), signal.SIGKILL)
engine_store._write = killed
engine_store.EngineStore().install(Path(sys.argv[1]), "yard")
"""


def test_a_killed_install_leaves_the_current_engine_and_the_next_one_clears_up(store, engine):
    store.install(engine(1), "yard")
    ended = subprocess.run([sys.executable, "-c", KILLED, str(engine(2))], env=os.environ.copy())
    assert ended.returncode == -signal.SIGKILL
    assert name_of(store.find("yard").folder) == "nano 1"
    store.install(engine(3), "yard")
    folders = [p for p in (store.folder / "yard").iterdir() if p.is_dir()]
    assert {name_of(folder) for folder in folders} == {"nano 1", "nano 3"}


@pytest.mark.parametrize("name", ["", "nano", "a/b", "..", ".hidden", "x" * 65, "a b", "--keep"])
def test_a_word_that_is_no_name_is_refused(store, engine, name):
    with pytest.raises(EngineError, match="cannot be an engine's name"):
        store.install(NANO, name)
    with pytest.raises(EngineError, match="cannot be an engine's name"):
        store.rollback(name)


def test_what_is_not_installed_is_said_with_what_is(store, engine):
    with pytest.raises(EngineError, match=r"no engine 'yard' in .*store, which has nothing"):
        store.find("yard")
    store.install(engine(1), "hall")
    with pytest.raises(EngineError, match=r"no engine 'yard' in .*store, which has hall"):
        store.rollback("yard")


@pytest.mark.parametrize("content", ["", "[]", "{}", '["../../etc"]', '["0001-00000000"]'])
def test_a_damaged_history_is_refused_until_an_install_mends_it(store, engine, content):
    store.install(engine(1), "yard")
    (store.folder / "yard" / "history.json").write_text(content)
    with pytest.raises(EngineError, match="install it anew"):
        load_engine("yard")
    store.install(engine(2), "yard")
    assert load_engine("yard").manifest.name == "nano 2"


def test_a_folder_goes_before_an_installed_name(store, engine, monkeypatch, tmp_path):
    store.install(engine(1), "yard")
    engine(2).rename(tmp_path / "yard")
    monkeypatch.chdir(tmp_path)
    assert name_of(engine_folder("yard")) == "nano 2"
    assert engine_folder(None) == engine_folder("nano") == NANO


def test_a_store_that_cannot_be_written_is_said_with_the_cure(engine, tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(EngineError, match="cannot write to .*another store in MOLMO2_ROS_ENGINES"):
        EngineStore(tmp_path / "file").install(NANO, "yard")


def test_the_store_lies_in_the_users_data(monkeypatch, tmp_path):
    monkeypatch.delenv("MOLMO2_ROS_ENGINES", raising=False)
    monkeypatch.setenv("XDG_DATA_HOME", str(tmp_path))
    assert default_folder() == tmp_path / "molmo2_ros" / "engines"
    monkeypatch.delenv("XDG_DATA_HOME")
    monkeypatch.setenv("HOME", str(tmp_path))
    assert default_folder() == tmp_path / ".local" / "share" / "molmo2_ros" / "engines"


def test_the_command_installs_lists_and_goes_back(store, engine, capsys):
    for number in (1, 2):
        assert main(["engine", "install", str(engine(number)), "yard"]) == 0
    capsys.readouterr()
    assert main(["engine", "list"]) == 0
    listed = capsys.readouterr().out
    assert listed.startswith("yard: 0002-")
    assert "; before it 0001-" in listed
    assert str(store.find("yard").folder) in listed
    assert main(["engine", "rollback", "yard"]) == 0
    assert capsys.readouterr().out.startswith("yard: 0001-")
    assert main(["engine", "rollback", "yard"]) == 2
    assert "none to go back to" in capsys.readouterr().err

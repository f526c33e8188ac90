"""An engine is named by a folder, by nothing, or by a server's URL."""

import pytest

from molmo2_ros.errors import ConfigError, EngineError
from molmo2_ros.grounder import Grounder
from molmo2_ros.opening import facts_of, grounder_of, open_model
from molmo2_ros.remote.grounder import RemoteGrounder
from molmo2_ros.remote.server import RemoteSettings
from molmo2_ros.runtime.engine import load_engine

URL = "http://127.0.0.1:1/v1"


@pytest.mark.parametrize("engine", [None, "nano"])
def test_a_folder_or_nothing_is_loaded(engine):
    model = open_model(engine, threads=1)
    grounder = grounder_of(model, constrained=True)
    assert isinstance(grounder, Grounder)
    assert grounder.constrained
    assert facts_of(model) == grounder.model
    assert grounder.model.name == "molmo2-nano"
    assert grounder.pause_s == 0.0


def test_what_is_set_for_a_folder_reaches_its_loader():
    asked = {}

    def load(folder, **options):
        asked.update(options, folder=folder)
        return load_engine(folder, threads=1)

    options = {"threads": 3, "device": "cpu", "rebuild": True, "self_test": "warn"}
    open_model("nano", load=load, **options)
    assert asked == {**options, "folder": None}


def test_a_url_is_a_server_that_need_not_run_yet():
    model = open_model(URL)
    assert isinstance(grounder_of(model), RemoteGrounder)
    assert model.device == URL
    assert facts_of(model).name == "model at 127.0.0.1"
    assert "subtitles" not in facts_of(model).skills
    assert {"track", "clip", "images"} <= set(facts_of(model).skills)


def test_a_folder_that_is_none_and_a_url_of_another_kind_are_refused(tmp_path):
    with pytest.raises(EngineError, match="no manifest.json"):
        open_model(str(tmp_path))
    with pytest.raises(ConfigError, match="begins with ftp://"):
        open_model("ftp://host/v1")


def test_a_server_cannot_be_constrained():
    with pytest.raises(ConfigError, match="not told the grammar"):
        open_model(URL, constrained=True)


@pytest.mark.parametrize(
    ("setting", "value"),
    [("jpeg_quality", 0), ("frame_size", -1), ("max_requests", 0), ("token_timeout_s", 0.0)],
)
def test_settings_out_of_range_are_refused(setting, value):
    with pytest.raises(ConfigError, match=f"{setting} is {value}, expected"):
        RemoteSettings(**{setting: value})

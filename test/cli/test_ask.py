"""`molmo2 ask` with a server as its engine: same findings, and one clear line where it is none."""

import json

import cv2
import pytest

from benchmarks.nano_server import nano_server
from molmo2_ros.cli.main import main
from molmo2_ros.runtime.engine import load_engine
from molmo2_ros.simulation.source import TableSource


@pytest.fixture(scope="module")
def pictures(tmp_path_factory):
    """A folder of frames of the simulated table, 0.5 s apart."""
    folder = tmp_path_factory.mktemp("frames")
    source = TableSource(seed=0, width=320, height=240, rate_hz=2.0)
    for number in range(4):
        image = cv2.cvtColor(source.read().image, cv2.COLOR_RGB2BGR)
        cv2.imwrite(str(folder / f"{number}.png"), image)
    return folder


def ask(capsys, *arguments):
    """Exit code, standard output, standard error."""
    code = main(["ask", *map(str, arguments)])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def test_a_track_by_a_server_is_the_one_of_the_model_here(pictures, capsys, monkeypatch):
    monkeypatch.delenv("MOLMO2_API_KEY", raising=False)
    question = (pictures, "Track the lemon", "--json", "--threads", 1)
    _, here, _ = ask(capsys, *question)
    with nano_server(load_engine(threads=1)) as server:
        code, there, _ = ask(capsys, *question, "--engine", server.url)
    assert code == 0
    both = json.loads(here), json.loads(there)
    assert both[1]["engine"] == "molmo2-nano"
    found = [
        {point["time_s"]: (point["x_px"], point["y_px"]) for point in result["points"]}
        for result in both
    ]
    assert found[0].keys() == found[1].keys() != set()
    for time_s, (u, v) in found[0].items():
        assert found[1][time_s] == pytest.approx((u, v), abs=8.0)


@pytest.mark.parametrize(
    ("options", "trouble"),
    [
        (["--engine", "http://127.0.0.1:1/v1"], "nothing listens there; check that the server"),
        (["--engine", "http://me:s3cret@host/v1"], "holds a user or a password"),
        (["--engine", "gopher://host"], "begins with gopher://"),
        (["--engine", "http://127.0.0.1:1/v1", "--constrained"], "not told the grammar"),
    ],
)
def test_a_server_that_is_none_is_one_clear_line(pictures, capsys, options, trouble):
    code, out, err = ask(capsys, pictures, "Track the lemon", *options)
    assert (code, out) == (2, "")
    assert trouble in err
    assert err.count("\n") == 1
    assert "s3cret" not in err


def test_one_of_several_models_is_named(pictures, capsys):
    with nano_server(load_engine(threads=1), models=("a", "b")) as server:
        asked = (pictures / "0.png", "Point to the red mug", "--engine", server.url)
        code, _, err = ask(capsys, *asked)
        assert (code, "offers a, b; name one" in err) == (2, True)
        code, out, _ = ask(capsys, *asked, "--model", "b")
        assert code == 0
    assert server.seen[-1]["model"] == "b"

"""`molmo2 ask --rerun`: the recording holds every frame, and the points where they truly are."""

import json

import cv2
import numpy as np
import pytest
from rerun.chunk import RrdReader

from molmo2_ros.cli.main import main
from molmo2_ros.simulation.source import TableSource

RATE_HZ, NUM_FRAMES = 10.0, 35
WIDTH, HEIGHT = 320, 240


@pytest.fixture(scope="module")
def table(tmp_path_factory):
    """A folder of frames of the simulated table, and the pixel of its lemon in each."""
    folder = tmp_path_factory.mktemp("frames")
    source = TableSource(seed=0, width=WIDTH, height=HEIGHT, rate_hz=RATE_HZ)
    lemons = []
    for number in range(NUM_FRAMES):
        frame = source.read()
        cv2.imwrite(str(folder / f"{number}.png"), cv2.cvtColor(frame.image, cv2.COLOR_RGB2BGR))
        lemons.append(next(x["point_px"] for x in source.truth() if x["name"] == "lemon"))
    return folder, lemons


def ask(capsys, *arguments):
    """Exit code, standard output, standard error."""
    code = main(["ask", *map(str, arguments), "--threads", "1"])
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def rows_of(path, timeline):
    """What a recording holds: {entity: {time: {component: value}}}; static values at time None."""
    found = {}
    for chunk in RrdReader(path).store().stream():
        batch = chunk.to_record_batch().to_pydict()
        times = batch.get(timeline, [None])
        for index, time in enumerate(times):
            seconds = time.total_seconds() if hasattr(time, "total_seconds") else time
            row = found.setdefault(chunk.entity_path, {}).setdefault(seconds, {})
            row.update(
                {
                    name: values[index]
                    for name, values in batch.items()
                    if name != timeline and not name.startswith("rerun.controls")
                }
            )
    return found


def test_a_track_stands_on_every_frame_where_the_thing_is(table, tmp_path, capsys):
    folder, lemons = table
    path = tmp_path / "lemon.rrd"
    question = (folder, "Track the lemon", "--rate", RATE_HZ)
    code, out, err = ask(capsys, *question, "--json", "--rerun", path)
    assert code == 0
    assert f"wrote {path}; open it with: rerun {path}" in err
    told = json.loads(out)
    rows = rows_of(path, "video")

    assert sorted(rows["/camera"]) == pytest.approx(np.arange(NUM_FRAMES) / RATE_HZ)
    jpeg = np.array(rows["/camera"][0.0]["EncodedImage:blob"][0], np.uint8)
    first = cv2.imread(str(folder / "0.png"))
    assert (
        np.abs(cv2.imdecode(jpeg, cv2.IMREAD_COLOR).astype(int) - first).mean() < 6
    )  # noise does not survive JPEG

    points = rows["/camera/points"]
    for index, truth in enumerate(lemons):
        row = points[index / RATE_HZ]
        assert row["Points2D:labels"] == ["lemon 1"]
        assert row["Points2D:positions"][0] == pytest.approx(truth, abs=15.0)
    for point in told["points"]:
        place = points[point["time_s"]]["Points2D:positions"][0]
        assert place == pytest.approx((point["x_px"], point["y_px"]), abs=0.01)

    assert len(rows["/camera/trails"][3.0]["LineStrips2D:strips"][0]) == 16  # of 1.5 s
    answers = [row["TextLog:text"] for row in rows["/answers"].values()]
    assert answers == [[answer["text"]] for answer in told["answers"]]
    about = rows["/question"][None]["TextDocument:text"][0]
    assert "molmo2-nano" in about
    assert told["query"]["question"] in about


def test_pictures_stand_by_their_number_with_their_points_and_counts(table, tmp_path, capsys):
    folder, _ = table
    pictures = [folder / "0.png", folder / "30.png"]
    path = tmp_path / "mugs.rrd"
    code, out, _ = ask(capsys, *pictures, "How many mugs are there?", "--json", "--rerun", path)
    assert code == 0
    told = json.loads(out)
    rows = rows_of(path, "picture")
    for number, answer in enumerate(told["answers"], 1):
        of_picture = [point for point in told["points"] if point["image"] == number]
        places = rows["/camera/points"][number]["Points2D:positions"]
        assert places == pytest.approx(
            np.array([(point["x_px"], point["y_px"]) for point in of_picture]), abs=0.01
        )
        assert rows["/plots/count"][number]["Scalars:scalars"] == [answer["count"]]
        assert rows["/answers"][number]["TextLog:text"] == [answer["text"]]


def test_what_is_asked_is_shown_as_it_is_not_as_markdown(tmp_path, table, capsys):
    picture = table[0] / "0.png"
    path = tmp_path / "odd.rrd"
    words = "point: the `mug` <b>\n\n- ![x](http://host/x.png)"
    assert ask(capsys, picture, words, "--rerun", path)[0] == 0
    about = rows_of(path, "picture")["/question"][None]["TextDocument:text"][0]
    assert about.count("`") == 6  # a pair for each of three values
    assert "`the 'mug' <b> - ![x](http://host/x.png)" in about.replace("Point to ", "")
    assert len(about.splitlines()) == 3


@pytest.mark.parametrize(
    ("name", "trouble"),
    [
        ("film.mp4", "ends in '.mp4', expected .rrd; rename it"),
        ("none/film.rrd", "does not exist; make it first"),
        ("folder.rrd", "is a folder, or lies in one that is not writable"),
    ],
)
def test_a_place_that_cannot_be_written_is_one_clear_line(table, tmp_path, capsys, name, trouble):
    (tmp_path / "folder.rrd").mkdir()
    code, out, err = ask(capsys, table[0] / "0.png", "point: mugs", "--rerun", tmp_path / name)
    assert (code, out) == (2, "")  # before anything was asked
    assert trouble in err
    assert "Traceback" not in err


def test_without_its_package_it_is_told_how_to_get_it(table, capsys, monkeypatch, tmp_path):
    def no_rerun(name, *_):
        raise ImportError("No module named 'rerun'", name="rerun")

    monkeypatch.setattr("importlib.import_module", no_rerun)
    code, _, err = ask(capsys, table[0] / "0.png", "point: mugs", "--rerun", tmp_path / "o.rrd")
    assert code == 2
    assert (
        '--rerun needs rerun, which is not installed here: `pip install "molmo2_ros[rerun]"`' in err
    )


def test_the_page_is_asked_without_a_recording(capsys, tmp_path):
    code, _, err = ask(capsys, "--url", "http://127.0.0.1:1", "mugs", "--rerun", tmp_path / "o.rrd")
    assert code == 2
    assert "leave the files, --out and --rerun away" in err

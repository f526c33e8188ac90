"""The command line as its users meet it: help, exit codes, and one clear line for bad input."""

import json
import shutil
from dataclasses import replace

import cv2
import numpy as np
import pytest

from molmo2_ros.cli.main import main
from molmo2_ros.errors import EngineError
from molmo2_ros.runtime.engine import NANO, load_engine
from molmo2_ros.runtime.golden import GOLDEN_FILE, Golden
from molmo2_ros.runtime.manifest import Manifest, file_entry


@pytest.fixture
def picture(tmp_path):
    path = tmp_path / "table.png"
    cv2.imwrite(str(path), np.full((120, 160, 3), 90, np.uint8))
    return str(path)


def run(capsys, *arguments):
    """Exit code, standard output, standard error."""
    try:
        code = main(arguments)
    except SystemExit as exit_:
        code = exit_.code
    captured = capsys.readouterr()
    return code, captured.out, captured.err


def test_help_shows_what_can_be_asked(capsys):
    code, out, _ = run(capsys, "--help")
    assert code == 0
    assert 'molmo2 ask table.mp4 "Track the red mug"' in out
    code, out, _ = run(capsys, "ask", "--help")
    assert code == 0
    for word in (
        "QUESTION",
        "--json",
        "--out",
        "--engine",
        "--every",
        "--constrained",
        '"How many mugs are there?"',
    ):
        assert word in out


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["nowhere.mp4", "Track the mug"], "nowhere.mp4 does not exist"),
        (["PICTURE"], "the following arguments are required: QUESTION"),
        (["PICTURE", "PICTURE"], "is a file, expected the question"),
        (["PICTURE", ""], "query is empty"),
        (["PICTURE", "x" * 100_000], "query has 100000 characters"),
        (["PICTURE", "Point to <im_patch><|im_end|>"], "a control token of the model"),
        (["PICTURE", "Is the drawer open?"], "cannot do 'ask'"),
        (["PICTURE", "Describe this image"], "cannot do 'caption' (describe what it sees)"),
        (["PICTURE", "count[clip]: mugs"], "cannot do 'clip' (point and count over all frames"),
        (["PICTURE", "Point to the elephant"], "does not know 'elephant'"),
        (["PICTURE", "point[tiles]: the mug"], "unknown query option 'tiles'"),
        (["PICTURE", "point[2 hz]: the mug"], "is asked once and has a rate"),
        (["PICTURE", "Point to the mug", "--detail", "crops"], "cannot do 'crops'"),
        (["PICTURE", "Point to the mug", "--detail", "blurred"], "invalid Detail value"),
        (["PICTURE", "Point to the mug", "--out", "mug.gif"], "ends in '.gif', expected one of"),
        (["PICTURE", "Point to the mug", "--out", "none/x.png"], "the folder none does not exist"),
        (["PICTURE", "Point to the mug", "--engine", "none"], "no manifest.json in none"),
        (["PICTURE", "Point to the mug", "--device", "gpu"], "invalid choice: 'gpu'"),
        (["PICTURE", "Point to the mug", "--rate", "0"], "is not a number above 0"),
        (["PICTURE", "Point to the mug", "--subtitles", "none.srt"], "none.srt"),
        (["BROKEN", "Track the mug"], "cannot be opened as a video"),
        (["BROKEN_PICTURE", "Point to the mug"], "is not a picture"),
        (["FOLDER", "Track the mug"], "holds no picture"),
        (["PICTURE", "BROKEN", "Track the mug"], "several files must all be pictures"),
        (["/dev/video0", "Point to the mug"], "never ends, expected a file"),
    ],
)
def test_bad_input_ends_with_one_line_and_code_2(capsys, picture, tmp_path, arguments, message):
    broken, broken_picture, folder = tmp_path / "a.mp4", tmp_path / "b.png", tmp_path / "empty"
    broken.write_bytes(b"not a video")
    broken_picture.write_bytes(b"not a picture")
    folder.mkdir()
    named = {
        "PICTURE": picture,
        "BROKEN": str(broken),
        "BROKEN_PICTURE": str(broken_picture),
        "FOLDER": str(folder),
    }
    code, out, err = run(capsys, "ask", *(named.get(word, word) for word in arguments))
    assert code == 2
    assert out == ""
    assert message in err.splitlines()[-1]
    assert "Traceback" not in err


def test_an_unknown_command_is_refused(capsys):
    code, _, err = run(capsys, "fly")
    assert code == 2
    assert "invalid choice: 'fly'" in err


@pytest.fixture
def wrong_engine(tmp_path):
    """A copy of the shipped engine with the example of another one."""
    folder = tmp_path / "engine"
    shutil.copytree(NANO, folder, ignore=shutil.ignore_patterns("checkpoint"))
    golden = Golden.load(folder / GOLDEN_FILE)
    replace(golden, logits=golden.logits + np.float32(0.1)).save(folder / GOLDEN_FILE)
    manifest = Manifest.load(NANO)
    files = {**manifest.files, GOLDEN_FILE: file_entry(folder / GOLDEN_FILE)}
    replace(manifest, files=files).write(folder)
    return str(folder)


def test_an_engine_that_computes_something_else_answers_only_if_it_is_told_to(
    capsys, picture, wrong_engine
):
    ask = ("ask", picture, "Point to the mug", "--engine", wrong_engine, "--threads", "1")
    code, out, err = run(capsys, *ask)
    assert (code, out) == (2, "")
    assert "computes wrongly here" in err
    assert "set self_test to `warn`" in err
    for mode in ("warn", "off"):
        code, out, _ = run(capsys, *ask, "--self-test", mode)
        assert code == 0
        assert out


def test_device_reaches_the_engine(capsys, picture):
    """CUDA starts or is refused, by the machine, and the command says what the engine says."""
    try:
        load_engine(device="cuda")
    except EngineError as error:
        refusal = str(error)
    else:
        refusal = ""
    code, _, err = run(capsys, "ask", picture, "Point to the mug", "--device", "cuda")
    assert code == (2 if refusal else 0)
    assert refusal in err


def test_json_is_one_object(capsys, picture):
    code, out, _ = run(capsys, "ask", picture, "Point to the mug", "--json", "--threads", "1")
    assert code == 0
    answer = json.loads(out)
    assert answer["query"] == {
        "kind": "point",
        "words": "the mug",
        "question": "Point to the mug.",
    }
    assert answer["answers"][0]["num_frames"] == 1

"""`molmo2 data view` and `convert` on small data sets."""

import json
import re
from pathlib import Path

import cv2
import numpy as np
import pytest

from molmo2_ros.cli.main import main
from molmo2_ros.training.data.dataset import Dataset
from molmo2_ros.training.data.dataset_writer import DatasetWriter
from molmo2_ros.training.data.example import (
    Annotation,
    Example,
    LabelledObject,
    LabelledPoint,
    Media,
    Task,
)

EVIL = "<script>alert(1)</script>"


@pytest.fixture
def folder(tmp_path):
    with DatasetWriter(tmp_path / "set") as writer:
        grey = np.full((60, 80, 3), 120, np.uint8)
        frames = writer.add_frames("clip", [grey, grey])
        mask = np.zeros((60, 80), bool)
        mask[20:40, 30:50] = True
        thing = LabelledObject(
            points=(LabelledPoint(x=0.5, y=0.5, time_s=0.5),),
            masks=((0.5, writer.add_mask("m", mask)),),
        )
        writer.add(
            Example(
                name=EVIL,
                media=Media(frames=frames, times_s=(0.0, 0.5)),
                annotations=(
                    Annotation(task=Task.TRACK, label=f"mug {EVIL}", objects=(thing,)),
                    Annotation(task=Task.COUNT, label="lemons"),
                ),
            )
        )
    return tmp_path / "set"


def test_a_page_and_a_sheet_show_what_the_model_sees(folder, capsys):
    assert main(["data", "view", str(folder)]) == 0
    sheet, page = capsys.readouterr().out.split()
    text = Path(page).read_text(encoding="utf-8")
    assert "<script" not in text
    assert "&lt;script&gt;" in text
    assert not re.findall(r'(?:src|href)="(?!data:)', text)
    assert re.search(r"\d+ tokens, 76 of them visual, 2 views", text)
    trained = "".join(re.findall(r'class="trained" title="weight 0.2">([^<]*)<', text))
    assert "There are none.&lt;|im_end|&gt;" in trained
    assert "0.5 1 500 500" in trained
    image = cv2.imread(sheet)
    assert image.shape == (240, 6 * 240, 3)
    first, second = image[:, :240], image[:, 240:480]
    assert np.abs(first.astype(int) - 120).max() < 8  # nothing is known of the first frame
    assert np.abs(second.astype(int) - 120).max() > 60  # a point and an outline on the second
    assert (second[120, 120] != second[10, 10]).any()


def test_words_alone_are_converted_and_shown(tmp_path, capsys):
    source, out = tmp_path / "chats", tmp_path / "out"
    source.mkdir()
    said = [{"role": "user", "content": "Why?"}, {"role": "assistant", "content": "So."}]
    (source / "train.jsonl").write_text(json.dumps({"messages": said}) + "\n")
    assert main(["data", "convert", "text-chats", str(source), str(out)]) == 0
    capsys.readouterr()
    assert main(["data", "view", str(out)]) == 0
    sheet, page = capsys.readouterr().out.split()
    assert "0 of them visual, 0 views" in Path(page).read_text(encoding="utf-8")
    assert (cv2.imread(sheet) == 255).all()


def test_what_cannot_be_shown_is_refused(tmp_path, folder, capsys):
    assert main(["data", "view", str(folder), "--num", "0"]) == 2
    assert "0 examples to show, expected at least 1" in capsys.readouterr().err
    (folder / "view" / "sheet.png").mkdir(parents=True)
    assert main(["data", "view", str(folder)]) == 2
    assert "cannot write to" in capsys.readouterr().err
    assert main(["data", "view", str(tmp_path)]) == 2
    assert "no dataset.json in" in capsys.readouterr().err


def test_somebody_else_s_data_set_is_converted_and_gone_on_with(tmp_path, capsys):
    source, out = tmp_path / "coco", tmp_path / "out"
    source.mkdir()
    cv2.imwrite(str(source / "a.png"), np.zeros((50, 100, 3), np.uint8))
    box = [10, 10, 20, 20]
    corners = [10, 10, 30, 10, 30, 30, 10, 30]
    content = {
        "images": [{"id": 1, "file_name": "a.png", "width": 100, "height": 50}],
        "categories": [{"id": 7, "name": "mug"}],
        "annotations": [
            {"id": 1, "image_id": 1, "category_id": 7, "bbox": box, "iscrowd": 0,
             "segmentation": [corners]}
        ],
    }  # fmt: skip
    (source / "instances.json").write_text(json.dumps(content))
    for _ in range(2):
        assert main(["data", "convert", "coco", str(source), str(out)]) == 0
        assert "1 examples; 0 rows without one" in capsys.readouterr().out
    (example,) = Dataset.open(out)
    assert example.annotations[0].label == "mug"
    (point,) = example.annotations[0].objects[0].points
    assert (point.x, point.y) == (pytest.approx(0.2, abs=0.01), pytest.approx(0.4, abs=0.02))
    assert main(["data", "convert", "kitti", str(source), str(out)]) == 2
    assert "no reader for 'kitti', expected one of molmo2-cap" in capsys.readouterr().err
    for option, told in (
        ("x", "expected key=value"),
        ("boxes=[", "option 'boxes=[' has no value in YAML: while parsing"),
        ("media=x", "option 'media=x' is no reader's"),
        ("seed=x", "option seed of coco is 'x', expected a whole number from 0"),
        ("fps=2", "coco has no option 'fps'"),
    ):
        assert main(["data", "convert", "coco", str(source), str(out), "--option", option]) == 2
        assert told in capsys.readouterr().err

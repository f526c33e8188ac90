"""The paper's sets from small files in their own layouts to its numbers beside the engine's."""

import dataclasses
import json
import shutil

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from PIL import Image
from pycocotools import mask as coco

from molmo2_ros.runtime.engine import NANO
from molmo2_ros.runtime.manifest import SKILLS, Manifest
from molmo2_ros.training.data.readers import READERS, describe_options
from molmo2_ros.training.evaluation.published import FAMILY, published_sets, published_table
from molmo2_ros.training.reproduce import compare, main

HEIGHT, WIDTH, FPS = 60, 80, 6


@pytest.fixture(scope="module")
def able(tmp_path_factory):
    """The shipped weights in an engine that says it can be asked anything; it answers nonsense."""
    folder = tmp_path_factory.mktemp("able") / "engine"
    shutil.copytree(NANO, folder, ignore=shutil.ignore_patterns("checkpoint"))
    manifest = Manifest.load(folder)
    dataclasses.replace(manifest, skills=tuple(SKILLS), vocabulary=()).write(folder)
    return folder


def square(left):
    mask = np.zeros((HEIGHT, WIDTH), bool)
    mask[20:40, left : left + 20] = True
    return mask


def run_lengths(mask):
    rle = coco.encode(np.asfortranarray(mask.astype(np.uint8)))
    return {"size": list(rle["size"]), "counts": rle["counts"].decode()}


MASKS = [square(3 * t) for t in range(2 * FPS + 1)]


def picture(mask):
    image = np.full((HEIGHT, WIDTH, 3), 90, np.uint8)
    image[mask] = (230, 200, 30)
    return image


def write_video(path):
    path.parent.mkdir(parents=True, exist_ok=True)
    target = cv2.VideoWriter(str(path), cv2.VideoWriter_fourcc(*"mp4v"), FPS, (WIDTH, HEIGHT))
    for mask in MASKS:
        target.write(picture(mask)[..., ::-1])
    target.release()


def write_count(folder):
    write_video(folder / "a_2fps.mp4")
    row = {"video_id": "a", "clip_start": 0.0, "clip_end": 2.0, "label": "lemon",
           "question": "How many lemons are there?", "category": "object", "count": 1}  # fmt: skip
    pq.write_table(pa.Table.from_pylist([row]), folder / "val.parquet")


def write_points(folder):
    write_video(folder / "a_2fps.mp4")
    row = {
        "video_id": "a",
        "label": "lemon",
        "width": WIDTH,
        "height": HEIGHT,
        "two_fps_timestamps": [0.5],
        "points": [{"x": 18.0, "y": 30.0}],
        "masks": [[{"frame_id": 1, "rle": run_lengths(MASKS[3])}]],
    }
    (folder / "val.json").write_text(json.dumps([row]))


def write_tracks(folder):
    write_video(folder / "dancetrack" / "v_0.mp4")
    row = {
        "id": "t",
        "video": "v",
        "clip": "v_0",
        "video_dataset": "dancetrack",
        "fps": FPS,
        "start_frame": 0,
        "end_frame": len(MASKS) - 1,
        "exp": "the lemon",
        "w": WIDTH,
        "h": HEIGHT,
        "mask_id": ["p"],
        "points": [{"object_id": "p", "points": [[10.0 + 3 * t, 30.0] for t in range(len(MASKS))]}],
        "masks": [{"object_id": "p", "masks": [run_lengths(mask) for mask in MASKS]}],
    }
    (folder / "test.json").write_text(json.dumps([row]))


def write_frames(folder, name="v"):
    frames = [f"{t:05d}" for t in range(len(MASKS))]
    (folder / "JPEGImages" / name).mkdir(parents=True)
    for frame, mask in zip(frames, MASKS, strict=True):
        cv2.imwrite(str(folder / "JPEGImages" / name / f"{frame}.jpg"), picture(mask)[..., ::-1])
    return frames


def write_mevis(folder):
    frames = write_frames(folder)
    expressions = {"0": {"exp": "the lemon", "obj_id": [0], "anno_id": [7]}}
    videos = {"v": {"vid_id": 0, "frames": frames, "expressions": expressions}}
    (folder / "meta_expressions.json").write_text(json.dumps({"videos": videos}))
    runs = {"7": [run_lengths(mask) for mask in MASKS]}
    (folder / "mask_dict.json").write_text(json.dumps(runs))


def write_ref_vos(folder):
    frames = write_frames(folder / "valid")
    expressions = {"0": {"exp": "the lemon", "obj_id": "1"}}
    (folder / "meta_expressions" / "valid").mkdir(parents=True)
    (folder / "meta_expressions" / "valid" / "meta_expressions.json").write_text(
        json.dumps({"videos": {"v": {"frames": frames, "expressions": expressions}}})
    )
    (folder / "valid" / "Annotations" / "v").mkdir(parents=True)
    for frame, mask in zip(frames, MASKS, strict=True):
        image = Image.fromarray(mask.astype(np.uint8), mode="P")
        image.putpalette([0, 0, 0, 255, 0, 0])
        image.save(folder / "valid" / "Annotations" / "v" / f"{frame}.png")


def write_bench(folder):
    for kind, image in (("images", picture(MASKS[0])), ("masks", MASKS[0].astype(np.uint8) * 255)):
        path = folder / f"selected_{kind}" / "spatial" / "a.png"
        path.parent.mkdir(parents=True)
        cv2.imwrite(str(path), image)
    row = {"image_filename": "a.png", "mask_filename": "a.png", "category": "spatial",
           "user_input": "Point to the lemon."}  # fmt: skip
    (folder / "data.json").write_text(json.dumps([row]))


WRITERS = {
    "molmo2-vc": write_count,
    "molmo2-vp": write_points,
    "molmo2-track": write_tracks,
    "mevis-valid-u": write_mevis,
    "ref-youtube-vos": write_ref_vos,
    "ref-davis17": write_ref_vos,
    "point-bench": write_bench,
}
HEADLINES = {  # of Molmo2-8B, as everybody quotes them
    "molmo2-vc": ("counting_exact", 35.5),
    "molmo2-vp": ("video_pointing_f1", 38.4),
    "molmo2-track": ("j_and_f", 56.2),
    "mevis-valid-u": ("tracking_f1", 75.9),
    "ref-youtube-vos": ("hota", 77.3),
    "ref-davis17": ("j_and_f", 72.7),
    "point-bench": ("pointing_hit", 68.7),
}


@pytest.mark.parametrize("name", WRITERS)
def test_every_set_is_read_asked_and_set_beside_the_paper(name, able, tmp_path, capsys):
    data = tmp_path / "data"
    data.mkdir()
    WRITERS[name](data)
    options = [name, "--engine", str(able), "--data", str(data), "--work", str(tmp_path / "work")]
    assert main([*options, "--json"]) == 0
    whole = json.loads(capsys.readouterr().out)
    rows = {row["figure"]: row for row in whole["rows"]}
    figure, expected = HEADLINES[name]
    assert rows[figure]["paper"]["Molmo2-8B"] == expected
    assert "none of them was measured by this package" in whole["note"]
    measured = [row for row in whole["rows"] if row["figure"] != "j_and_f"]
    for row in measured:
        assert row["low"] <= row["value"] <= row["high"]
        assert row["cases"] == 1
    if "j_and_f" in rows:
        assert rows["j_and_f"]["value"] is None
    if name == "molmo2-vc":  # from here on all are alike
        assert main(options) == 0
        table = capsys.readouterr().out
        assert "Molmo2-VC (Molmo2-VideoCountEval, val, 533 questions)" in table
        assert " 35.5 " in table
        assert "1 questions about 1 examples" in table
        assert "1 examples; 0 rows without one" in table
        assert "counting_close: off by 1 + floor(0.05 n) at most" in table


def test_the_sets_have_readers_tables_and_columns_that_are_there():
    sets = published_sets()
    assert set(sets) == set(WRITERS)
    for chosen in sets.values():
        assert chosen.reader in READERS
        known = describe_options(chosen.reader)
        assert set(chosen.options) | set(chosen.masks_of_all_frames) <= set(known)
        table = published_table(chosen.table)
        assert set(FAMILY) <= set(table)
        for measure in chosen.measures:
            if measure.theirs is not None:
                assert all(measure.theirs in table[model] for model in FAMILY)


def test_the_tables_are_those_of_the_paper_where_it_says_a_number_twice():
    # Section 4.2 quotes these in words; the averages are also columns of its table 2.
    counting, tracks = published_table("table_3"), published_table("table_5")
    assert (counting["Molmo2-8B"]["molmo2_vc_exact"], counting["Qwen3-VL-8B"]["molmo2_vc_exact"])\
        == (35.5, 29.6)  # fmt: skip
    assert counting["Gemini 3 Pro"]["molmo2_vp_f1"] == 20.0
    assert tracks["Molmo2-8B"]["overall_jf"] == 56.2
    for name in ("table_3", "table_4", "table_5", "table_7", "averages"):
        for model, values in published_table(name).items():
            for column, value in values.items():
                assert 0 <= value <= (2000 if column == "elo" else 100), (name, model, column)
    bench = published_table("table_7")
    categories = ("affordance", "spatial", "reasoning", "steerability", "counting")
    for model in FAMILY:
        mean = np.mean([bench[model][category] for category in categories])
        assert mean == pytest.approx(bench[model]["average"], abs=0.06)


def test_what_was_not_measured_is_said_and_the_paper_s_gaps_are_left_open():
    chosen = published_sets()["molmo2-track"]
    result = {part: {"hota": 0.5} for part in ("figures", "low", "high", "cases")}
    rows = {row.figure: row for row in compare(chosen, {**result, "finer": {}})}
    assert (rows["hota"].value, rows["hota"].paper["Molmo2-4B"]) == (50.0, 57.6)
    assert "SAM 3" not in rows["hota"].paper  # the paper has no HOTA of it
    assert rows["j_and_f"].value is None
    assert rows["j_and_f"].paper["SAM 3"] == 36.3
    assert rows["tracking_recall"].paper == {}


def test_an_engine_that_cannot_be_asked_and_bad_calls_are_told(tmp_path, capsys):
    data, work = tmp_path / "data", tmp_path / "work"
    data.mkdir()
    write_points(data)
    given = ["molmo2-vp", "--data", str(data), "--work", str(work)]
    for arguments, message in (
        (["molmo2-xy"], "no set 'molmo2-xy', expected one of molmo2-vc, molmo2-vp"),
        (["molmo2-vp"], "--data is missing, expected the folder of the downloaded set"),
        ([*given, "--limit", "0"], "--limit is 0, expected one example at least"),
        ([*given, "--option", "x=1"], "no option 'x'"),
        (given, "cannot do 'clip'"),  # the shipped engine
        ([*given, "--option", "split=val"], "holds a set that was converted as"),
        ([*given, "--sam2", str(tmp_path)], "no model.safetensors in"),
    ):
        assert main(arguments) == 2
        told = capsys.readouterr().err.splitlines()[-1]
        assert told.startswith("reproduce: ")
        assert message in told
        if "option 'x'" in message:
            shutil.rmtree(work)
    assert main(["--list"]) == 0
    assert "Molmo2-VP (Molmo2-VideoPointEval, val, 181 questions)" in capsys.readouterr().out

import pytest

from molmo2_ros.errors import ConfigError, DataError
from molmo2_ros.training.data.readers import READERS, describe_options, open_reader
from molmo2_ros.training.data.readers.media_store import MediaStore


def test_unknown_kinds_are_refused_with_the_known_ones(tmp_path):
    with pytest.raises(ConfigError, match="no reader for 'molmo2', expected one of molmo2-cap, "):
        open_reader("molmo2", tmp_path)
    with pytest.raises(ConfigError, match="no reader for 'molmo2'"):
        describe_options("molmo2")


def test_unknown_options_are_refused_with_the_known_ones(tmp_path):
    with pytest.raises(ConfigError, match="mevis has no option 'rate', expected fps, sampling_fps"):
        open_reader("mevis", tmp_path, rate=3)


@pytest.mark.parametrize(
    ("kind", "options", "message"),
    [
        ("mevis", {"fps": 6.5}, "option fps of mevis is 6.5, expected int"),
        ("mevis", {"fps": True}, "option fps of mevis is True, expected int"),
        ("mevis", {"masks": 1}, "option masks of mevis is 1, expected bool"),
        ("molmo2-cap", {"min_score": "3"}, "min_score of molmo2-cap is '3', expected float"),
        ("molmo2-cap", {"split": 3}, r"split of molmo2-cap is 3, expected str \| None"),
        ("lerobot", {"episodes": (1, "2")}, r"is \(1, '2'\), expected tuple\[int"),
        ("lerobot", {"cameras": "top"}, r"is 'top', expected tuple\[str"),
        ("lerobot", {"episodes": ["1"]}, r"is \('1',\), expected tuple\[int"),
    ],
)
def test_options_of_another_type_are_refused(tmp_path, kind, options, message):
    with pytest.raises(ConfigError, match=message):
        open_reader(kind, tmp_path, **options)


@pytest.mark.parametrize("kind", READERS)
def test_every_reader_tells_its_options_and_refuses_an_empty_folder(tmp_path, kind):
    for told in describe_options(kind).values():
        assert " = " in told
    with pytest.raises(DataError, match=str(tmp_path)):
        list(open_reader(kind, tmp_path, store=tmp_path / "out"))
    with pytest.raises(DataError, match=f"is no folder, expected that of a downloaded {kind}"):
        open_reader(kind, tmp_path / "absent")


def test_media_may_lie_elsewhere_or_be_found_by_a_function(tmp_path, write_table, touch):
    row = {"video_id": "a", "question": "Who?", "answer": "Me."}
    table = write_table("tables/rows.jsonl", [row]).parent
    touch("videos/a.mp4")
    kind = "molmo2-ask-model-anything"
    (by_folder,) = open_reader(kind, table, media=tmp_path / "videos")
    (by_function,) = open_reader(kind, table, media={"a": tmp_path / "videos/a.mp4"}.get)
    assert by_folder == by_function
    assert by_folder.media.video == str(tmp_path / "videos/a.mp4")


def test_lists_of_an_option_file_are_taken(write_table, touch, tmp_path):
    touch("v1.mp4")
    row = {
        "video_id": "v1",
        "video_source": "youtube",
        "video_duration": 10.0,
        "clip_start": None,
        "clip_end": None,
        "label": "mug",
        "question": "How many mugs?",
        "count": 0,
        "two_fps_timestamps": [],
        "points": [],
        "annotator_unsure": False,
    }
    write_table("rows.jsonl", [row])
    (example,) = open_reader("molmo2-video-point", tmp_path, tasks=["point"])
    assert example.annotations[0].task.value == "point"


def test_a_place_that_cannot_be_written_ends_the_reading(tmp_path):
    (tmp_path / "file").write_text("")
    with pytest.raises(ConfigError, match="cannot be written: .* make room or name another folder"):
        MediaStore(tmp_path / "file").add_image("a", b"\x89PNG" + one_pixel()[4:])


def one_pixel():
    import cv2
    import numpy as np

    return cv2.imencode(".png", np.zeros((1, 1, 3), np.uint8))[1].tobytes()

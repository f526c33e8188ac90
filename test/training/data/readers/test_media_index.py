import hashlib
import json

import pytest

from molmo2_ros.errors import DataError
from molmo2_ros.training.data.readers.media_index import MediaIndex, find_media


@pytest.mark.parametrize(
    ("name", "file"),
    [
        ("abc", "youtube/abc.mp4"),
        ("abc.mp4", "youtube/abc.mp4"),
        ("youtube/abc", "youtube/abc.mp4"),
        ("abc_2fps", "youtube-2fps/abc_2fps.mp4"),
        ("folder_id", "youtube-cc/folder_id/Some title.webm"),
        ("dancetrack/videos/v1", "dancetrack/videos/v1.mp4"),
        ("sportsmot/videos/v1", "sportsmot/videos/v1.mp4"),
        ("with.dots", "with.dots.mkv"),
        ("https://example.org/x.jpg", None),
        ("ab", None),
        ("other/abc", None),
        ("abc.mkv", None),
        ("", None),
        ("notes", None),
        ("../abc", None),
    ],
)
def test_names_find_their_file(tmp_path, touch, name, file):
    touch(
        "youtube/abc.mp4",
        "youtube-2fps/abc_2fps.mp4",
        "youtube-cc/folder_id/Some title.webm",
        "dancetrack/videos/v1.mp4",
        "sportsmot/videos/v1.mp4",
        "with.dots.mkv",
        "notes.txt",
    )
    assert MediaIndex.scan(tmp_path)(name) == (None if file is None else tmp_path / file)


def test_an_address_finds_the_file_that_is_named_by_its_hash(tmp_path, touch):
    url = "https://example.org/a%20b.jpg?size=2"
    name = hashlib.sha256(url.encode()).hexdigest()
    touch(f"images/{name}.jpg")
    index = MediaIndex.scan(tmp_path)
    assert index(url) == index(name) == tmp_path / "images" / f"{name}.jpg"


def test_files_of_one_name_are_not_chosen_from(tmp_path, touch):
    touch("a/v1.mp4", "b/v1.mp4")
    with pytest.raises(DataError, match=r"2 files go by the name 'v1'.*a/v1.mp4, b/v1.mp4; keep"):
        MediaIndex.scan(tmp_path)("v1")


def test_the_shorter_path_is_meant_where_it_is_given_whole(tmp_path, touch):
    touch("v1.mp4", "old/v1.mp4")
    assert MediaIndex.scan(tmp_path)("v1") == tmp_path / "v1.mp4"


def test_an_index_names_files_by_anything(tmp_path, touch):
    touch("media/one.mp4")
    path = tmp_path / "index.json"
    path.write_text(json.dumps({"https://a/b": "media/one.mp4", "gone": "media/two.mp4"}))
    index = MediaIndex.load(path)
    assert index("https://a/b") == tmp_path / "media/one.mp4"
    assert index("gone") is None
    assert index("one") is None
    assert find_media(index, "", "gone", "https://a/b") == tmp_path / "media/one.mp4"


@pytest.mark.parametrize("content", ["[1]", '{"a": 1}', "{"])
def test_an_index_of_another_form_is_refused(tmp_path, content):
    path = tmp_path / "index.json"
    path.write_text(content)
    with pytest.raises(DataError, match=r"index.json (is no media index|cannot be read as JSON)"):
        MediaIndex.load(path)


def test_a_folder_that_is_missing_is_refused(tmp_path):
    with pytest.raises(DataError, match="is no folder, expected that of the videos or images"):
        MediaIndex.scan(tmp_path / "absent")

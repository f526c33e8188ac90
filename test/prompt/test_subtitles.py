"""SRT and WebVTT in; the lines that belong to a clip out."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from molmo2_ros.errors import DataError
from molmo2_ros.prompt.subtitles import Subtitle, read_subtitles, subtitle_text

SRT = """1
00:00:01,000 --> 00:00:03,500
Now take
<i>the red mug</i>.

2
01:02:03,04 --> 01:02:04,5
{\\an8}And put it down.
"""
VTT = """WEBVTT - a title

NOTE made by hand

intro
00:01.000 --> 00:03.500 align:start
<v Ann>Now take</v> the red mug.

00:00:00.000 --> 00:00:00.500

"""


@pytest.mark.parametrize(
    ("start_s", "end_s", "shown"),
    [
        (0.0, 0.5, True),
        (3.0, 9.0, True),  # one second after the frame at 2.0
        (3.1, 9.0, False),
        (-5.0, -1.0, True),  # ends one second before the frame at 0.0
        (-5.0, -1.1, False),
    ],
)
def test_only_subtitles_within_a_second_of_a_frame_are_written(start_s, end_s, shown):
    text = subtitle_text([0.0, 2.0], [Subtitle(start_s=start_s, end_s=end_s, text="hello")])

    assert text.startswith("subtitle\n")
    assert ("hello" in text) == shown


def test_without_subtitles_there_is_no_heading():
    assert subtitle_text([0.0], []) == ""


def test_srt_is_read_with_joined_lines_and_without_tags(tmp_path):
    path = tmp_path / "a.srt"
    for content in (SRT, SRT.replace("\n", "\r\n"), "\ufeff" + SRT):
        path.write_text(content, encoding="utf-8", newline="")

        assert read_subtitles(path) == (
            Subtitle(start_s=1.0, end_s=3.5, text="Now take the red mug."),
            Subtitle(start_s=3723.04, end_s=3724.5, text="And put it down."),
        )


def test_webvtt_is_read_without_notes_settings_and_empty_cues(tmp_path):
    path = tmp_path / "a.vtt"
    path.write_text(VTT)

    assert read_subtitles(path) == (Subtitle(start_s=1.0, end_s=3.5, text="Now take the red mug."),)


def test_cues_are_put_in_the_order_of_their_time(tmp_path):
    path = tmp_path / "a.srt"
    path.write_text("00:00:05,000 --> 00:00:06,000\nb\n\n00:00:01,000 --> 00:00:02,000\na\n")

    assert [line.text for line in read_subtitles(path)] == ["a", "b"]


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"", "holds no subtitle; expected SRT or WebVTT"),
        (b"hello", "00:00:01,000 --> 00:00:03,500"),
        (b"00:00:02,000 --> 00:00:01,000\nbackwards", "holds no subtitle"),
        (b"caf\xe9", r"is not UTF-8 \(byte 3\)"),
    ],
)
def test_file_that_holds_no_subtitles_is_refused(tmp_path, content, words):
    path = tmp_path / "a.srt"
    path.write_bytes(content)

    with pytest.raises(DataError, match=words):
        read_subtitles(path)


def test_missing_file_is_refused(tmp_path):
    with pytest.raises(DataError, match=r"none\.srt cannot be read: No such file"):
        read_subtitles(tmp_path / "none.srt")


@given(text=st.text(max_size=200))
def test_any_text_is_read_or_refused(tmp_path_factory, text):
    path = tmp_path_factory.mktemp("srt") / "a.srt"
    path.write_bytes(text.encode("utf-8", "ignore"))
    try:
        assert read_subtitles(path)
    except DataError as error:
        assert path.name in str(error)  # noqa: PT017

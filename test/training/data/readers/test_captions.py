import pytest

from molmo2_ros.errors import DataError
from molmo2_ros.training.data.example import Annotation, Example, Media, Task

COLUMNS = ("video_caption", "merged_caption", "video_frame_merged_caption")


def caption_row(video_id, score=4.0, **captions):
    return {"video_id": video_id, "annotation_score": score, **dict.fromkeys(COLUMNS), **captions}


def test_captions_of_a_video_are_branches_in_three_styles(tmp_path, write_table, touch, read):
    touch("videos/a/film.mp4", "v_b.webm")
    write_table(
        "data/train-00000-of-00001.parquet",
        [
            caption_row(
                "a",
                video_caption="Short.",
                merged_caption=" Merged. ",
                video_frame_merged_caption="Long.",
            ),
            caption_row("b", score=3.0, merged_caption="", video_caption="Only this."),
        ],
    )
    examples, report = read("molmo2-cap", split="train")
    assert examples == [
        Example(
            name="a",
            media=Media(video=str(tmp_path / "videos/a/film.mp4")),
            annotations=(
                Annotation(task=Task.CAPTION, answer="Merged.", style="video_merged_caption"),
                Annotation(task=Task.CAPTION, answer="Short.", style="video_short_caption"),
                Annotation(task=Task.CAPTION, answer="Long.", style="video_long_caption"),
            ),
        ),
        Example(
            name="b",
            media=Media(video=str(tmp_path / "v_b.webm")),
            annotations=(
                Annotation(task=Task.CAPTION, answer="Only this.", style="video_short_caption"),
            ),
        ),
    ]
    assert not report.skipped


def test_captions_that_are_not_used_are_reported_with_their_reason(
    write_table, touch, read, skipped
):
    touch("good.mp4", "a_.mp4", "low.mp4", "empty.mp4", "none.mp4")
    write_table(
        "data/train-0.jsonl",
        [
            caption_row("good", merged_caption="Yes."),
            caption_row("low", score=2.0, merged_caption="No."),
            caption_row("a_", merged_caption="No."),
            caption_row("empty", merged_caption=" "),
            caption_row("gone", merged_caption="No."),
            caption_row("none", score=None, merged_caption="No."),
            caption_row("none", score="4", merged_caption="No."),
            caption_row("none", merged_caption=["No."]),
        ],
    )
    examples, report = read("molmo2-cap")
    assert [example.name for example in examples] == ["good"]
    place = "data/train-0.jsonl, row"
    assert skipped(report) == [
        (f"{place} 1", "left out by rule", "annotation_score 2 is below 3"),
        (f"{place} 2", "left out by rule", "the authors found the file of a_ damaged"),
        (f"{place} 3", "left out by rule", "no caption"),
        (f"{place} 4", "media not found", "no file for gone"),
        (f"{place} 5", "malformed", "no 'annotation_score', expected a value"),
        (f"{place} 6", "malformed", "'annotation_score' is '4', expected a number"),
        (f"{place} 7", "malformed", "'merged_caption' is ['No.'], expected text"),
    ]


def test_nothing_left_is_an_error_that_says_why(write_table, read):
    write_table("train.parquet", [caption_row("gone", merged_caption="No.")])
    with pytest.raises(DataError, match=r"(?s)no example.*1 media not found.*no file for gone"):
        read("molmo2-cap")

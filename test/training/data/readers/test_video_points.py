import pyarrow as pa
import pytest

from molmo2_ros.errors import DataError
from molmo2_ros.training.data.example import (
    Annotation,
    Example,
    LabelledObject,
    LabelledPoint,
    Media,
    Task,
)

SCHEMA = pa.schema(
    [
        ("video_id", pa.string()),
        ("video_source", pa.string()),
        ("video_duration", pa.float64()),
        ("clip_start", pa.float64()),
        ("clip_end", pa.float64()),
        ("label", pa.string()),
        ("question", pa.string()),
        ("category", pa.string()),
        ("count", pa.int64()),
        ("two_fps_timestamps", pa.list_(pa.float64())),
        ("points", pa.list_(pa.list_(pa.struct([("x", pa.float64()), ("y", pa.float64())])))),
        ("annotator_unsure", pa.bool_()),
    ]
)


def point_row(video_id="a", label="mug", **changes):
    row = {
        "video_id": video_id,
        "video_source": "youtube",
        "video_duration": 20.0,
        "clip_start": None,
        "clip_end": None,
        "label": label,
        "question": f"How many {label}s?",
        "category": "object",
        "count": 3,
        "two_fps_timestamps": [1.5, 4.0],
        "points": [[{"x": 50.0, "y": 25.0}], [{"x": 0.0, "y": 100.0}, {"x": 12.5, "y": 75.0}]],
        "annotator_unsure": False,
    }
    return {**row, **changes}


def things(*points):
    return tuple(LabelledObject(points=(LabelledPoint(x=x, y=y, time_s=t),)) for t, x, y in points)


def test_queries_of_a_short_video_are_one_tree_in_seconds_and_shares(
    tmp_path, write_table, touch, read
):
    touch("youtube-cc-2fps/a_2fps.mp4", "youtube-cc/a.mp4")
    write_table(
        "object/train-0.parquet",
        [point_row(), point_row(label="cup", count=0, two_fps_timestamps=[], points=[])],
        SCHEMA,
    )
    (example,), report = read(
        "molmo2-video-point", config="object", tasks=("count",), dialogue_share=0.0
    )
    assert example == Example(
        name="a",
        media=Media(video=str(tmp_path / "youtube-cc-2fps/a_2fps.mp4"), start_s=0.0, end_s=20.0),
        annotations=(
            Annotation(
                task=Task.COUNT,
                label="mug",
                objects=things((1.5, 0.5, 0.25), (4.0, 0.0, 1.0), (4.0, 0.125, 0.75)),
                question="How many mugs?",
            ),
            Annotation(task=Task.COUNT, label="cup", question="How many cups?"),
        ),
    )
    assert not report.skipped


def test_queries_about_parts_of_a_long_video_count_from_their_clip(
    tmp_path, write_table, touch, read
):
    touch("a.mp4")
    long = {"video_duration": 600.0, "two_fps_timestamps": [101.5, 102.0]}
    write_table(
        "train.parquet",
        [
            point_row(**long, clip_start=100.5, clip_end=140.0),
            point_row(**long, clip_start=100.5, clip_end=140.0, label="cup"),
            point_row(**long, clip_start=101.3, clip_end=140.0),
        ],
        SCHEMA,
    )
    examples, _ = read("molmo2-video-point", tasks=("point",))
    path = str(tmp_path / "a.mp4")

    def single(name, start_s, label, *times_s):
        objects = things(*zip(times_s, (0.5, 0.0, 0.125), (0.25, 1.0, 0.75), strict=True))
        return Example(
            name=name,
            media=Media(video=path, start_s=start_s, end_s=140.0),
            annotations=(Annotation(task=Task.POINT, label=label, objects=objects),),
        )

    assert examples == [
        single("a 100.5-140 0", 100.5, "mug", 1.0, 1.5, 1.5),
        single("a 100.5-140 1", 100.5, "cup", 1.0, 1.5, 1.5),
        single("a 101.3-140 0", 101.3, "mug", 0.0, 0.5, 0.5),  # 0.2 and 0.7 s, floored
    ]


def test_a_fifth_of_the_trees_is_a_dialogue_and_half_of_the_queries_count(write_table, touch, read):
    names = [f"v{n}" for n in range(300)]
    touch(*(f"{name}.mp4" for name in names))
    rows = [point_row(name, label) for name in names for label in ("mug", "cup")]
    write_table("train.parquet", [*rows, point_row("alone")], SCHEMA)
    touch("alone.mp4")
    examples, _ = read("molmo2-video-point")
    assert 40 < sum(example.dialogue for example in examples) < 80
    assert not examples[-1].dialogue
    tasks = [annotation.task for example in examples for annotation in example.annotations]
    assert 240 < tasks.count(Task.COUNT) < 360
    for example in examples:
        for annotation in example.annotations:
            assert (annotation.question is None) == (annotation.task is Task.POINT)
    again, _ = read("molmo2-video-point")
    assert again == examples


def test_rows_that_cannot_be_used_are_reported(write_table, touch, read, skipped):
    touch("a.mp4")
    long = {"video_duration": 600.0}
    write_table(
        "train.parquet",
        [
            point_row(),
            point_row(annotator_unsure=True),
            point_row(count=61),
            point_row(**long),
            point_row(**long, clip_start=0.0, clip_end=63.5),
            point_row(**long, clip_start=30.0, clip_end=20.0),
            point_row(**long, clip_start=2.0, clip_end=20.0),
            point_row(two_fps_timestamps=[1.5, 4.2]),
            point_row(two_fps_timestamps=[1.5]),
            point_row(two_fps_timestamps=[1.5, 40.0]),
            point_row(points=[[{"x": 100.5, "y": 25.0}], []]),
            point_row(points=[[{"x": None, "y": 25.0}], []]),
            point_row(label=" "),
            point_row(count=None),
            point_row("gone"),
        ],
        SCHEMA,
    )
    examples, report = read("molmo2-video-point")
    assert len(examples) == 1
    assert len(examples[0].annotations) == 1
    place = "train.parquet, row"
    rule, malformed = "left out by rule", "malformed"
    assert skipped(report) == [
        (f"{place} 1", rule, "its annotator was unsure"),
        (f"{place} 2", rule, "count 61, expected 0 to 60"),
        (f"{place} 3", rule, "600 s long, and no clip of it is named"),
        (f"{place} 4", rule, "clip of 63.5 s, expected at most 63"),
        (f"{place} 5", malformed, "clip from 30 to 20 s of a video of 600 s"),
        (f"{place} 6", malformed, "stamp 1.5 is outside its clip, 2 to 20 s"),
        (f"{place} 7", malformed, "stamp 4.2, expected a multiple of 0.5 s"),
        (f"{place} 8", malformed, "1 stamps and points for 2, expected as many"),
        (f"{place} 9", malformed, "stamp 40 is outside its clip, 0 to 20 s"),
        (
            f"{place} 10",
            malformed,
            "point at x 1.005, y 0.25 is outside the picture, expected 0..1 of its width and "
            "height",
        ),
        (f"{place} 11", malformed, "point 0: no 'x', expected a value"),
        (f"{place} 12", malformed, "a count annotation without a label, expected its words"),
        (f"{place} 13", malformed, "no 'count', expected a value"),
        (f"{place} 14", "media not found", "no file for gone_2fps"),
    ]


def test_unsure_rows_and_more_points_are_taken_where_asked(write_table, touch, read):
    touch("a.mp4")
    write_table("train.parquet", [point_row(annotator_unsure=True, count=61)], SCHEMA)
    examples, _ = read("molmo2-video-point", unsure=True, max_points=100)
    assert len(examples) == 1
    with pytest.raises(DataError, match="gave no example"):
        read("molmo2-video-point", unsure=True)

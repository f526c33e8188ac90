import pyarrow as pa
import pytest

from molmo2_ros.errors import ConfigError, DataError
from molmo2_ros.training.data.example import (
    Annotation,
    Example,
    LabelledObject,
    LabelledPoint,
    Media,
    Task,
)

INSTRUCTION_SCHEMA = pa.schema(
    [
        *((name, pa.string()) for name in ("id", "video", "clip", "video_dataset", "expression")),
        *((name, pa.int64()) for name in ("fps", "sampling_fps", "height", "width")),
        *((name, pa.int64()) for name in ("start_frame", "end_frame")),
        ("mask_id", pa.list_(pa.string())),
        (
            "frame_trajectories",
            pa.list_(
                pa.struct(
                    [
                        ("frame", pa.int64()),
                        ("time", pa.float64()),
                        (
                            "points",
                            pa.list_(
                                pa.struct(
                                    [
                                        ("id", pa.int64()),
                                        ("point", pa.list_(pa.float64())),
                                        ("occluded", pa.bool_()),
                                    ]
                                )
                            ),
                        ),
                    ]
                )
            ),
        ),
    ]
)


def frame(index, *points, fps=6):
    records = [{"id": i, "point": p, "occluded": o} for i, p, o in points]
    return {"frame": index, "time": index / fps, "points": records}


def instruction_row(**changes):
    row = {
        "id": "q1",
        "video": "v1",
        "clip": "v1_0",
        "video_dataset": "dancetrack",
        "expression": "the dancer in red",
        "fps": 6,
        "sampling_fps": 2,
        "height": 100,
        "width": 200,
        "start_frame": 12,
        "end_frame": 29,
        "mask_id": ["7", "3"],
        "frame_trajectories": [
            frame(3, (3, [20.0, 50.0], False), (7, [100.0, 25.0], False)),
            frame(0, (3, [10.0, 50.0], False), (9, [1.0, 1.0], False)),
            frame(6, (3, None, True), (7, [0.0, 0.0], True)),
        ],
    }
    return {**row, **changes}


FIRST = LabelledObject(
    points=(
        LabelledPoint(x=0.5, y=0.25, time_s=0.5),
        LabelledPoint(time_s=1.0, visible=False),
    )
)
SECOND = LabelledObject(
    points=(
        LabelledPoint(x=0.05, y=0.5, time_s=0.0),
        LabelledPoint(x=0.1, y=0.5, time_s=0.5),
        LabelledPoint(time_s=1.0, visible=False),
    )
)


def test_each_configuration_asks_its_own_task_of_the_same_objects(
    tmp_path, write_table, touch, read
):
    touch("dancetrack/videos/v1_0.mp4")
    for config in ("track", "ground", "single_point_track"):
        write_table(f"{config}/train-0.parquet", [instruction_row()], INSTRUCTION_SCHEMA)
    examples, report = read("molmo2-track-instruction")
    media = Media(video=str(tmp_path / "dancetrack/videos/v1_0.mp4"))

    def annotation(task, *objects):
        return Annotation(task=task, label="the dancer in red", objects=objects, fps=2.0)

    assert examples == [
        Example(name="track q1", media=media, annotations=(annotation(Task.TRACK, FIRST, SECOND),)),
        Example(name="ground q1", media=media, annotations=(annotation(Task.ENDS, FIRST, SECOND),)),
        Example(
            name="single_point_track q1",
            media=media,
            annotations=(
                annotation(Task.TRACK_FROM_POINT, FIRST),
                annotation(Task.TRACK_FROM_POINT, SECOND),
            ),
        ),
    ]
    assert not report.skipped
    assert read("molmo2-track-instruction", configs=("ground",))[0] == examples[1:2]


def test_a_clip_without_a_file_is_a_part_of_its_video(tmp_path, write_table, touch, read):
    touch("dancetrack/v1.mp4", "mose/v1.mp4")
    write_table("track/train-0.parquet", [instruction_row()], INSTRUCTION_SCHEMA)
    (example,), _ = read("molmo2-track-instruction")
    assert example.media == Media(video=str(tmp_path / "dancetrack/v1.mp4"), start_s=2.0, end_s=5.0)


def test_instructions_that_cannot_be_used_are_reported(write_table, touch, read, skipped):
    touch("v1_0.mp4")
    outside = [frame(0, (3, [201.0, 50.0], False))]
    write_table(
        "track/train-0.parquet",
        [
            instruction_row(),
            instruction_row(sampling_fps=4),
            instruction_row(frame_trajectories=outside),
            instruction_row(frame_trajectories=[]),
            instruction_row(frame_trajectories=[frame(0, (3, [1.0], False))]),
            instruction_row(width=0),
            instruction_row(clip="gone", video="gone"),
            instruction_row(clip="gone", start_frame=None),
            instruction_row(expression=None),
        ],
        INSTRUCTION_SCHEMA,
    )
    examples, report = read("molmo2-track-instruction")
    assert len(examples) == 1
    place = "track/train-0.parquet, row"
    rule, malformed = "left out by rule", "malformed"
    assert skipped(report) == [
        (f"{place} 1", rule, "6 frames a second are no multiple of the answer's 4"),
        (
            f"{place} 2",
            malformed,
            "point at x 1.005, y 0.5 is outside the picture, expected 0..1 of its width and height",
        ),
        (f"{place} 3", rule, "no point falls on a stamp of the answer"),
        (
            f"{place} 4",
            malformed,
            "frame_trajectories 0, points 0: point [1.0], expected x and y in pixels",
        ),
        (f"{place} 5", malformed, "'width' is 0.0, expected a number above 0"),
        (
            f"{place} 6",
            "media not found",
            "no file for gone of dancetrack, nor for its video gone",
        ),
        (f"{place} 7", "media not found", "no file for gone"),
        (f"{place} 8", malformed, "no 'expression', expected a value"),
    ]


def test_configurations_are_known(write_table, touch, read):
    with pytest.raises(ConfigError, match="no configuration 'trak', expected of track, ground"):
        read("molmo2-track-instruction", configs=("trak",))
    write_table("track/train-0.parquet", [instruction_row()], INSTRUCTION_SCHEMA)
    with pytest.raises(DataError, match="file of 'ground'"):
        read("molmo2-track-instruction", configs=("ground",))


def raw_row(**changes):
    row = {
        "id": "r1",
        "video": "v1",
        "clip": "v1_0",
        "video_dataset": "sav",
        "fps": 6,
        "start_frame": 0,
        "end_frame": 6,
        "exp": "both dogs",
        "w": 200,
        "h": 100,
        "mask_id": ["a", "b"],
        "points": [
            {"object_id": "b", "points": [[20.0 * n, 50.0] if n != 3 else None for n in range(7)]},
            {"object_id": "a", "points": [None, [1.0, 1.0], None, None, None, None, [100.0, 0.0]]},
        ],
    }
    return {**row, **changes}


def test_raw_tracks_are_thinned_to_the_rate_of_the_answer(tmp_path, write_table, touch, read):
    touch("sav/v1_0.mp4")
    write_table("data/train-0.parquet", [raw_row()])
    (example,), _ = read("molmo2-video-track", sampling_fps=2)
    assert example == Example(
        name="r1",
        media=Media(video=str(tmp_path / "sav/v1_0.mp4")),
        annotations=(
            Annotation(
                task=Task.TRACK,
                label="both dogs",
                objects=(
                    LabelledObject(points=(LabelledPoint(x=0.5, y=0.0, time_s=1.0),)),
                    LabelledObject(
                        points=(
                            LabelledPoint(x=0.0, y=0.5, time_s=0.0),
                            LabelledPoint(x=0.6, y=0.5, time_s=1.0),
                        )
                    ),
                ),
                fps=2.0,
            ),
        ),
    )


def test_raw_tracks_of_unknown_objects_and_odd_rates_are_reported(
    write_table, touch, read, skipped
):
    touch("v1_0.mp4")
    write_table("rows.jsonl", [raw_row(), raw_row(mask_id=["a"]), raw_row(fps=25)])
    _, report = read("molmo2-video-track")
    assert skipped(report) == [
        ("rows.jsonl, row 1", "malformed", "points 0: object b is not in mask_id ['a']"),
        (
            "rows.jsonl, row 2",
            "left out by rule",
            "25 frames a second are no multiple of the answer's 2",
        ),
    ]

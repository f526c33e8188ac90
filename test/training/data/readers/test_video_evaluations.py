import numpy as np
import pyarrow as pa
import pytest
from pycocotools import mask as coco

from molmo2_ros.errors import ConfigError
from molmo2_ros.training.data.example import (
    Annotation,
    Example,
    LabelledObject,
    LabelledPoint,
    Media,
    Task,
)

pytestmark = pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")


def square(left, top, side=10, size=(50, 100)):
    mask = np.zeros(size, bool)
    mask[top : top + side, left : left + side] = True
    return mask


def run_lengths(mask):
    rle = coco.encode(np.asfortranarray(mask.astype(np.uint8)))
    return {"size": list(rle["size"]), "counts": rle["counts"].decode()}


RLE = pa.struct([("size", pa.list_(pa.int64())), ("counts", pa.string())])


def test_counts_are_asked_in_their_own_words_of_their_clip(
    tmp_path, write_table, touch, read, skipped
):
    touch("a_2fps.mp4")
    row = {
        "video_id": "a",
        "video_source": "youtube",
        "video_duration": 300.0,
        "clip_start": 30.0,
        "clip_end": 90.0,
        "label": "goal",
        "question": "How many goals are scored?",
        "category": "action",
        "count": 4,
    }
    bad = [{**row, "count": -1}, {**row, "question": None}, {**row, "video_id": "gone"}]
    write_table("val.parquet", [row, {**row, "clip_start": None, "clip_end": None}, *bad])
    examples, report = read("molmo2-video-count-eval")
    question = Annotation(
        task=Task.REPLY, question="How many goals are scored?", answer="4", style="video_count"
    )
    path = str(tmp_path / "a_2fps.mp4")
    assert examples == [
        Example(
            name="a 0", media=Media(video=path, start_s=30.0, end_s=90.0), annotations=(question,)
        ),
        Example(name="a 1", media=Media(video=path), annotations=(question,)),
    ]
    assert skipped(report) == [
        ("val.parquet, row 2", "malformed", "count -1, expected a number from 0"),
        ("val.parquet, row 3", "malformed", "no 'question', expected a value"),
        ("val.parquet, row 4", "media not found", "no file for gone_2fps"),
    ]


POINT_SCHEMA = pa.schema(
    [
        ("video_id", pa.string()),
        ("video_duration", pa.float64()),
        ("label", pa.string()),
        ("width", pa.int64()),
        ("height", pa.int64()),
        ("two_fps_timestamps", pa.list_(pa.float64())),
        ("points", pa.list_(pa.struct([("x", pa.float64()), ("y", pa.float64())]))),
        ("masks", pa.list_(pa.list_(pa.struct([("frame_id", pa.int64()), ("rle", RLE)])))),
    ]
)


def point_row(**changes):
    row = {
        "video_id": "a",
        "video_duration": 12.0,
        "label": "red mug",
        "width": 100,
        "height": 50,
        "two_fps_timestamps": [1.0, 2.5],
        "points": [{"x": 25.0, "y": 12.5}, {"x": 80.0, "y": 40.0}],
        "masks": [
            [
                {"frame_id": 3, "rle": run_lengths(square(22, 8))},
                {"frame_id": 2, "rle": run_lengths(square(20, 8))},
            ],
            [{"frame_id": 5, "rle": run_lengths(square(75, 35))}],
        ],
    }
    return {**row, **changes}


def test_pointed_objects_have_their_masks_at_half_seconds(
    tmp_path, write_table, touch, read, read_mask
):
    touch("a_2fps.mp4")
    write_table("val.parquet", [point_row()], POINT_SCHEMA)
    (example,), _ = read("molmo2-video-point-eval", store=tmp_path / "out")
    annotation = example.annotations[0]
    first, second = annotation.objects
    assert example == Example(
        name="a 0",
        media=Media(video=str(tmp_path / "a_2fps.mp4")),
        annotations=(
            Annotation(
                task=Task.COUNT,
                label="red mug",
                objects=(
                    LabelledObject(
                        points=(LabelledPoint(x=0.25, y=0.25, time_s=1.0),), masks=first.masks
                    ),
                    LabelledObject(
                        points=(LabelledPoint(x=0.8, y=0.8, time_s=2.5),), masks=second.masks
                    ),
                ),
                question='How many "red mug" are there in the video?',
            ),
        ),
    )
    assert [time_s for time_s, _ in first.masks] == [1.0, 1.5]
    assert [time_s for time_s, _ in second.masks] == [2.5]
    for (_, path), mask in zip(
        first.masks + second.masks, (square(20, 8), square(22, 8), square(75, 35)), strict=True
    ):
        assert np.array_equal(read_mask(tmp_path / "out" / path), mask)


def test_pointed_objects_that_do_not_fit_are_reported(tmp_path, write_table, touch, read, skipped):
    touch("a.mp4")
    small = [[{"frame_id": 2, "rle": run_lengths(square(2, 2, size=(20, 20)))}], []]
    write_table(
        "val.parquet",
        [
            point_row(),
            point_row(two_fps_timestamps=[1.0]),
            point_row(points=[{"x": 101.0, "y": 2.0}, {"x": 1.0, "y": 1.0}]),
            point_row(masks=small),
            point_row(video_id="gone"),
        ],
        POINT_SCHEMA,
    )
    examples, report = read("molmo2-video-point-eval", store=tmp_path / "out")
    assert [example.name for example in examples] == ["a 0"]
    assert skipped(report) == [
        (
            "val.parquet, row 1",
            "malformed",
            "1 stamps, 2 points and masks of 2 objects, expected as many of each",
        ),
        (
            "val.parquet, row 2",
            "malformed",
            "point at x 1.01, y 0.04 is outside the picture, expected 0..1 of its width and height",
        ),
        (
            "val.parquet, row 3",
            "malformed",
            "masks 0: mask of height and width (20, 20), expected the picture's (50, 100)",
        ),
        ("val.parquet, row 4", "media not found", "no file for gone_2fps"),
    ]


def track_row(**changes):
    masks = [square(10 * n, 5) if n % 3 != 1 else None for n in range(7)]
    row = {
        "id": "t1",
        "video": "v1",
        "clip": "v1_0",
        "video_dataset": "sportsmot",
        "fps": 2,
        "start_frame": 0,
        "end_frame": 6,
        "exp": "number 7",
        "w": 100,
        "h": 50,
        "mask_id": ["p", "q"],
        "points": [
            {
                "object_id": "p",
                "points": [None if m is None else [10.0 * n, 5.0] for n, m in enumerate(masks)],
            },
            {"object_id": "q", "points": [None] * 7},
        ],
        "masks": [
            {"object_id": "p", "masks": [None if m is None else run_lengths(m) for m in masks]},
            {"object_id": "q", "masks": [None] * 7},
        ],
    }
    return {**row, **changes}


def test_tracks_to_measure_on_have_masks_at_the_answered_stamps(
    tmp_path, write_table, touch, read, read_mask
):
    touch("sportsmot/v1_0.mp4")
    write_table("test.parquet", [track_row()])
    (example,), _ = read("molmo2-video-track-eval", store=tmp_path / "out")
    (annotation,) = example.annotations
    first, second = annotation.objects
    assert annotation == Annotation(
        task=Task.TRACK,
        label="number 7",
        objects=(
            LabelledObject(
                points=(
                    LabelledPoint(x=0.0, y=0.1, time_s=0.0),
                    LabelledPoint(x=0.2, y=0.1, time_s=1.0),
                    LabelledPoint(x=0.6, y=0.1, time_s=3.0),
                ),
                masks=first.masks,
            ),
            LabelledObject(points=()),
        ),
        fps=1.0,
    )
    assert [time_s for time_s, _ in first.masks] == [0.0, 1.0, 3.0]
    for time_s, path in first.masks:
        assert np.array_equal(read_mask(tmp_path / "out" / path), square(int(20 * time_s), 5))
    (dense,), _ = read("molmo2-video-track-eval", store=tmp_path / "all", all_masks=True)
    assert [m[0] for m in dense.annotations[0].objects[0].masks] == [0.0, 1.0, 1.5, 2.5, 3.0]


def test_masks_may_name_their_frames(tmp_path, write_table, touch, read):
    touch("v1_0.mp4")
    named = [{"frame": 4, "mask": run_lengths(square(3, 3))}, {"frame": 5, "mask": None}]
    masks = [{"object_id": "p", "masks": named}, {"object_id": "q", "masks": []}]
    write_table("test.jsonl", [track_row(masks=masks)])
    (example,), _ = read("molmo2-video-track-eval", store=tmp_path / "out")
    assert [time_s for time_s, _ in example.annotations[0].objects[0].masks] == [2.0]


def test_tracks_that_are_not_measured_are_reported(tmp_path, write_table, touch, read, skipped):
    touch("v1_0.mp4")
    one = [{"object_id": "p", "masks": []}]
    rows = [
        track_row(),
        track_row(video_dataset="sav"),
        track_row(masks=one),
        track_row(clip="gone", video="gone"),
    ]
    write_table("test.jsonl", rows)
    examples, report = read(
        "molmo2-video-track-eval", store=tmp_path / "out", datasets=("sportsmot",)
    )
    assert [example.name for example in examples] == ["t1"]
    assert skipped(report) == [
        ("test.jsonl, row 1", "left out by rule", "of sav, which was not asked for"),
        (
            "test.jsonl, row 2",
            "malformed",
            "masks of ['p'], expected those of mask_id ['p', 'q']",
        ),
        (
            "test.jsonl, row 3",
            "media not found",
            "no file for gone of sportsmot, nor for its video gone",
        ),
    ]


@pytest.mark.parametrize("kind", ["molmo2-video-point-eval", "molmo2-video-track-eval"])
def test_masks_need_a_place(kind, read):
    with pytest.raises(ConfigError, match=r"name a folder to write them to \(store\)"):
        read(kind)

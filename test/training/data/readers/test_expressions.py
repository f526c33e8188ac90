import numpy as np
import pytest
from PIL import Image
from pycocotools import mask as coco

from molmo2_ros.errors import ConfigError, DataError
from molmo2_ros.training.data.example import (
    Annotation,
    Example,
    LabelledObject,
    LabelledPoint,
    Media,
    Task,
)

FRAMES = [f"{n:05d}" for n in range(7)]


def square(left, top, side=11, size=(50, 100)):
    mask = np.zeros(size, bool)
    mask[top : top + side, left : left + side] = True
    return mask


def run_lengths(mask):
    rle = coco.encode(np.asfortranarray(mask.astype(np.uint8)))
    return {"size": list(rle["size"]), "counts": rle["counts"].decode()}


RIGHT = [square(10 * n, 20) for n in range(7)]  # moves 10 pixels a frame
HIDDEN = [square(60, 5), None, None, np.zeros((50, 100), bool), None, None, square(70, 5)]
MASKS = {
    "11": [run_lengths(mask) for mask in RIGHT],
    "12": [None if mask is None else run_lengths(mask) for mask in HIDDEN],
}


def mover(paths=()):
    return LabelledObject(
        points=tuple(
            LabelledPoint(x=(10 * n + 5.5) / 100, y=25.5 / 50, time_s=n / 6) for n in (0, 3, 6)
        ),
        masks=paths,
    )


def hider(paths=()):
    return LabelledObject(
        points=(
            LabelledPoint(x=0.655, y=0.21, time_s=0.0),
            LabelledPoint(time_s=0.5, visible=False),
            LabelledPoint(x=0.755, y=0.21, time_s=1.0),
        ),
        masks=paths,
    )


def expression(words, *ids):
    return {"exp": words, "obj_id": [0] * len(ids), "anno_id": list(ids)}


def write_mevis(write_table, touch, expressions, frames=FRAMES, masks=MASKS, video="v1"):
    videos = {video: {"vid_id": 3, "frames": frames, "expressions": expressions}}
    write_table("meta_expressions.json", {"videos": videos})
    write_table("mask_dict.json", masks)
    touch(*(f"JPEGImages/{video}/{frame}.jpg" for frame in FRAMES))


def test_expressions_of_mevis_are_tracks_at_two_a_second(
    tmp_path, write_table, touch, read, read_mask
):
    write_mevis(
        write_table,
        touch,
        {
            "0": expression("the one moving right", 11),
            "1": expression("both", 12, 11),
            "2": expression("a flying cow"),
        },
    )
    (example,), report = read("mevis", store=tmp_path / "out")
    right = example.annotations[0].objects[0].masks
    hidden = example.annotations[1].objects[0].masks

    def track(label, *objects):
        return Annotation(task=Task.TRACK, label=label, objects=objects, fps=2.0)

    assert example == Example(
        name="v1",
        media=Media(
            frames=tuple(str(tmp_path / f"JPEGImages/v1/{frame}.jpg") for frame in FRAMES),
            times_s=tuple(n / 6 for n in range(7)),
        ),
        annotations=(
            track("the one moving right", mover(right)),
            track("both", hider(hidden), mover(right)),
            track("a flying cow"),
        ),
    )
    assert [time_s for time_s, _ in right] == [0.0, 0.5, 1.0]
    assert [time_s for time_s, _ in hidden] == [0.0, 1.0]
    for (_, path), n in zip(right, (0, 3, 6), strict=True):
        assert np.array_equal(read_mask(tmp_path / "out" / path), RIGHT[n])
    assert not report.skipped


def test_points_alone_need_no_place_for_masks(write_table, touch, read):
    write_mevis(write_table, touch, {"0": expression("both", 11, 12)})
    (example,), _ = read("mevis", masks=False)
    assert example.annotations[0].objects == (mover(), hider())
    (example,), _ = read("mevis", masks=False, sampling_fps=6)
    assert len(example.annotations[0].objects[0].points) == 7
    with pytest.raises(ConfigError, match=r"\(store\)"):
        read("mevis")
    with pytest.raises(ConfigError, match="fps 6 and sampling_fps 4, expected a multiple and its"):
        read("mevis", masks=False, sampling_fps=4)


def test_masks_of_all_frames_may_be_kept_beside_the_points_of_the_answered_ones(
    tmp_path, write_table, touch, read, read_mask
):
    write_mevis(write_table, touch, {"0": expression("the one moving right", 11)})
    (example,), _ = read("mevis", store=tmp_path / "out", sampling_fps=1, all_masks=True)
    (right,) = example.annotations[0].objects
    assert [point.time_s for point in right.points] == [0.0, 1.0]
    assert [time_s for time_s, _ in right.masks] == [n / 6 for n in range(7)]
    assert np.array_equal(read_mask(tmp_path / "out" / right.masks[5][1]), RIGHT[5])


def test_expressions_that_cannot_be_used_are_reported(write_table, touch, read, skipped):
    masks = {**MASKS, "13": MASKS["11"][:3], "14": [{"size": [2, 2], "counts": "~"}] * 7}
    good = expression("the one moving right", 11)
    no_truth = {"exp": "the one moving right"}
    write_mevis(
        write_table,
        touch,
        {
            "0": good,
            "1": expression("unknown", 99),
            "2": expression("short", 13),
            "3": expression("broken", 14),
            "4": no_truth,
            "5": expression(" ", 11),
        },
        masks=masks,
    )
    (example,), report = read("mevis", masks=False)
    assert len(example.annotations) == 1
    place = "meta_expressions.json, video v1, expression"
    assert skipped(report) == [
        (f"{place} 1", "malformed", "mask_dict.json: no '99', expected a value"),
        (
            f"{place} 2",
            "malformed",
            "mask_dict.json has 3 masks of 13, expected one for each of the 7 frames of v1",
        ),
        (
            f"{place} 3",
            "malformed",
            "mask_dict.json, 14, frame 0: mask counts have the byte 126, expected 48 to 111",
        ),
        (f"{place} 4", "malformed", "no 'anno_id', expected a value"),
        (f"{place} 5", "malformed", "a track annotation without a label, expected its words"),
    ]


def test_videos_without_frames_are_reported(write_table, touch, read):
    write_mevis(write_table, touch, {"0": expression("a", 11)}, frames=[*FRAMES, "00007"])
    with pytest.raises(DataError, match=r"(?s)1 media not found.*1 of 8 frames, first 00007.jpg"):
        read("mevis", masks=False)
    write_mevis(write_table, touch, {"0": expression("a", 11)}, frames=[])
    with pytest.raises(DataError, match="(?s)1 malformed.*no frames"):
        read("mevis", masks=False)
    write_mevis(write_table, touch, {"0": expression("a", 99)})
    with pytest.raises(DataError, match="(?s)no expression that can be used"):
        read("mevis", masks=False)


def test_a_split_without_masks_is_refused(tmp_path, write_table, read):
    write_table("meta_expressions.json", {"videos": {}})
    with pytest.raises(DataError, match="mask_dict.json is missing: this split has no masks"):
        read("mevis", masks=False)
    with pytest.raises(DataError, match="train/Annotations is missing: this split has no truth"):
        read("ref-youtube-vos", masks=False)
    write_table("mask_dict.json", [])
    with pytest.raises(DataError, match="holds no record, expected masks by annotation"):
        read("mevis", masks=False)


def write_palette(path, numbers):
    picture = Image.fromarray(numbers.astype(np.uint8), mode="P")
    picture.putpalette([0, 0, 0, 236, 95, 103, 249, 145, 87])
    picture.save(path)


@pytest.fixture
def youtube(tmp_path, write_table, touch):
    """Every fifth frame of a video with two objects, of which the second is hidden at times."""
    frames = [f"{5 * n:05d}" for n in range(7)]
    videos = {
        "003234408d": {
            "expressions": {
                "0": {"exp": "the one moving right", "obj_id": "1"},
                "1": {"exp": "the one above", "obj_id": "2"},
                "2": {"exp": "nothing", "obj_id": "x"},
            },
            "frames": frames,
        }
    }
    write_table("meta_expressions/train/meta_expressions.json", {"videos": videos})
    touch(*(f"train/JPEGImages/003234408d/{frame}.jpg" for frame in frames))
    folder = tmp_path / "train/Annotations/003234408d"
    folder.mkdir(parents=True)
    for n, frame in enumerate(frames):
        numbers = RIGHT[n].astype(int)
        if HIDDEN[n] is not None:
            numbers[HIDDEN[n]] = 2
        write_palette(folder / f"{frame}.png", numbers)
    return folder


@pytest.mark.filterwarnings("ignore:'mode' parameter is deprecated:DeprecationWarning")
def test_pixels_of_ref_youtube_vos_are_numbers_of_objects(
    tmp_path, youtube, read, read_mask, skipped
):
    (example,), report = read("ref-youtube-vos", store=tmp_path / "out")
    first, second = example.annotations
    assert example.name == "003234408d"
    assert example.media.times_s == tuple(n / 6 for n in range(7))
    assert first == Annotation(
        task=Task.TRACK,
        label="the one moving right",
        objects=(mover(first.objects[0].masks),),
        fps=2.0,
    )
    assert second.objects == (hider(second.objects[0].masks),)
    assert np.array_equal(read_mask(tmp_path / "out" / first.objects[0].masks[1][1]), RIGHT[3])
    assert skipped(report) == [
        (
            "meta_expressions.json, video 003234408d, expression 2",
            "malformed",
            "obj_id 'x', expected a number",
        )
    ]


@pytest.mark.filterwarnings("ignore:'mode' parameter is deprecated:DeprecationWarning")
def test_annotations_that_are_no_palette_are_reported(youtube, read):
    Image.new("RGB", (100, 50)).save(youtube / "00000.png")
    with pytest.raises(DataError, match="(?s)00000.png has mode RGB, expected a palette"):
        read("ref-youtube-vos", masks=False)
    (youtube / "00000.png").write_bytes(b"x")
    with pytest.raises(DataError, match="(?s)00000.png cannot be read as a PNG"):
        read("ref-youtube-vos", masks=False)

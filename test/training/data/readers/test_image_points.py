import cv2
import numpy as np
import pytest

from molmo2_ros.errors import ConfigError
from molmo2_ros.training.data.example import (
    Annotation,
    Example,
    LabelledObject,
    LabelledPoint,
    Media,
    Task,
)


def bench_row(**changes):
    row = {
        "image_filename": "one.jpg",
        "mask_filename": "one_mask.png",
        "category": "spatial",
        "user_input": "Point to the mug left of the plate.",
    }
    return {**row, **changes}


@pytest.fixture
def bench(tmp_path, touch):
    """An image and its mask, which is drawn in red as some of the set are in colour."""
    touch("selected_images/spatial/one.jpg")
    mask = np.zeros((20, 40, 3), np.uint8)
    mask[4:9, 10:21, 2] = 255
    mask[15, 30] = 127  # not above the threshold
    folder = tmp_path / "selected_masks" / "spatial"
    folder.mkdir(parents=True)
    cv2.imwrite(str(folder / "one_mask.png"), mask)
    cv2.imwrite(str(folder / "empty.png"), np.zeros((20, 40), np.uint8))
    (folder / "broken.png").write_bytes(b"x")
    return mask[..., 2] > 127


def test_point_bench_asks_in_its_own_words(tmp_path, bench, write_table, read, read_mask):
    write_table("data.json", [bench_row()])
    (example,), _ = read("point-bench", store=tmp_path / "out")
    ((_, path),) = example.annotations[0].objects[0].masks
    assert example == Example(
        name="spatial 0",
        media=Media(images=(str(tmp_path / "selected_images/spatial/one.jpg"),)),
        annotations=(
            Annotation(
                task=Task.POINT,
                label="Point to the mug left of the plate.",
                objects=(
                    LabelledObject(
                        points=(LabelledPoint(x=15.5 / 40, y=6.5 / 20, image=1),),
                        masks=((1, path),),
                    ),
                ),
                question="Point to the mug left of the plate.",
            ),
        ),
    )
    assert np.array_equal(read_mask(tmp_path / "out" / path), bench)


def test_point_bench_reports_what_cannot_be_measured(tmp_path, bench, write_table, read, skipped):
    no_mask = bench_row()
    del no_mask["mask_filename"]
    rows = [
        bench_row(),
        no_mask,
        bench_row(category="counting"),
        bench_row(image_filename="two.jpg"),
        bench_row(mask_filename="empty.png"),
        bench_row(mask_filename="broken.png"),
        bench_row(user_input=""),
    ]
    write_table("data.json", rows)
    examples, report = read("point-bench", store=tmp_path / "out", categories=("spatial",))
    assert len(examples) == 1
    broken = tmp_path / "selected_masks/spatial/broken.png"
    assert skipped(report) == [
        ("data.json, row 1", "left out by rule", "no mask_filename"),
        (
            "data.json, row 2",
            "left out by rule",
            "category counting, which was not asked for",
        ),
        ("data.json, row 3", "media not found", "no file selected_images/spatial/two.jpg"),
        ("data.json, row 4", "malformed", "empty.png has no pixel above 127, expected a mask"),
        (
            "data.json, row 5",
            "malformed",
            f"{broken} is no picture that OpenCV reads, or is cut off; copy it anew, or leave its "
            "example out",
        ),
        (
            "data.json, row 6",
            "malformed",
            "a point annotation without a label, expected its words",
        ),
    ]


def pixmo_row(label="black bomb", **changes):
    masks = np.zeros((2, 4, 8), bool)
    masks[0, :2, :2] = masks[1, 2:, 6:] = True
    row = {
        "image_url": "https://example.org/a.jpg",
        "image_sha256": "0" * 64,
        "label": label,
        "points": [{"x": 12.5, "y": 25.0}, {"x": 87.5, "y": 75.0}],
        "masks": masks.tolist(),
    }
    return {**row, **changes}


def test_pixmo_points_have_a_mask_each(tmp_path, write_table, touch, read, read_mask, skipped):
    index = write_table("media/index.json", {"https://example.org/a.jpg": "a.jpg"})
    touch("media/a.jpg")
    write_table(
        "data/test-0.parquet",
        [
            pixmo_row(),
            pixmo_row(points=[]),
            pixmo_row(masks=[[[True], [True, False]], [[True]]]),
            pixmo_row(points=[{"x": 112.5, "y": 25.0}, {"x": 87.5, "y": 75.0}]),
            pixmo_row(image_url="https://example.org/b.jpg"),
        ],
    )
    (example,), report = read("pixmo-points-eval", store=tmp_path / "out", media=index)
    first, second = example.annotations[0].objects
    assert example == Example(
        name="0 black bomb",
        media=Media(images=(str(tmp_path / "media/a.jpg"),)),
        annotations=(
            Annotation(
                task=Task.POINT,
                label="black bomb",
                objects=(
                    LabelledObject(
                        points=(LabelledPoint(x=0.125, y=0.25, image=1),), masks=first.masks
                    ),
                    LabelledObject(
                        points=(LabelledPoint(x=0.875, y=0.75, image=1),), masks=second.masks
                    ),
                ),
            ),
        ),
    )
    found = [read_mask(tmp_path / "out" / thing.masks[0][1]) for thing in (first, second)]
    assert np.array_equal(found, np.array(pixmo_row()["masks"]))
    place = "data/test-0.parquet, row"
    assert [(row[0], row[2]) for row in skipped(report)] == [
        (f"{place} 1", "0 points and 2 masks, expected as many"),
        (f"{place} 2", "mask 0: expected rows of true and false, all of one length"),
        (
            f"{place} 3",
            "point at x 1.125, y 0.25 is outside the picture, expected 0..1 of its width and "
            "height",
        ),
        (f"{place} 4", "no file for https://example.org/b.jpg"),
    ]


@pytest.mark.parametrize("kind", ["point-bench", "pixmo-points-eval"])
def test_masks_need_a_place(kind, read):
    with pytest.raises(ConfigError, match=r"\(store\)"):
        read(kind)

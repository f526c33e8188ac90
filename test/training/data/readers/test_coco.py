import numpy as np
import pytest
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


def box_polygon(left, top, right, bottom):
    return [[left, top, right, top, right, bottom, left, bottom]]


def instance(number, category, segmentation, image=1, **changes):
    return {
        "id": number,
        "image_id": image,
        "category_id": category,
        "segmentation": segmentation,
        "bbox": [10.0, 10.0, 20.0, 10.0],
        "iscrowd": 0,
        **changes,
    }


def content(*annotations, num_images=1):
    return {
        "images": [
            {"id": n, "file_name": f"{n:012d}.jpg", "height": 50, "width": 100}
            for n in range(1, num_images + 1)
        ],
        "categories": [{"id": 18, "name": "dog"}, {"id": 47, "name": "cup"}],
        "annotations": list(annotations),
    }


def test_each_category_of_an_image_is_a_branch_with_points_on_masks(
    tmp_path, write_table, touch, read, read_mask
):
    touch("val2017/000000000001.jpg")
    ring = np.zeros((50, 100), bool)
    ring[10:40, 60:100] = True
    ring[12:38, 64:90] = False
    runs = coco.encode(np.asfortranarray(ring.astype(np.uint8)))
    write_table(
        "annotations/instances_val2017.json",
        content(
            instance(7, 47, box_polygon(9.8, 9.8, 30.2, 20.2)),
            instance(8, 18, box_polygon(0.0, 0.0, 10.0, 4.0)),
            instance(9, 47, {"size": [50, 100], "counts": runs["counts"].decode()}),
        ),
    )
    (example,), report = read("coco", tasks=("point",), masks=True, store=tmp_path / "out")
    cups, dogs = example.annotations
    first, second = cups.objects
    assert example == Example(
        name="1",
        media=Media(images=(str(tmp_path / "val2017/000000000001.jpg"),)),
        annotations=(
            Annotation(
                task=Task.POINT,
                label="cup",
                objects=(
                    LabelledObject(
                        points=(LabelledPoint(x=0.205, y=0.29, image=1),), masks=first.masks
                    ),
                    LabelledObject(points=second.points, masks=second.masks),
                ),
            ),
            Annotation(
                task=Task.POINT,
                label="dog",
                objects=(
                    LabelledObject(
                        points=(LabelledPoint(x=0.045, y=0.05, image=1),),
                        masks=dogs.objects[0].masks,
                    ),
                ),
            ),
        ),
    )
    (point,) = second.points
    assert ring[int(point.y * 50), int(point.x * 100)]
    assert 90 < point.x * 100 < 100  # the thickest side
    assert np.array_equal(read_mask(tmp_path / "out" / second.masks[0][1]), ring)
    assert not report.skipped


def test_what_cannot_be_counted_is_left_out_and_said(write_table, touch, read, skipped):
    touch(*(f"{n:012d}.jpg" for n in range(1, 5)))
    square = box_polygon(10.0, 10.0, 20.0, 20.0)
    write_table(
        "instances.json",
        content(
            instance(1, 18, square),
            instance(2, 47, {"size": [50, 100], "counts": [5000]}, iscrowd=1),
            instance(3, 47, square),
            instance(4, 18, square, image=2),
            instance(5, 18, None, image=2),
            instance(6, 99, square, image=2),
            instance(7, 18, box_polygon(200.0, 0.0, 220.0, 20.0), image=3),
            *(instance(10 + n, 47, square, image=3) for n in range(3)),
            instance(20, 18, square, image=5),
            instance(21, 18, square, image=None),
            num_images=5,
        ),
    )
    examples, report = read("coco", tasks=("count",), max_points=2)
    assert [(e.name, [a.label for a in e.annotations]) for e in examples] == [("1", ["dog"])]
    place = "instances.json, "
    rule, malformed = "left out by rule", "malformed"
    assert skipped(report) == [
        (f"{place}annotations 11", malformed, "no 'image_id', expected a value"),
        (f"{place}annotations 1", rule, "a crowd of cup"),
        (
            f"{place}annotations 3",
            malformed,
            f"{place}annotations 4: mask is None, expected run lengths or polygons of numbers",
        ),
        (f"{place}annotations 5", malformed, "category 99 is not in categories"),
        (f"{place}images 1", rule, "no category of it can be used"),
        (
            f"{place}annotations 6",
            malformed,
            "an empty mask, expected pixels inside the picture",
        ),
        (f"{place}annotations 7", rule, "3 objects, expected at most 2"),
        (f"{place}images 2", rule, "no category of it can be used"),
        (f"{place}images 3", rule, "no annotation"),
        (f"{place}images 4", "media not found", "no file for 000000000005.jpg"),
    ]


def test_boxes_serve_where_asked(write_table, touch, read):
    touch("000000000001.jpg")
    write_table("boxes.json", content(instance(1, 18, [], bbox=[10.0, 10.0, 20.0, 10.0])))
    (example,), _ = read("coco", boxes=True, made_by="detector")
    (annotation,) = example.annotations
    assert annotation.objects == (LabelledObject(points=(LabelledPoint(x=0.2, y=0.3, image=1),)),)
    assert annotation.source == "detector"
    with pytest.raises(DataError, match=r"(?s)gave no example.*mask is \[\]"):
        read("coco")


def test_images_point_and_count_by_chance_that_stays(write_table, touch, read):
    touch(*(f"{n:012d}.jpg" for n in range(1, 61)))
    square = box_polygon(10.0, 10.0, 20.0, 20.0)
    rows = [instance(n, 18, square, image=n) for n in range(1, 61)]
    write_table("instances.json", content(*rows, num_images=60))
    examples, _ = read("coco")
    tasks = [example.annotations[0].task for example in examples]
    assert 15 < tasks.count(Task.COUNT) < 45
    assert read("coco")[0] == examples


def test_the_file_is_named_where_there_are_several(tmp_path, write_table, touch, read):
    touch("000000000001.jpg")
    square = box_polygon(10.0, 10.0, 20.0, 20.0)
    for name in ("annotations/a.json", "annotations/b.json"):
        write_table(name, content(instance(1, 18, square)))
    with pytest.raises(DataError, match=r"has 2 JSON files \(annotations/a.json, annotations/b.js"):
        read("coco")
    assert len(read("coco", annotations="annotations/b.json")[0]) == 1
    with pytest.raises(ConfigError, match=r"\(store\)"):
        read("coco", masks=True)


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ([], "holds no record, expected images"),
        ({"categories": [], "annotations": []}, "a.json: no 'images'"),
        ({"images": [], "categories": [{"id": 1}], "annotations": []}, "categories 0: no 'name'"),
        ({"images": [], "categories": [], "annotations": []}, "gave no example"),
    ],
)
def test_files_of_another_form_are_refused(write_table, read, content, message):
    write_table("a.json", content)
    with pytest.raises(DataError, match=message):
        read("coco")

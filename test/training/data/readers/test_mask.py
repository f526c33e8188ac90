import cv2
import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis.extra import numpy as nps
from pycocotools import mask as coco

from molmo2_ros.errors import DataError
from molmo2_ros.training.data.readers.mask import decode_mask, point_on_mask

MASKS = nps.arrays(np.bool_, nps.array_shapes(min_dims=2, max_dims=2, max_side=40))


@given(mask=MASKS)
@settings(deadline=None)
def test_packed_run_lengths_are_read_as_coco_reads_them(mask):
    rle = coco.encode(np.asfortranarray(mask.astype(np.uint8)))
    for counts in (rle["counts"], rle["counts"].decode()):
        assert np.array_equal(decode_mask("row 0", {"size": rle["size"], "counts": counts}), mask)


def test_long_run_lengths_take_several_characters():
    mask = np.zeros((700, 900), bool)
    mask[13:690, 5:880] = True
    mask[100:300, 200] = False
    rle = coco.encode(np.asfortranarray(mask.astype(np.uint8)))
    assert np.array_equal(decode_mask("row 0", rle), mask)


def test_plain_run_lengths_go_down_the_columns():
    # 2 pixels outside, 3 inside, 1 outside; columns are 3 high.
    mask = decode_mask("row 0", {"size": [3, 2], "counts": [2, 3, 1]})
    assert mask.tolist() == [[False, True], [False, True], [True, False]]


@pytest.mark.filterwarnings("ignore:__array__ implementation:DeprecationWarning")
def test_polygons_cover_what_coco_covers_but_for_a_pixel_of_rim():
    polygons = [
        [10.0, 10.0, 60.0, 12.5, 55.0, 70.0, 8.0, 64.0],
        [70.0, 70.0, 90.0, 70.0, 80.0, 90.0],
        [100.0, 80.0, 140.0, 80.0, 140.0, 120.0, 100.0, 120.0],  # reaches out of the picture
        [-20.0, -20.0, -10.0, -20.0, -10.0, -10.0],  # outside
    ]
    size = (100, 120)
    ours = decode_mask("row 0", polygons, size)
    theirs = coco.decode(coco.merge(coco.frPyObjects(polygons, *size))).astype(bool)
    grown, shrunk = (
        change(theirs.astype(np.uint8), np.ones((3, 3))).astype(bool)
        for change in (cv2.dilate, cv2.erode)
    )
    assert ours.shape == size
    assert not (ours & ~grown).any()
    assert not (shrunk & ~ours).any()
    assert (ours & theirs).sum() / (ours | theirs).sum() > 0.97


def test_a_pixel_is_inside_a_polygon_where_its_middle_is():
    mask = decode_mask("row 0", [[1.8, 0.2, 4.2, 0.2, 4.2, 2.8, 1.8, 2.8]], (4, 6))
    assert np.argwhere(mask).tolist() == [[y, x] for y in (0, 1, 2) for x in (2, 3)]


@pytest.mark.parametrize(
    ("segmentation", "message"),
    [
        ({"size": [3, 2], "counts": [2, 3]}, "row 0: mask counts fill 5 pixels, expected 3 x 2"),
        ({"size": [3, 2], "counts": [-2, 8]}, "lengths from 0"),
        ({"size": [3, 2], "counts": "~~"}, "have the byte 126, expected 48 to 111"),
        ({"size": [3, 2], "counts": "P"}, "end in the middle of a length"),
        ({"size": [3], "counts": [6]}, r"mask size \[3\], expected height and width"),
        ({"size": [30_000, 30_000], "counts": [0]}, "expected at most 100000000 pixels"),
        ({"counts": [6]}, "row 0: no 'size'"),
        ({"size": [4, 4], "counts": [16]}, r"\(4, 4\), expected the picture's \(3, 2\)"),
        ([[1.0, 1.0, 2.0, 2.0]], "polygon of 2 corners, expected 3 or more"),
        ([[1.0, 1.0, 2.0]], "expected x, y, x, y"),
        ([["a", "b"]], "expected x, y, x, y"),
        ([], "expected run lengths or polygons"),
        (None, "mask is None, expected run lengths or polygons"),
    ],
)
def test_masks_that_say_nothing_are_refused(segmentation, message):
    with pytest.raises(DataError, match=message):
        decode_mask("row 0", segmentation, (3, 2))


def test_polygons_need_the_size_of_the_picture():
    with pytest.raises(DataError, match="row 0: mask is"):
        decode_mask("row 0", [[0.0, 0.0, 4.0, 0.0, 4.0, 4.0]])


def test_the_point_of_a_full_mask_is_its_centroid():
    mask = np.zeros((10, 20), bool)
    mask[2:5, 10:15] = True  # the middle pixel is row 3, column 12
    assert point_on_mask(mask) == ((12 + 0.5) / 20, (3 + 0.5) / 10)


def test_the_point_of_a_ring_is_where_it_is_thickest():
    mask = np.zeros((100, 100), bool)
    mask[10:90, 10:90] = True
    mask[20:80, 15:60] = False  # the centroid falls into the hole; the right side is 30 thick
    x, y = point_on_mask(mask)
    assert 0.7 < x < 0.8
    assert mask[int(y * 100), int(x * 100)]


def test_the_edge_of_the_picture_is_not_the_middle_of_a_mask():
    mask = np.zeros((40, 40), bool)
    mask[:, :9] = True
    mask[:9, :] = True  # an L along two edges: its centroid lies outside
    x, y = point_on_mask(mask)
    assert mask[int(y * 40), int(x * 40)]
    assert min(x, y) * 40 > 4


def test_an_empty_mask_has_no_point():
    assert point_on_mask(np.zeros((4, 4), bool)) is None


@given(mask=MASKS)
@settings(deadline=None)
def test_every_point_lies_on_its_mask(mask):
    found = point_on_mask(mask)
    assert (found is None) == (not mask.any())
    if found is not None:
        x, y = found[0] * mask.shape[1], found[1] * mask.shape[0]
        assert mask[int(y), int(x)]

import numpy as np
import pytest

from molmo2_ros.training.nano.augment import augment_clip, augment_still, pan_still
from molmo2_ros.training.scenes import locate

BOX = (60, 60, 100, 100)


@pytest.fixture
def still(make_clip, make_thing):
    return make_clip([make_thing("mug", "red")], [[BOX]])


def colour_centre(clip, frame):
    """Centre of the pure red pixels, x and y in 0..1: where the picture shows the object."""
    red = clip.frames[frame].astype(int)
    rows, columns = np.nonzero((red[..., 0] > 150) & (red[..., 1:] < 90).all(-1))
    side = clip.frames.shape[1]
    return (columns.mean() + 0.5) / side, (rows.mean() + 0.5) / side


def paint(clip):
    clip.frames[...] = 100
    clip.frames[clip.instances == 1] = (220, 0, 0)
    return clip


def test_picture_and_masks_move_together(still):
    rng = np.random.default_rng(0)
    for _ in range(20):
        changed = augment_still(paint(still), rng)
        assert locate(changed).centre[0, 0] == pytest.approx(colour_centre(changed, 0), abs=0.01)


def test_visible_fraction_falls_with_the_part_that_leaves_the_picture(make_clip, make_thing):
    clip = make_clip([make_thing("mug", "red")], [[(100, 60, 160, 100)]])
    rng = np.random.default_rng(1)
    left = []
    for _ in range(40):
        panned = pan_still(clip, rng, 8)
        cut = (panned.instances == 1).sum((1, 2))
        gone = cut == 0
        assert (panned.visible_fraction[gone, 0] == 0).all()
        left.append(panned.visible_fraction.min())
    assert min(left) < 0.5  # some pans push it out


def test_clips_keep_their_truth_when_cut_reversed_and_mirrored(make_clip, make_thing):
    boxes = [[(10 + 15 * t, 60, 40 + 15 * t, 90)] for t in range(8)]
    clip = paint(make_clip([make_thing("mug", "red")], boxes))
    rng = np.random.default_rng(2)
    directions = set()
    for _ in range(30):
        part = augment_clip(clip, rng, 4)
        sightings = locate(part)
        for t in range(4):
            assert sightings.centre[t, 0] == pytest.approx(colour_centre(part, t), abs=0.01)
        step = sightings.centre[1, 0, 0] - sightings.centre[0, 0, 0]
        directions.add((step > 0, abs(step) > 0.12))
    assert len(directions) == 4  # both directions, both speeds


def test_relighting_changes_pixels_only(still):
    changed = augment_still(still, np.random.default_rng(3))
    assert changed.frames.dtype == np.uint8
    assert not np.array_equal(changed.frames, still.frames)
    assert set(np.unique(changed.instances)) <= {0, 1}

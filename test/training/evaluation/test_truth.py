"""What is true of an example's pictures, worked by hand."""

import numpy as np
import pytest

from molmo2_ros.training.data.dataset_writer import DatasetWriter
from molmo2_ros.training.data.example import Annotation, LabelledObject, LabelledPoint, Task
from molmo2_ros.training.evaluation.truth import NEAR, clip_truth, disc, image_truth, start_of

SHAPE = (60, 80)


def at(time_s, x=0.5, y=0.5, **known):
    return LabelledPoint(x=x, y=y, time_s=time_s, **known)


def hidden(time_s):
    return LabelledPoint(time_s=time_s, visible=False)


def track(*objects, task=Task.TRACK, fps=None):
    return Annotation(task=task, label="mugs", objects=objects, fps=fps)


@pytest.fixture
def write_mask(tmp_path):
    """A mask of the data set: a rectangle of left, top, right, bottom in pixels."""

    def write(name, left, top, right, bottom):
        mask = np.zeros(SHAPE, bool)
        mask[top:bottom, left:right] = True
        with DatasetWriter(tmp_path) as writer:
            return writer.add_mask(name, mask)

    return write


def test_where_no_mask_is_known_a_point_s_neighbourhood_decides():
    # Of 80 x 60 the diagonal is 100: five of its hundredths are 5 pixels, 0.0625 of the width.
    mask = disc(0.5, 0.5, SHAPE)
    height, width = mask.shape
    assert (height, width) == (240, 320)

    def holds(x, y):
        return bool(mask[int(y * height), int(x * width)])

    assert holds(0.5 + 0.06, 0.5)
    assert not holds(0.5 + 0.065, 0.5)
    assert holds(0.5, 0.5 + 0.08)
    assert not holds(0.5, 0.5 + 0.087)
    assert mask.sum() == pytest.approx(np.pi * (NEAR * 400) ** 2, rel=0.01)


def test_images_have_a_place_each_and_points_go_with_their_number(tmp_path, write_mask):
    mug = LabelledObject(
        points=(LabelledPoint(x=0.1, y=0.2, image=1),), masks=((1, write_mask("a", 4, 6, 12, 18)),)
    )
    other = LabelledObject(points=(LabelledPoint(x=0.9, y=0.9, image=2),))
    annotation = Annotation(task=Task.POINT, label="mugs", objects=(mug, other))
    truth = image_truth(tmp_path, annotation, [SHAPE, (30, 30)])
    assert [place.at for place in truth.places] == [1.0, 2.0]
    assert [dict(place.true) for place in truth.places] == [{1: (0.1, 0.2)}, {2: (0.9, 0.9)}]
    assert truth.places[0].masks[1].sum() == 8 * 12
    assert truth.places[1].masks[2].shape == (320, 320)  # a disc, in the image's proportions
    assert truth.size == pytest.approx(96 / 4800)  # of the objects that have a mask
    assert (truth.num_objects, truth.visible_fraction, truth.speed) == (2, None, None)


def test_a_track_is_held_against_every_stamp_of_its_answer_that_is_shown():
    mug = LabelledObject(points=(at(0.0, 0.2), hidden(0.5), at(1.0, 0.6)))
    truth = clip_truth(None, track(mug), (0.0, 0.5, 1.0, 1.3), SHAPE)
    assert [place.at for place in truth.places] == [0.0, 0.5, 1.0]
    assert [sorted(place.true) for place in truth.places] == [[1], [], [1]]
    assert [sorted(place.hidden) for place in truth.places] == [[], [1], []]
    assert truth.visible_fraction == pytest.approx(2 / 3)
    # A point that is not annotated is out of view; at one a second every second stamp is asked for.
    slow = clip_truth(None, track(mug, fps=1.0), (0.0, 0.5, 1.0, 1.3), SHAPE)
    assert [place.at for place in slow.places] == [0.0, 1.0]


def test_speed_is_in_diagonals_a_second_and_leaves_out_steps_over_hidden_moments():
    # 0.25 of 80 pixels in half a second are 40 pixels a second; the diagonal is 100.
    mug = LabelledObject(points=(at(0.0, 0.25), at(0.5, 0.5), hidden(1.0), at(1.5, 0.9)))
    truth = clip_truth(None, track(mug), (0.0, 0.5, 1.0, 1.5), SHAPE)
    assert truth.speed == pytest.approx(0.4)


def test_told_fractions_are_averaged_with_hidden_moments_as_nothing():
    mug = LabelledObject(points=(at(0.0, visible_fraction=0.5), hidden(0.5), at(1.0)))
    truth = clip_truth(None, track(mug), (0.0, 0.5, 1.0), SHAPE)
    assert truth.visible_fraction == pytest.approx((0.5 + 0 + 1) / 3)


def test_a_track_from_a_point_is_held_against_what_comes_after_it():
    mug = LabelledObject(points=(hidden(0.0), at(0.3), at(0.5, 0.4), at(1.0), at(1.5)))
    annotation = track(mug, task=Task.TRACK_FROM_POINT)
    times_s = (0.0, 0.5, 1.0, 1.5)
    assert start_of(annotation, times_s).time_s == 0.5  # 0.3 s is on no stamp of the answer
    truth = clip_truth(None, annotation, times_s, SHAPE)
    assert [place.at for place in truth.places] == [1.0, 1.5]


def test_an_object_of_a_pointed_clip_counts_on_its_masked_stamps_alone(tmp_path, write_mask):
    masked = LabelledObject(
        points=(at(1.0, 0.2, 0.2),),
        masks=((1.5, write_mask("b", 0, 0, 20, 20)), (2.0, write_mask("c", 0, 0, 30, 30))),
    )
    bare = LabelledObject(points=(at(0.5), at(1.0)))
    annotation = Annotation(task=Task.POINT, label="mugs", objects=(masked, bare))
    truth = clip_truth(tmp_path, annotation, (0.0, 0.5, 1.0, 1.5, 2.0), SHAPE)
    first, second = truth.timed()
    assert (first.time_s, first.x, sorted(first.masks)) == (1.0, 0.2, [1.5, 2.0])
    assert (second.time_s, sorted(second.masks)) == (0.5, [0.5, 1.0])
    assert first.masks[2.0].sum() == 900

"""Pointing, tracking, HOTA, counting and J&F on cases worked by hand, and against TrackEval."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from molmo2_ros.training.metrics.counting import authors_count, is_close, read_count
from molmo2_ros.training.metrics.hota import hota
from molmo2_ros.training.metrics.pointing import TimedTruth, image_pointing, video_pointing
from molmo2_ros.training.metrics.segmentation import (
    j_and_f,
    outline,
    outline_accuracy,
    region_similarity,
)
from molmo2_ros.training.metrics.tracking import (
    TrackedFrame,
    authors_recall,
    frame_score,
    tracking_f1,
)


def box(left, top, right, bottom, side=100):
    mask = np.zeros((side, side), bool)
    mask[top:bottom, left:right] = True
    return mask


LEFT, RIGHT = box(10, 40, 30, 60), box(70, 40, 90, 60)
AT_LEFT, AT_RIGHT, BETWEEN = (0.2, 0.5), (0.8, 0.5), (0.5, 0.5)


@pytest.mark.parametrize(
    ("predicted", "hits", "f1"),
    [
        ([AT_RIGHT, AT_LEFT], 2, 1.0),  # order does not matter
        ([AT_LEFT], 1, 2 / 3),  # precision 1, recall 1/2
        ([AT_LEFT, (0.21, 0.5)], 1, 0.5),  # the second one is assigned to the right, and misses
        ([BETWEEN, BETWEEN], 0, 0.0),
        ([], 0, 0.0),
    ],
)
def test_an_image_has_one_assignment_by_distance(predicted, hits, f1):
    score = image_pointing(predicted, [AT_LEFT, AT_RIGHT], [LEFT, RIGHT])
    assert (score.hits, score.f1) == (hits, pytest.approx(f1))


def test_nothing_said_about_nothing_is_right_and_a_point_on_nothing_is_wrong():
    assert image_pointing([], [], []).f1 == 1.0
    wrong = image_pointing([AT_LEFT], [], [])
    assert (wrong.f1, wrong.precision, wrong.recall) == (0.0, 0.0, 0.0)


def test_the_distance_is_of_pixels_so_that_a_wide_picture_counts_its_width():
    # 200 x 50 pixels. The point is (10, 40) pixels from the lower object's and (70, 0) from the
    # upper one's, in whose mask it lies: by pixels it goes to the lower one and misses, by shares
    # of the sides, (0.05, 0.8) and (0.35, 0), it would go to the upper one.
    low, high = np.zeros((50, 200), bool), np.zeros((50, 200), bool)
    low[35:, :60], high[:15, 40:] = True, True
    score = image_pointing([(0.25, 0.1)], [(0.2, 0.9), (0.6, 0.1)], [low, high])
    assert score.hits == 0


def truth(time_s, point, mask, stamps):
    return TimedTruth(time_s=time_s, x=point[0], y=point[1], masks=dict.fromkeys(stamps, mask))


@pytest.mark.parametrize(
    ("point", "hits"),
    [
        ((2.0, *AT_LEFT), 1),
        ((3.5, *AT_LEFT), 1),  # another stamp of the window, in its mask
        ((4.0, *AT_LEFT), 0),  # outside the window
        ((2.2, *AT_LEFT), 0),  # inside it, on none of its stamps
        ((2.0, *AT_RIGHT), 0),  # on the stamp, beside the mask
    ],
)
def test_a_point_in_a_clip_must_be_on_a_masked_stamp(point, hits):
    stamps = (0.5, 1.0, 1.5, 2.0, 2.5, 3.0, 3.5)
    assert video_pointing([point], [truth(2.0, AT_LEFT, LEFT, stamps)], 10).hits == hits


def test_a_clip_has_one_assignment_on_time_and_place():
    # Two sights of the same place. Each point is 5 (of 100, in time) from its own and 45 or 55
    # from the other one: by place alone both assignments would cost the same.
    early = truth(2.0, AT_LEFT, LEFT, (2.0, 2.5))
    late = truth(7.0, AT_LEFT, LEFT, (7.0, 7.5))
    score = video_pointing([(7.5, *AT_LEFT), (2.5, *AT_LEFT)], [early, late], 10)
    assert (score.hits, score.f1) == (2, 1.0)
    # The third point is a false one: precision 2/3, recall 1.
    more = video_pointing([(7.5, *AT_LEFT), (2.5, *AT_LEFT), (5, 0.9, 0.9)], [early, late], 10)
    assert more.f1 == pytest.approx(0.8)


def frame(predicted, **there):
    places = {"left": (1, AT_LEFT, LEFT), "right": (2, AT_RIGHT, RIGHT)}
    known = [places[name] for name in there]
    return TrackedFrame(
        predicted=predicted,
        true={key: point for key, point, _ in known},
        masks={key: mask for key, _, mask in known},
    )


def test_tracking_f1_is_the_mean_over_frames_with_a_prediction_or_a_truth():
    frames = [
        frame({1: AT_LEFT, 2: AT_RIGHT}, left=1, right=1),  # 1
        frame({}),  # left out
        frame({1: AT_LEFT}, left=1, right=1),  # 2/3
        frame({1: AT_LEFT}),  # 0
    ]
    assert tracking_f1(frames) == pytest.approx((1 + 2 / 3 + 0) / 3)
    assert tracking_f1([frame({})]) == 1.0


def test_the_authors_recall_goes_wrong_where_an_object_is_out_of_view():
    # The second object alone is in view and found. The authors divide by two objects, and hold the
    # point against the mask of the first: 0, where recall is 1.
    frames = [frame({2: AT_RIGHT}, right=1)]
    assert frame_score(frames[0]).recall == 1.0
    assert authors_recall(frames, [1, 2]) == 0.0
    # The first alone: the mask is right, the division is not.
    assert authors_recall([frame({1: AT_LEFT}, left=1)], [1, 2]) == 0.5
    # Both in view: equal to recall.
    assert authors_recall([frame({1: AT_LEFT}, left=1, right=1)], [1, 2]) == 0.5


def test_hota_of_ids_that_swap_half_way():
    # Four frames, two objects, all found (DetA 1); the ids swap after two frames. Each of the four
    # pairs has 2 matches in 4 + 4 - 2 frames: AssA = 1/3.
    right_way = {1: AT_LEFT, 2: AT_RIGHT}
    swapped = {2: AT_LEFT, 1: AT_RIGHT}
    both = {"left": 1, "right": 1}
    score = hota([frame(right_way, **both)] * 2 + [frame(swapped, **both)] * 2)
    assert score.detection == 1.0
    assert score.association == pytest.approx(1 / 3)
    assert score.hota == pytest.approx(np.sqrt(1 / 3))


def test_hota_of_half_found_and_of_nothing():
    # One object in four frames, found in two, no false point: DetA = 2/4, AssA = 2/4.
    score = hota([frame({1: AT_LEFT}, left=1)] * 2 + [frame({}, left=1)] * 2)
    assert score.hota == pytest.approx(0.5)
    assert hota([frame({})]).hota == 1.0
    assert hota([frame({}, left=1)]).hota == 0.0
    assert hota([frame({1: AT_LEFT})]).hota == 0.0


@st.composite
def clips(draw):
    """Frames of 8 x 8 pixels with up to four objects, whose boxes overlap, and five ids."""
    place = st.integers(0, 7)
    frames = []
    for _ in range(draw(st.integers(1, 6))):
        masks = {}
        for key in draw(st.sets(st.integers(1, 4))):
            x, y = draw(place), draw(place)
            masks[key] = box(x, y, min(x + 4, 8), min(y + 4, 8), side=8)
        points = {
            key: ((draw(place) + 0.5) / 8, (draw(place) + 0.5) / 8)
            for key in draw(st.sets(st.integers(1, 5)))
        }
        true = {key: tuple((np.argwhere(m)[0][::-1] + 0.5) / 8) for key, m in masks.items()}
        frames.append(TrackedFrame(predicted=points, true=true, masks=masks))
    return frames


def trackeval_data(frames):
    """The dictionary of one sequence that TrackEval's metrics read."""
    objects = sorted({k for f in frames for k in f.true})
    ids = sorted({k for f in frames for k in f.predicted})
    similarity = []
    for f in frames:
        scores = np.zeros((len(f.true), len(f.predicted)))
        for i, key in enumerate(f.true):
            for j, (x, y) in enumerate(f.predicted.values()):
                scores[i, j] = f.masks[key][int(y * 8), int(x * 8)]
        similarity.append(scores)
    return {
        "num_timesteps": len(frames),
        "num_gt_ids": len(objects),
        "num_tracker_ids": len(ids),
        "num_gt_dets": sum(len(f.true) for f in frames),
        "num_tracker_dets": sum(len(f.predicted) for f in frames),
        "gt_ids": [np.array([objects.index(k) for k in f.true], int) for f in frames],
        "tracker_ids": [np.array([ids.index(k) for k in f.predicted], int) for f in frames],
        "similarity_scores": similarity,
    }


@given(clips())
@settings(max_examples=150, deadline=None)
def test_hota_equals_trackeval(frames):
    from trackeval.metrics import HOTA

    data = trackeval_data(frames)
    if not data["num_gt_dets"] and not data["num_tracker_dets"]:
        return
    theirs = HOTA({"PRINT_CONFIG": False}).eval_sequence(data)
    ours = hota(frames)
    for name, value in (
        ("HOTA", ours.hota),
        ("DetA", ours.detection),
        ("AssA", ours.association),
    ):
        # Every threshold says the same, where a point is in a mask or not.
        assert np.ptp(theirs[name]) < 1e-9
        assert value == pytest.approx(float(np.mean(theirs[name])), abs=1e-9)


@given(clips())
@settings(max_examples=100, deadline=None)
def test_tracking_f1_equals_trackeval_where_masks_do_not_overlap(frames):
    """TrackEval's CLEAR counts of single frames, of one object and one id each."""
    from trackeval.metrics import CLEAR

    values = []
    for f in frames:
        one = TrackedFrame(
            predicted=dict(list(f.predicted.items())[:1]),
            true=dict(list(f.true.items())[:1]),
            masks=f.masks,
        )
        if not one.predicted and not one.true:
            continue
        counts = CLEAR({"PRINT_CONFIG": False}).eval_sequence(trackeval_data([one]))
        hits, wrong, missed = (counts[name] for name in ("CLR_TP", "CLR_FP", "CLR_FN"))
        values.append(2 * hits / (2 * hits + wrong + missed))
        assert tracking_f1([one]) == pytest.approx(values[-1], abs=1e-9)


@pytest.mark.parametrize(
    ("text", "ours", "authors"),
    [
        ("7", 7, 7),
        ('Counting the <points coords="0.0 1 500 500">x</points> shows a total of 12.', 12, 12),
        ("The total number of dogs is: 3", 3, 3),
        ("There are none.", 0, None),
        ('There are 2 <points coords="0.0 1 500 500 2 600 600">dogs</points>.', 2, None),
        ("many", None, None),
    ],
)
def test_counts_are_read_also_where_the_authors_miss_them(text, ours, authors):
    assert (read_count(text), authors_count(text)) == (ours, authors)


@pytest.mark.parametrize(
    ("stated", "true", "video", "image"),
    [
        (6, 5, True, True),
        (7, 5, False, False),
        (22, 20, True, False),  # 1 + floor(0.05 x 20) = 2
        (21, 19, False, False),  # 1 + floor(0.95) = 1
        (None, 0, False, False),
    ],
)
def test_close_counts_are_looser_for_many_objects_of_a_video(stated, true, video, image):
    assert is_close(stated, true, is_video=True) is video
    assert is_close(stated, true, is_video=False) is image


def brute_force_outline_accuracy(predicted, true):
    """Pixel by pixel: is there one of the other outline within the reach?"""
    reach = int(np.ceil(0.008 * np.hypot(*true.shape)))

    def edge(mask):
        height, width = mask.shape
        return [
            (r, c)
            for r in range(height)
            for c in range(width)
            if any(
                mask[r, c] != mask[min(r + i, height - 1), min(c + j, width - 1)]
                for i, j in ((0, 1), (1, 0), (1, 1))
            )
        ]

    def share(some, others):
        near = [any((a - r) ** 2 + (b - c) ** 2 <= reach**2 for a, b in others) for r, c in some]
        return sum(near) / len(some)

    ours, theirs = edge(predicted), edge(true)
    if not ours or not theirs:
        return float(not ours and not theirs)
    precision, recall = share(ours, theirs), share(theirs, ours)
    return 2 * precision * recall / (precision + recall) if precision + recall else 0.0


def test_outlines_equal_brute_force():
    rng = np.random.default_rng(0)
    for _ in range(20):
        predicted, true = (
            box(*(int(v) for v in (*rng.integers(0, 20, 2), *rng.integers(20, 40, 2))), side=40)
            for _ in range(2)
        )
        expected = brute_force_outline_accuracy(predicted, true)
        assert outline_accuracy(predicted, true) == pytest.approx(expected, abs=1e-12)


def test_regions_and_outlines_of_simple_masks():
    # 20 x 20 against the same moved by 10: 200 shared of 600.
    moved = box(20, 40, 40, 60)
    assert region_similarity(LEFT, moved) == pytest.approx(1 / 3)
    empty = np.zeros_like(LEFT)
    assert (region_similarity(empty, empty), outline_accuracy(empty, empty)) == (1.0, 1.0)
    assert (region_similarity(LEFT, empty), outline_accuracy(LEFT, empty)) == (0.0, 0.0)
    # Moved by one pixel: the outline is within the reach of 2 pixels, the region is not equal.
    near = box(11, 40, 31, 60)
    assert outline_accuracy(LEFT, near) == 1.0
    assert j_and_f([LEFT, LEFT], [LEFT, near]) == pytest.approx((1 + (380 / 420 + 1) / 2) / 2)
    assert not outline(np.ones((5, 5), bool)).any()  # the picture's rim is no outline

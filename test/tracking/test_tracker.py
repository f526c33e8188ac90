"""Answers about the past become targets of now, under ids that last."""

import math
import threading
from dataclasses import replace

import numpy as np
import pytest

from molmo2_ros.answers.answer import Answer, AnsweredPoint
from molmo2_ros.camera.frame import CameraModel, Frame
from molmo2_ros.prompt.query import Query, QueryKind
from molmo2_ros.tracking.tracker import MAX_MISSES, Tracker

SECOND = 1_000_000_000
WIDTH, HEIGHT = 640, 480
POINT = Query(name="mugs", kind=QueryKind.POINT, words="all mugs")
TRACK = Query(name="mug", kind=QueryKind.TRACK, words="the mug")


def point_answer(frame, *pixels, **changes):
    """What a model would say of one frame; ids follow the order given."""
    points = tuple(
        AnsweredPoint(object_id=i, time_s=0.0, x=u / WIDTH, y=v / HEIGHT, confidence=0.9)
        for i, (u, v) in enumerate(pixels, 1)
    )
    return Answer(
        **{"query": POINT, "text": "", "stamps_ns": (frame.stamp_ns,), "points": points, **changes}
    )


def track_answer(frames, paths, **changes):
    """`paths` maps object ids to a pixel for each frame, None where hidden."""
    start_ns = frames[0].stamp_ns
    points = tuple(
        AnsweredPoint(
            object_id=object_id,
            time_s=round((frame.stamp_ns - start_ns) / SECOND, 1),
            x=path[i][0] / WIDTH,
            y=path[i][1] / HEIGHT,
        )
        for i, frame in enumerate(frames)
        for object_id, path in paths.items()
        if path[i] is not None
    )
    stamps = tuple(frame.stamp_ns for frame in frames)
    return Answer(
        **{
            "query": TRACK,
            "text": "",
            "stamps_ns": stamps,
            "points": points,
            "is_track": True,
            **changes,
        }
    )


def ids(targets):
    return [target.track_id for target in targets]


def pixel(target):
    return np.array([target.u, target.v])


@pytest.fixture
def still(make_stream, pan):
    return make_stream(pan())


def test_an_answer_half_a_second_old_is_carried_to_now(make_stream, pan):
    stream = make_stream(pan(vx=200, vy=-60))
    tracker = Tracker()
    frames = [stream.frame(index) for index in range(16)]
    for frame in frames:
        assert tracker.update(frame) == ()
    said = np.array([[200.0, 300.0], [340.0, 260.0]])
    rows = tracker.measure(point_answer(frames[0], *said), query_id=1)
    assert [(row.stamp_ns, row.u, row.measured) for row in rows] == [
        (0, pytest.approx(200), True),
        (0, pytest.approx(340), True),
    ]
    targets = tracker.targets()
    for target, truth in zip(targets, stream.moved(said, 0, 0.5), strict=True):
        assert np.linalg.norm(pixel(target) - truth) < 1.0
        assert np.linalg.norm(pixel(target) - said[target.track_id - 1]) > 90
        assert target.stamp_ns == frames[-1].stamp_ns
        assert target.age_s == pytest.approx(0.5)
        assert not target.measured
        assert target.quality > 0.8
        assert target.confidence == 0.9
        assert target.label == "mugs"
    # And on with the camera.
    later = tracker.update(stream.frame(17))
    assert np.linalg.norm(pixel(later[0]) - stream.moved(said[0], 0, 17 / 30)[0]) < 1.0


def test_points_over_a_clip_are_carried_to_now_from_frames_of_their_own(make_stream, pan):
    stream = make_stream(pan(vx=120))
    tracker = Tracker()
    frames = [stream.frame(index) for index in range(31)]  # a second
    for frame in frames:
        tracker.update(frame)
    places = {0.0: (200.0, 300.0), 0.5: (340.0, 260.0), 1.0: (500.0, 200.0)}
    answer = Answer(
        query=Query(name="mugs", kind=QueryKind.COUNT, words="mugs", over_clip=True),
        text="",
        stamps_ns=tuple(frame.stamp_ns for frame in frames[::15]),
        points=tuple(
            AnsweredPoint(object_id=number, time_s=time_s, x=u / WIDTH, y=v / HEIGHT)
            for number, (time_s, (u, v)) in enumerate(places.items(), 1)
        ),
    )
    rows = tracker.measure(answer, query_id=1)
    assert [row.stamp_ns / SECOND for row in rows] == list(places)
    assert ids(rows) == [1, 2, 3]
    targets = tracker.targets()
    assert [target.age_s for target in targets] == pytest.approx([1.0, 0.5, 0.0])
    assert [target.measured for target in targets] == [False, False, True]
    for target, (time_s, said) in zip(targets, places.items(), strict=True):
        assert np.linalg.norm(pixel(target) - stream.moved(said, time_s, 1.0)[0]) < 1.0
    # The next answer points to them on other frames, and in another order.
    again = replace(
        answer,
        points=tuple(
            replace(point, object_id=4 - point.object_id, time_s=1.0, x=target.u / WIDTH)
            for point, target in zip(answer.points, targets, strict=True)
        ),
    )
    assert ids(tracker.measure(again, query_id=1)) == [1, 2, 3]


def test_a_target_answered_on_the_newest_frame_is_measured(still):
    tracker = Tracker()
    frame = still.frame(0)
    tracker.update(frame)
    tracker.measure(point_answer(frame, (300, 200)), 1)
    (target,) = tracker.targets()
    assert target.measured
    assert target.age_s == 0
    (target,) = tracker.update(still.frame(1))
    assert not target.measured
    assert target.age_s == pytest.approx(1 / 30)


def test_ids_last_when_the_model_reorders_and_wanders_on_the_object(still):
    tracker = Tracker()
    places = [(200, 150), (320, 240), (450, 330)]
    orders = [(0, 1, 2), (2, 1, 0), (1, 2, 0), (0, 2, 1)]
    for index, order in enumerate(orders):
        frame = still.frame(index)
        tracker.update(frame)
        wander = np.random.default_rng(index).uniform(-15, 15, (3, 2))
        rows = tracker.measure(
            point_answer(frame, *(np.add(places[i], wander[i]) for i in order)), 1
        )
        assert ids(rows) == [i + 1 for i in order]
        assert ids(tracker.targets()) == [1, 2, 3]


def test_a_new_object_gets_a_new_id_and_a_vanished_one_goes_after_misses(still):
    tracker = Tracker()
    tracker.update(still.frame(0))
    tracker.measure(point_answer(still.frame(0), (200, 150), (450, 330)), 1)
    for index in range(1, MAX_MISSES + 1):
        assert ids(tracker.targets()) == ([1, 2] if index == 1 else [1, 2, 3])
        frame = still.frame(index)
        tracker.update(frame)
        tracker.measure(point_answer(frame, (200, 150), (320, 400)), 1)
    assert ids(tracker.targets()) == [1, 3]
    assert tracker.num_lost == 1


def deny(tracker, still):
    """Answer "There are none." to the next frames, as often as ends a target."""
    for index in range(1, MAX_MISSES + 1):
        frame = still.frame(index)
        tracker.update(frame)
        tracker.measure(point_answer(frame, none=True), 1)


def test_there_are_none_ends_all_after_misses(still):
    tracker = Tracker()
    tracker.update(still.frame(0))
    tracker.measure(point_answer(still.frame(0), (200, 150)), 1)
    deny(tracker, still)
    assert tracker.targets() == ()


@pytest.mark.parametrize("unfinished", [{"partial": True}, {"truncated": True}])
def test_an_unfinished_answer_adds_and_ends_nothing(still, unfinished):
    tracker = Tracker()
    tracker.update(still.frame(0))
    tracker.measure(point_answer(still.frame(0), (200, 150)), 1)
    for index in range(1, 2 * MAX_MISSES):
        frame = still.frame(index)
        tracker.update(frame)
        tracker.measure(point_answer(frame, (400, 300), **unfinished), 1)
    assert ids(tracker.targets()) == [1, 2]


def test_a_target_that_was_denied_comes_back_with_the_first_part_of_an_answer(still):
    tracker = Tracker()
    tracker.update(still.frame(0))
    tracker.measure(point_answer(still.frame(0), (200, 200)), 1)
    deny(tracker, still)
    assert tracker.targets() == ()
    again = still.frame(MAX_MISSES + 1)
    tracker.update(again)
    # The model streams: the part arrives first, the whole answer says the same a moment later.
    tracker.measure(point_answer(again, (200, 200), partial=True), 1)
    assert ids(tracker.targets()) == [1]
    tracker.measure(point_answer(again, (200, 200)), 1)
    assert ids(tracker.targets()) == [1]


def test_a_target_that_leaves_the_view_is_lost_and_gets_its_id_back(make_stream):
    # The camera swings 260 px to the left and back within two thirds of a second.
    def matrix_of(t):
        x = -400 - 260 * math.sin(math.pi * min(t / 0.66, 1.0))
        return np.array([[1, 0, x], [0, 1, -300], [0, 0, 1.0]])

    stream = make_stream(matrix_of)
    tracker = Tracker()
    tracker.update(stream.frame(0))
    tracker.measure(point_answer(stream.frame(0), (100, 240), (500, 240)), 1)
    seen = [ids(tracker.update(stream.frame(index))) for index in range(1, 22)]
    assert seen[0] == [1, 2]
    assert seen[9] == [2]  # the other was carried all the way
    back = stream.frame(22)
    tracker.update(back)
    tracker.measure(point_answer(back, (505, 238), (104, 243)), 1)
    assert [(target.track_id, round(target.u)) for target in tracker.targets()] == [
        (1, 104),
        (2, 505),
    ]


def test_a_hidden_target_is_reported_lost_soon(make_stream, pan, make_texture):
    wall = make_texture(9)[:480, :640].astype(np.float32)

    def hide(image, time_s):
        if time_s > 0.2:
            image[:, :400] = wall[:, :400]

    stream = make_stream(pan(), draw=hide)
    tracker = Tracker()
    tracker.update(stream.frame(0))
    tracker.measure(point_answer(stream.frame(0), (300, 240), (560, 240)), 1)
    alive = {index: ids(tracker.update(stream.frame(index))) for index in range(1, 16)}
    assert alive[6] == [1, 2]
    assert alive[15] == [2]  # at 0.5 s, 0.3 s after the wall came


RED, BLUE = (200, 60, 50), (50, 80, 200)


def put_square(image, texture, place, colour, side=44):
    """A thing of some texture and of a colour, its middle at a place in whole pixels."""
    left, top = (round(value) - side // 2 for value in place)
    picture = 0.4 * texture[:side, :side].astype(np.float32) + 0.6 * np.array(colour)
    image[top : top + side, left : left + side] = picture


def test_what_was_hidden_between_the_answered_frame_and_now_is_not_published(
    make_stream, pan, make_texture
):
    def draw(image, time_s):
        put_square(image, make_texture(5), (200, 240), RED)
        put_square(image, make_texture(6), (460, 240), BLUE)
        if time_s > 0.1:
            image[160:320, 120:280] = make_texture(9)[160:320, 120:280]

    stream = make_stream(pan(), draw=draw)
    tracker = Tracker()
    for index in range(16):
        tracker.update(stream.frame(index))
    rows = tracker.measure(point_answer(stream.frame(0), (200, 240), (460, 240)), 1)
    assert ids(rows) == [1, 2]
    assert ids(tracker.targets()) == [2]
    assert tracker.num_lost == 0  # it was never shown


def test_things_that_come_back_elsewhere_are_told_apart_by_their_colour(
    make_stream, pan, make_texture
):
    # Both vanish, and come back a third of a second later 90 px from where they were, crossed over.
    def draw(image, time_s):
        if time_s < 0.1:
            put_square(image, make_texture(5), (280, 240), RED)
            put_square(image, make_texture(6), (370, 240), BLUE)
        elif time_s > 0.42:
            put_square(image, make_texture(5), (370, 240), RED)
            put_square(image, make_texture(6), (280, 240), BLUE)

    stream = make_stream(pan(), draw=draw)
    tracker = Tracker()
    tracker.update(stream.frame(0))
    tracker.measure(point_answer(stream.frame(0), (280, 240), (370, 240)), 1)
    for index in range(1, 15):
        targets = tracker.update(stream.frame(index))
    assert targets == ()
    assert ids(tracker.measure(point_answer(stream.frame(14), (280, 240), (370, 240)), 1)) == [2, 1]


def test_a_lost_thing_that_comes_back_beside_a_carried_one_is_not_taken_for_it(
    make_stream, pan, make_texture
):
    # The blue one stands still and is carried; the red one vanishes and comes back right beside it.
    def draw(image, time_s):
        put_square(image, make_texture(6), (370, 240), BLUE)
        if time_s < 0.1 or time_s > 0.42:
            put_square(image, make_texture(5), (150, 240) if time_s < 0.1 else (324, 240), RED)

    stream = make_stream(pan(), draw=draw)
    tracker = Tracker()
    tracker.update(stream.frame(0))
    tracker.measure(point_answer(stream.frame(0), (150, 240), (370, 240)), 1)
    for index in range(1, 15):
        targets = tracker.update(stream.frame(index))
    assert ids(targets) == [2]
    # The model names the red one alone, on the side that is nearer to the blue one.
    assert ids(tracker.measure(point_answer(stream.frame(14), (334, 240)), 1)) == [1]


def test_a_thing_keeps_its_colour_while_something_half_covers_it(make_stream, pan, make_texture):
    # Answered once where a blue edge lies on its point; then both are hidden and seen elsewhere.
    def draw(image, time_s):
        if time_s < 0.2:
            put_square(image, make_texture(5), (280, 240), RED)
            if time_s > 0.08:
                image[200:280, 279:330] = BLUE
        elif time_s > 0.5:
            put_square(image, make_texture(5), (400, 240), RED)

    stream = make_stream(pan(), draw=draw)
    tracker = Tracker()
    for index in range(3):
        tracker.update(stream.frame(index))
        tracker.measure(point_answer(stream.frame(index), (280, 240)), 1)
    tracker.update(stream.frame(3))
    assert ids(tracker.measure(point_answer(stream.frame(3), (281, 240)), 1)) == [1]
    for index in range(4, 18):
        tracker.update(stream.frame(index))
    assert ids(tracker.measure(point_answer(stream.frame(17), (400, 240)), 1)) == [1]


def test_a_lost_target_keeps_its_id_for_an_answer_that_comes_late(make_stream, pan, make_texture):
    def draw(image, time_s):
        if not 0.2 < time_s < 2.6:
            put_square(image, make_texture(5), (280, 240), RED)

    stream = make_stream(pan(), draw=draw)
    tracker = Tracker()
    frames = [stream.frame(index) for index in range(0, 130, 2)]
    tracker.update(frames[0])
    tracker.measure(point_answer(frames[0], (280, 240)), 1)
    for frame in frames[1:]:
        tracker.update(frame)
    # Seen again 2.7 s after the start; the answer about it arrives at 4.3 s.
    assert ids(tracker.measure(point_answer(frames[41], (280, 240)), 1)) == [1]


def come_back(stream, at_s, place, answered_place=None):
    """Ids of a thing answered at (280, 240) on the first frame, and at a place `at_s` later."""
    tracker = Tracker()
    first = stream.frame(0)
    tracker.update(first)
    ids_then = ids(tracker.measure(point_answer(first, (280, 240)), 1))
    for index in range(1, round(at_s * 30), 6):
        tracker.update(stream.frame(index))
    again = stream.frame(round(at_s * 30))
    tracker.update(again)
    return ids_then, ids(tracker.measure(point_answer(again, answered_place or place), 1))


@pytest.mark.parametrize(("away_s", "expected"), [(12.0, [1]), (40.0, [2])])
def test_a_thing_that_was_away_for_long_is_known_by_its_colour(
    make_stream, pan, make_texture, away_s, expected
):
    def draw(image, time_s):
        if not 0.1 < time_s < away_s - 0.1:
            put_square(image, make_texture(5), (280 if time_s < 1 else 480, 240), RED)

    stream = make_stream(pan(), draw=draw)
    assert come_back(stream, away_s, (480, 240)) == ([1], expected)


def test_another_thing_at_the_place_of_a_lost_one_gets_an_id_of_its_own(
    make_stream, pan, make_texture
):
    def draw(image, time_s):
        put_square(image, make_texture(5), (280, 240), RED if time_s < 0.1 else BLUE)

    stream = make_stream(pan(), draw=draw)
    assert come_back(stream, 1.0, (280, 240)) == ([1], [2])


def test_a_thing_that_comes_back_half_covered_is_known_by_what_shows(
    make_stream, pan, make_texture
):
    # A green post stands one pixel beside the point: two thirds of what is seen round it are green.
    def draw(image, time_s):
        if time_s < 0.1 or time_s > 0.9:
            put_square(image, make_texture(5), (280 if time_s < 0.1 else 420, 240), RED)
        if time_s > 0.1:
            image[200:280, 418:460] = (60, 180, 60)

    stream = make_stream(pan(), draw=draw)
    assert come_back(stream, 1.0, (420, 240), answered_place=(416, 240)) == ([1], [1])


def test_queries_keep_their_targets_apart(still):
    tracker = Tracker()
    frame = still.frame(0)
    tracker.update(frame)
    tracker.measure(point_answer(frame, (200, 150)), 1)
    tracker.measure(point_answer(frame, (203, 150), (400, 300)), 2)
    assert [(t.query_id, t.track_id) for t in tracker.targets()] == [(1, 1), (2, 1), (2, 2)]
    for index in range(1, MAX_MISSES + 1):
        later = still.frame(index)
        tracker.update(later)
        tracker.measure(point_answer(later, none=True), 1)
    assert [(t.query_id, t.track_id) for t in tracker.targets()] == [(2, 1), (2, 2)]
    tracker.forget(2)
    assert tracker.targets() == ()


def test_a_track_is_carried_from_its_newest_frame(make_stream, pan):
    stream = make_stream(pan(vx=100))
    tracker = Tracker()
    frames = [stream.frame(index) for index in range(21)]
    for frame in frames:
        tracker.update(frame)
    clip = [frames[0], frames[15]]  # 0.0 and 0.5 s; now is 0.67 s
    paths = {2: [(200, 200), (250, 200)], 1: [(300, 300), (350, 300)]}
    rows = tracker.measure(track_answer(clip, paths), 1)
    assert [(row.track_id, row.stamp_ns, round(row.u)) for row in rows] == [
        (1, 0, 200),
        (1, SECOND // 2, 250),
        (2, 0, 300),
        (2, SECOND // 2, 350),
    ]
    assert [round(target.u) for target in tracker.targets()] == [267, 367]
    assert tracker.targets()[0].age_s == pytest.approx(1 / 6)
    assert math.isnan(tracker.targets()[0].confidence)


def test_track_ids_are_matched_over_the_whole_path(make_stream, pan):
    # The model numbers them the other way round in its second answer, whose clip overlaps.
    stream = make_stream(pan(vx=100))
    tracker = Tracker()
    frames = [stream.frame(index) for index in range(31)]
    for frame in frames[:16]:
        tracker.update(frame)
    tracker.measure(
        track_answer(
            [frames[0], frames[15]], {1: [(200, 240), (250, 240)], 2: [(260, 240), (310, 240)]}
        ),
        1,
    )
    for frame in frames[16:]:
        tracker.update(frame)
    rows = tracker.measure(
        track_answer(
            [frames[15], frames[30]], {1: [(310, 240), (360, 240)], 2: [(250, 240), (300, 240)]}
        ),
        1,
    )
    assert ids(rows) == [2, 2, 1, 1]
    assert [round(target.u) for target in tracker.targets()] == [300, 360]


def test_an_object_hidden_at_the_clips_end_is_not_shown_as_present(still):
    tracker = Tracker()
    frames = [still.frame(index) for index in range(31)]
    for frame in frames:
        tracker.update(frame)
    clip = [frames[0], frames[15], frames[30]]
    paths = {1: [(200, 200), (200, 200), None], 2: [(400, 300)] * 3}
    rows = tracker.measure(track_answer(clip, paths), 1)
    assert ids(rows) == [1, 1, 2, 2, 2]
    assert ids(tracker.targets()) == [2]
    # Nor are all of them, when the answer stops well before the clip does.
    tracker.measure(track_answer(clip, {1: [(250, 100), None, None]}), 2)
    assert [t.query_id for t in tracker.targets()] == [1]


def test_an_older_answer_does_not_overrule_a_newer_one(still):
    tracker = Tracker()
    frames = [still.frame(index) for index in range(10)]
    for frame in frames:
        tracker.update(frame)
    tracker.measure(point_answer(frames[9], (300, 240)), 1)
    tracker.measure(point_answer(frames[2], (320, 240)), 1)
    (target,) = tracker.targets()
    assert target.u == pytest.approx(300, abs=0.5)
    assert target.measured


def test_an_answer_about_frames_never_seen_moves_nothing(still):
    tracker = Tracker()
    assert tracker.measure(point_answer(still.frame(0), (300, 240)), 1) == ()
    tracker.update(still.frame(30))
    rows = tracker.measure(point_answer(still.frame(0), (300, 240)), 1)
    assert ids(rows) == [1]
    assert tracker.targets() == ()


def test_a_stream_that_begins_anew_drops_its_targets(still):
    tracker = Tracker()
    tracker.update(still.frame(30))
    tracker.measure(point_answer(still.frame(30), (300, 240)), 1)
    assert ids(tracker.targets()) == [1]
    assert tracker.update(still.frame(0)) == ()
    small = Frame(image=np.zeros((48, 64, 3), np.uint8), stamp_ns=40 * SECOND)
    tracker.measure(point_answer(still.frame(0), (300, 240)), 1)
    assert tracker.update(small) == ()


def test_a_repeated_frame_changes_nothing(still):
    tracker = Tracker()
    frame = still.frame(0)
    tracker.update(frame)
    tracker.measure(point_answer(frame, (300, 240)), 1)
    assert tracker.update(frame) == tracker.targets()


def test_targets_are_lifted_where_there_is_depth(still):
    camera = CameraModel(
        width=WIDTH, height=HEIGHT, k=(500.0, 0, 320.0, 0, 500.0, 240.0, 0, 0, 1.0)
    )

    def with_depth(index):
        frame = still.frame(index)
        depth_m = np.full((HEIGHT, WIDTH), 2.0, np.float32)
        return Frame(image=frame.image, stamp_ns=frame.stamp_ns, depth_m=depth_m, camera=camera)

    tracker = Tracker()
    frame = with_depth(0)
    tracker.update(frame)
    (row,) = tracker.measure(point_answer(frame, (420, 240)), 1)
    (target,) = tracker.update(with_depth(1))
    assert row.point_m == pytest.approx((0.4, 0.0, 2.0))
    assert target.point_m == pytest.approx((0.4, 0.0, 2.0), abs=0.005)
    assert row.z_std_m == target.z_std_m == pytest.approx(0.00029, abs=1e-5)
    (target,) = tracker.update(still.frame(2))
    assert target.point_m is None
    assert np.isnan(target.z_std_m)


def test_a_large_image_is_followed_at_half_size_in_its_own_pixels():
    rng = np.random.default_rng(0)
    coarse = rng.integers(0, 255, (100, 180, 3)).astype(np.float32)
    wide = np.clip(np.kron(coarse, np.ones((8, 8, 1))), 0, 255).astype(np.uint8)

    def frame(index):
        x = 6 * index
        return Frame(image=wide[40:760, x : x + 1280].copy(), stamp_ns=index * SECOND // 30)

    tracker = Tracker()
    for index in range(5):
        tracker.update(frame(index))
    answer = point_answer(frame(0), (WIDTH / 2, HEIGHT / 2))  # the middle of 1280 x 720
    tracker.measure(answer, 1)
    (target,) = tracker.targets()
    assert (target.u, target.v) == (pytest.approx(640 - 24, abs=1), pytest.approx(360, abs=1))


def test_camera_and_model_may_call_from_two_threads(make_stream, pan):
    stream = make_stream(pan(vx=100))
    frames = [stream.frame(index) for index in range(20)]
    tracker = Tracker()
    tracker.update(frames[0])
    done = threading.Event()
    failures = []

    def answer_again_and_again():
        try:
            while not done.is_set():
                tracker.measure(point_answer(frames[0], (200, 200), (300, 300)), 1)
                tracker.forget(1)
        except Exception as error:
            failures.append(error)

    thread = threading.Thread(target=answer_again_and_again)
    thread.start()
    for frame in frames[1:]:
        targets = tracker.update(frame)
        for target in targets:
            start = (200, 200) if target.v < 250 else (300, 300)
            truth = stream.moved(start, 0, frame.stamp_ns / SECOND)[0]
            assert np.linalg.norm(pixel(target) - truth) < 1.0
    done.set()
    thread.join()
    assert failures == []

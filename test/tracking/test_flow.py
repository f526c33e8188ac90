"""Points carried over synthetic streams against the truth."""

import cv2
import numpy as np
import pytest

from molmo2_ros.tracking.flow import SCENE_QUALITY, Patches, carry, no_patches, seed
from molmo2_ros.tracking.grey import GreyFrame

POINTS = np.random.default_rng(1).uniform([180, 140], [460, 340], (12, 2))


def carry_along(stream, points, num_frames):
    """Patches after each frame, from the first on."""
    frame = GreyFrame.of(stream.frame(0))
    patches = seed(frame, points)
    history = [patches]
    for index in range(1, num_frames):
        after = GreyFrame.of(stream.frame(index))
        patches = carry(patches, frame, after)
        frame = after
        history.append(patches)
    return history


@pytest.mark.parametrize(
    ("motion", "worst_px"),
    [
        ({}, 0.1),
        ({"vx": 60, "vy": -40}, 0.2),
        ({"vx": -450}, 0.5),
        ({"turn_deg_s": 40}, 1.0),
        ({"zoom_per_s": 0.3}, 1.0),
        ({"vx": 50, "vy": 20, "turn_deg_s": -25, "zoom_per_s": -0.2}, 1.0),
    ],
)
def test_points_follow_a_known_motion(make_stream, pan, motion, worst_px):
    stream = make_stream(pan(**motion))
    num_frames = 10
    last = carry_along(stream, POINTS, num_frames)[-1]
    truth = stream.moved(POINTS, 0, (num_frames - 1) / stream.rate_hz)
    error_px = np.linalg.norm(last.points_N2 - truth, axis=1)
    assert error_px.max() < worst_px
    assert last.quality_N.min() > 0.8


def test_points_are_held_in_sensor_noise(make_stream, pan):
    stream = make_stream(pan(vx=60), noise=10.0)
    last = carry_along(stream, POINTS, 10)[-1]
    error_px = np.linalg.norm(last.points_N2 - stream.moved(POINTS, 0, 0.3), axis=1)
    assert error_px.max() < 1.0


def test_brightness_of_the_whole_picture_may_change(make_stream, pan):
    def dim(image, time_s):
        image *= 1 - 1.5 * time_s

    stream = make_stream(pan(vx=60), draw=dim)
    last = carry_along(stream, POINTS, 7)[-1]
    error_px = np.linalg.norm(last.points_N2 - stream.moved(POINTS, 0, 0.2), axis=1)
    assert error_px.max() < 1.0
    assert last.quality_N.min() > 0.5


def test_a_small_object_is_followed_and_not_the_background(make_stream, pan, make_texture):
    texture = make_texture(5)[:36, :36].astype(np.float32)

    def put_object(image, time_s):
        x = 200 + round(90 * time_s)
        image[222:258, x : x + 36] = texture

    stream = make_stream(pan(vx=-60), draw=put_object)
    last = carry_along(stream, np.array([[218.0, 240.0]]), 16)[-1]
    assert last.points_N2[0] == pytest.approx([218 + 45, 240], abs=2.0)


@pytest.mark.parametrize("speed_px_s", [60, 150, 600])
def test_quality_falls_when_something_passes_before_the_point(
    make_stream, pan, speed_px_s, make_texture
):
    wall = make_texture(9)[:480, :640].astype(np.float32)

    def occlude(image, time_s):
        right = round(200 + speed_px_s * time_s)
        image[:, max(0, right - 640) : right] = wall[:, max(0, 640 - right) : 640][
            :, : right - max(0, right - 640)
        ]

    stream = make_stream(pan(), draw=occlude)
    covered_after = int((320 - 200 + 40) / speed_px_s * 30) + 3
    history = carry_along(stream, np.array([[320.0, 240.0]]), covered_after)
    assert history[1].quality_N[0] > 0.9
    assert history[-1].quality_N[0] < 0.25


def sprite(make_texture, seed, side, tint=(0, 0, 0)):
    """A square thing of its own texture and colour."""
    return np.clip(make_texture(seed)[300 : 300 + side, 300 : 300 + side] + np.array(tint), 0, 255)


def test_a_fast_thing_is_found_from_its_first_frame_on(make_stream, pan, make_texture):
    # 26 px a frame, past what its few features bear without knowing its speed.
    picture = sprite(make_texture, 5, 36, (60, -30, -60))

    def put_thing(image, time_s):
        x = 60 + round(780 * time_s)
        image[222:258, x : x + 36] = picture

    stream = make_stream(pan(), draw=put_thing)
    last = carry_along(stream, np.array([[78.0, 240.0]]), 12)[-1]
    assert last.points_N2[0] == pytest.approx([78 + 26 * 11, 240], abs=2.0)
    assert not last.lost_N[0]


def test_a_thing_without_texture_is_held_by_its_outline(make_stream, pan):
    def put_thing(image, time_s):
        middle = (200 + 90 * time_s, 240 - 40 * time_s)
        centre = tuple(round(16 * value) for value in middle)
        cv2.circle(image, centre, 16 * 14, (250, 250, 240), -1, cv2.LINE_AA, 4)

    stream = make_stream(pan(vx=-60), draw=put_thing)
    last = carry_along(stream, np.array([[200.0, 240.0]]), 31)[-1]
    assert last.points_N2[0] == pytest.approx([290, 200], abs=2.0)
    assert last.quality_N[0] > 0.5


def test_a_point_is_lost_soon_after_its_thing_is_covered_and_stays_it(
    make_stream, pan, make_texture
):
    picture = sprite(make_texture, 5, 48, (50, -20, -50))
    cover = sprite(make_texture, 9, 120)

    def draw(image, time_s):
        image[216:264, 276:324] = picture
        if 0.2 < time_s < 0.7:
            image[180:300, 240:360] = cover

    history = carry_along(make_stream(pan(), draw=draw), np.array([[300.0, 240.0]]), 31)
    assert history[6].quality_N[0] > 0.8
    lost = [bool(patches.lost_N[0]) for patches in history]
    assert not any(lost[:8])
    assert all(lost[7 + 6 :])
    assert history[-1].quality_N[0] == 0
    assert history[-1].seen_N2[0] == pytest.approx([300, 240], abs=0.5)
    assert history[-1].unseen_ns_N[0] == pytest.approx(24 / 30 * 1e9, abs=1e6)


def test_a_blank_wall_has_low_quality_and_moves_with_the_picture(make_stream, pan):
    def wall(image, time_s):
        x = round(60 * time_s)
        image[140:340, 220 + x : 420 + x] = 200

    stream = make_stream(pan(vx=60), draw=wall)
    history = carry_along(stream, np.array([[320.0, 240.0]]), 10)
    assert history[0].quality_N[0] == pytest.approx(SCENE_QUALITY)
    assert 0 < history[-1].quality_N[0] <= SCENE_QUALITY
    assert history[-1].points_N2[0] == pytest.approx([320 + 18, 240], abs=1.5)


def test_a_blank_spot_is_carried_while_a_third_of_the_picture_goes_its_own_way(
    make_stream, pan, make_texture
):
    # A wall with a smooth spot moves left; what fills the right 40 % of the picture moves right.
    def draw(image, time_s):
        x = round(100 - 60 * time_s)
        image[150:330, x : x + 180] = 128
        image[:, 384:] = make_texture(5)[:480, 300 - round(120 * time_s) :][:, :256]

    stream = make_stream(pan(vx=-60), draw=draw)
    last = carry_along(stream, np.array([[190.0, 240.0]]), 16)[-1]
    assert not last.lost_N[0]
    assert last.points_N2[0] == pytest.approx([190 - 30, 240], abs=2.0)


def test_a_wholly_blank_picture_gives_no_quality(make_stream, pan):
    def blank(image, _):
        image[:] = 128

    stream = make_stream(pan(), noise=0.0, draw=blank)
    last = carry_along(stream, np.array([[320.0, 240.0]]), 3)[-1]
    assert last.quality_N[0] == 0
    assert last.points_N2[0] == pytest.approx([320, 240])


def test_a_point_leaves_the_picture_with_its_object(make_stream, pan):
    stream = make_stream(pan(vx=-300))
    last = carry_along(stream, np.array([[60.0, 240.0]]), 10)[-1]
    assert last.points_N2[0, 0] < 0


def test_points_at_the_very_edge_do_not_raise(make_stream, pan):
    corners = np.array([[0.0, 0.0], [639.0, 479.0], [0.0, 479.0], [639.0, 0.0], [-30.0, 600.0]])
    last = carry_along(make_stream(pan(vx=20)), corners, 4)[-1]
    assert np.isfinite(last.points_N2).all()


def test_points_do_not_disturb_each_other(make_stream, pan):
    stream = make_stream(pan(vx=80, turn_deg_s=10))
    together = carry_along(stream, POINTS, 4)[-1]
    stream = make_stream(pan(vx=80, turn_deg_s=10))
    alone = carry_along(stream, POINTS[3:4], 4)[-1]
    np.testing.assert_allclose(together.points_N2[3:4], alone.points_N2, atol=1e-3)


def test_nothing_is_carried_as_nothing(make_stream, pan):
    stream = make_stream(pan())
    first, second = (GreyFrame.of(stream.frame(index)) for index in range(2))
    assert len(carry(no_patches(), first, second)) == 0
    assert len(carry(seed(first, np.zeros((0, 2))), first, second)) == 0
    assert len(Patches.joined(no_patches(), seed(first, POINTS)).take([2, 5])) == 2

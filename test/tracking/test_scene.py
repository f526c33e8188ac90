"""How the picture moved, against cameras whose motion is known."""

import cv2
import numpy as np
import pytest

from molmo2_ros.camera.frame import Frame
from molmo2_ros.tracking.grey import GreyFrame
from molmo2_ros.tracking.scene import STEP_NS, SceneMotion, Similarity, scene_step

SECOND = 1_000_000_000
PLACES = np.array([[200.0, 150.0], [320.0, 240.0], [450.0, 330.0]])


def greys(stream, num_frames):
    return [GreyFrame.of(stream.frame(index)) for index in range(num_frames)]


def worst_px(similarity, stream, from_s, to_s):
    there = [similarity.of(complex(*place)) for place in PLACES]
    truth = stream.moved(PLACES, from_s, to_s) @ (1, 1j)
    return np.abs(there - truth).max()


def test_motions_follow_each_other_and_are_undone():
    turned, shifted = Similarity(1j, 2 + 0j), Similarity(1 + 0j, 5j)
    assert turned.of(3 + 1j) == 1 + 3j  # (-1 + 3j) + 2
    assert shifted.after(turned).of(3 + 1j) == 1 + 8j
    assert turned.after(shifted).of(3 + 1j) == -4 + 3j
    assert turned.undone().of(1 + 3j) == 3 + 1j
    assert Similarity().blended(Similarity(1 + 0j, 8 + 4j), 0.25).shift == 2 + 1j


def test_a_motion_is_told_in_a_larger_picture_from_the_middles_of_pixels():
    # Pixel 10 of a picture of half the size stands at 20.5 of the whole one.
    half = Similarity(1.1 + 0.2j, 3 - 2j)
    place = half.of(10 + 4j)
    whole = half.enlarged(2.0).of(20.5 + 8.5j)
    assert whole == pytest.approx(2 * place + 0.5 + 0.5j)


@pytest.mark.parametrize(
    "motion", [{"vx": 300, "vy": -120}, {"turn_deg_s": 40}, {"zoom_per_s": 0.4, "vx": 60}]
)
def test_a_step_of_the_camera_is_measured(make_stream, pan, motion):
    stream = make_stream(pan(**motion))
    before, after = greys(stream, 2)
    step, share = scene_step(before.grey, after.grey)
    assert share > 0.9
    assert worst_px(step, stream, 0, 1 / 30) < 0.3


def test_a_blank_picture_tells_nothing():
    blank = np.full((120, 160), 128, np.uint8)
    assert scene_step(blank, blank)[1] == 0.0
    noise = np.random.default_rng(0).integers(0, 255, (2, 120, 160)).astype(np.uint8)
    assert (
        scene_step(cv2.GaussianBlur(noise[0], (0, 0), 2), cv2.GaussianBlur(noise[1], (0, 0), 2))[1]
        < 0.3
    )


def test_places_of_then_are_told_in_the_picture_of_now_and_back(make_stream, pan):
    stream = make_stream(pan(vx=-150, vy=60, turn_deg_s=10))
    frames = greys(stream, 31)
    scene = SceneMotion()
    # The chain goes on with each answer.
    for until in (8, 9, 22, 30):
        scene.follow(frames[: until + 1], frames[until].stamp_ns)
    there = scene.between(0, frames[30].stamp_ns)
    assert worst_px(there, stream, 0, 1.0) < 2.0
    assert worst_px(scene.between(frames[30].stamp_ns, 0), stream, 1.0, 0) < 2.0
    # Frames 5 and 15 lie between those that were compared.
    assert worst_px(scene.between(*(frames[i].stamp_ns for i in (5, 15))), stream, 1 / 6, 0.5) < 2.0


def test_frames_newer_than_asked_for_are_left_for_later(make_stream, pan):
    stream = make_stream(pan(vx=-150))
    frames = greys(stream, 21)
    scene = SceneMotion()
    scene.follow(frames, frames[10].stamp_ns)
    beyond = scene.between(frames[0].stamp_ns, frames[20].stamp_ns)
    assert worst_px(beyond, stream, 0, 1 / 3) < 150 / 30 * STEP_NS / SECOND * 30 + 1


def test_a_wide_picture_is_told_in_its_own_pixels():
    rng = np.random.default_rng(0)
    wide = cv2.GaussianBlur(rng.integers(0, 255, (760, 1400, 3)).astype(np.float32), (0, 0), 4)
    wide = cv2.normalize(wide, None, 0, 255, cv2.NORM_MINMAX).astype(np.uint8)
    frames = [
        GreyFrame.of(Frame(image=wide[20:740, 12 * i : 12 * i + 1280].copy(), stamp_ns=i * STEP_NS))
        for i in range(3)
    ]
    assert frames[0].divisor == 2
    scene = SceneMotion()
    scene.follow(frames, frames[-1].stamp_ns)
    assert scene.between(0, 2 * STEP_NS).of(600 + 300j) == pytest.approx(576 + 300j, abs=0.5)


def test_what_is_not_known_is_no_motion(make_stream, pan):
    scene = SceneMotion()
    assert scene.between(0, SECOND) == Similarity()
    stream = make_stream(pan(vx=-150))
    frames = greys(stream, 31)
    scene.follow(frames[:16], frames[15].stamp_ns)
    # A camera that begins anew has nothing to do with what was.
    scene.follow(frames[20:], frames[30].stamp_ns)
    assert abs(scene.between(0, frames[20].stamp_ns).shift) < 1
    assert worst_px(scene.between(*(frames[i].stamp_ns for i in (20, 30))), stream, 2 / 3, 1) < 2

"""Depth under a point: holes, noise, edges, other sizes, and rays through distorting lenses."""

import cv2
import numpy as np
import pytest

from molmo2_ros.camera.frame import CameraModel, Frame
from molmo2_ros.tracking.depth import Blank, lift, pixel_ray, surface_depth, why_blank

WIDTH, HEIGHT = 640, 480
K = (500.0, 0.0, 320.0, 0.0, 510.0, 240.0, 0.0, 0.0, 1.0)
PLAIN = CameraModel(width=WIDTH, height=HEIGHT, k=K)


def make_frame(depth_m, camera=PLAIN):
    return Frame(
        image=np.zeros((HEIGHT, WIDTH, 3), np.uint8), stamp_ns=0, depth_m=depth_m, camera=camera
    )


def flat(metres, shape=(HEIGHT, WIDTH)):
    return np.full(shape, metres, np.float32)


def test_pixel_and_depth_give_metres_in_the_optical_frame():
    # (420 - 320) / 500 * 2 = 0.4 to the right; (342 - 240) / 510 * 2 = 0.4 down; 2 ahead.
    sighting = lift(make_frame(flat(2.0)), 420.0, 342.0)
    assert sighting.point_m == pytest.approx((0.4, 0.4, 2.0))
    # Whole millimetres are never known better than this, however even they are.
    assert sighting.z_std_m == pytest.approx(0.000289, abs=1e-6)


@pytest.mark.parametrize("unknown", [0.0, np.nan, np.inf, -1.0])
def test_holes_are_ignored(unknown):
    rng = np.random.default_rng(0)
    depth_m = flat(1.5)
    depth_m[rng.random(depth_m.shape) < 0.6] = unknown
    assert lift(make_frame(depth_m), 300.0, 200.0).point_m[2] == pytest.approx(1.5)


@pytest.mark.parametrize("metres", [0.5, 1.0, 2.0, 4.0])
def test_depth_with_noise_and_holes_is_within_two_percent(metres):
    rng = np.random.default_rng(1)
    depth_m = (flat(metres) * rng.normal(1, 0.01, (HEIGHT, WIDTH))).astype(np.float32)
    depth_m[rng.random(depth_m.shape) < 0.2] = 0
    found = [surface_depth(depth_m, u, 200.0, WIDTH, HEIGHT) for u in range(40, 600, 40)]
    assert np.abs(np.array(found)[:, 0] / metres - 1).max() < 0.02
    # The standard deviation beside it is the noise: 1 % of the distance.
    assert np.median([z_std_m for _, z_std_m in found]) == pytest.approx(0.01 * metres, rel=0.3)


def test_background_behind_an_edge_is_ignored():
    depth_m = flat(3.0)
    depth_m[:, 318:] = 1.0  # an object whose edge runs just beside the point
    assert surface_depth(depth_m, 320.0, 240.0, WIDTH, HEIGHT)[0] == pytest.approx(1.0)
    assert surface_depth(depth_m, 314.0, 240.0, WIDTH, HEIGHT)[0] == pytest.approx(1.0)
    assert surface_depth(depth_m, 290.0, 240.0, WIDTH, HEIGHT)[0] == pytest.approx(3.0)


def test_single_wrong_pixels_in_front_do_not_make_a_surface():
    depth_m = flat(2.0)
    depth_m[238:241, 318:323] = 0.3
    assert surface_depth(depth_m, 320.0, 240.0, WIDTH, HEIGHT)[0] == pytest.approx(2.0)


def test_a_slanted_surface_is_one_surface():
    depth_m = np.tile(np.linspace(0.5, 2.5, WIDTH, dtype=np.float32), (HEIGHT, 1))
    expected = float(depth_m[240, 320])
    assert surface_depth(depth_m, 320.0, 240.0, WIDTH, HEIGHT)[0] == pytest.approx(
        expected, rel=0.02
    )


def test_a_hole_that_a_larger_window_bridges():
    depth_m = flat(2.0)
    depth_m[231:250, 311:330] = 0
    assert surface_depth(depth_m, 320.0, 240.0, WIDTH, HEIGHT)[0] == pytest.approx(2.0)


def test_unknown_depth_is_none_and_not_a_guess():
    hole = flat(2.0)
    hole[150:350, 200:450] = 0
    assert lift(make_frame(hole), 320.0, 240.0) is None
    assert lift(make_frame(None), 320.0, 240.0) is None
    assert lift(make_frame(flat(2.0), camera=None), 320.0, 240.0) is None
    assert lift(make_frame(flat(2.0)), 700.0, 240.0) is None
    assert lift(make_frame(flat(2.0)), -3.0, 240.0) is None


def test_uncalibrated_camera_gives_none():
    blank = CameraModel(width=WIDTH, height=HEIGHT, k=(0.0,) * 9)
    assert lift(make_frame(flat(2.0), camera=blank), 320.0, 240.0) is None


@pytest.mark.parametrize("shape", [(240, 320), (960, 1280), (180, 320)])
def test_depth_of_another_size_is_the_same_view_scaled(shape):
    depth_m = flat(3.0, shape)
    depth_m[:, shape[1] // 2 :] = 1.0
    for u, metres in ((240.0, 3.0), (400.0, 1.0)):
        assert surface_depth(depth_m, u, 240.0, WIDTH, HEIGHT)[0] == pytest.approx(metres)


def test_intrinsics_of_another_size_are_scaled():
    # Calibrated at 1280 x 960; pixel centres: u 419.75 of 640 is 840 of 1280.
    camera = CameraModel(
        width=1280, height=960, k=(1000.0, 0.0, 640.0, 0.0, 1000.0, 480.0, 0.0, 0.0, 1.0)
    )
    ray = pixel_ray(camera, 419.75, 239.75, WIDTH, HEIGHT)
    assert ray == pytest.approx((0.2, 0.0))


@pytest.mark.parametrize(
    ("model", "d"),
    [
        ("plumb_bob", (-0.25, 0.06, 0.001, -0.002, 0.0)),
        ("rational_polynomial", (0.3, -0.1, 0.001, 0.0005, 0.02, 0.5, -0.05, 0.01)),
        ("equidistant", (0.05, -0.01, 0.002, -0.0005)),
    ],
)
def test_distortion_is_removed(model, d):
    camera = CameraModel(width=WIDTH, height=HEIGHT, k=K, d=d, distortion_model=model)
    matrix = np.array(K).reshape(3, 3)
    ray = np.array([[[0.35, -0.2, 1.0]]])
    none = np.zeros(3)
    if model == "equidistant":
        pixel, _ = cv2.fisheye.projectPoints(ray, none, none, matrix, np.array(d))
    else:
        pixel, _ = cv2.projectPoints(ray, none, none, matrix, np.array(d))
    u, v = pixel.ravel()
    assert pixel_ray(camera, u, v, WIDTH, HEIGHT) == pytest.approx((0.35, -0.2), abs=1e-3)


@pytest.mark.parametrize(
    ("model", "d"),
    [("ftheta", (0.1, 0.01, 0.0, 0.0)), ("plumb_bob", (0.1,) * 6), ("equidistant", (0.1,) * 5)],
)
def test_a_distortion_that_is_not_known_is_not_guessed(model, d):
    unknown = CameraModel(width=WIDTH, height=HEIGHT, k=K, d=d, distortion_model=model)
    assert pixel_ray(unknown, 100.0, 100.0, WIDTH, HEIGHT) is None
    # Without distortion the model's name does not matter.
    none = CameraModel(width=WIDTH, height=HEIGHT, k=K, d=(0.0,) * len(d), distortion_model=model)
    assert pixel_ray(none, 420.0, 240.0, WIDTH, HEIGHT) == pytest.approx((0.2, 0.0))


def test_a_pixel_beyond_the_lens_has_no_ray():
    # k1 = -0.4 folds the picture back on itself 0.9 from the centre: nothing is seen beyond.
    wide = (350.0, 0.0, 320.0, 0.0, 350.0, 240.0, 0.0, 0.0, 1.0)
    camera = CameraModel(width=WIDTH, height=HEIGHT, k=wide, d=(-0.4, 0.15, 0.0, 0.0, -0.02))
    assert pixel_ray(camera, 400.0, 240.0, WIDTH, HEIGHT) is not None
    assert pixel_ray(camera, 639.0, 0.0, WIDTH, HEIGHT) is None
    assert why_blank(make_frame(flat(2.0), camera), 639.0, 0.0) is Blank.RAY


def test_why_a_pixel_has_no_depth_is_told():
    depth_m = flat(2.0)
    depth_m[150:350, 200:450] = np.nan
    rare = np.random.default_rng(2).random(depth_m.shape) < 0.9
    depth_m[rare & (np.arange(WIDTH) > 460)] = 0
    frame = make_frame(depth_m)
    assert why_blank(frame, 320.0, 240.0) is Blank.HOLE
    assert why_blank(frame, 550.0, 240.0) is Blank.SPARSE
    assert why_blank(frame, 700.0, 240.0) is Blank.OUTSIDE
    assert why_blank(frame, 100.0, 240.0) is None
    assert lift(frame, 100.0, 240.0) is not None

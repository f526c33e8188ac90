"""The GPU's renderer against rays: masks, depth, colours and visible fractions of equal scenes."""

import subprocess
import sys
import threading
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import cv2
import moderngl  # noqa: F401  of the suite's own requirements: a missing one is no missing EGL
import numpy as np
import pytest

from molmo2_ros.errors import ConfigError
from molmo2_ros.simulation.egl import EglRenderer
from molmo2_ros.simulation.gl_context import open_context, release_context
from molmo2_ros.simulation.render import RayRenderer
from molmo2_ros.simulation.renderers import open_renderer
from molmo2_ros.simulation.shape import rotation_z
from molmo2_ros.simulation.source import TableSource
from molmo2_ros.simulation.view import Intrinsics
from molmo2_ros.simulation.world import World, place_clutter

VGA = Intrinsics.from_view(320, 240)
SMALL = Intrinsics.from_view(80, 60)
WORLDS = (1, 2, 3)
ROOT = Path(__file__).parents[2]


@pytest.fixture(scope="module", autouse=True)
def egl_is_present():
    """One context, made and released: where EGL has none, no test of this file can run."""
    try:
        release_context(open_context())
    except ConfigError as error:
        pytest.skip(str(error))


@pytest.fixture(scope="module")
def egl(egl_is_present):
    """One renderer for all pictures of 320 x 240."""
    renderer = EglRenderer(VGA)
    yield renderer
    renderer.close()


@pytest.fixture(scope="module")
def pairs(egl):
    """Scenes of several worlds with both renderers' views."""
    rays, found = RayRenderer(VGA), []
    for seed in WORLDS:
        world, rng = World(seed, variants=1), np.random.default_rng(seed)
        for _ in range(2):
            scene = world.arrange(rng, num_objects=6)
            found.append((scene, rays.render(scene), egl.render(scene)))
        # A robot's hand reaches in, one object has been tipped over, another taken away.
        scene.clutter.append(place_clutter(world.hands[0], np.array([0.0, 0.1, 0.15]), np.eye(3)))
        tip = np.array([[1.0, 0, 0], [0, 0, -1], [0, 1, 0]])
        scene.items[0].rotation = rotation_z(30) @ tip
        scene.items[0].position = scene.items[0].position + (0, 0, 0.05)
        scene.items[1].present = False
        found.append((scene, rays.render(scene), egl.render(scene)))
    return found


def test_masks_are_those_of_rays(pairs):
    num_compared = 0
    for scene, rays, egl in pairs:
        for j in range(1, len(scene.objects) + 1):
            one, other = rays.instances == j, egl.instances == j
            if one.sum() < 150:
                assert other.sum() < 160
                continue
            overlap = (one & other).sum() / (one | other).sum()
            assert overlap > 0.98, scene.objects[j - 1].label
            num_compared += 1
    assert num_compared > 30


def away_from_edges(view):
    """[H, W] pixels whose neighbours lie less than 10 mm nearer or farther, on the same thing."""
    square = np.ones((3, 3))
    spread = cv2.dilate(view.depth_m, square) - cv2.erode(view.depth_m, square)
    same = cv2.dilate(view.instances, square) == cv2.erode(view.instances, square)
    return (spread < 0.01) & same


def test_depth_is_that_of_rays_within_millimetres(pairs):
    for _, rays, egl in pairs:
        inner = away_from_edges(rays) & away_from_edges(egl)
        assert inner.mean() > 0.6
        off = np.abs(rays.depth_m - egl.depth_m)[inner]
        assert off.max() < 0.003
        assert np.percentile(off, 99) < 0.0003
        assert np.array_equal(rays.depth_m == 0, egl.depth_m == 0)
        assert egl.depth_m.dtype == np.float32


def test_colours_are_those_of_rays(pairs):
    for _, rays, egl in pairs:
        off = np.abs(rays.rgb.astype(int) - egl.rgb.astype(int))
        assert off.mean() < 0.8  # of 255
        assert np.mean(off.max(axis=2) > 20) < 0.015  # at edges, and where shadows begin


def test_visible_fractions_are_those_of_rays(pairs):
    num_hidden = num_cut = 0
    for _, rays, egl in pairs:
        assert egl.visible_fraction == pytest.approx(rays.visible_fraction, abs=0.02)
        assert egl.visible_fraction.dtype == np.float32
        num_hidden += int(np.sum((rays.visible_fraction > 0) & (rays.visible_fraction < 0.9)))
        border = np.pad(np.zeros((238, 318), bool), 1, constant_values=True)
        num_cut += len(set(rays.instances[border].tolist()) - {0})
    assert num_hidden > 8
    assert num_cut > 3


def test_squashed_view_is_squashed_alike():
    lens = Intrinsics.from_view(96, 96, aspect=4 / 3)
    scene = World(4, variants=1).arrange(np.random.default_rng(4), num_objects=5)
    egl = EglRenderer(lens)
    rays, other = RayRenderer(lens).render(scene), egl.render(scene)
    egl.close()
    assert np.mean(rays.instances != other.instances) < 0.005
    assert np.abs(rays.rgb.astype(int) - other.rgb).mean() < 1.5


def test_one_renderer_draws_tables_of_other_rooms_and_textures(egl):
    rays = RayRenderer(VGA)
    scene = World(6, variants=1).arrange(np.random.default_rng(6), num_objects=2)
    before = egl.render(scene).rgb
    scene.room.table = np.full((64, 64, 3), (200, 40, 40), np.uint8)
    scene.room.wall_y += 0.3
    after = egl.render(scene)
    assert np.abs(before.astype(int) - after.rgb).mean() > 5
    assert np.abs(rays.render(scene).rgb.astype(int) - after.rgb).mean() < 0.8


def in_another_thread(function):
    """What the function returns or raises in a thread of its own."""
    results = []
    thread = threading.Thread(target=lambda: results.append(function()))
    thread.start()
    thread.join()
    return results[0]


def test_table_is_played_in_one_thread_and_closed_in_another():
    source = TableSource(seed=2, width=80, height=60, renderer="egl")
    same = TableSource(seed=2, width=80, height=60, renderer="rays")
    for _ in range(2):
        frame, expected = in_another_thread(source.read), same.read()
        assert frame.stamp_ns == expected.stamp_ns
        assert np.abs(frame.image.astype(int) - expected.image).mean() < 2
        assert len(source.truth()) == len(same.truth()) == 7
    in_another_thread(source.close)
    source.close()
    with pytest.raises(RuntimeError, match="after shutdown"):
        source.read()


def test_threads_that_ask_at_once_get_their_pictures_one_after_the_other(egl):
    scene = World(8, variants=1).arrange(np.random.default_rng(8), num_objects=3)
    expected = egl.render(scene)
    with ThreadPoolExecutor(max_workers=4) as askers:
        views = list(askers.map(lambda _: egl.render(scene), range(8)))
    assert all(np.array_equal(view.rgb, expected.rgb) for view in views)
    assert all(np.array_equal(view.depth_m, expected.depth_m) for view in views)


OPEN_AND_CLOSE = """
import os, threading
import numpy as np
from molmo2_ros.simulation.renderers import open_renderer
from molmo2_ros.simulation.view import Intrinsics
from molmo2_ros.simulation.world import World

scene = World(7, variants=1).arrange(np.random.default_rng(7), num_objects=1)
for _ in range(20):
    renderer = open_renderer("egl", Intrinsics.from_view(80, 60))
    assert renderer.render(scene).rgb.any()
    renderer.close()
    assert threading.active_count() == 1
    pages = int(open("/proc/self/statm").read().split()[1])
    print(pages * os.sysconf("SC_PAGE_SIZE") // 1000000)
"""


def test_closing_ends_the_thread_and_frees_the_context():
    # In a process of its own, whose memory nothing else moves.
    told = subprocess.run(
        [sys.executable, "-c", OPEN_AND_CLOSE], cwd=ROOT, check=True, capture_output=True, text=True
    ).stdout
    memory_mb = [int(line) for line in told.split()]
    assert len(memory_mb) == 20
    # The ten contexts between the two keep 24 each where they live on.
    assert min(memory_mb[15:]) - min(memory_mb[5:10]) < 120


def test_auto_leaves_the_table_to_rays_where_a_cpu_plays_the_gpu(egl):
    chosen = open_renderer("auto", SMALL)
    is_software = "llvmpipe" in egl.name or "softpipe" in egl.name
    assert isinstance(chosen, RayRenderer if is_software else EglRenderer)
    assert chosen.name == ("rays" if is_software else egl.name)
    chosen.close()


def test_egl_that_cannot_be_had_is_refused_with_cause_and_cure(monkeypatch):
    monkeypatch.setenv("GLCONTEXT_DEVICE_INDEX", "99")
    before = threading.active_count()
    with pytest.raises(ConfigError, match=r"device index 99.*install the GPU's driver.*rays"):
        TableSource(renderer="egl")
    assert isinstance(open_renderer("auto", SMALL), RayRenderer)
    assert threading.active_count() == before


def test_unknown_renderer_is_refused():
    with pytest.raises(ValueError, match="renderer is 'gl', expected one of auto, rays, egl"):
        open_renderer("gl", SMALL)

"""The ray caster: masks, depth and visible fractions against cases worked by hand."""

import numpy as np
import pytest

from molmo2_ros.simulation.objects import CATEGORIES, CATEGORY_NAMES, OWN_COLOUR
from molmo2_ros.simulation.render import RayRenderer
from molmo2_ros.simulation.view import Intrinsics
from molmo2_ros.simulation.world import CameraPose, Scene, SceneObject, World, draw_room

SIZE = 72


@pytest.fixture(scope="module")
def world():
    return World(seed=11, variants=1)


@pytest.fixture
def scene(world):
    """Makes a scene of named objects at given places, seen from the front and 45 degrees above."""

    def make(*placed, look_at=(0.0, 0.0, 0.03), elevation_deg=45.0, distance_m=0.6):
        rng = np.random.default_rng(0)
        objects, items = [], []
        for name, (x, y) in placed:
            index = CATEGORY_NAMES.index(name)
            colour = CATEGORIES[index].colours[0] if CATEGORIES[index].colours else OWN_COLOUR
            objects.append(SceneObject(category=index, colour=colour))
            items.append(world.make_item(rng, index, colour))
            items[-1].position = np.array([x, y, 0.0])
            items[-1].rotation = np.eye(3)
        camera = CameraPose(
            azimuth_deg=90.0,
            elevation_deg=elevation_deg,
            distance_m=distance_m,
            look_at=np.array(look_at),
        )
        return Scene(
            room=draw_room(rng, world.textures),
            camera=camera,
            objects=tuple(objects),
            items=items,
        )

    return make


def render(scene, **options):
    return RayRenderer(Intrinsics.from_view(SIZE, SIZE), **options).render(scene)


def to_world(scene, view, rows, columns):
    """[N, 3] points in the world, from depth and K as in CameraInfo."""
    fx, _, cx, _, fy, cy, *_ = Intrinsics.from_view(SIZE, SIZE).k
    depth = view.depth_m[rows, columns]
    optical = np.stack([(columns - cx) / fx * depth, (rows - cy) / fy * depth, depth], axis=1)
    return optical @ scene.camera.rotation.T + scene.camera.position


@pytest.mark.parametrize("name", CATEGORY_NAMES)
def test_every_category_covers_pixels_where_it_stands(scene, name):
    here = scene((name, (0.05, 0.02)))
    view = render(here)
    rows, columns = np.nonzero(view.instances == 1)
    assert len(rows) > 60
    item = here.items[0]
    local = (to_world(here, view, rows, columns) - item.position) @ item.rotation
    low, high = item.shape.corners.min(axis=0), item.shape.corners.max(axis=0)
    assert np.all((local > low - 1e-4) & (local < high + 1e-4))


def test_depth_of_the_table_lies_in_its_plane(scene):
    here = scene(("can", (0, 0)))
    view = render(here)
    rows, columns = np.nonzero(view.instances == 0)
    points = to_world(here, view, rows, columns)
    half_x, half_y = here.room.table_half
    inside = (np.abs(points[:, 0]) < half_x - 0.01) & (np.abs(points[:, 1]) < half_y - 0.01)
    assert inside.sum() > 1000
    assert np.abs(points[inside, 2]).max() < 1e-4


def test_object_alone_is_wholly_visible(scene):
    assert render(scene(("mug", (0, 0)))).visible_fraction[0] == 1.0


def test_object_cut_by_the_border_is_half_visible(scene):
    # The can is round; seen from 60 degrees its middle is 0.6 - 0.03 sin(60) away, at the border.
    right_m = (0.6 - 0.03 * np.sin(np.radians(60))) * np.tan(np.radians(22.5))
    view = render(scene(("can", (right_m, 0.0)), elevation_deg=60.0))
    assert view.visible_fraction[0] == pytest.approx(0.5, abs=0.1)
    assert view.instances[:, -1].any()


def test_object_beyond_the_border_is_not_visible(scene):
    view = render(scene(("can", (0.6, 0.0))))
    assert view.visible_fraction[0] == 0
    assert not view.instances.any()


def test_object_behind_a_wall_of_cardboard_is_hidden(scene):
    placed = (("donut", (0, 0.12)), ("cardboard_box", (0, 0)))
    for order in (placed, placed[::-1]):  # nearness decides, not the order of drawing
        low = render(scene(*order, elevation_deg=8.0, distance_m=0.5))
        hidden = 0 if order is placed else 1
        assert low.visible_fraction[hidden] == 0
        assert low.visible_fraction[1 - hidden] == 1
    assert render(scene(*placed)).visible_fraction[0] > 0.5


def test_visible_fraction_is_the_share_of_the_pixels_alone(scene):
    both = render(
        scene(("bottle", (0, 0.06)), ("cardboard_box", (0.05, -0.02)), elevation_deg=25.0)
    )
    alone = render(scene(("bottle", (0, 0.06)), elevation_deg=25.0))
    share = (both.instances == 1).sum() / (alone.instances == 1).sum()
    assert 0.1 < share < 0.9
    assert both.visible_fraction[0] == pytest.approx(share, abs=1e-6)


def test_absent_object_is_not_drawn(scene):
    here = scene(("mug", (0, 0)))
    here.items[0].present = False
    view = render(here)
    assert not view.instances.any()
    assert view.visible_fraction[0] == 0


def test_object_casts_a_shadow_away_from_the_lamp(scene):
    here = scene(("bottle", (0, 0)), elevation_deg=60.0)
    here.room.table = np.full_like(here.room.table, 128)
    here.room.lamp = np.array([-1.2, 0.0, 1.2])
    view = render(here)
    empty = here.items[0]
    empty.present = False
    bright = render(here)
    darker = bright.rgb.astype(int).sum(axis=2) - view.rgb.astype(int).sum(axis=2) > 60
    darker &= view.instances == 0
    columns = np.nonzero(darker)[1]
    assert len(columns) > 40
    assert columns.mean() > SIZE / 2 + 5


def test_smoothing_changes_edges_only(scene):
    here = scene(("mug", (0, 0)))
    smooth, jagged = render(here, shadow_step=1), render(here, shadow_step=1, smooth=False)
    assert np.array_equal(smooth.instances, jagged.instances)
    changed = np.any(smooth.rgb != jagged.rgb, axis=2)
    assert 0.01 < changed.mean() < 0.3


def test_squashed_view_has_the_aspect_asked_for():
    lens = Intrinsics.from_view(168, 168, aspect=4 / 3)
    assert lens.fy / lens.fx == pytest.approx(4 / 3)
    assert Intrinsics.from_view(320, 240).fx == Intrinsics.from_view(320, 240).fy


def test_camera_looks_at_its_point():
    camera = CameraPose(
        azimuth_deg=70.0, elevation_deg=40.0, distance_m=0.5, look_at=np.array([0.1, 0.2, 0.0])
    )
    seen = (camera.look_at - camera.position) @ camera.rotation
    assert np.allclose(seen, (0, 0, 0.5))
    assert camera.position[2] == pytest.approx(0.5 * np.sin(np.radians(40)))
    # Up in the world is up in the picture: -y of the optical frame.
    assert (np.array([0, 0, 1.0]) @ camera.rotation)[1] < 0

"""A table with an arm beside it, a belt that may carry what is asked for, and a camera over it."""

from __future__ import annotations

import numpy as np
from scipy.spatial import cKDTree

from molmo2_ros.camera.frame import CameraModel, Frame
from molmo2_ros.errors import ConfigError
from molmo2_ros.simulation.arm import F64, FOOT, LINKS, TIP_RADIUS_M
from molmo2_ros.simulation.arm_physics import BELT_HALF_WIDTH, BELT_TOP, BELT_Y, ArmPhysics
from molmo2_ros.simulation.objects import CATEGORIES, CATEGORY_NAMES, OWN_COLOUR, Part
from molmo2_ros.simulation.renderers import open_renderer
from molmo2_ros.simulation.shape import RayShape, rotation_z
from molmo2_ros.simulation.source import TableFrame, objects_seen
from molmo2_ros.simulation.view import Intrinsics
from molmo2_ros.simulation.world import (
    CameraPose,
    Item,
    Scene,
    SceneObject,
    World,
    draw_colour,
    draw_room,
    light_well,
    place_clutter,
)

FRAME_ID = "reach_camera_optical_frame"
FOOT_POSITION, FOOT_ROTATION = np.array([0.45, -0.32, 0.0]), rotation_z(145.0)
CAMERA = CameraPose(
    azimuth_deg=90, elevation_deg=43, distance_m=0.68, look_at=np.array([0.0, 0.02, 0.02])
)

_TOO_WIDE = ("plate", "cardboard_box")  # beside them others would find no room
_NUM_OTHERS = 4
_REACH_LOW, _REACH_HIGH = (-0.22, -0.08), (0.18, 0.20)  # where the arm gets at everything
_LOW, _HIGH = (-0.27, -0.19), (0.27, 0.26)
_RIDE_S = 2.5  # after so long, what rides on the belt is in the middle of the table
_STRIPES_APART_M = 0.2
_RAYS_APART_M = 0.003  # of those that sample a surface


def named_object(name: str) -> SceneObject:
    """The object that a person calls so: "red mug", "lemon".

    Raises:
        ConfigError: there is no such object, or it is too wide for the table.
    """
    usable = {
        category.label(colour): SceneObject(category=index, colour=colour)
        for index, category in enumerate(CATEGORIES)
        if category.name not in _TOO_WIDE
        for colour in category.colours or (OWN_COLOUR,)
    }
    if name not in usable:
        raise ConfigError(
            f"object {name!r} does not exist here, expected one of {', '.join(sorted(usable))}"
        )
    return usable[name]


def camera_from_foot() -> tuple[F64, F64]:
    """Position [3] and rotation [3, 3] of the camera's optical frame seen from the arm's foot."""
    back = FOOT_ROTATION.T
    return back @ (CAMERA.position - FOOT_POSITION), back @ CAMERA.rotation


class ReachTable:
    """The table in simulated time.

    Args:
        seed: decides shapes, objects, places and light.
        asked: the first object, the one to be reached for; drawn if None. No other is called so.
        belt_speed: m/s along x of the belt under the first object, which starts beside the middle
            of the table and goes back and forth; 0: there is no belt.
        width: pixels of the picture.
        height: pixels.
        world: the stock of shapes and textures; None: one for this table alone, which takes 0.3 s.
        renderer: who draws: `rays`, `egl` or `auto` (renderers.py).

    Raises:
        ConfigError: `egl` cannot be had.
    """

    def __init__(
        self,
        seed: int,
        *,
        asked: SceneObject | None = None,
        belt_speed: float = 0.0,
        width: int = 320,
        height: int = 240,
        world: World | None = None,
        renderer: str = "rays",
    ) -> None:
        rng = np.random.default_rng(seed)
        world = world or World(seed, variants=1)
        self.objects = _draw_objects(rng, asked)
        items = [world.make_item(rng, thing.category, thing.colour) for thing in self.objects]
        _place(rng, items, belt_speed)
        self.physics = ArmPhysics(
            items,
            [thing.category for thing in self.objects],
            FOOT_POSITION,
            FOOT_ROTATION,
            belt_speed,
            belt_stroke=2 * abs(belt_speed) * _RIDE_S,
        )
        foot = place_clutter(RayShape(FOOT), FOOT_POSITION, FOOT_ROTATION)
        still, turn = np.zeros(3), np.eye(3)
        self._links = [place_clutter(RayShape(link.parts), still, turn) for link in LINKS]
        self._belt = place_clutter(RayShape(_belt_parts()), still, turn)
        self._belt.present = belt_speed != 0
        room = draw_room(rng, world.textures)
        room.table_half = (0.62, 0.45)
        light_well(room)
        clutter = [foot, *self._links, self._belt]
        self._scene = Scene(
            room=room, camera=CAMERA, objects=self.objects, items=items, clutter=clutter
        )
        intrinsics = Intrinsics.from_view(width, height)
        self._renderer = open_renderer(renderer, intrinsics)
        #: "rays", or OpenGL's name of the GPU.
        self.drawn_by = self._renderer.name
        self.camera = CameraModel(width=width, height=height, k=intrinsics.k, d=(0.0,) * 5)
        self._surface = cKDTree(surface_points(items[0].shape))

    def close(self) -> None:
        """Let go of the renderer; may be called twice."""
        self._renderer.close()

    def look(self, stamp_ns: int) -> TableFrame:
        """A picture of the table as it is now, with the truth."""
        self.pose()
        return self.draw(stamp_ns)

    def pose(self) -> None:
        """Set what is drawn to where it is now."""
        self.physics.copy_back(self._links)
        self._belt.position[0] = self.physics.belt_place % _STRIPES_APART_M

    def draw(self, stamp_ns: int) -> TableFrame:
        """A picture of the table as it was posed; the physics may go on meanwhile."""
        view = self._renderer.render(self._scene)
        frame = Frame(
            image=view.rgb,
            stamp_ns=stamp_ns,
            frame_id=FRAME_ID,
            depth_m=view.depth_m,
            camera=self.camera,
        )
        truth = objects_seen(view, self.objects, self.camera)
        return TableFrame(frame=frame, truth=truth, instances=view.instances)

    def gap_m(self) -> float:
        """Air between the fingertip and the surface of the asked object."""
        distance, _ = self._surface.query(self.physics.tip_in(0))
        return max(0.0, float(distance) - TIP_RADIUS_M)


def surface_points(shape: RayShape) -> F64:
    """[P, 3] points on a shape's surface, about 3 mm apart, where rays from six sides meet it."""
    found = []
    reach = shape.radius + 0.05
    steps = np.arange(-shape.radius, shape.radius, _RAYS_APART_M)
    across, along = (grid.ravel() for grid in np.meshgrid(steps, steps))
    for axis in range(3):
        for sign in (-1.0, 1.0):
            # From so far away that the rays are all but parallel.
            origin = shape.centre + sign * 50 * reach * np.eye(3)[axis]
            goals = np.tile(shape.centre, (len(across), 1))
            goals[:, (axis + 1) % 3] += across
            goals[:, (axis + 2) % 3] += along
            part, share, _ = shape.cast(origin, goals - origin, normals=False)
            hit = part >= 0
            found.append(origin + share[hit, None] * (goals[hit] - origin))
    return np.concatenate(found)


def _draw_objects(rng: np.random.Generator, asked: SceneObject | None) -> tuple[SceneObject, ...]:
    """The asked object and others of other names; one in three looks like it but for its colour."""
    usable = [c for c, name in enumerate(CATEGORY_NAMES) if name not in _TOO_WIDE]
    if asked is None:
        category = int(rng.choice(usable))
        asked = SceneObject(category=category, colour=draw_colour(rng, category))
    others = [c for c in rng.permutation(usable) if c != asked.category][:_NUM_OTHERS]
    if CATEGORIES[asked.category].colours and rng.random() < 1 / 3:
        others[0] = asked.category
    things = [asked]
    for category in map(int, others):
        colour = draw_colour(rng, category)
        while (category, colour) == (asked.category, asked.colour):
            colour = draw_colour(rng, category)
        things.append(SceneObject(category=category, colour=colour))
    return tuple(things)


def _place(rng: np.random.Generator, items: list[Item], belt_speed: float) -> None:
    """Set the items apart: the first where the arm reaches it, or on the belt's beginning."""
    radii = [0.5 * float(np.ptp(item.shape.corners[:, :2], axis=0).max()) for item in items]
    start = rng.uniform(_REACH_LOW, _REACH_HIGH)
    if belt_speed:
        items[0].position = np.array([-belt_speed * _RIDE_S, BELT_Y, BELT_TOP])
    else:
        items[0].position = np.append(start, 0.0)
    for j, item in enumerate(items[1:], 1):
        places = rng.uniform(_LOW, _HIGH, (60, 2))
        others = np.array([other.position[:2] for other in items[:j]])
        gaps = np.linalg.norm(places[:, None] - others, axis=2) - np.array(radii[:j])
        room = gaps.min(axis=1) - radii[j]
        if belt_speed:
            from_belt = np.abs(places[:, 1] - BELT_Y) - BELT_HALF_WIDTH - radii[j]
            room = np.minimum(room, from_belt)
        enough = np.flatnonzero(room > 0.01)
        best = int(enough[0]) if len(enough) else int(room.argmax())
        item.position = np.append(places[best], 0.0)


def _belt_parts() -> tuple[Part, ...]:
    half_length, half_width, half_height = 0.6, BELT_HALF_WIDTH, BELT_TOP / 2
    stripes = [
        Part(
            shape="box",
            size=(0.004, half_width, 0.0003),
            position=(x, BELT_Y, BELT_TOP),
            colour=(0.36, 0.36, 0.37),
        )
        for x in np.arange(-half_length, half_length, _STRIPES_APART_M)
    ]
    band = Part(
        shape="box",
        size=(half_length, half_width, half_height),
        position=(0.0, BELT_Y, half_height),
        colour=(0.22, 0.22, 0.23),
    )
    return (band, *stripes)

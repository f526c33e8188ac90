"""The simulated table as a camera: an endless stream of frames with depth, optics and the truth."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from molmo2_ros.camera.frame import CameraModel, Frame
from molmo2_ros.simulation.objects import CATEGORIES, CATEGORY_NAMES, COLOUR_NAMES, OWN_COLOUR
from molmo2_ros.simulation.physics import STEP_S, Physics
from molmo2_ros.simulation.renderers import open_renderer
from molmo2_ros.simulation.view import Intrinsics, View
from molmo2_ros.simulation.world import (
    CameraPose,
    Item,
    Scene,
    SceneObject,
    World,
    draw_colour,
    draw_room,
    light_well,
    place_apart,
    place_clutter,
)

FRAME_ID = "table_camera_optical_frame"

_ALWAYS = (("mug", "red"), ("lemon", None), ("mug", "blue"))  # what the documentation asks for
_NUM_OTHERS = 4
_MIN_SEEN_PX = 6  # fewer pixels are not called visible


@dataclass(frozen=True, slots=True, kw_only=True)
class ObjectTruth:
    """Where one object really is."""

    #: The same for the whole life of the source, from 1.
    id: int
    #: "red mug".
    name: str
    #: Column and row of a pixel on the object, nearest to its middle; None: not visible.
    point_px: tuple[int, int] | None
    #: The surface at that pixel, metres in the optical frame (REP 103); None: not visible.
    point_m: tuple[float, float, float] | None
    #: 0: hidden or out of the picture, 1: wholly seen.
    visible_fraction: float

    def as_json(self) -> Mapping[str, Any]:
        """For json.dumps."""
        return {
            "id": self.id,
            "name": self.name,
            "point_px": None if self.point_px is None else list(self.point_px),
            "point_m": None if self.point_m is None else [round(c, 4) for c in self.point_m],
            "visible_fraction": round(self.visible_fraction, 3),
        }


@dataclass(frozen=True, slots=True, kw_only=True)
class TableFrame:
    """A frame and what is in it."""

    frame: Frame
    truth: tuple[ObjectTruth, ...]
    #: uint8 [H, W]; 0: none, otherwise the id of the object.
    instances: npt.NDArray[np.uint8]

    def truth_json(self) -> str:
        """The truth as one JSON list."""
        return json.dumps([thing.as_json() for thing in self.truth])


class TableSource:
    """A camera that sways over a table where a robot's hand moves things about; never ends.

    A red mug, a lemon, a blue mug and four more objects lie on the table. Time is simulated: frame
    i is at i / rate_hz seconds, however long it took to draw. The same arguments give the same
    frames, on the same renderer.

    Args:
        seed: decides shapes, objects, light and what happens.
        width: pixels.
        height: pixels.
        rate_hz: frames a second of simulated time.
        renderer: who draws: `rays`, `egl` or `auto` (renderers.py).

    Raises:
        ValueError: a size below 16 pixels, a rate outside 1 to 200 Hz or an unknown renderer.
        ConfigError: `egl` cannot be had.
    """

    def __init__(
        self,
        seed: int = 0,
        width: int = 320,
        height: int = 240,
        rate_hz: float = 15.0,
        renderer: str = "rays",
    ) -> None:
        if width < 16 or height < 16:
            raise ValueError(f"picture is {width} x {height}, expected at least 16 x 16 pixels")
        if not 1 <= rate_hz <= 200:
            raise ValueError(f"rate is {rate_hz} Hz, expected 1 to 200")
        rng = np.random.default_rng(seed)
        world = World(seed, variants=1)
        self.rate_hz = rate_hz
        self.objects = _draw_objects(rng)
        items = [world.make_item(rng, o.category, o.colour) for o in self.objects]
        place_apart(rng, items)
        self._hand = place_clutter(world.hands[1], np.zeros(3), _HAND_ROTATION)
        room = draw_room(rng, world.textures)
        light_well(room)
        self._scene = Scene(
            room=room,
            camera=_camera_pose(0.0),
            objects=self.objects,
            items=items,
            clutter=[self._hand, _stand(world)],
        )
        self._physics = Physics(items, [o.category for o in self.objects], rng)
        intrinsics = Intrinsics.from_view(width, height)
        self._renderer = open_renderer(renderer, intrinsics)
        #: "rays", or OpenGL's name of the GPU.
        self.drawn_by = self._renderer.name
        self.camera = CameraModel(
            width=width, height=height, k=intrinsics.k, d=(0.0, 0.0, 0.0, 0.0, 0.0)
        )
        self._num_read = 0
        self._num_steps = 0
        self._last: TableFrame | None = None

    def read(self) -> Frame:
        """The next frame, with depth and optics."""
        return self.read_table().frame

    def read_table(self) -> TableFrame:
        """The next frame together with its truth."""
        time_s = self._num_read / self.rate_hz
        steps = round(time_s / STEP_S)
        self._physics.advance(steps - self._num_steps)
        self._num_steps = steps
        self._hand.position = self._physics.hand
        self._scene.camera = _camera_pose(time_s)
        view = self._renderer.render(self._scene)
        frame = Frame(
            image=view.rgb,
            stamp_ns=round(self._num_read * 1e9 / self.rate_hz),
            frame_id=FRAME_ID,
            depth_m=view.depth_m,
            camera=self.camera,
        )
        self._num_read += 1
        truth = objects_seen(view, self.objects, self.camera)
        self._last = TableFrame(frame=frame, truth=truth, instances=view.instances)
        return self._last

    def truth(self) -> list[Mapping[str, Any]]:
        """The truth about the frame read last, ready for json.dumps."""
        return [] if self._last is None else [thing.as_json() for thing in self._last.truth]

    def close(self) -> None:
        """Lets go of the renderer; may be called twice."""
        self._renderer.close()


def objects_seen(
    view: View, objects: tuple[SceneObject, ...], camera: CameraModel
) -> tuple[ObjectTruth, ...]:
    """Where the objects of a rendered picture are; objects[j] has the id j + 1."""
    fx, _, cx, _, fy, cy, *_ = camera.k
    found = []
    for j, thing in enumerate(objects):
        pixel = _middle(view.instances == j + 1)
        point_m = None
        if pixel is not None:
            depth = float(view.depth_m[pixel[1], pixel[0]])
            point_m = ((pixel[0] - cx) / fx * depth, (pixel[1] - cy) / fy * depth, depth)
        found.append(
            ObjectTruth(
                id=j + 1,
                name=thing.label,
                point_px=pixel,
                point_m=point_m,
                visible_fraction=float(view.visible_fraction[j]) if pixel else 0.0,
            )
        )
    return tuple(found)


# The forearm comes from above and behind the table, so that it hides little.
_HAND_ROTATION = np.array([[0.0, 1.0, 0.0], [0.35, 0.0, 0.9367], [0.9367, 0.0, -0.35]])


def _draw_objects(rng: np.random.Generator) -> tuple[SceneObject, ...]:
    objects = [
        SceneObject(
            category=CATEGORY_NAMES.index(name),
            colour=OWN_COLOUR if colour is None else COLOUR_NAMES.index(colour),
        )
        for name, colour in _ALWAYS
    ]
    taken = {thing.category for thing in objects}
    # Plates and boxes are so wide that seven objects would find no room.
    taken |= {CATEGORY_NAMES.index("plate"), CATEGORY_NAMES.index("cardboard_box")}
    others = [c for c in range(len(CATEGORIES)) if c not in taken]
    for category in rng.choice(others, _NUM_OTHERS, replace=False):
        colour = draw_colour(rng, int(category))
        objects.append(SceneObject(category=int(category), colour=colour))
    return tuple(objects)


def _stand(world: World) -> Item:
    return place_clutter(world.arms[0], np.array([0.45, 0.42, 0.0]), np.eye(3))


def _camera_pose(time_s: float) -> CameraPose:
    """A camera on a slowly swaying pole that also pans a little."""
    turn = 2 * np.pi * time_s
    pan = 0.07 * np.sin(turn / 23)
    return CameraPose(
        azimuth_deg=90 + 7 * np.sin(turn / 17),
        elevation_deg=43 + 3 * np.sin(turn / 11),
        distance_m=0.66 + 0.03 * np.sin(turn / 13),
        look_at=np.array([pan, 0.01, 0.02]),
        roll_deg=0.8 * np.sin(turn / 7),
    )


def _middle(mask: npt.NDArray[np.bool_]) -> tuple[int, int] | None:
    """Column and row of the mean of a mask, or of its thickest spot if the mean lies outside."""
    rows, columns = np.nonzero(mask)
    if len(rows) < _MIN_SEEN_PX:
        return None
    column, row = round(float(columns.mean())), round(float(rows.mean()))
    if not mask[row, column]:
        padded = np.pad(mask.astype(np.uint8), 1)
        thickness = cv2.distanceTransform(padded, cv2.DIST_L2, 3)[1:-1, 1:-1]
        row, column = (int(i) for i in np.unravel_index(thickness.argmax(), thickness.shape))
    return column, row

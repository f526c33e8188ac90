"""Labelled stills and clips of a drawn scene: camera and objects move, go and come back.

Legend: T frames, J objects, H and W of the picture.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from molmo2_ros.simulation.render import RayRenderer
from molmo2_ros.simulation.shape import rotation_z
from molmo2_ros.simulation.view import Intrinsics, View
from molmo2_ros.simulation.world import CameraPose, Item, Scene, SceneObject, World, place_clutter

Floats = npt.NDArray[np.float64]

_STUDY_INTERVAL_S = 0.5  # the speeds below are per half second
_EVENTFUL = 0.85  # share of clips in which something is hidden on purpose
_LOW_CAMERA_DEG = 40.0  # below this elevation an object can hide another


@dataclass(frozen=True, slots=True, kw_only=True)
class LabelledClip:
    """Pictures and the truth about them; a still is a clip of one frame."""

    #: uint8 [T, H, W, 3].
    frames: npt.NDArray[np.uint8]
    #: uint8 [T, H, W]; 0: none, j: objects[j - 1].
    instances: npt.NDArray[np.uint8]
    #: float32 [T, J]; 0: hidden or out of the picture, 1: nothing in front, no border through it.
    visible_fraction: npt.NDArray[np.float32]
    #: What the J objects are; some may never be seen.
    objects: tuple[SceneObject, ...]


def sample_still(
    world: World,
    rng: np.random.Generator,
    *,
    size: tuple[int, int] = (168, 168),
    aspect: float | None = None,
    num_objects: int | None = None,
) -> LabelledClip:
    """One picture of a new scene.

    Args:
        world: the stock of shapes.
        rng: the only source of chance.
        size: width and height in pixels.
        aspect: width / height of the view that is squashed into `size`; None: square pixels.
        num_objects: None: drawn.
    """
    scene = world.arrange(rng, num_objects)
    renderer = _draw_renderer(rng, size, aspect)
    return _stack([renderer.render(scene)], scene.objects)


def sample_clip(
    world: World,
    rng: np.random.Generator,
    num_frames: int,
    *,
    interval_s: float = 0.5,
    size: tuple[int, int] = (168, 168),
    aspect: float | None = None,
    num_objects: int | None = None,
) -> LabelledClip:
    """Pictures of a new scene in motion.

    Args:
        world: the stock of shapes.
        rng: the only source of chance.
        num_frames: T.
        interval_s: time between two frames; scales the speeds.
        size: width and height in pixels.
        aspect: width / height of the view that is squashed into `size`; None: square pixels.
        num_objects: None: drawn.
    """
    scene = world.arrange(rng, num_objects)
    renderer = _draw_renderer(rng, size, aspect)
    plan = _Plan(scene, rng, num_frames, interval_s / _STUDY_INTERVAL_S)
    if num_frames > 1 and rng.random() < _EVENTFUL:
        for _ in range(int(rng.integers(2, 5))):
            plan.hide_something(world, rng)
    views = []
    for t in range(num_frames):
        plan.apply(t)
        views.append(renderer.render(scene))
    return _stack(views, scene.objects)


def draw_absence(rng: np.random.Generator, num_frames: int) -> Floats:
    """[T] 1 while something is away, 0 while it is there, a half on some frames between.

    Half of the absences are a gap in the middle, a quarter last from the start (it comes later), a
    quarter until the end (it leaves).
    """
    away = np.zeros(num_frames)
    longest = max(1, int(0.7 * num_frames))
    length = int(rng.integers(max(1, longest // 2), longest + 1))
    kind = rng.random()
    if kind < 0.5 and num_frames > 2:
        start = int(rng.integers(1, max(2, num_frames - length)))
    elif kind < 0.75:
        start = 0
    else:
        start = num_frames - length
    away[start : start + length] = 1
    for border in (start - 1, start + length):
        if 0 <= border < num_frames and rng.random() < 0.4:
            away[border] = rng.uniform(0.2, 0.7)
    return away


class _Plan:
    """Where everything is at every frame of a clip; written first, then applied frame by frame."""

    def __init__(
        self, scene: Scene, rng: np.random.Generator, num_frames: int, pace: float
    ) -> None:
        self._scene = scene
        self._num_frames = num_frames
        moves_camera = rng.random() < 0.75
        moves_objects = not moves_camera or rng.random() < 0.75
        start = np.array([item.position for item in scene.items])
        self._rotations = [item.rotation for item in scene.items]
        self._positions, self._turns_deg = wander(start, rng, num_frames, pace * moves_objects)
        self._present = np.ones((num_frames, len(scene.items)), bool)
        self._cameras = drift(scene.camera, rng, num_frames, pace * moves_camera)
        self._hands: list[tuple[Item, Floats]] = []
        self._steady_clutter = len(scene.clutter)

    def apply(self, t: int) -> None:
        """Puts the scene into its state at frame t."""
        scene = self._scene
        scene.camera = self._cameras[t]
        for j, item in enumerate(scene.items):
            item.position = self._positions[t, j]
            item.rotation = rotation_z(self._turns_deg[t, j]) @ self._rotations[j]
            item.present = bool(self._present[t, j])
        del scene.clutter[self._steady_clutter :]
        for hand, places in self._hands:
            if np.isfinite(places[t, 0]):
                hand.position = places[t]
                scene.clutter.append(hand)

    def hide_something(self, world: World, rng: np.random.Generator) -> None:
        """Adds one event after which some object is out of sight for some frames."""
        target = int(rng.integers(len(self._scene.items)))
        away = draw_absence(rng, self._num_frames)
        events: list[Callable[[], None]] = [
            lambda: self._pan(target, away, rng),
            lambda: self._slide(target, away, rng),
            lambda: self._take(target, away, rng),
            lambda: self._cover(target, away, world, rng),
            lambda: self._cover(target, away, world, rng),
        ]
        low = self._scene.camera.elevation_deg < _LOW_CAMERA_DEG
        if low and len(self._scene.items) > 1:
            events[4:] = [lambda: self._stand_in_front(target, away, rng)] * 2
        events[int(rng.integers(len(events)))]()

    def _pan(self, target: int, away: Floats, rng: np.random.Generator) -> None:
        """The camera turns to where the target is not."""
        camera = self._scene.camera
        side = camera.rotation[:2, 0] / np.linalg.norm(camera.rotation[:2, 0])
        depth = np.array([-side[1], side[0]])
        offset = self._scene.items[target].position[:2] - camera.look_at[:2]
        sign = -1.0 if side @ offset > 0 else 1.0
        reach = camera.distance_m * rng.uniform(0.35, 0.75)
        way = sign * side * reach + depth * rng.normal(0, 0.06)
        for t, pose in enumerate(self._cameras):
            pose.look_at = pose.look_at + np.append(away[t] * way, 0)

    def _slide(self, target: int, away: Floats, rng: np.random.Generator) -> None:
        """The target is pushed out of the picture along the table."""
        side = self._scene.camera.rotation[:2, 0]
        offset = self._scene.items[target].position[:2] - self._scene.camera.look_at[:2]
        sign = 1.0 if side @ offset > 0 else -1.0
        turn = rotation_z(rng.uniform(-35, 35))[:2, :2]
        way = sign * rng.uniform(0.45, 0.8) * (turn @ side)
        self._positions[:, target, :2] += away[:, None] * way

    def _take(self, target: int, away: Floats, rng: np.random.Generator) -> None:
        """The target is lifted, gone, and put back, sometimes elsewhere."""
        lifted = (away > 0) & (away < 1)
        self._positions[lifted, target, 2] += rng.uniform(0.05, 0.2)
        self._present[away == 1, target] = False
        back = np.flatnonzero(away == 1)[-1] + 1
        if rng.random() < 0.4:
            self._positions[back:, target, :2] += rng.normal(0, 0.06, 2)

    def _cover(self, target: int, away: Floats, world: World, rng: np.random.Generator) -> None:
        """A robot's hand, with or without a board, comes between camera and target."""
        hand = world.hands[int(rng.integers(len(world.hands)))]
        holds_board = hand.corners[:, 0].min() < -0.06
        angle = rng.uniform(np.radians(-10), np.radians(190))
        share = rng.uniform(0.55, 0.75)
        places = np.full((self._num_frames, 3), np.nan)
        item: Item | None = None
        for t in np.flatnonzero(away):
            camera = self._cameras[t].rotation
            along = np.cos(angle) * camera[:, 0] - np.sin(angle) * camera[:, 1]
            if item is None:
                facing = -camera[:, 2]
                rotation = np.stack([along, np.cross(facing, along), facing], axis=1)
                item = place_clutter(hand, np.zeros(3), rotation)
            eye = self._cameras[t].position
            goal = self._positions[t, target] + np.array([0, 0, 0.04])
            middle = 0.05 if holds_board else -0.07
            places[t] = eye + share * (goal - eye) + (middle + 0.3 * (1 - away[t])) * along
        if item is not None:
            self._hands.append((item, places))

    def _stand_in_front(self, target: int, away: Floats, rng: np.random.Generator) -> None:
        """The largest other object moves before the target."""
        items = self._scene.items
        others = [j for j in range(len(items)) if j != target]
        cover = max(others, key=lambda j: float(np.ptp(items[j].shape.corners[:, 2])))
        for t in np.flatnonzero(away):
            goal = self._positions[t, target, :2]
            to_eye = self._cameras[t].position[:2] - goal
            spot = goal + rng.uniform(0.09, 0.12) * to_eye / np.linalg.norm(to_eye)
            here = self._positions[t, cover, :2]
            self._positions[t, cover, :2] = here + away[t] * (spot - here)


def wander(
    start: Floats, rng: np.random.Generator, num_frames: int, pace: float
) -> tuple[Floats, Floats]:
    """Positions [T, J, 3] and turns [T, J] of objects that drift and turn round when they meet."""
    num = len(start)
    angle = rng.uniform(0, 2 * np.pi, num)
    moving = (rng.random(num) < 0.6) * pace
    speed = rng.uniform(0.015, 0.065, num) * moving
    velocity = speed[:, None] * np.stack([np.cos(angle), np.sin(angle)], axis=1)
    turning = rng.normal(0, 8, num) * moving
    positions = np.repeat(start[None], num_frames, axis=0)
    turns_deg = np.outer(np.arange(num_frames), turning)
    for t in range(1, num_frames):
        places = positions[t - 1, :, :2].copy()
        for j in np.flatnonzero(moving):
            goal = places[j] + velocity[j]
            others = np.delete(places, j, axis=0)
            before = np.linalg.norm(others - places[j], axis=1)
            after = np.linalg.norm(others - goal, axis=1)
            if np.any((after < 0.1) & (after < before)) or np.any(np.abs(goal) > (0.36, 0.3)):
                velocity[j] = -velocity[j]
            else:
                places[j] = goal
        positions[t, :, :2] = places
    return positions, turns_deg


def drift(
    start: CameraPose, rng: np.random.Generator, num_frames: int, pace: float
) -> list[CameraPose]:
    """A camera that circles, rises, nears and shifts at even speed with a little shake."""
    azimuth, elevation = rng.normal(0, 6) * pace, rng.normal(0, 2.5) * pace
    distance = rng.normal(0, 0.02) * pace
    shift = np.append(rng.normal(0, 0.022, 2) * pace, 0)
    cameras = []
    for t in range(num_frames):
        shake = np.append(rng.normal(0, 0.003, 2) * pace, 0)
        cameras.append(
            CameraPose(
                azimuth_deg=start.azimuth_deg + t * azimuth,
                elevation_deg=float(np.clip(start.elevation_deg + t * elevation, 18, 70)),
                distance_m=float(np.clip(start.distance_m + t * distance, 0.43, 0.88)),
                look_at=start.look_at + t * shift + shake,
                roll_deg=start.roll_deg,
            )
        )
    return cameras


def _draw_renderer(
    rng: np.random.Generator, size: tuple[int, int], aspect: float | None
) -> RayRenderer:
    width, height = size
    return RayRenderer(Intrinsics.from_view(width, height, rng.uniform(40, 52), aspect))


def _stack(views: list[View], objects: tuple[SceneObject, ...]) -> LabelledClip:
    clip = LabelledClip(
        frames=np.stack([view.rgb for view in views]),
        instances=np.stack([view.instances for view in views]),
        visible_fraction=np.stack([view.visible_fraction for view in views]),
        objects=objects,
    )
    for array in (clip.frames, clip.instances, clip.visible_fraction):
        array.setflags(write=False)
    return clip

"""Pictures pasted together from cut-out objects: ten times faster than casting rays.

What such a picture lacks, beside a rendered one: shadows of one object on another, robot arms and
one common light. Ground truth is exact all the same.

Legend: S sprites, P side of a sprite in pixels, T frames, J objects, H and W of the picture.
"""

from __future__ import annotations

import os
from dataclasses import dataclass
from pathlib import Path

import cv2
import numpy as np
import numpy.typing as npt

from molmo2_ros.simulation.motion import LabelledClip, draw_absence, wander
from molmo2_ros.simulation.objects import CATEGORIES
from molmo2_ros.simulation.render import RayRenderer
from molmo2_ros.simulation.shape import rotation_z
from molmo2_ros.simulation.texture import draw_texture
from molmo2_ros.simulation.view import Intrinsics
from molmo2_ros.simulation.world import (
    CameraPose,
    Item,
    Scene,
    SceneObject,
    World,
    draw_categories,
    draw_colour,
    draw_room,
)

ELEVATIONS_DEG = (20.0, 32.0, 45.0, 58.0, 72.0)
NUM_AZIMUTHS = 12

_VERSION = 2  # of the pictures; another one in a cache file means: draw them again
_DISTANCE_M = 0.6
_SUPERSAMPLE = 2
_NUM_BACKGROUNDS = 200
_TEXTURE_PERIOD_M = 0.6

Floats = npt.NDArray[np.float64]


@dataclass(frozen=True, slots=True, kw_only=True)
class Sprites:
    """Cut-out objects, each seen from one side."""

    #: uint8 [S, P, P, 4]: RGB already multiplied by alpha, then alpha.
    images: npt.NDArray[np.uint8]
    #: int16 [S] indices into CATEGORIES.
    category: npt.NDArray[np.int16]
    #: int16 [S] indices into COLOUR_NAMES, or OWN_COLOUR.
    colour: npt.NDArray[np.int16]
    #: int16 [S] indices into ELEVATIONS_DEG.
    elevation: npt.NDArray[np.int16]
    #: float32 [S], side of the sprite over the object's distance: how large it looks.
    span: npt.NDArray[np.float32]
    #: float32 [S, 2], where the object's origin on the table is: x and y in 0..1 of the side.
    anchor: npt.NDArray[np.float32]

    @classmethod
    def render(cls, seed: int, *, variants: int = 4, side_px: int = 72) -> Sprites:
        """Draws them anew: measured 7 ms each, 60 for each of `variants` shapes a category."""
        world = World(seed, variants)
        rng = np.random.default_rng((seed, 1))
        drawn = [
            _draw(world, rng, category, shape, elevation, azimuth, side_px)
            for category in range(len(CATEGORIES))
            for shape in range(variants)
            for elevation in range(len(ELEVATIONS_DEG))
            for azimuth in range(NUM_AZIMUTHS)
        ]
        images, category, colour, elevation, span, anchor = zip(*drawn, strict=True)
        return cls(
            images=np.stack(images),
            category=np.array(category, np.int16),
            colour=np.array(colour, np.int16),
            elevation=np.array(elevation, np.int16),
            span=np.array(span, np.float32),
            anchor=np.array(anchor, np.float32),
        )

    @classmethod
    def cached(
        cls, path: Path | str, seed: int, *, variants: int = 4, side_px: int = 72
    ) -> Sprites:
        """Reads them from an npz file, or draws them and writes the file.

        Args:
            path: of the cache; drawn again if it holds other sprites than asked for.
            seed: decides the shapes.
            variants: shapes of each category.
            side_px: P.
        """
        path = Path(path)
        key = np.array([_VERSION, seed, variants, side_px])
        fields = ("images", "category", "colour", "elevation", "span", "anchor")
        if path.exists():
            with np.load(path) as stored:
                if np.array_equal(stored["key"], key):
                    return cls(**{name: stored[name] for name in fields})
        sprites = cls.render(seed, variants=variants, side_px=side_px)
        path.parent.mkdir(parents=True, exist_ok=True)
        # Another process may be reading or writing the same cache: replace it in one step.
        partial = path.with_name(f"{path.name}.{os.getpid()}")
        with partial.open("wb") as file:
            arrays = {name: getattr(sprites, name) for name in fields}
            np.savez_compressed(file, key=key, **arrays)
        partial.replace(path)
        return sprites


@dataclass(slots=True, kw_only=True)
class _Cutout:
    """One object of a clip: its sprite and where it stands at every frame."""

    image: npt.NDArray[np.uint8]
    span: float
    anchor: tuple[float, float]
    #: [T, 3] metres.
    positions: Floats
    #: bool [T].
    present: npt.NDArray[np.bool_]


@dataclass(slots=True, kw_only=True)
class _Backdrop:
    """Table, wall and light of a clip."""

    table: npt.NDArray[np.uint8]
    #: Texture pixels from metres on the table, [3, 3].
    texture_from_table: Floats
    wall: npt.NDArray[np.uint8]
    edge_y: float
    #: float32 [H, 1, 1] brightness of each row.
    shade: npt.NDArray[np.float32]
    #: Shear, squash and darkness of shadows.
    shadow: tuple[float, float, float]
    gain: float


@dataclass(slots=True, kw_only=True)
class _Board:
    """Something flat that passes between camera and table."""

    colour: npt.NDArray[np.float32]
    #: [4, 2] metres at the distance of the table, about its middle.
    corners: Floats
    #: [T, 2] pixels; NaN: not there.
    middle: Floats


class SpriteComposer:
    """Endless labelled stills and clips from sprites.

    Args:
        sprites: the cut-outs.
        rng: the only source of chance.
        size: width and height in pixels.
        aspect: width / height of the view that is squashed into `size`; None: square pixels.
    """

    def __init__(
        self,
        sprites: Sprites,
        rng: np.random.Generator,
        size: tuple[int, int] = (168, 168),
        aspect: float | None = None,
    ) -> None:
        self._sprites = sprites
        self._rng = rng
        self._size = size
        self._aspect = aspect
        self._textures = [draw_texture(rng) for _ in range(_NUM_BACKGROUNDS)]
        self._index: dict[tuple[int, int, int], npt.NDArray[np.intp]] = {}
        keys = np.stack([sprites.category, sprites.elevation, sprites.colour], axis=1)
        for category, elevation, colour in np.unique(keys, axis=0):
            match = np.all(keys == (category, elevation, colour), axis=1)
            self._index[int(category), int(elevation), int(colour)] = np.flatnonzero(match)

    def still(self, num_objects: int | None = None) -> LabelledClip:
        """One picture; measured 2 to 3 ms at 168 x 168."""
        return self.clip(1, num_objects)

    def clip(self, num_frames: int, num_objects: int | None = None) -> LabelledClip:
        """Pictures in motion, half of them with something going away or coming back.

        Args:
            num_frames: T; half a second apart.
            num_objects: None: mostly 3 to 7, at times 1 or 2.
        """
        rng = self._rng
        width, height = self._size
        if num_objects is None:
            few = rng.random() < 0.12
            num_objects = int(rng.integers(1, 3) if few else rng.integers(3, 8))
        elevation = int(rng.integers(len(ELEVATIONS_DEG)))
        cameras = self._camera_path(elevation, num_frames)
        lens = Intrinsics.from_view(width, height, rng.uniform(40, 52), self._aspect)
        objects, cutouts = self._draw_objects(elevation, num_frames, num_objects)
        boards: list[_Board] = []
        if num_frames > 1 and rng.random() < 0.85:
            for _ in range(int(rng.integers(2, 5))):
                self._hide_something(cutouts, cameras, lens, boards)
        backdrop = self._draw_backdrop()
        frames = np.empty((num_frames, height, width, 3), np.uint8)
        instances = np.zeros((num_frames, height, width), np.uint8)
        whole = np.zeros((num_frames, num_objects), np.int64)
        for t, camera in enumerate(cameras):
            image = _paint_backdrop(backdrop, camera, lens)
            whole[t] = _paste_all(image, instances[t], cutouts, t, camera, lens, backdrop)
            for board in boards:
                _paste_board(image, instances[t], board, t, lens, camera)
            tone = backdrop.gain * image + rng.normal(0, 4, 3).astype(np.float32)
            frames[t] = np.clip(tone, 0, 255)
        seen = np.stack(
            [np.bincount(ids.ravel(), minlength=num_objects + 1)[1:] for ids in instances]
        )
        fraction = (seen / np.maximum(whole, np.maximum(seen, 1))).astype(np.float32)
        for array in (frames, instances, fraction):
            array.setflags(write=False)
        return LabelledClip(
            frames=frames, instances=instances, visible_fraction=fraction, objects=objects
        )

    def _camera_path(self, elevation: int, num_frames: int) -> list[CameraPose]:
        rng = self._rng
        pace = float(rng.random() < 0.75)
        jitter = rng.normal(0, 0.05, 2)
        shift, zoom = rng.normal(0, 0.022, 2) * pace, rng.normal(0, 0.02) * pace
        tilt_deg = ELEVATIONS_DEG[elevation] + rng.uniform(-5, 5)
        distance = rng.uniform(0.45, 0.85)
        cameras = []
        for t in range(num_frames):
            place = jitter + t * shift + rng.normal(0, 0.003, 2) * pace
            cameras.append(
                CameraPose(
                    azimuth_deg=90.0,
                    elevation_deg=tilt_deg,
                    distance_m=float(np.clip(distance + t * zoom, 0.43, 0.88)),
                    look_at=np.array([place[0], place[1], 0.02]),
                )
            )
        return cameras

    def _draw_objects(
        self, elevation: int, num_frames: int, num_objects: int
    ) -> tuple[tuple[SceneObject, ...], list[_Cutout]]:
        rng, sprites = self._rng, self._sprites
        objects, picked = [], []
        for category in draw_categories(rng, num_objects):
            colour = draw_colour(rng, category)
            choice = self._index.get((category, elevation, colour))
            if choice is None:  # few variants: not every colour was drawn at every elevation
                choice = np.flatnonzero(
                    (sprites.category == category) & (sprites.elevation == elevation)
                )
            sprite = int(choice[rng.integers(len(choice))])
            picked.append(sprite)
            objects.append(SceneObject(category=category, colour=int(sprites.colour[sprite])))
        start = np.zeros((num_objects, 3))
        start[:, :2] = _draw_places(rng, num_objects)
        pace = float(rng.random() < 0.8)
        positions, _ = wander(start, rng, num_frames, pace)
        cutouts = []
        for j, sprite in enumerate(picked):
            mirrored = rng.random() < 0.5
            image = sprites.images[sprite]
            x, y = (float(a) for a in sprites.anchor[sprite])
            cutouts.append(
                _Cutout(
                    image=np.ascontiguousarray(image[:, ::-1]) if mirrored else image,
                    span=float(sprites.span[sprite]),
                    anchor=(1 - x if mirrored else x, y),
                    positions=positions[:, j].copy(),
                    present=np.ones(num_frames, bool),
                )
            )
        return tuple(objects), cutouts

    def _draw_backdrop(self) -> _Backdrop:
        rng = self._rng
        height = self._size[1]
        table, wall = (self._textures[i] for i in rng.choice(len(self._textures), 2, replace=False))
        scale = table.shape[0] / _TEXTURE_PERIOD_M
        place = rotation_z(rng.uniform(0, 360)) @ np.diag([scale, scale, 1.0])
        place[:2, 2] = rng.uniform(0, table.shape[0], 2)
        dimming = np.linspace(rng.uniform(0.75, 1.0), rng.uniform(0.85, 1.1), height)
        return _Backdrop(
            table=table,
            texture_from_table=place,
            wall=wall,
            edge_y=rng.uniform(0.3, 0.8),
            shade=dimming.astype(np.float32)[:, None, None],
            shadow=(rng.normal(0, 0.35), rng.uniform(0.3, 0.65), rng.uniform(0.25, 0.6)),
            gain=rng.uniform(0.8, 1.15),
        )

    def _hide_something(
        self,
        cutouts: list[_Cutout],
        cameras: list[CameraPose],
        lens: Intrinsics,
        boards: list[_Board],
    ) -> None:
        """Adds one event after which some object is out of sight for some frames."""
        rng = self._rng
        num_frames = len(cameras)
        away = draw_absence(rng, num_frames)
        target = cutouts[int(rng.integers(len(cutouts)))]
        sign = 1.0 if target.positions[0, 0] > cameras[0].look_at[0] else -1.0
        kind = int(rng.integers(4))
        if kind == 0:
            way = -sign * rng.uniform(0.35, 0.75) * cameras[0].distance_m
            for t, camera in enumerate(cameras):
                camera.look_at = camera.look_at + np.array([away[t] * way, 0, 0])
        elif kind == 1:
            angle = rng.uniform(-0.6, 0.6)
            way_xy = sign * rng.uniform(0.45, 0.8) * np.array([np.cos(angle), np.sin(angle)])
            target.positions[:, :2] += away[:, None] * way_xy
        elif kind == 2:
            target.positions[(away > 0) & (away < 1), 2] += rng.uniform(0.05, 0.2)
            target.present &= away < 1
            if rng.random() < 0.4:
                back = np.flatnonzero(away == 1)[-1] + 1
                target.positions[back:, :2] += rng.normal(0, 0.06, 2)
        else:
            self._add_board(target, away, cameras, lens, boards)

    def _add_board(
        self,
        target: _Cutout,
        away: Floats,
        cameras: list[CameraPose],
        lens: Intrinsics,
        boards: list[_Board],
    ) -> None:
        rng = self._rng
        half = rng.uniform((0.06, 0.05), (0.13, 0.10))
        square = np.array([(-1, -1), (1, -1), (1, 1), (-1, 1)]) * half
        corners = square @ rotation_z(rng.uniform(0, 360))[:2, :2] * rng.uniform(0.85, 1.0, (4, 2))
        angle = rng.uniform(np.radians(-10), np.radians(190))
        side = np.array([np.cos(angle), -np.sin(angle)])
        middle = np.full((len(cameras), 2), np.nan)
        for t in np.flatnonzero(away):
            point, _ = _project(target.positions[t] + np.array([0, 0, 0.03]), cameras[t], lens)
            middle[t] = point + (1 - away[t]) * 0.6 * self._size[1] * side
        tone = rng.uniform(20, 235) + rng.normal(0, 12, 3)
        boards.append(
            _Board(colour=np.clip(tone, 5, 250).astype(np.float32), corners=corners, middle=middle)
        )


def _draw(
    world: World,
    rng: np.random.Generator,
    category: int,
    shape: int,
    elevation: int,
    azimuth: int,
    side_px: int,
) -> tuple[npt.NDArray[np.uint8], int, int, int, float, tuple[float, float]]:
    """One sprite: image, category, colour, elevation, span, anchor."""
    colour = draw_colour(rng, category)
    item = world.make_item(rng, category, colour, shape)
    yaw_deg = 360 / NUM_AZIMUTHS * azimuth + rng.uniform(-12, 12)
    item.rotation = rotation_z(yaw_deg)
    camera = CameraPose(
        azimuth_deg=90.0,
        elevation_deg=ELEVATIONS_DEG[elevation] + rng.uniform(-5, 5),
        distance_m=_DISTANCE_M,
        look_at=item.rotation @ item.shape.centre,
    )
    half = _half_extent(item, camera)
    size = side_px * _SUPERSAMPLE
    lens = Intrinsics.from_view(size, size, float(np.degrees(2 * np.arctan(half))))
    scene = Scene(
        room=draw_room(rng, world.textures),
        camera=camera,
        objects=(SceneObject(category=category, colour=colour),),
        items=[item],
    )
    view = RayRenderer(lens, smooth=False).render(scene)
    mask = (view.instances > 0)[..., None]
    large = np.concatenate([view.rgb * mask, np.uint8(255) * mask], axis=2)
    small = cv2.resize(large, (side_px, side_px), interpolation=cv2.INTER_AREA)
    (x, y), _ = _project(np.zeros(3), camera, lens)
    image = np.asarray(small, np.uint8)
    return image, category, colour, elevation, 2 * half, (x / size, y / size)


def _half_extent(item: Item, camera: CameraPose) -> float:
    """Tangent of half the angle of a square view, about the middle, that shows the whole item."""
    corners = item.shape.corners @ item.rotation.T + item.position - camera.position
    x, y, z = (corners @ camera.rotation).T
    return 1.03 * float(max(np.abs(x / z).max(), np.abs(y / z).max()))


def _project(point: Floats, camera: CameraPose, lens: Intrinsics) -> tuple[Floats, float]:
    """Pixel (x, y) of a point [3] and its depth in metres."""
    x, y, z = (point - camera.position) @ camera.rotation
    pixel = np.array([lens.fx * x / z + lens.width / 2, lens.fy * y / z + lens.height / 2])
    return pixel, float(z)


def _draw_places(rng: np.random.Generator, num: int) -> Floats:
    places: list[Floats] = []
    for _ in range(num):
        for _attempt in range(20):
            place = rng.uniform((-0.27, -0.20), (0.27, 0.24))
            if all(np.linalg.norm(place - other) > 0.12 for other in places):
                break
        places.append(place)
    return np.array(places).reshape(num, 2)


def _paint_backdrop(
    backdrop: _Backdrop, camera: CameraPose, lens: Intrinsics
) -> npt.NDArray[np.float32]:
    """float32 [H, W, 3] in 0..255: the table in perspective, the wall behind its edge."""
    rotation = camera.rotation.T
    columns = np.stack([rotation[:, 0], rotation[:, 1], -rotation @ camera.position], axis=1)
    k = np.array([[lens.fx, 0, lens.width / 2], [0, lens.fy, lens.height / 2], [0, 0, 1]])
    texture_from_image = backdrop.texture_from_table @ np.linalg.inv(k @ columns)
    image = cv2.warpPerspective(
        backdrop.table,
        texture_from_image,
        (lens.width, lens.height),
        flags=cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP,
        borderMode=cv2.BORDER_WRAP,
    )
    edge = np.array([camera.look_at[0], backdrop.edge_y, 0.0])
    (_, row), depth = _project(edge, camera, lens)
    num_rows = int(np.clip(row, 0, lens.height)) if depth > 0 else 0
    if num_rows:
        image[:num_rows] = cv2.resize(backdrop.wall, (lens.width, lens.height))[:num_rows]
    return np.asarray(image, np.float32) * backdrop.shade


def _paste_all(
    image: npt.NDArray[np.float32],
    instances: npt.NDArray[np.uint8],
    cutouts: list[_Cutout],
    t: int,
    camera: CameraPose,
    lens: Intrinsics,
    backdrop: _Backdrop,
) -> npt.NDArray[np.int64]:
    """Pastes the objects, far ones first; returns [J] pixels that each would cover alone."""
    whole = np.zeros(len(cutouts), np.int64)
    placed = []
    for j, cutout in enumerate(cutouts):
        if not cutout.present[t]:
            continue
        point, depth = _project(cutout.positions[t], camera, lens)
        if depth < 0.12:
            continue
        width = round(cutout.span * lens.fx * _DISTANCE_M / depth)
        height = round(cutout.span * lens.fy * _DISTANCE_M / depth)
        left = round(point[0] - cutout.anchor[0] * width)
        top = round(point[1] - cutout.anchor[1] * height)
        if width >= 4 and height >= 4:
            placed.append((depth, j, left, top, width, height))
    for _, j, left, top, width, height in sorted(placed, reverse=True):
        cutout = cutouts[j]
        resized = cv2.resize(cutout.image, (width, height), interpolation=cv2.INTER_AREA)
        scaled = np.asarray(resized, np.uint8)
        solid = scaled[..., 3] > 127
        whole[j] = np.count_nonzero(solid)
        _paste_shadow(image, scaled[..., 3], left, top, cutout.anchor[1], backdrop.shadow)
        cut = _overlap(image.shape, left, top, scaled.shape)
        if cut is None:
            continue
        there, here = cut
        region, piece = image[there], scaled[here]
        region *= 1 - piece[..., 3:] * np.float32(1 / 255)
        region += piece[..., :3]
        instances[there][solid[here]] = j + 1
    return whole


def _paste_shadow(
    image: npt.NDArray[np.float32],
    alpha: npt.NDArray[np.uint8],
    left: int,
    top: int,
    anchor_y: float,
    shadow: tuple[float, float, float],
) -> None:
    """Darkens the table by the silhouette laid down about the foot of the object, blurred."""
    shear, squash, darkness = shadow
    height, width = alpha.shape
    foot = anchor_y * height
    margin = width // 2
    laid = np.array(
        [[1, shear, margin - shear * foot], [0, squash, (1 - squash) * foot + 1]], np.float32
    )
    cast = cv2.blur(cv2.warpAffine(alpha, laid, (width + 2 * margin, height)), (3, 3))
    cut = _overlap(image.shape, left - margin, top, cast.shape)
    if cut is not None:
        there, here = cut
        image[there] *= 1 - cast[here][..., None] * np.float32(darkness / 255)


def _paste_board(
    image: npt.NDArray[np.float32],
    instances: npt.NDArray[np.uint8],
    board: _Board,
    t: int,
    lens: Intrinsics,
    camera: CameraPose,
) -> None:
    middle = board.middle[t]
    if not np.isfinite(middle[0]):
        return
    scale = np.array([lens.fx, lens.fy]) / camera.distance_m
    polygon = np.round(middle + board.corners * scale).astype(np.int32)
    cv2.fillConvexPoly(image, polygon, [float(c) for c in board.colour], cv2.LINE_8)
    cv2.fillConvexPoly(instances, polygon, [0], cv2.LINE_8)


def _overlap(
    shape: tuple[int, ...], left: int, top: int, piece: tuple[int, ...]
) -> tuple[tuple[slice, slice], tuple[slice, slice]] | None:
    """Slices of the picture and of a piece placed at (left, top) where they meet."""
    first_x, first_y = max(left, 0), max(top, 0)
    last_x, last_y = min(left + piece[1], shape[1]), min(top + piece[0], shape[0])
    if first_x >= last_x or first_y >= last_y:
        return None
    there = (slice(first_y, last_y), slice(first_x, last_x))
    here = (slice(first_y - top, last_y - top), slice(first_x - left, last_x - left))
    return there, here

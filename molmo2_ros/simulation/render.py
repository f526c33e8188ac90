"""Pictures of a scene by ray casting: needs no GL, no display, no GPU.

Legend: N rays or samples, J objects, G parts of a shape, H and W of the picture. Colours and
vectors are kept as planes [3, N], which numpy works on fastest.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt

from molmo2_ros.simulation.view import (
    FIRST_PART,
    FLOOR,
    GLOSS,
    NOTHING,
    SHADOW_OFFSET_M,
    SHADOW_SHARE,
    SHININESS_LOG2,
    TABLE,
    TABLE_SIDE,
    TABLE_THICKNESS_M,
    TEXTURE_PERIOD_M,
    WALL,
    Intrinsics,
    Surfaces,
    View,
)
from molmo2_ros.simulation.world import FLOOR_Z, CameraPose, Item, Scene

Floats = npt.NDArray[np.float32]
Indices = npt.NDArray[np.intp]

_NEAR_M = 0.02
# Rotated grid: four rows and four columns for four samples.
_SUBPIXELS = np.array([(-0.125, -0.375), (0.375, -0.125), (0.125, 0.375), (-0.375, 0.125)])


@dataclass(slots=True)
class _Samples:
    """What N rays of the camera met first."""

    u: Floats
    v: Floats
    depth: Floats
    surface: npt.NDArray[np.int16]
    normal: Floats


@dataclass(frozen=True, slots=True)
class _Window:
    """Rectangle of normalised image coordinates that holds an item."""

    u_low: float
    u_high: float
    v_low: float
    v_high: float


class RayRenderer:
    """Draws scenes for one camera model.

    Args:
        intrinsics: of the picture.
        smooth: more rays at edges; False is faster and jagged.
        shadow_step: shadows are cast for every n-th column and row (edges always fully).
    """

    def __init__(
        self, intrinsics: Intrinsics, *, smooth: bool = True, shadow_step: int = 2
    ) -> None:
        self.name = "rays"
        self.intrinsics = intrinsics
        self._smooth = smooth
        self._shadow_step = shadow_step
        i = intrinsics
        self._columns = ((np.arange(i.width) + 0.5 - i.width / 2) / i.fx).astype(np.float32)
        self._rows = ((np.arange(i.height) + 0.5 - i.height / 2) / i.fy).astype(np.float32)
        u, v = np.meshgrid(self._columns, self._rows)
        self._u, self._v = np.ascontiguousarray(u.ravel()), np.ascontiguousarray(v.ravel())
        self._grid = np.arange(i.width * i.height).reshape(i.height, i.width)

    def render(self, scene: Scene) -> View:
        """Draws the scene as it is now."""
        frame = _Frame(scene)
        size = (self.intrinsics.height, self.intrinsics.width)
        samples, alone = frame.trace(self._u, self._v, self._inside)
        lit = self._shadows(frame, samples)
        rgb = frame.shade(samples, lit).T.reshape(*size, 3)
        surface = samples.surface.reshape(size)
        if self._smooth:
            self._smooth_edges(frame, surface, rgb)
        instances = frame.owner[samples.surface].reshape(size)
        return View(
            rgb=np.clip(rgb * 255 + 0.5, 0, 255).astype(np.uint8),
            instances=instances,
            depth_m=samples.depth.reshape(size),
            visible_fraction=self._visible_fraction(frame, instances, alone),
        )

    def close(self) -> None:
        """Nothing is held; here because every renderer can be closed."""

    def _inside(self, window: _Window) -> Indices:
        """Flat indices of the pixels in a window."""
        first_column, last_column, first_row, last_row = self._bounds(window)
        i = self.intrinsics
        return self._grid[
            max(first_row, 0) : max(min(last_row, i.height), 0),
            max(first_column, 0) : max(min(last_column, i.width), 0),
        ].ravel()

    def _bounds(self, window: _Window) -> tuple[int, int, int, int]:
        """First and last (exclusive) column and row; may lie outside the picture."""
        i = self.intrinsics
        return (
            int(np.floor(window.u_low * i.fx + i.width / 2 - 0.5)),
            int(np.ceil(window.u_high * i.fx + i.width / 2 + 0.5)),
            int(np.floor(window.v_low * i.fy + i.height / 2 - 0.5)),
            int(np.ceil(window.v_high * i.fy + i.height / 2 + 0.5)),
        )

    def _shadows(self, frame: _Frame, samples: _Samples) -> Floats:
        step = self._shadow_step
        if step == 1:
            return frame.lit(samples)
        coarse = self._grid[::step, ::step]
        lit = frame.lit(_subset(samples, coarse.ravel())).reshape(coarse.shape)
        # Sample i lies at pixel i * step, and not in the middle of its cell as resize takes it.
        height, width = self._grid.shape
        to_coarse = np.array([[1 / step, 0, 0], [0, 1 / step, 0]], np.float32)
        flags = cv2.INTER_LINEAR | cv2.WARP_INVERSE_MAP
        border = cv2.BORDER_REPLICATE
        fine = cv2.warpAffine(lit, to_coarse, (width, height), flags=flags, borderMode=border)
        return np.asarray(fine, np.float32).ravel()

    def _smooth_edges(
        self, frame: _Frame, surface: npt.NDArray[np.int16], rgb: npt.NDArray[np.float32]
    ) -> None:
        """Replaces, in place, the pixels where two surfaces meet by the mean of four samples."""
        edge = np.zeros(surface.shape, bool)
        across = surface[:, 1:] != surface[:, :-1]
        along = surface[1:] != surface[:-1]
        edge[:, 1:] |= across
        edge[:, :-1] |= across
        edge[1:] |= along
        edge[:-1] |= along
        rows, columns = np.nonzero(edge)
        if not len(rows):
            return
        i = self.intrinsics
        u = (self._columns[columns, None] + _SUBPIXELS[:, 0] / i.fx).astype(np.float32).ravel()
        v = (self._rows[rows, None] + _SUBPIXELS[:, 1] / i.fy).astype(np.float32).ravel()

        def inside(w: _Window) -> Indices:
            return np.flatnonzero((u > w.u_low) & (u < w.u_high) & (v > w.v_low) & (v < w.v_high))

        samples, _ = frame.trace(u, v, inside)
        colours = frame.shade(samples, frame.lit(samples))
        four = colours.reshape(3, len(rows), len(_SUBPIXELS))
        rgb[rows, columns] = (0.25 * (four[..., 0] + four[..., 1] + four[..., 2] + four[..., 3])).T

    def _visible_fraction(
        self, frame: _Frame, instances: npt.NDArray[np.uint8], alone: npt.NDArray[np.int64]
    ) -> npt.NDArray[np.float32]:
        """Seen pixels over those inside the picture if alone plus those beyond its border."""
        num = len(frame.scene.objects)
        seen = np.bincount(instances.ravel(), minlength=num + 1)[1:]
        fraction = np.zeros(num, np.float32)
        for j in (int(index) for index in np.flatnonzero(seen)):
            window = frame.windows[j]
            whole = alone[j] + (self._beyond(frame, j, window) if window else 0)
            fraction[j] = seen[j] / max(whole, seen[j])
        return fraction

    def _beyond(self, frame: _Frame, j: int, window: _Window) -> int:
        """Number of pixels that item j would cover outside the picture."""
        i = self.intrinsics
        first_column, last_column, first_row, last_row = self._bounds(window)
        columns = np.arange(max(first_column, -i.width), min(last_column, 2 * i.width))
        rows = np.arange(max(first_row, -i.height), min(last_row, 2 * i.height))
        outside = ~(
            ((columns >= 0) & (columns < i.width))[None]
            & ((rows >= 0) & (rows < i.height))[:, None]
        )
        at_row, at_column = np.nonzero(outside)
        if not len(at_row):
            return 0
        u = (columns[at_column] + 0.5 - i.width / 2) / i.fx
        v = (rows[at_row] + 0.5 - i.height / 2) / i.fy
        return int(np.count_nonzero(frame.cast(frame.drawn[j], u, v)[0] >= 0))


class _Frame:
    """A scene at the moment of one picture, with what is worked out once per picture."""

    def __init__(self, scene: Scene) -> None:
        self.scene = scene
        self.rotation = scene.camera.rotation
        self.origin = scene.camera.position
        surfaces = Surfaces(scene)
        self.drawn = surfaces.drawn
        self.windows = [_window(item, scene.camera) for item in self.drawn]
        self.owner = surfaces.owner
        self._first_code = surfaces.first_code
        self._palette = np.ascontiguousarray(surfaces.palette.T)

    def directions(self, u: Floats, v: Floats) -> Floats:
        """[3, N] world directions whose length along the optical axis is 1."""
        r = self.rotation.astype(np.float32)
        directions: Floats = r[:, 0, None] * u + r[:, 1, None] * v + r[:, 2, None]
        return directions

    def cast(
        self, item: Item, u: npt.NDArray[np.floating[Any]], v: npt.NDArray[np.floating[Any]]
    ) -> tuple[npt.NDArray[np.int32], npt.NDArray[np.float64], npt.NDArray[np.float64]]:
        """Part, depth and normal (of the item's own frame) that rays of the camera meet."""
        to_item = item.rotation.T
        turn = to_item @ self.rotation
        rays = np.empty((len(u), 3))
        for axis in range(3):
            rays[:, axis] = turn[axis, 0] * u + turn[axis, 1] * v + turn[axis, 2]
        return item.shape.cast(to_item @ (self.origin - item.position), rays)

    def trace(
        self, u: Floats, v: Floats, inside: Callable[[_Window], Indices]
    ) -> tuple[_Samples, npt.NDArray[np.int64]]:
        """First hits of the camera's rays, and for each item how many rays would meet it alone.

        Args:
            u: [N] x / z of each ray in the optical frame.
            v: [N] y / z.
            inside: indices of the rays in a window.
        """
        samples = self._background(u, v)
        alone = np.zeros(len(self.drawn), np.int64)
        for j, (item, window) in enumerate(zip(self.drawn, self.windows, strict=True)):
            if window is None:
                continue
            rays = inside(window)
            part, depth, normal = self.cast(item, u[rays], v[rays])
            hit = np.flatnonzero(part >= 0)
            alone[j] = len(hit)
            nearer = hit[depth[hit] < samples.depth[rays[hit]]]
            rays = rays[nearer]
            samples.depth[rays] = depth[nearer]
            samples.surface[rays] = part[nearer] + self._first_code[j]
            samples.normal[:, rays] = (item.rotation @ normal[nearer].T).astype(np.float32)
        samples.depth[samples.surface == NOTHING] = 0
        return samples, alone

    def _background(self, u: Floats, v: Floats) -> _Samples:
        """Table, floor and wall, which are planes and need no rays."""
        room, (ox, oy, oz) = self.scene.room, (float(c) for c in self.origin)
        dx, dy, dz = self.directions(u, v)
        num = len(u)
        depth = np.full(num, np.inf, np.float32)
        surface = np.zeros(num, np.int16)
        normal = np.zeros((3, num), np.float32)
        half_x, half_y = room.table_half
        with np.errstate(divide="ignore", invalid="ignore"):
            top = -oz / dz
            on_table = (
                (dz < 0) & (np.abs(ox + top * dx) < half_x) & (np.abs(oy + top * dy) < half_y)
            )
        surface[on_table] = TABLE
        depth[on_table] = top[on_table]
        normal[2] = 1
        rest = np.flatnonzero(~on_table)
        if not len(rest):
            return _Samples(u, v, depth, surface, normal)
        dx, dy, dz = dx[rest], dy[rest], dz[rest]
        with np.errstate(divide="ignore", invalid="ignore"):
            floor, wall = (FLOOR_Z - oz) / dz, (room.wall_y - oy) / dy
            floor[floor <= 0] = np.inf
            wall[wall <= 0] = np.inf
            is_wall = wall < floor
            near = np.minimum(wall, floor)
            surface[rest] = np.where(is_wall, WALL, np.where(np.isfinite(floor), FLOOR, 0))
            depth[rest] = near
            walls = rest[is_wall]
            normal[1, walls], normal[2, walls] = -1, 0
            for axis, origin, half, direction in (
                (0, ox, -half_x, dx),
                (0, ox, half_x, dx),
                (1, oy, -half_y, dy),
            ):
                if abs(origin) < abs(half) or origin * half < 0:
                    continue
                side = (half - origin) / direction
                z = oz + side * dz
                along = oy + side * dy if axis == 0 else ox + side * dx
                limit = half_y if axis == 0 else half_x
                met = (side > 0) & (z < 0) & (z > -TABLE_THICKNESS_M) & (np.abs(along) < limit)
                met &= side < depth[rest]
                sides = rest[met]
                surface[sides] = TABLE_SIDE
                depth[sides] = side[met]
                normal[:, sides] = 0
                normal[axis, sides] = np.sign(half)
        return _Samples(u, v, depth, surface, normal)

    def lit(self, samples: _Samples) -> Floats:
        """[N] 1 where the lamp is seen, 0 in shadow."""
        points = self.origin[:, None].astype(np.float32) + samples.depth * self.directions(
            samples.u, samples.v
        )
        points += SHADOW_OFFSET_M * samples.normal
        lamp = self.scene.room.lamp
        rays: Floats = points - lamp[:, None].astype(np.float32)
        # A face turned away from the lamp is dark without a shadow.
        away = _dot(rays, samples.normal) > 0
        lit = np.where(away, np.float32(0), np.float32(1))
        open_rays = np.flatnonzero(~away & (samples.surface > FLOOR))
        rays = rays[:, open_rays]
        length2 = _dot(rays, rays)
        for item in self.drawn:
            if not item.present:
                continue
            middle = (item.position + item.rotation @ item.shape.centre - lamp).astype(np.float32)
            # Distance of the item's middle from the way of the light.
            share = np.clip((middle @ rays) / length2, 0, 1)
            miss = middle[:, None] - share * rays
            close = np.flatnonzero(_dot(miss, miss) < item.shape.radius**2)
            to_item = item.rotation.T
            part, distance, _ = item.shape.cast(
                to_item @ (lamp - item.position), (to_item @ rays[:, close]).T, normals=False
            )
            # 1 is the point itself.
            blocked = (part >= 0) & (distance < SHADOW_SHARE)
            lit[open_rays[close[blocked]]] = 0
        return np.asarray(lit, np.float32)

    def shade(self, samples: _Samples, lit: Floats) -> Floats:
        """[3, N] colours in 0..1: ambient, light from the camera, lamp with gloss on objects."""
        room = self.scene.room
        direction = self.directions(samples.u, samples.v)
        points = self.origin[:, None].astype(np.float32) + samples.depth * direction
        colour = self._surface_colour(samples, points)
        view = np.asarray(direction / -np.sqrt(_dot(direction, direction)), np.float32)
        facing = _dot(view, samples.normal)
        to_lamp: Floats = room.lamp[:, None].astype(np.float32) - points
        to_lamp /= np.sqrt(_dot(to_lamp, to_lamp))
        # A mesh may be met from behind (inside of a mug): turn its normal to the viewer.
        turn = np.sign(facing)
        lamp = lit * np.clip(_dot(to_lamp, samples.normal) * turn, 0, 1)
        light = room.ambient + room.headlight * np.abs(facing)
        image = colour * (light + room.lamp_colour[:, None].astype(np.float32) * lamp)
        glossy = np.flatnonzero(samples.surface >= FIRST_PART)
        middle: Floats = to_lamp[:, glossy] + view[:, glossy]
        middle /= np.sqrt(_dot(middle, middle)) + 1e-9
        shine = np.abs(_dot(middle, samples.normal[:, glossy]))
        for _ in range(SHININESS_LOG2):
            shine *= shine
        image[:, glossy] += np.float32(GLOSS) * lit[glossy] * shine
        return np.asarray(image, np.float32)

    def _surface_colour(self, samples: _Samples, points: Floats) -> Floats:
        room = self.scene.room
        colour = np.take(self._palette, samples.surface, axis=1)
        angle = np.radians(room.table_turn_deg)
        cosine, sine = np.float32(np.cos(angle)), np.float32(np.sin(angle))
        for code, texture in ((FLOOR, room.floor), (TABLE, room.table), (WALL, room.wall)):
            where = np.flatnonzero(samples.surface == code)
            if not len(where):
                continue
            x, y, z = points[:, where]
            if code == WALL:
                across, along = x, z
            else:
                across, along = cosine * x + sine * y, cosine * y - sine * x
            colour[:, where] = _sample(texture, across, along)
        return colour


def _window(item: Item, camera: CameraPose) -> _Window | None:
    """Where the picture can show the item at all; None: nowhere."""
    if not item.present:
        return None
    corners = item.shape.corners @ item.rotation.T + item.position - camera.position
    x, y, z = (corners @ camera.rotation).T
    if z.max() < _NEAR_M:
        return None
    if z.min() < _NEAR_M:
        return _Window(-4.0, 4.0, -4.0, 4.0)
    return _Window((x / z).min(), (x / z).max(), (y / z).min(), (y / z).max())


def _dot(a: Floats, b: Floats) -> Floats:
    """[N] inner products of planes [3, N]; reducing over the short axis costs twice as much."""
    return np.asarray(a[0] * b[0] + a[1] * b[1] + a[2] * b[2], np.float32)


def _subset(samples: _Samples, index: Indices) -> _Samples:
    return _Samples(
        samples.u[index],
        samples.v[index],
        samples.depth[index],
        samples.surface[index],
        samples.normal[:, index],
    )


def _sample(texture: npt.NDArray[np.uint8], x: Floats, y: Floats) -> Floats:
    """[3, N] bilinear colours in 0..1 of a texture that repeats every TEXTURE_PERIOD_M."""
    num, width = len(x), 128  # remap refuses rows of more than 32767
    scale = np.float32(texture.shape[0] / TEXTURE_PERIOD_M)
    limit = np.float32(16000)
    maps = np.zeros((2, -(-num // width) * width), np.float32)
    np.clip(x * scale, -limit, limit, out=maps[0, :num])
    np.clip(y * scale, -limit, limit, out=maps[1, :num])
    across, along = maps.reshape(2, -1, width)
    picked = cv2.remap(texture, across, along, cv2.INTER_LINEAR, borderMode=cv2.BORDER_WRAP)
    return np.asarray(picked.reshape(-1, 3)[:num].T * np.float32(1 / 255), np.float32)

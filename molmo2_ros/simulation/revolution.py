"""Surfaces of revolution met by rays in closed form: smooth, and ten times cheaper than a mesh.

Legend: N rays, K segments of the profile, each a piece of a cone, a cylinder or a flat ring.
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import numpy.typing as npt

Floats = npt.NDArray[np.float64]

_SMOOTH = np.cos(np.radians(40))  # profiles that bend less than this look round
_FLAT = 1e-4  # rise over run of a segment that counts as a flat ring
_SLACK_M = 1e-9  # so that no ray slips between two segments


class Revolution:
    """A profile turned about the z axis.

    Args:
        profile: (radius, z) points in metres; the solid lies to the left of the pencil that draws
            them, so that a cup's outside is drawn upwards and its inside downwards.

    Attributes:
        start: [K, 2] (radius, z) where each segment begins, metres.
        end: [K, 2] where it ends.
        start_normal: [K, 2] radial and axial part of its outward normal where it begins.
        end_normal: [K, 2] where it ends; the same as the next one's beginning if that looks round.
        radius: the largest, metres.
        z_range: lowest and highest z, metres.
    """

    def __init__(self, profile: Sequence[tuple[float, float]]) -> None:
        points = np.asarray(profile, float)
        points = points[np.append(True, np.any(np.diff(points, axis=0) != 0, axis=1))]
        self.start, self.end = points[:-1], points[1:]
        self.radius = float(points[:, 0].max())
        self.z_range = float(points[:, 1].min()), float(points[:, 1].max())
        step = self.end - self.start
        normal = np.stack([step[:, 1], -step[:, 0]], axis=1)
        normal /= np.linalg.norm(normal, axis=1, keepdims=True)
        self.start_normal, self.end_normal = normal.copy(), normal.copy()
        for k in range(len(normal) - 1):
            if normal[k] @ normal[k + 1] > _SMOOTH:
                mean = normal[k] + normal[k + 1]
                mean /= np.linalg.norm(mean)
                self.end_normal[k] = self.start_normal[k + 1] = mean

    def cast(
        self, origin: Floats, directions: Floats, *, normals: bool = True
    ) -> tuple[Floats, Floats]:
        """First hits of rays from one point.

        Args:
            origin: [3] metres.
            directions: [3, N], of any length.
            normals: False leaves the normals zero, which is faster.

        Returns:
            distance [N] in units of the length of the direction (inf: missed), normal [3, N].
        """
        num = directions.shape[1]
        distance, normal = np.full(num, np.inf), np.zeros((3, num))
        (ox, oy, oz), (dx, dy, dz) = (float(c) for c in origin), directions
        # |(x, y)|^2 along the ray is spread t^2 + 2 approach t + reach.
        spread, approach = dx * dx + dy * dy, ox * dx + oy * dy
        reach = ox * ox + oy * oy
        near = approach * approach - spread * (reach - self.radius**2) >= 0
        rays = np.flatnonzero(near)
        dz, spread, approach = dz[rays], spread[rays], approach[rays]
        best = np.full(len(rays), np.inf)
        segment = np.zeros(len(rays), np.intp)
        with np.errstate(divide="ignore", invalid="ignore"):
            for k in range(len(self.start)):
                for t in self._crossings(k, oz, dz, spread, approach, reach):
                    nearer = (t < best) & (t > 0)
                    best[nearer] = t[nearer]
                    segment[nearer] = k
        met = np.flatnonzero(np.isfinite(best))
        rays, t, segment = rays[met], best[met], segment[met]
        distance[rays] = t
        if not normals:
            return distance, normal
        x, y = ox + t * dx[rays], oy + t * dy[rays]
        z = oz + t * directions[2, rays]
        normal[:, rays] = self._normals(segment, x, y, z)
        return distance, normal

    def _crossings(
        self, k: int, oz: float, dz: Floats, spread: Floats, approach: Floats, reach: float
    ) -> list[Floats]:
        """Where rays cross segment k: one or two [N] distances, NaN or inf where they do not."""
        (r0, z0), (r1, z1) = self.start[k], self.end[k]
        if abs(z1 - z0) <= _FLAT * abs(r1 - r0):
            t = (z0 - oz) / dz
            square = reach + t * (2 * approach + t * spread)
            low, high = min(r0, r1), max(r0, r1)
            inside = (square >= low * low - _SLACK_M) & (square <= high * high + _SLACK_M)
            return [np.where(inside, t, np.inf)]
        slope = (r1 - r0) / (z1 - z0)
        width = r0 + slope * (oz - z0)  # of the cone at the height of the origin
        a = spread - (slope * slope) * dz * dz
        b = approach - (slope * width) * dz
        root = np.sqrt(b * b - a * (reach - width * width))
        low, high = min(z0, z1) - _SLACK_M, max(z0, z1) + _SLACK_M
        found = []
        for t in ((-b - root) / a, (root - b) / a):
            z = oz + t * dz
            found.append(np.where((z >= low) & (z <= high), t, np.inf))
        return found

    def _normals(self, segment: npt.NDArray[np.intp], x: Floats, y: Floats, z: Floats) -> Floats:
        radius = np.sqrt(x * x + y * y)
        start, end = self.start[segment], self.end[segment]
        along = end - start
        run = (radius - start[:, 0]) * along[:, 0] + (z - start[:, 1]) * along[:, 1]
        share = np.clip(run / (along * along).sum(axis=1), 0, 1)[:, None]
        mixed = (1 - share) * self.start_normal[segment] + share * self.end_normal[segment]
        mixed /= np.linalg.norm(mixed, axis=1, keepdims=True)
        outward = mixed[:, 0] / np.maximum(radius, 1e-12)
        normal = np.stack([outward * x, outward * y, mixed[:, 1]])
        return np.asarray(normal / np.linalg.norm(normal, axis=0))  # on the axis only z is left

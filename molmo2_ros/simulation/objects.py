"""Twenty-two everyday objects built from code: what they are called and what they are made of.

Lengths are metres. An object stands on z = 0, near the origin, as it would lie on a table. No asset
is loaded: every draw has its own proportions, so that a model learns the category and not one mesh.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np
import numpy.typing as npt

Rgb = tuple[float, float, float]
Shape = Literal["mesh", "revolution", "box", "sphere", "capsule", "cylinder", "ellipsoid"]
Points = Sequence[tuple[float, float]]
Build = Callable[[np.random.Generator], "tuple[Part, ...]"]

COLOURS: dict[str, Rgb] = {
    "red": (0.80, 0.10, 0.10),
    "green": (0.12, 0.60, 0.20),
    "blue": (0.10, 0.28, 0.80),
    "yellow": (0.93, 0.80, 0.10),
    "orange": (0.95, 0.50, 0.08),
    "purple": (0.50, 0.20, 0.65),
    "white": (0.92, 0.92, 0.90),
}
COLOUR_NAMES: tuple[str, ...] = tuple(COLOURS)
OWN_COLOUR = -1  # colour index of a category that has a fixed colour of its own

_CHALK = (0.93, 0.92, 0.90)
_BLACK = (0.08, 0.08, 0.09)
_STEEL = (0.60, 0.62, 0.65)
_LEAF = (0.20, 0.50, 0.15)


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """One convex primitive, one triangle mesh or one surface of revolution of an object."""

    shape: Shape
    #: Half sizes of a primitive as MuJoCo wants them, metres; empty for the others.
    size: tuple[float, ...] = ()
    #: [V, 3] metres; only of a mesh.
    vertices: npt.NDArray[np.float64] | None = None
    #: [F, 3] indices into vertices; only of a mesh.
    faces: npt.NDArray[np.int64] | None = None
    #: (radius, z) points in metres; only of a surface of revolution.
    profile: tuple[tuple[float, float], ...] = ()
    position: tuple[float, float, float] = (0.0, 0.0, 0.0)
    #: Rotations about the fixed x, y, z axes, in this order, degrees.
    euler_deg: tuple[float, float, float] = (0.0, 0.0, 0.0)
    #: None: painted in the colour of the instance.
    colour: Rgb | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Category:
    """A kind of object: its words, its possible colours, and how to build one."""

    name: str
    noun: str
    plural: str
    #: Indices into COLOUR_NAMES; empty: the category has its own colour.
    colours: tuple[int, ...]
    build: Build

    def label(self, colour: int) -> str:
        """Name of one instance, as a person would say it: "red mug", "lemon"."""
        return self.noun if colour == OWN_COLOUR else f"{COLOUR_NAMES[colour]} {self.noun}"


# --- meshes ------------------------------------------------------------------------------------


def lathe(profile: Points) -> Part:
    """A profile turned about z.

    Args:
        profile: (radius, z) points in metres, drawn with the solid to the left of the pencil.
    """
    points = tuple((float(radius), float(z)) for radius, z in profile)
    return Part(shape="revolution", profile=points)


def sweep(path: npt.NDArray[np.float64], radius: npt.ArrayLike, num_sides: int = 12) -> Part:
    """Mesh of a disc of varying radius carried along a path, closed at both ends.

    Args:
        path: [K, 3] metres.
        radius: one number or [K], metres.
        num_sides: facets round the path.
    """
    radii = np.broadcast_to(np.asarray(radius, float), len(path))
    tangent = np.gradient(path, axis=0)
    if np.allclose(path[0], path[-1]):
        tangent[0] = tangent[-1] = tangent[0] + tangent[-1]
    tangent /= np.linalg.norm(tangent, axis=1, keepdims=True) + 1e-9
    # The reference must not be parallel to the path: the normal of a plane curve never is.
    flat = np.ptp(path, axis=0).argmin()
    across = np.eye(3)[flat]
    angle = np.linspace(0, 2 * np.pi, num_sides, endpoint=False)
    rings = []
    for point, direction, r in zip(path, tangent, radii, strict=True):
        side = np.cross(across, direction)
        side /= np.linalg.norm(side) + 1e-9
        up = np.cross(direction, side)
        rings.append(point + r * (np.outer(np.cos(angle), side) + np.outer(np.sin(angle), up)))
    if not np.allclose(path[0], path[-1]):
        start, end = np.repeat(path[:1], num_sides, 0), np.repeat(path[-1:], num_sides, 0)
        rings = [start, *rings, end]
    return _tube(rings)


def arc(
    radius: float,
    start: float = 0.0,
    end: float = 2 * np.pi,
    num_points: int = 24,
    plane: Literal["xy", "xz"] = "xy",
) -> npt.NDArray[np.float64]:
    """[K, 3] points of a circle about the origin, angles in radians from +x."""
    angle = np.linspace(start, end, num_points)
    first, second = radius * np.cos(angle), radius * np.sin(angle)
    zero = np.zeros_like(angle)
    order = (first, second, zero) if plane == "xy" else (first, zero, second)
    return np.stack(order, axis=1)


def extrude(outline: Points, height: float) -> Part:
    """Mesh of a polygon (counter-clockwise, metres) pulled up along z, centred on z = 0."""
    polygon = np.asarray(outline, float)
    num = len(polygon)
    low = np.column_stack([polygon, np.full(num, -height / 2)])
    high = np.column_stack([polygon, np.full(num, height / 2)])
    here = np.arange(num)
    there = (here + 1) % num
    walls = np.concatenate(
        [
            np.stack([here, there, num + there], axis=1),
            np.stack([here, num + there, num + here], axis=1),
        ]
    )
    lid = np.asarray(_triangles(polygon))
    return _mesh(np.concatenate([low, high]), np.concatenate([walls, lid[:, ::-1], lid + num]))


def _tube(rings: list[npt.NDArray[np.float64]]) -> Part:
    """Joins neighbouring rings of equally many points by two triangles per side."""
    num = len(rings[0])
    here = np.arange(num)
    there = (here + 1) % num
    faces = []
    for low in range(0, num * (len(rings) - 1), num):
        high = low + num
        faces.append(np.stack([low + here, low + there, high + there], axis=1))
        faces.append(np.stack([low + here, high + there, high + here], axis=1))
    return _mesh(np.concatenate(rings), np.concatenate(faces))


def _mesh(vertices: npt.NDArray[np.float64], faces: npt.NDArray[np.int64]) -> Part:
    """Merges equal vertices and drops the triangles that have become lines."""
    keys = np.round(vertices / 1e-6).astype(np.int64)
    _, first, inverse = np.unique(keys, axis=0, return_index=True, return_inverse=True)
    merged = inverse.ravel()[faces]
    proper = (
        (merged[:, 0] != merged[:, 1])
        & (merged[:, 1] != merged[:, 2])
        & (merged[:, 2] != merged[:, 0])
    )
    return Part(shape="mesh", vertices=vertices[first], faces=merged[proper])


def _triangles(polygon: npt.NDArray[np.float64]) -> list[tuple[int, int, int]]:
    """Ear clipping of a simple counter-clockwise polygon."""

    def turn(a: int, b: int, c: int) -> float:
        (ax, ay), (bx, by), (cx, cy) = polygon[a], polygon[b], polygon[c]
        return float((bx - ax) * (cy - ay) - (by - ay) * (cx - ax))

    def is_ear(a: int, b: int, c: int) -> bool:
        others = (q for q in left if q not in (a, b, c))
        return turn(a, b, c) > 1e-12 and not any(
            turn(a, b, q) >= 0 and turn(b, c, q) >= 0 and turn(c, a, q) >= 0 for q in others
        )

    left = list(range(len(polygon)))
    found: list[tuple[int, int, int]] = []
    while len(left) > 3:
        for i in range(len(left)):
            corner = (left[i - 1], left[i], left[(i + 1) % len(left)])
            if is_ear(*corner):
                found.append(corner)
                left.pop(i)
                break
        else:
            break
    return [*found, (left[0], left[1], left[2])]


# --- placing parts -----------------------------------------------------------------------------

Vector = tuple[float, float, float]


def _put(
    part: Part,
    position: Vector = (0, 0, 0),
    euler_deg: Vector = (0, 0, 0),
    colour: Rgb | None = None,
) -> Part:
    return replace(part, position=position, euler_deg=euler_deg, colour=colour)


def _solid(
    shape: Shape,
    size: tuple[float, ...],
    position: Vector = (0, 0, 0),
    euler_deg: Vector = (0, 0, 0),
    colour: Rgb | None = None,
) -> Part:
    return Part(shape=shape, size=size, position=position, euler_deg=euler_deg, colour=colour)


def _scaled(build: Build, factor: float) -> Build:
    """The same object, larger: what covered too few pixels was seldom learned."""

    def enlarge(part: Part) -> Part:
        x, y, z = part.position
        vertices = part.vertices
        return replace(
            part,
            size=tuple(factor * s for s in part.size),
            vertices=None if vertices is None else vertices * factor,
            profile=tuple((factor * r, factor * h) for r, h in part.profile),
            position=(factor * x, factor * y, factor * z),
        )

    return lambda rng: tuple(enlarge(part) for part in build(rng))


# --- the objects -------------------------------------------------------------------------------


def _cone(rng: np.random.Generator) -> tuple[Part, ...]:
    orange, height = (0.95, 0.35, 0.05), rng.uniform(0.12, 0.14)

    def radius(z: float) -> float:
        return float(0.045 * (1 - z / height) + 0.006)

    body = [(radius(0.006), 0.006), (radius(height), height), (0, height)]
    band = [(radius(z) * 1.03, z) for z in (0.35 * height, 0.62 * height)]
    return (
        _solid("box", (0.055, 0.055, 0.004), (0, 0, 0.004), colour=orange),
        _put(lathe(body), colour=orange),
        _put(lathe(band), colour=_CHALK),
    )


def _phone(rng: np.random.Generator) -> tuple[Part, ...]:
    length, width = rng.uniform(0.068, 0.076), rng.uniform(0.034, 0.038)
    return (
        _solid("box", (length, width, 0.004), (0, 0, 0.004), colour=_BLACK),
        _solid(
            "box",
            (length - 0.006, width - 0.003, 0.0006),
            (0, 0, 0.0084),
            colour=(0.25, 0.45, 0.75),
        ),
    )


def _plant(rng: np.random.Generator) -> tuple[Part, ...]:
    pot = [(0, 0), (0.03, 0), (0.043, 0.065), (0.046, 0.065)]
    pot += [(0.046, 0.075), (0.038, 0.075), (0.036, 0.06), (0, 0.06)]
    parts = [_put(lathe(pot), colour=(0.70, 0.32, 0.18))]
    turn, leaf = rng.uniform(0, 2 * np.pi), rng.uniform(0.036, 0.044)
    for i in range(9):
        angle = turn + 2.4 * i
        parts.append(
            _solid(
                "ellipsoid",
                (0.011, 0.004, leaf),
                (0.022 * np.cos(angle), 0.022 * np.sin(angle), 0.11),
                (0, (25 + 4 * i) * 0.7, float(np.degrees(angle))),
                (0.15 + 0.05 * (i % 3), 0.45 + 0.08 * (i % 2), 0.12),
            )
        )
    return tuple(parts)


def _cardboard_box(rng: np.random.Generator) -> tuple[Part, ...]:
    x, y, z = rng.uniform(0.06, 0.08), rng.uniform(0.045, 0.07), rng.uniform(0.03, 0.05)
    tape = (x * 1.005, 0.009, z * 1.005)
    return (
        _solid("box", (x, y, z), (0, 0, z), colour=(0.68, 0.50, 0.31)),
        _solid("box", tape, (0, 0, z), colour=(0.85, 0.75, 0.55)),
    )


def _duck(rng: np.random.Generator) -> tuple[Part, ...]:
    yellow, head = (0.97, 0.80, 0.10), rng.uniform(0.024, 0.028)
    eyes = [_solid("sphere", (0.005,), (0.048, s * 0.014, 0.085), colour=_BLACK) for s in (1, -1)]
    return (
        _solid("ellipsoid", (0.05, 0.036, 0.032), (0, 0, 0.032), colour=yellow),
        _solid("sphere", (head,), (0.03, 0, 0.075), colour=yellow),
        _solid("ellipsoid", (0.016, 0.011, 0.005), (0.06, 0, 0.072), colour=(0.95, 0.45, 0.05)),
        *eyes,
        _solid("ellipsoid", (0.018, 0.016, 0.01), (-0.05, 0, 0.05), (0, 30, 0), yellow),
    )


def _carrot(rng: np.random.Generator) -> tuple[Part, ...]:
    length = rng.uniform(0.13, 0.16)
    root = [(0, -length / 2), (0.009, -0.45 * length), (0.023, 0.40 * length)]
    root += [(0.016, length / 2), (0, length / 2)]
    leaves = [
        _solid("capsule", (0.006, 0.024), (length / 2 + 0.02, y, 0.025), (0, 90, bend), _LEAF)
        for y, bend in ((-0.009, -25), (0, 0), (0.009, 25))
    ]
    body = _put(lathe(root), (0, 0, 0.023), (0, 90, 0), (0.93, 0.45, 0.10))
    return (body, *leaves)


def _teddy(rng: np.random.Generator) -> tuple[Part, ...]:
    fur, light, head = (0.60, 0.38, 0.20), (0.82, 0.65, 0.45), rng.uniform(0.028, 0.032)
    reach = rng.uniform(0.039, 0.045)
    parts = [
        _solid("ellipsoid", (0.034, 0.037, 0.042), (0, 0, 0.05), colour=fur),
        _solid("sphere", (head,), (0, 0, 0.11), colour=fur),
        _solid("ellipsoid", (0.012, 0.015, 0.012), (0.026, 0, 0.102), colour=light),
        _solid("sphere", (0.005,), (0.038, 0, 0.106), colour=_BLACK),
        _solid("ellipsoid", (0.01, 0.024, 0.028), (0.028, 0, 0.05), colour=light),
    ]
    for s in (1, -1):
        parts += [
            _solid("sphere", (0.012,), (0, s * 0.024, 0.134), colour=fur),
            _solid("sphere", (0.0045,), (0.026, s * 0.011, 0.12), colour=_BLACK),
            _solid("capsule", (0.012, 0.018), (0.012, s * reach, 0.065), (s * 50, 0, 0), fur),
            _solid("capsule", (0.014, 0.015), (0.03, s * 0.026, 0.016), (0, 80, s * 15), fur),
        ]
    return tuple(parts)


def _banana(rng: np.random.Generator) -> tuple[Part, ...]:
    angle, bend = np.linspace(-1.05, 1.05, 15), rng.uniform(0.078, 0.092)
    rest = np.full(15, 0.0175)
    path = np.stack([bend * np.sin(angle), bend - bend * np.cos(angle), rest], axis=1)
    radius = 0.0175 * np.clip(1.3 * np.cos(1.2 * angle), 0.28, 1)
    stalk = (bend * np.sin(1.12), bend - bend * np.cos(1.12) + 0.004, 0.0175)
    return (
        _put(sweep(path, radius), colour=(0.93, 0.78, 0.15)),
        _solid("capsule", (0.005, 0.008), stalk, (0, 90, 50), (0.40, 0.28, 0.10)),
    )


def _mushroom(rng: np.random.Generator) -> tuple[Part, ...]:
    angle, cap = np.linspace(0, np.pi / 2, 7), rng.uniform(0.042, 0.048)
    dome = [(cap * np.cos(a), 0.04 + 0.04 * np.sin(a)) for a in angle]
    turn = rng.uniform(0, 2 * np.pi)
    dots = [
        _solid("sphere", (0.007,), (0.028 * np.cos(a), 0.028 * np.sin(a), 0.07), colour=_CHALK)
        for a in turn + np.pi / 2 * np.arange(4)
    ]
    return (
        _put(lathe([(0, 0), (0.016, 0), (0.013, 0.045), (0, 0.045)]), colour=_CHALK),
        _put(lathe([(0, 0.04), *dome]), colour=(0.80, 0.12, 0.10)),
        *dots,
        _solid("sphere", (0.007,), (0, 0, 0.08), colour=_CHALK),
    )


def _wrench(rng: np.random.Generator) -> tuple[Part, ...]:
    length, grip = rng.uniform(0.055, 0.065), 0.0135

    def jaw(start: float, end: float) -> list[tuple[float, float]]:
        angle = np.linspace(start, end, 9)
        return [(0.07 + 0.029 * np.cos(a), 0.029 * np.sin(a)) for a in angle]

    gap = [(0.079, -0.012), (0.064, -0.007), (0.064, 0.007), (0.079, 0.012)]
    outline = [(-length, -grip), (0.046, -grip), *jaw(-2.6, -0.5), *gap, *jaw(0.5, 2.6)]
    outline += [(0.046, grip), (-length, grip)]
    ring = sweep(arc(0.019, num_points=20), 0.009, 8)
    return (
        _put(extrude(outline, 0.013), (0, 0, 0.0075), colour=_STEEL),
        _put(ring, (-0.014 - length, 0, 0.009), colour=_STEEL),
    )


def _remote(rng: np.random.Generator) -> tuple[Part, ...]:
    grey, width = (0.75, 0.75, 0.75), rng.uniform(0.021, 0.025)
    buttons = [
        _solid("cylinder", (0.0042, 0.0015), (x, y, 0.0165), colour=grey)
        for x in (-0.055, -0.035, -0.015, 0.005)
        for y in (-0.011, 0, 0.011)
    ]
    return (
        _solid("box", (0.08, width, 0.008), (0, 0, 0.008), colour=(0.15, 0.15, 0.17)),
        _solid("cylinder", (0.006, 0.002), (0.062, 0, 0.017), colour=(0.80, 0.10, 0.10)),
        *buttons,
        _solid("cylinder", (0.011, 0.0015), (0.033, 0, 0.0165), colour=grey),
    )


def _lemon(rng: np.random.Generator) -> tuple[Part, ...]:
    k = rng.uniform(0.94, 1.06)
    half = [(0, -0.046), (0.006, -0.04), (0.02, -0.028), (0.027, -0.01), (0.028, 0.005)]
    half += [(0.022, 0.025), (0.008, 0.036), (0.005, 0.043), (0, 0.045)]
    skin = lathe([(r, z * k) for r, z in half])
    return (_put(skin, (0, 0, 0.028), (0, 90, 0), (0.95, 0.85, 0.20)),)


def _apple(rng: np.random.Generator) -> tuple[Part, ...]:
    r = rng.uniform(0.034, 0.040)
    skin = ((0.75, 0.08, 0.08), (0.45, 0.65, 0.15))[int(rng.integers(2))]
    half = [(0, 0.1), (0.35, 0), (0.8, 0.35), (1, 1), (0.9, 1.5), (0.5, 1.78), (0.15, 1.65)]
    half += [(0, 1.5)]
    return (
        _put(lathe([(a * r, z * r) for a, z in half]), colour=skin),
        _solid("capsule", (0.003, 0.012), (0, 0, 1.75 * r), (15, 0, 0), (0.30, 0.20, 0.10)),
        _solid("ellipsoid", (0.014, 0.007, 0.002), (0.012, 0, 1.9 * r), (0, -20, 0), _LEAF),
    )


def _plate(rng: np.random.Generator) -> tuple[Part, ...]:
    r = rng.uniform(0.090, 0.115)
    dish = [(0, 0), (0.6 * r, 0), (r, 0.016), (r - 0.003, 0.019), (0.6 * r, 0.005), (0, 0.005)]
    rim = [(0.97 * r, 0.0187), (0.85 * r, 0.0157), (0.83 * r, 0.0147), (0.83 * r, 0.0137)]
    return (_put(lathe(dish)), _put(lathe(rim), colour=(0.20, 0.30, 0.60)))


def _wine_glass(rng: np.random.Generator) -> tuple[Part, ...]:
    k = rng.uniform(0.92, 1.08)
    half = [(0, 0), (0.032, 0), (0.032, 0.003), (0.005, 0.008), (0.005, 0.07), (0.025, 0.085)]
    half += [(0.034, 0.11), (0.029, 0.155), (0.027, 0.155), (0.031, 0.11), (0.02, 0.088)]
    half += [(0, 0.082)]
    return (_put(lathe([(r * k, z) for r, z in half]), colour=(0.75, 0.85, 0.90)),)


def _book(rng: np.random.Generator) -> tuple[Part, ...]:
    x, y, z = rng.uniform(0.070, 0.085), rng.uniform(0.050, 0.060), rng.uniform(0.010, 0.017)
    lid = 2 * z + 0.0032
    return (
        _solid("box", (x, y, 0.0015), (0, 0, 0.0015)),
        _solid("box", (x, y, 0.0015), (0, 0, 2 * z + 0.0015)),
        _solid("box", (0.96 * x, 0.95 * y, z), (0.002, 0, z + 0.001), colour=_CHALK),
        _solid("box", (0.0018, y, z), (-x, 0, z)),
        _solid("box", (0.5 * x, 0.12 * y, 0.0004), (0, 0.35 * y, lid), colour=_CHALK),
        _solid("box", (0.3 * x, 0.06 * y, 0.0004), (0, -0.2 * y, lid), colour=_CHALK),
    )


def _bottle(rng: np.random.Generator) -> tuple[Part, ...]:
    r, h = rng.uniform(0.030, 0.036), rng.uniform(0.19, 0.23)
    body = [(0, 0), (r, 0), (r, 0.58 * h), (0.8 * r, 0.67 * h), (0.38 * r, 0.76 * h)]
    body += [(0.36 * r, 0.93 * h), (0, 0.93 * h)]
    cap = _CHALK if rng.random() < 0.5 else _BLACK
    return (
        _put(lathe(body)),
        _solid("cylinder", (0.45 * r, 0.04 * h), (0, 0, 0.96 * h), colour=cap),
        _put(lathe([(1.02 * r, 0.2 * h), (1.02 * r, 0.48 * h)]), colour=_CHALK),
    )


def _donut(rng: np.random.Generator) -> tuple[Part, ...]:
    icing = ((0.93, 0.50, 0.65), (0.95, 0.93, 0.88))[int(rng.integers(2))]
    ring = arc(rng.uniform(0.032, 0.036), num_points=28)
    return (
        _put(sweep(ring, 0.018), (0, 0, 0.018), colour=(0.80, 0.58, 0.32)),
        _put(sweep(ring, 0.0165), (0, 0, 0.0225), colour=icing),
    )


def _mug(rng: np.random.Generator) -> tuple[Part, ...]:
    r, h, wall = rng.uniform(0.035, 0.043), rng.uniform(0.075, 0.100), 0.004
    body = [(0, 0), (0.9 * r, 0), (r, 0.008), (r, h), (r - wall, h), (r - wall, 0.008), (0, 0.006)]
    handle = sweep(arc(0.3 * h, -np.pi / 2, np.pi / 2, 14, "xz"), 0.0065, 8)
    return (_put(lathe(body)), _put(handle, (r, 0, 0.52 * h)))


def _hammer(rng: np.random.Generator) -> tuple[Part, ...]:
    iron, half = (0.35, 0.36, 0.38), rng.uniform(0.075, 0.085)
    head = half + 0.012
    return (
        _solid("capsule", (0.0165, half), (0, 0, 0.0185), (0, 90, 0)),
        _solid("cylinder", (0.020, 0.040), (head, 0, 0.022), (90, 0, 0), iron),
        _solid("cylinder", (0.025, 0.012), (head, -0.043, 0.025), (90, 0, 0), iron),
        _solid("box", (0.008, 0.024, 0.017), (head, 0.058, 0.022), colour=iron),
    )


def _bowl(rng: np.random.Generator) -> tuple[Part, ...]:
    r, angle = rng.uniform(0.070, 0.090), np.linspace(0.25, 1.45, 9)
    outer = [(float(r * np.sin(a)), float(0.75 * r * (1 - np.cos(a)))) for a in angle]
    inner = [(x - 0.005, z) for x, z in reversed(outer)]
    foot = outer[0][1]
    return (_put(lathe([(0, foot), *outer, *inner, (0, foot + 0.004)]), (0, 0, -foot)),)


def _can(rng: np.random.Generator) -> tuple[Part, ...]:
    r, h = 0.036, rng.uniform(0.090, 0.100)
    top = [(r, h - 0.012), (0.85 * r, h), (0.8 * r, h), (0.78 * r, h - 0.004), (0, h - 0.004)]
    return (
        _put(lathe([(r, 0.008), (r, h - 0.012)])),
        _put(lathe([(0, 0), (0.85 * r, 0), (r, 0.008)]), colour=_STEEL),
        _put(lathe(top), colour=_STEEL),
        _put(lathe([(1.01 * r, 0.35 * h), (1.01 * r, 0.6 * h)]), colour=_CHALK),
    )


def _category(
    name: str, build: Build, *, noun: str = "", plural: str = "", colours: str = ""
) -> Category:
    noun = noun or name
    indices = tuple(COLOUR_NAMES.index(c) for c in colours.split())
    return Category(name=name, noun=noun, plural=plural or f"{noun}s", colours=indices, build=build)


CATEGORIES: tuple[Category, ...] = (
    _category("cone", _cone),
    _category("phone", _phone),
    _category("plant", _plant),
    _category("cardboard_box", _cardboard_box, noun="cardboard box", plural="cardboard boxes"),
    _category("duck", _duck),
    _category("carrot", _scaled(_carrot, 1.1)),
    _category("teddy", _teddy, noun="teddy bear"),
    _category("banana", _banana),
    _category("mushroom", _mushroom),
    _category("wrench", _scaled(_wrench, 1.2), plural="wrenches"),
    _category("remote", _remote),
    _category("lemon", _scaled(_lemon, 1.2)),
    _category("apple", _scaled(_apple, 1.2)),
    _category("plate", _plate, colours="white red green yellow blue"),
    _category("wine_glass", _wine_glass, noun="wine glass", plural="wine glasses"),
    _category("book", _book, colours="red blue green purple yellow"),
    _category("bottle", _bottle, colours="green blue red purple orange"),
    _category("donut", _scaled(_donut, 1.2)),
    _category("mug", _scaled(_mug, 1.2), colours="red blue green yellow white"),
    _category("hammer", _scaled(_hammer, 1.1), colours="red yellow blue orange green"),
    _category("bowl", _bowl, colours="blue green orange white purple"),
    _category("can", _scaled(_can, 1.2), colours="red blue green yellow purple"),
)
CATEGORY_NAMES: tuple[str, ...] = tuple(category.name for category in CATEGORIES)

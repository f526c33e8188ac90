"""A table with objects on it: the shapes that exist, and scenes drawn from them.

World coordinates: metres, z up; the table's top is z = 0 about the origin, a wall stands at +y and
the camera looks from -y.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field

import numpy as np
import numpy.typing as npt

from molmo2_ros.simulation.objects import (
    CATEGORIES,
    COLOUR_NAMES,
    COLOURS,
    OWN_COLOUR,
    Part,
    Rgb,
)
from molmo2_ros.simulation.shape import RayShape, rotation_z
from molmo2_ros.simulation.texture import draw_texture

FLOOR_Z = -0.7
_SPACING = 1.0  # two objects keep this share of the sum of their radii between them
_NUM_TEXTURES = 48


@dataclass(frozen=True, slots=True, kw_only=True)
class SceneObject:
    """What an instance is: indices into CATEGORIES and COLOUR_NAMES (or OWN_COLOUR)."""

    category: int
    colour: int

    @property
    def label(self) -> str:
        """As a person would say it: "red mug", "lemon"."""
        return CATEGORIES[self.category].label(self.colour)


@dataclass(slots=True, kw_only=True)
class Item:
    """A shape at a place."""

    shape: RayShape
    #: float32 [G, 3] RGB of each part.
    palette: npt.NDArray[np.float32]
    #: [3] metres.
    position: npt.NDArray[np.float64]
    #: [3, 3] world from shape.
    rotation: npt.NDArray[np.float64]
    #: False: taken out of the scene for now.
    present: bool = True


@dataclass(slots=True, kw_only=True)
class CameraPose:
    """Where the camera stands: round a point that it looks at."""

    #: Direction of view in the horizontal plane; 90 looks along +y.
    azimuth_deg: float
    #: Of the camera above the horizon.
    elevation_deg: float
    distance_m: float
    #: [3] metres.
    look_at: npt.NDArray[np.float64]
    roll_deg: float = 0.0

    @property
    def rotation(self) -> npt.NDArray[np.float64]:
        """[3, 3] world from optical frame (x right, y down, z forward; REP 103)."""
        cos_a, sin_a = np.cos(np.radians(self.azimuth_deg)), np.sin(np.radians(self.azimuth_deg))
        cos_e, sin_e = (
            np.cos(np.radians(self.elevation_deg)),
            np.sin(np.radians(self.elevation_deg)),
        )
        upright = np.array(
            [
                [sin_a, -sin_e * cos_a, cos_e * cos_a],
                [-cos_a, -sin_e * sin_a, cos_e * sin_a],
                [0.0, -cos_e, -sin_e],
            ]
        )
        return upright @ rotation_z(self.roll_deg)

    @property
    def position(self) -> npt.NDArray[np.float64]:
        """[3] metres, of the optical centre."""
        return self.look_at - self.rotation[:, 2] * self.distance_m


@dataclass(slots=True, kw_only=True)
class Room:
    """Everything that is neither an object nor the camera: surfaces and light."""

    #: Half sizes of the table's top, metres.
    table_half: tuple[float, float] = (0.55, 0.40)
    wall_y: float = 1.4
    #: uint8 [S, S, 3] each.
    table: npt.NDArray[np.uint8]
    floor: npt.NDArray[np.uint8]
    wall: npt.NDArray[np.uint8]
    #: Turn of the texture on the table, degrees.
    table_turn_deg: float = 0.0
    #: [3] metres, of the lamp that casts shadows.
    lamp: npt.NDArray[np.float64]
    #: [3] RGB factors of the lamp.
    lamp_colour: npt.NDArray[np.float64]
    #: Light from everywhere, and light from the camera.
    ambient: float = 0.3
    headlight: float = 0.2


@dataclass(slots=True, kw_only=True)
class Scene:
    """A state of the table; items are moved in place, `objects` says what they are."""

    room: Room
    camera: CameraPose
    objects: tuple[SceneObject, ...]
    #: items[j] is objects[j].
    items: list[Item]
    #: Robot parts and the like: drawn, cast shadows, never labelled.
    clutter: list[Item] = field(default_factory=list)


class World:
    """A stock of shapes and textures from which any number of scenes is drawn.

    Args:
        seed: decides every shape and texture; disjoint seeds share none.
        variants: shapes of each category.
    """

    def __init__(self, seed: int, variants: int = 3) -> None:
        """Builds and compiles the stock: a third of a second for three variants."""
        rng = np.random.default_rng(seed)
        self.shapes = tuple(
            tuple(RayShape(category.build(rng)) for _ in range(variants)) for category in CATEGORIES
        )
        self.arms = tuple(RayShape(_arm(rng)) for _ in range(variants))
        self.hands = tuple(RayShape(_hand(rng, board=i % 2 == 0)) for i in range(2 * variants))
        self.textures = tuple(draw_texture(rng) for _ in range(_NUM_TEXTURES))

    def arrange(self, rng: np.random.Generator, num_objects: int | None = None) -> Scene:
        """Draws a scene.

        Args:
            rng: the only source of chance.
            num_objects: None: mostly 3 to 7, at times 1 or 2.
        """
        if num_objects is None:
            few = rng.random() < 0.12
            num_objects = int(rng.integers(1, 3) if few else rng.integers(3, 8))
        categories = draw_categories(rng, num_objects)
        scene = Scene(
            room=draw_room(rng, self.textures),
            camera=draw_camera(rng),
            objects=(),
            items=[],
        )
        colours = [draw_colour(rng, category) for category in categories]
        scene.objects = tuple(
            SceneObject(category=category, colour=colour)
            for category, colour in zip(categories, colours, strict=True)
        )
        scene.items = [self.make_item(rng, thing.category, thing.colour) for thing in scene.objects]
        place_apart(rng, scene.items)
        if rng.random() < 0.5:
            arm = self.arms[int(rng.integers(len(self.arms)))]
            base = np.array([rng.uniform(-0.35, 0.35), rng.uniform(0.36, 0.55), 0.0])
            scene.clutter.append(place_clutter(arm, base, rotation_z(rng.uniform(-35, 35))))
        return scene

    def make_item(
        self, rng: np.random.Generator, category: int, colour: int, variant: int | None = None
    ) -> Item:
        """One object with a random shade and yaw in the middle of the table.

        Args:
            rng: the only source of chance.
            category: index into CATEGORIES.
            colour: index into COLOUR_NAMES, or OWN_COLOUR.
            variant: which shape; None: drawn.
        """
        variants = self.shapes[category]
        shape = variants[int(rng.integers(len(variants))) if variant is None else variant]
        palette = shape.colours * np.float32(rng.uniform(0.92, 1.08))
        if colour != OWN_COLOUR:
            paint = np.array(COLOURS[COLOUR_NAMES[colour]]) * rng.uniform(0.9, 1.1)
            palette[shape.paintable] = paint
        return Item(
            shape=shape,
            palette=np.clip(palette, 0, 1),
            position=np.zeros(3),
            rotation=rotation_z(rng.uniform(0, 360)),
        )


def draw_room(rng: np.random.Generator, textures: Sequence[npt.NDArray[np.uint8]]) -> Room:
    """Surfaces, sizes and light."""
    table, floor, wall = (textures[i] for i in rng.choice(len(textures), 3, replace=False))
    angle, slant = rng.uniform(0, 2 * np.pi), rng.uniform(0.2, 0.7)
    down = np.array([np.cos(angle) * slant, np.sin(angle) * slant, -1.0])
    return Room(
        table_half=(rng.uniform(0.42, 0.75), rng.uniform(0.34, 0.50)),
        wall_y=rng.uniform(0.8, 1.8),
        table=table,
        floor=floor,
        wall=wall,
        table_turn_deg=rng.uniform(0, 180),
        lamp=-1.7 * down / np.linalg.norm(down),
        lamp_colour=rng.uniform(0.32, 0.60) * rng.uniform(0.88, 1.0, 3),
        ambient=rng.uniform(0.20, 0.36),
        headlight=rng.uniform(0.10, 0.25),
    )


def light_well(room: Room) -> None:
    """Give a room the light of a well lit table, in place, whatever was drawn."""
    room.ambient, room.headlight, room.lamp_colour = 0.34, 0.20, np.full(3, 0.50)


def draw_categories(rng: np.random.Generator, num_objects: int) -> list[int]:
    """Category indices; in six scenes of ten one category comes two to six times."""
    order = [int(c) for c in rng.permutation(len(CATEGORIES))]
    if num_objects < 2 or rng.random() >= 0.6:
        return order[:num_objects]
    painted = [c for c in order[:num_objects] if CATEGORIES[c].colours]
    repeated = painted[0] if painted and rng.random() < 0.6 else order[0]
    copies = int(rng.integers(5, 7)) if rng.random() < 0.12 else int(rng.integers(2, 5))
    copies = min(copies, num_objects)
    others = [c for c in order if c != repeated][: num_objects - copies]
    mixed = [repeated] * copies + others
    return [mixed[i] for i in rng.permutation(len(mixed))]


def draw_colour(rng: np.random.Generator, category: int) -> int:
    """A colour index that the category comes in, or OWN_COLOUR."""
    colours = CATEGORIES[category].colours
    return colours[int(rng.integers(len(colours)))] if colours else OWN_COLOUR


def place_apart(rng: np.random.Generator, items: list[Item]) -> None:
    """Moves the items to places on the table, apart from each other where there is room."""
    radii = [0.5 * float(np.ptp(item.shape.corners[:, :2], axis=0).max()) for item in items]
    for j, item in enumerate(items):
        best = -np.inf
        for _attempt in range(40):
            place = np.append(rng.uniform((-0.26, -0.19), (0.26, 0.22)), 0.0)
            gaps = [
                np.linalg.norm(place - other.position) - _SPACING * (radii[j] + radius)
                for other, radius in zip(items[:j], radii, strict=False)
            ]
            gap = float(min(gaps, default=0.0))
            if gap > best:
                best, item.position = gap, place
            if gap >= 0:
                break


def draw_camera(rng: np.random.Generator) -> CameraPose:
    """A camera that looks at the middle of the table from in front of it."""
    jitter = rng.normal(0, 0.05, 2)
    return CameraPose(
        azimuth_deg=rng.uniform(45, 135),
        elevation_deg=rng.uniform(20, 68),
        distance_m=rng.uniform(0.45, 0.85),
        look_at=np.array([jitter[0], jitter[1], 0.02]),
        roll_deg=float(np.clip(rng.normal(0, 2), -5, 5)),
    )


def place_clutter(
    shape: RayShape, position: npt.NDArray[np.float64], rotation: npt.NDArray[np.float64]
) -> Item:
    """An unlabelled item in its own colours."""
    return Item(
        shape=shape, palette=shape.colours.copy(), position=position.copy(), rotation=rotation
    )


def _robot_colours(rng: np.random.Generator) -> tuple[Rgb, Rgb]:
    links = ((0.85, 0.86, 0.88), (0.25, 0.26, 0.28), (0.55, 0.57, 0.60), (0.88, 0.80, 0.62))
    joints = ((0.90, 0.50, 0.10), (0.12, 0.12, 0.13), (0.20, 0.35, 0.60), (0.60, 0.62, 0.65))
    return links[int(rng.integers(4))], joints[int(rng.integers(4))]


def _arm(rng: np.random.Generator) -> tuple[Part, ...]:
    """A robot arm that stands on the table and bows towards -y."""
    link, joint = _robot_colours(rng)
    black, k = (0.08, 0.08, 0.09), rng.uniform(0.85, 1.1)

    def part(
        shape: str,
        size: tuple[float, ...],
        position: tuple[float, float, float],
        tilt_deg: float,
        colour: Rgb,
    ) -> Part:
        x, y, z = position
        return Part(
            shape=shape,  # type: ignore[arg-type]
            size=tuple(k * s for s in size),
            position=(k * x, k * y, k * z),
            euler_deg=(tilt_deg, 0, 0),
            colour=colour,
        )

    return (
        part("cylinder", (0.070, 0.050), (0, 0, 0.05), 0, link),
        part("capsule", (0.045, 0.140), (0, -0.02, 0.22), 15, link),
        part("sphere", (0.060,), (0, -0.06, 0.38), 0, joint),
        part("capsule", (0.038, 0.130), (0, -0.17, 0.43), 65, link),
        part("sphere", (0.045,), (0, -0.30, 0.47), 0, joint),
        part("capsule", (0.030, 0.070), (0, -0.34, 0.39), 20, link),
        part("box", (0.050, 0.025, 0.015), (0, -0.36, 0.30), 0, black),
        part("box", (0.008, 0.012, 0.035), (0.035, -0.36, 0.26), 0, black),
        part("box", (0.008, 0.012, 0.035), (-0.035, -0.36, 0.26), 0, black),
    )


def _hand(rng: np.random.Generator, *, board: bool) -> tuple[Part, ...]:
    """A gripper on a long forearm along +x; fingers, or the board they hold, at the origin."""
    link, joint = _robot_colours(rng)
    black = (0.08, 0.08, 0.09)
    thick = rng.uniform(0.030, 0.045)
    parts = [
        Part(shape="box", size=(0.035, 0.006, 0.014), position=(0, 0.03, 0), colour=black),
        Part(shape="box", size=(0.035, 0.006, 0.014), position=(0, -0.03, 0), colour=black),
        Part(shape="box", size=(0.016, 0.05, 0.026), position=(0.05, 0, 0), colour=black),
        Part(shape="sphere", size=(thick * 1.25,), position=(0.10, 0, 0), colour=joint),
        Part(
            shape="capsule",
            size=(thick, 0.35),
            position=(0.46, 0, 0),
            euler_deg=(0, 90, 0),
            colour=link,
        ),
        Part(shape="sphere", size=(thick * 1.4,), position=(0.85, 0, 0), colour=joint),
    ]
    if board:
        tone = rng.uniform(0.15, 0.9) + rng.normal(0, 0.05, 3)
        red, green, blue = (float(c) for c in np.clip(tone, 0.05, 0.95))
        half = (rng.uniform(0.07, 0.11), rng.uniform(0.06, 0.10), 0.004)
        parts.append(
            Part(
                shape="box", size=half, position=(-half[0] + 0.03, 0, 0), colour=(red, green, blue)
            )
        )
    return tuple(parts)

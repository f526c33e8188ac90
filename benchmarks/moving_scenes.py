"""Camera streams with known truth: a moving camera, moving things, and plates that hide them.

Letters: M things. World pixels are those of the image at rest: its centre is the origin.
"""

from __future__ import annotations

from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from molmo2_ros.camera.frame import Frame

F64 = npt.NDArray[np.float64]
F32 = npt.NDArray[np.float32]
U8 = npt.NDArray[np.uint8]

RATE_HZ = 30.0
EXPOSURE_S = 0.010  # motion blur: up to 6 px at 600 px/s
NUM_EXPOSURES = 4  # pictures averaged over it
NOISE = 3.0  # grey levels, standard deviation per channel
PLATE = 255  # owner of a pixel that a passing plate covers
NUM_PLATES = 3
MIDDLE_COLOUR = 127.5  # of the things' channels


@dataclass(frozen=True, slots=True, kw_only=True)
class Truth:
    """What is where in one frame, at the middle of its exposure."""

    points_M2: F64  # pixels of each thing's point, its middle
    in_view_M: npt.NDArray[np.bool_]  # the point is inside the picture and nothing covers it
    inside_M: npt.NDArray[np.bool_]  # inside the picture, covered or not
    owner: U8  # [H, W] 0 background, thing m is m + 1, PLATE a plate


@dataclass(frozen=True, slots=True, kw_only=True)
class _Course:
    """A smooth path: middle + reach * sin(rate * t + phase), and a spin."""

    middle: F64
    reach: F64
    rate: F64
    phase: F64
    spin: float  # radians / s

    def at(self, time_s: float) -> F64:
        return np.asarray(self.middle + self.reach * np.sin(self.rate * time_s + self.phase))


@dataclass(frozen=True, slots=True, kw_only=True)
class _Sprite:
    """A cut-out picture on a course."""

    rgb: U8  # [S, S, 3]
    mask: U8  # [S, S] 0 or 255, edges smoothed
    course: _Course


def texture(rng: np.random.Generator, height: int, width: int, colour: F64, contrast: float) -> U8:
    """Noise at several scales round a colour: RGB, `contrast` grey levels deep."""
    total = np.zeros((height, width, 3), np.float32)
    for sigma in (1.5, 4.0, 12.0):
        layer = rng.standard_normal((height, width, 3), np.float32)
        # Grey for the most part: coloured noise averages out when it is turned to grey.
        layer = 0.7 * layer[..., :1] + 0.3 * layer
        layer = cv2.GaussianBlur(layer, (0, 0), sigma)
        total += layer / layer.std()
    return np.clip(colour + contrast / np.sqrt(3) * total, 0, 255).astype(np.uint8)


class MovingScene:
    """A stream that can be drawn frame by frame; equal seeds draw equal streams.

    A third of the things stands still in the world, a third moves at 30 to 150 px/s, a third at
    200 to 600 px/s (peak, before the camera's own motion). They differ in outline, size, colour
    and depth of texture (6 to 30 grey levels), turn, cover each other, and leave and enter the
    picture; plates of texture, of one colour and of stripes pass before them. The camera pans,
    rolls and zooms; the exposure wanders by a tenth and drops by a quarter now and then.

    Args:
        seed: of everything.
        width: pixels; sizes and speeds grow with it and are named for 640.
        height: pixels.
        num_things: M.
        colour_spread: of the things' colours: 1 is any, 0 one for all.
    """

    def __init__(
        self,
        seed: int,
        *,
        width: int = 640,
        height: int = 480,
        num_things: int = 20,
        colour_spread: float = 1.0,
    ) -> None:
        self._colour_spread = colour_spread
        rng = np.random.default_rng(seed)
        self.width, self.height = width, height
        self._zoomed = width / 640
        self._ground = texture(
            rng, round(3.0 * height), round(3.0 * width), rng.uniform(90, 160, 3), 30.0
        )
        self._camera_phase = rng.uniform(0, 2 * np.pi, 6)
        self._dips_s = np.cumsum(rng.uniform(3.0, 6.0, 20))
        self._things = [self._thing(rng, number) for number in range(num_things)]
        self._plates = [self._plate(rng, number) for number in range(NUM_PLATES)]
        self._noise = NOISE * rng.standard_normal((height, width, 3), np.float32)

    def frame(self, index: int) -> tuple[Frame, Truth]:
        """Draw one frame and say what is where."""
        time_s = index / RATE_HZ
        total = np.zeros((self.height, self.width, 3), np.float32)
        offsets = (np.arange(NUM_EXPOSURES) + 0.5) / NUM_EXPOSURES - 0.5
        for offset in offsets:
            cv2.accumulate(self._picture(time_s + offset * EXPOSURE_S), total)
        total *= self._gain(time_s) / NUM_EXPOSURES
        # One field of noise, rolled: drawing it anew costs more than the picture.
        total += np.roll(self._noise, (37 * index, 101 * index), (0, 1))
        image = np.clip(total, 0, 255).astype(np.uint8)
        stamp_ns = round(time_s * 1e9)
        return Frame(image=image, stamp_ns=stamp_ns), self._truth(time_s)

    def _camera(self, time_s: float) -> F64:
        """World to image, [3, 3]."""
        p = self._camera_phase
        pan_x = 110 * np.sin(0.9 * time_s + p[0]) + 25 * np.sin(3.1 * time_s + p[1])
        pan_y = 60 * np.sin(0.7 * time_s + p[2]) + 12 * np.sin(3.7 * time_s + p[3])
        roll = np.deg2rad(8) * np.sin(0.8 * time_s + p[4])
        zoom = 1 + 0.15 * np.sin(0.6 * time_s + p[5])
        cosine, sine = zoom * np.cos(roll), zoom * np.sin(roll)
        middle_x, middle_y = (self.width - 1) / 2, (self.height - 1) / 2
        return np.array(
            [
                [cosine, -sine, middle_x + pan_x * self._zoomed],
                [sine, cosine, middle_y + pan_y * self._zoomed],
                [0, 0, 1],
            ]
        )

    def _gain(self, time_s: float) -> float:
        """Slow drift, and dips of a quarter that come within 0.1 s and go within a second."""
        since_s = time_s - self._dips_s
        dips = np.clip(since_s / 0.1, 0, 1) * np.clip(2.0 - since_s, 0, 1)
        return float((1 + 0.1 * np.sin(0.5 * time_s)) * (1 - 0.25 * dips.max()))

    def _place(self, sprite: _Sprite, time_s: float) -> F64:
        """Sprite pixels to image pixels, [2, 3]."""
        x, y = sprite.course.at(time_s)
        angle = sprite.course.spin * time_s
        half_h, half_w = ((side - 1) / 2 for side in sprite.mask.shape)
        turn = np.array([[np.cos(angle), -np.sin(angle), x], [np.sin(angle), np.cos(angle), y]])
        turn[:, 2] -= turn[:, :2] @ (half_w, half_h)
        return np.asarray((self._camera(time_s) @ np.vstack([turn, [0, 0, 1]]))[:2])

    def _picture(self, time_s: float) -> U8:
        """The scene at one moment, without noise."""
        to_image = self._camera(time_s)
        height, width = self._ground.shape[:2]
        to_world = np.array([[1, 0, -(width - 1) / 2], [0, 1, -(height - 1) / 2], [0, 0, 1]])
        image = np.asarray(
            cv2.warpAffine(
                self._ground,
                (to_image @ to_world)[:2],
                (self.width, self.height),
                borderMode=cv2.BORDER_REFLECT,
            ),
            np.uint8,
        )
        for sprite in (*self._things, *self._plates):
            drawn = self._cut_out(sprite, time_s)
            if drawn is None:
                continue
            part, matrix = drawn
            window = image[part]
            size = (window.shape[1], window.shape[0])
            rgb = cv2.warpAffine(sprite.rgb, matrix, size, borderMode=cv2.BORDER_REPLICATE)
            mask = cv2.warpAffine(sprite.mask, matrix, size)
            alpha = mask[..., None].astype(np.uint16)
            window[:] = ((255 - alpha) * window + alpha * rgb + 127) // 255
        return image

    def _cut_out(self, sprite: _Sprite, time_s: float) -> tuple[tuple[slice, slice], F64] | None:
        """The part of the image that a sprite may cover, and the matrix into that part."""
        matrix = self._place(sprite, time_s)
        height, width = sprite.mask.shape
        corners = np.array([[0, 0, 1], [width, 0, 1], [0, height, 1], [width, height, 1]])
        corners = corners @ matrix.T
        left, top = np.maximum(np.floor(corners.min(axis=0)).astype(int), 0)
        right = min(self.width, int(np.ceil(corners[:, 0].max())) + 1)
        bottom = min(self.height, int(np.ceil(corners[:, 1].max())) + 1)
        if right <= left or bottom <= top:
            return None
        matrix[:, 2] -= (left, top)
        return (slice(top, bottom), slice(left, right)), matrix

    def _truth(self, time_s: float) -> Truth:
        owner = np.zeros((self.height, self.width), np.uint8)
        owners = [*range(1, len(self._things) + 1), *[PLATE] * len(self._plates)]
        for number, sprite in zip(owners, (*self._things, *self._plates), strict=True):
            drawn = self._cut_out(sprite, time_s)
            if drawn is not None:
                part, matrix = drawn
                size = owner[part].shape[::-1]
                owner[part][cv2.warpAffine(sprite.mask, matrix, size) > 127] = number
        camera = self._camera(time_s)
        points_M2 = np.array([thing.course.at(time_s) for thing in self._things])
        points_M2 = points_M2 @ camera[:2, :2].T + camera[:2, 2]
        inside_M = ((points_M2 >= 0) & (points_M2 <= (self.width - 1, self.height - 1))).all(axis=1)
        column, row = np.clip(np.round(points_M2.T), 0, [[self.width - 1], [self.height - 1]])
        seen_M = owner[row.astype(int), column.astype(int)] == np.arange(1, len(points_M2) + 1)
        return Truth(
            points_M2=points_M2, in_view_M=inside_M & seen_M, inside_M=inside_M, owner=owner
        )

    def _thing(self, rng: np.random.Generator, number: int) -> _Sprite:
        radius = rng.uniform(20, 45) * self._zoomed
        side = 2 * int(np.ceil(radius)) + 5
        angle = np.linspace(0, 2 * np.pi, 72, endpoint=False)
        outline = 0.72 * radius * np.ones(72)
        for lobes in (2, 3, 5):
            depth = rng.uniform(0, 0.4 / lobes) * radius
            outline += depth * np.cos(lobes * angle + rng.uniform(0, 2 * np.pi))
        edge = side / 2 + outline[:, None] * np.stack([np.cos(angle), np.sin(angle)], axis=1)
        mask = np.zeros((side, side), np.uint8)
        cv2.fillPoly(mask, [np.round(16 * edge).astype(np.int32)], 255, cv2.LINE_AA, 4)
        colour = MIDDLE_COLOUR + self._colour_spread * (rng.uniform(40, 215, 3) - MIDDLE_COLOUR)
        speed = (0.0, rng.uniform(30, 150), rng.uniform(200, 600))[number % 3]
        reach = np.array([0.5 * self.width, 0.5 * self.height]) * rng.uniform(0.4, 1.0, 2)
        middle = np.array([self.width, self.height]) * rng.uniform(-0.4, 0.4, 2)
        if number % 3:
            middle *= 0.4
        share = rng.uniform(0.5, 1.0, 2)
        rate = speed * self._zoomed * share / np.linalg.norm(share) / reach
        return _Sprite(
            rgb=texture(rng, side, side, colour, rng.uniform(6, 30)),
            mask=mask,
            course=_Course(
                middle=middle,
                reach=reach,
                rate=rate,
                phase=rng.uniform(0, 2 * np.pi, 2),
                spin=0.0 if number % 3 == 0 else rng.uniform(-0.6, 0.6),
            ),
        )

    def _plate(self, rng: np.random.Generator, number: int) -> _Sprite:
        width, height = (
            round(value * self._zoomed) for value in rng.uniform((60, 200), (160, 500))
        )
        colour = rng.uniform(40, 215, 3)
        rgb = texture(rng, height, width, colour, (25.0, 0.0, 4.0)[number % 3])
        if number % 3 == 2:
            rgb[:, (np.arange(width) // 16) % 2 == 0] //= 2
        mask = np.zeros((height, width), np.uint8)
        mask[1:-1, 1:-1] = 255
        speed = rng.uniform(120, 400)
        return _Sprite(
            rgb=rgb,
            mask=mask,
            course=_Course(
                middle=np.zeros(2),
                reach=np.array([0.9 * self.width, 0.4 * self.height]),
                rate=np.array([speed / (0.9 * 640), 0.4]),
                phase=rng.uniform(0, 2 * np.pi, 2),
                spin=rng.uniform(-0.15, 0.15),
            ),
        )

"""Questions about simulated tables, with the answers that Molmo2 was trained to write.

Letters: T frames, J objects. Pixels are counted at the nano's input size.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import cv2
import numpy as np
import numpy.typing as npt

from molmo2_ros.answers.text import NONE
from molmo2_ros.simulation.motion import LabelledClip
from molmo2_ros.simulation.objects import CATEGORIES, OWN_COLOUR
from molmo2_ros.training import phrases

REFERENCE_SIZE = 168  # pixels a side to which the areas below refer
SEEN_AREA, SEEN_FRACTION = 100, 0.30  # from here on an object counts
SHOWN_AREA, SHOWN_FRACTION = 60, 0.20  # from here on a track has a point
GONE_AREA, GONE_FRACTION = 8, 0.02  # below this an object is not there
THIN, THICK = 0.6, 0.85  # of an object's largest depth, in pixels from its rim
CLICK_NOISE = 0.012  # of the picture's side, standard deviation
MAX_TRACK_POINTS = 22  # of one trained answer

CLIP_KINDS = ("gap", "track", "several", "absent", "seed")  # of questions about a clip

GONE, UNCLEAR, SEEN = 0, 1, 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Sightings:
    """Where the objects of a clip are.

    Args:
        objects: int [J, 2] category and colour.
        area: int [T, J] pixels at the reference size.
        centre: float [T, J, 2] x, y in 0..1, always on the object.
        state: int [T, J] GONE, UNCLEAR or SEEN.
        shown: bool [T, J] whether a track's answer has a point there.
    """

    objects: npt.NDArray[np.int64]
    area: npt.NDArray[np.int64]
    centre: npt.NDArray[np.float64]
    state: npt.NDArray[np.int64]
    shown: npt.NDArray[np.bool_]


@dataclass(frozen=True, slots=True, kw_only=True)
class Target:
    """One point of an answer, in the order in which it is written."""

    frame: int
    instance: int  # 1-based label in the instance masks
    object_id: int  # id in the answer's text
    x: float  # 0..1
    y: float  # 0..1


@dataclass(frozen=True, slots=True, kw_only=True)
class Question:
    """A question, its trained answer, and what the answer points at."""

    kind: str  # point, point_all, count, track, seed
    text: str
    answer: str
    label: str
    targets: tuple[Target, ...]
    instances: tuple[int, ...]  # 1-based labels of all objects that are meant
    hard: bool = False  # an absent thing that shares colour or category with one in view

    @property
    def absent(self) -> bool:
        """Nothing in view is meant."""
        return not self.targets


def locate(clip: LabelledClip) -> Sightings:
    """Measure every object of a clip in every frame."""
    num_frames, height, width = clip.instances.shape
    num_objects = len(clip.objects)
    scale = REFERENCE_SIZE**2 / (height * width)
    area = np.zeros((num_frames, num_objects), np.int64)
    centre = np.zeros((num_frames, num_objects, 2))
    columns = np.tile(np.arange(width), height)
    rows = np.repeat(np.arange(height), width)
    for frame in range(num_frames):
        labels = clip.instances[frame]
        flat = labels.ravel()
        count = np.bincount(flat, minlength=num_objects + 1)
        sum_x = np.bincount(flat, columns, minlength=num_objects + 1)
        sum_y = np.bincount(flat, rows, minlength=num_objects + 1)
        for j in range(num_objects):
            pixels = count[j + 1]
            if not pixels:
                continue
            x, y = _target_point(labels == j + 1, sum_x[j + 1] / pixels, sum_y[j + 1] / pixels)
            area[frame, j] = round(pixels * scale)
            centre[frame, j] = (x + 0.5) / width, (y + 0.5) / height
    fraction = clip.visible_fraction
    state = np.full(area.shape, UNCLEAR, np.int64)
    state[(area >= SEEN_AREA) & (fraction >= SEEN_FRACTION)] = SEEN
    state[(area < GONE_AREA) | (fraction < GONE_FRACTION)] = GONE
    shown = (area >= SHOWN_AREA) & (fraction >= SHOWN_FRACTION)
    objects = np.array([(o.category, o.colour) for o in clip.objects], np.int64).reshape(-1, 2)
    return Sightings(objects=objects, area=area, centre=centre, state=state, shown=shown)


def _target_point(mask: npt.NDArray[np.bool_], x: float, y: float) -> tuple[float, float]:
    """Where to point at an object: its centroid, unless that misses it or lies on a thin part.

    Then it is the thick pixel nearest to a place somewhat below the centroid: the head of a hammer,
    the front of a ring. A small error beside such a point still hits the object, and the point
    moves little from frame to frame.

    Args:
        mask: bool [H, W] of the object.
        x: column of its centroid.
        y: row of its centroid.
    """
    left, top, width, height = cv2.boundingRect(mask.view(np.uint8))
    cut = mask[top : top + height, left : left + width]
    depth = cv2.distanceTransform(np.pad(cut.view(np.uint8), 1), cv2.DIST_L2, 3)[1:-1, 1:-1]
    x, y = x - left, y - top
    deepest = depth.max()
    if depth[round(y), round(x)] < THIN * deepest:
        rows, columns = np.nonzero(depth >= THICK * deepest)
        nearest = np.argmin((columns - x) ** 2 + (rows - y - 0.2 * height) ** 2)
        x, y = columns[nearest], rows[nearest]
    return float(x + left), float(y + top)


def has_gap(sightings: Sightings) -> bool:
    """Whether an object that is seen in one frame is hidden or gone in another."""
    return bool(_gaps(sightings).any())


def track_has_gap(question: Question, sightings: Sightings) -> bool:
    """Whether something that is tracked is seen in one frame and hidden or gone in another."""
    return bool(_gaps(sightings)[[instance - 1 for instance in question.instances]].any())


def _gaps(sightings: Sightings) -> npt.NDArray[np.bool_]:
    return (sightings.state == SEEN).any(0) & (sightings.state == GONE).any(0)


def write_coordinate(value: float) -> str:
    """Three digits in tenths of a per cent, rounded to ten: the last digit would be label noise."""
    return f"{min(round(value * 100) * 10, 990):03d}"


def _click(value: float, rng: np.random.Generator | None) -> str:
    """Where somebody clicked on an object: near its centre, in all three digits."""
    if rng is not None:
        value += rng.normal(0, CLICK_NOISE)
    return f"{min(max(round(value * 1000), 0), 999):03d}"


def _matching(sightings: Sightings, category: int, colour: int) -> list[int]:
    objects = sightings.objects
    return [
        j
        for j in range(len(objects))
        if objects[j, 0] == category and (colour == OWN_COLOUR or objects[j, 1] == colour)
    ]


def _choose(rng: np.random.Generator, templates: Sequence[str]) -> str:
    """The first template half of the time, another one otherwise."""
    if rng.random() < 0.5:
        return templates[0]
    return templates[int(rng.integers(1, len(templates)))]


def still_question(
    sightings: Sightings,
    kind: str,
    category: int,
    colour: int,
    rng: np.random.Generator | None,
    *,
    hard: bool = False,
) -> Question | None:
    """A pointing or counting question about a clip of one frame.

    Args:
        sightings: of one frame.
        kind: "point", "point_all" or "count"; a "point" that fits several objects becomes
            "point_all".
        category: index into CATEGORIES.
        colour: index into COLOUR_NAMES, or OWN_COLOUR for any.
        rng: chooses the wording; None for the first one.
        hard: passed on to the question when nothing matches.

    Returns:
        None when an unclear object would decide the answer.
    """
    matching = _matching(sightings, category, colour)
    if any(sightings.state[0, j] == UNCLEAR for j in matching):
        return None
    seen = [j for j in matching if sightings.state[0, j] == SEEN]
    seen.sort(key=lambda j: tuple(sightings.centre[0, j]))
    if kind == "point" and len(seen) > 1:
        kind = "point_all"
    label = phrases.noun(category, colour, plural=kind != "point")
    templates = {
        "point": phrases.POINT_ONE,
        "point_all": phrases.POINT_ALL,
        "count": phrases.COUNT,
    }[kind]
    template = _choose(rng, templates) if rng is not None else templates[0]
    targets = tuple(
        Target(
            frame=0,
            instance=j + 1,
            object_id=number,
            x=float(sightings.centre[0, j, 0]),
            y=float(sightings.centre[0, j, 1]),
        )
        for number, j in enumerate(seen, 1)
    )
    return Question(
        kind=kind,
        text=template.format(x=label),
        answer=_still_answer(kind, label, targets),
        label=label,
        targets=targets,
        instances=tuple(j + 1 for j in seen),
        hard=hard,
    )


def _still_answer(kind: str, label: str, targets: tuple[Target, ...]) -> str:
    if not targets:
        return NONE
    written = " ".join(
        f"{t.object_id} {write_coordinate(t.x)} {write_coordinate(t.y)}" for t in targets
    )
    points = f'<points coords="0.0 {written}">{label}</points>'
    if kind == "count":
        return f"Counting the {points} shows a total of {len(targets)}."
    return points


def track_question(
    sightings: Sightings,
    stamps_s: Sequence[float],
    category: int,
    colour: int,
    rng: np.random.Generator | None,
    *,
    hard: bool = False,
    from_point: bool = False,
) -> Question | None:
    """A tracking question about a clip.

    Args:
        sightings: of all frames.
        stamps_s: each frame's time as printed, seconds from the first frame.
        category: index into CATEGORIES.
        colour: index into COLOUR_NAMES, or OWN_COLOUR for any.
        rng: chooses the wording; None for the first one.
        hard: passed on to the question when nothing matches.
        from_point: ask from the first given point; the answer lists only the frames after it.

    Returns:
        None when no object that matches is ever clearly seen although some are in the scene, when
        more than three match, or when the answer would be longer than trained.
    """
    matching = [j for j in _matching(sightings, category, colour) if sightings.area[:, j].any()]
    shown = [j for j in matching if sightings.shown[:, j].any()]
    if matching and not any((sightings.state[:, j] == SEEN).any() for j in shown):
        return None
    if any((sightings.state[:, j] == SEEN).sum() == 0 for j in shown) or len(shown) > 3:
        return None
    if from_point and len(shown) != 1:
        return None
    targets = _track_targets(sightings, shown)
    label = phrases.noun(category, colour, plural=len(shown) > 1)
    text = (_choose(rng, phrases.TRACK) if rng is not None else phrases.TRACK[0]).format(x=label)
    if from_point:
        if len(targets) < 2:
            return None
        seed, targets = targets[0], targets[1:]
        point = f"{stamps_s[seed.frame]:.1f} 1 {_click(seed.x, rng)} {_click(seed.y, rng)}"
        text = phrases.SEED_TRACK.format(points=f'<points coords="{point}">{label}</points>')
    if len(targets) > MAX_TRACK_POINTS:
        return None
    return Question(
        kind="seed" if from_point else "track",
        text=text,
        answer=_track_answer(label, targets, stamps_s),
        label=label,
        targets=targets,
        instances=tuple(j + 1 for j in shown),
        hard=hard,
    )


def _track_targets(sightings: Sightings, shown: list[int]) -> tuple[Target, ...]:
    """Points frame by frame; an id is given at first sight, from left to right."""
    ids: dict[int, int] = {}
    targets: list[Target] = []
    for frame in range(len(sightings.shown)):
        here = [j for j in shown if sightings.shown[frame, j]]
        new = [j for j in here if j not in ids]
        for j in sorted(new, key=lambda j: tuple(sightings.centre[frame, j])):
            ids[j] = len(ids) + 1
        for j in sorted(here, key=lambda j: ids[j]):
            x, y = sightings.centre[frame, j]
            targets.append(
                Target(frame=frame, instance=j + 1, object_id=ids[j], x=float(x), y=float(y))
            )
    return tuple(targets)


def _track_answer(label: str, targets: tuple[Target, ...], stamps_s: Sequence[float]) -> str:
    if not targets:
        return NONE
    groups: dict[int, list[str]] = {}
    for t in targets:
        point = f"{t.object_id} {write_coordinate(t.x)} {write_coordinate(t.y)}"
        groups.setdefault(t.frame, []).append(point)
    coords = ";".join(f"{stamps_s[f]:.1f} {' '.join(points)}" for f, points in groups.items())
    return f'<tracks coords="{coords}">{label}</tracks>'


def absent_thing(
    sightings: Sightings, rng: np.random.Generator, *, hard: bool
) -> tuple[int, int] | None:
    """A category and colour that no object of the scene has.

    Args:
        sightings: of the clip.
        rng: source of chance.
        hard: share the category (other colour) or the colour (other category) with an object in
            view; otherwise a category that is nowhere in the scene.
    """
    objects = sightings.objects
    present = {(int(c), int(k)) for c, k in objects}
    categories = {c for c, _ in present}
    visible = [j for j in range(len(objects)) if (sightings.state[:, j] == SEEN).any()]
    for _ in range(20):
        if not hard:
            category = int(rng.integers(len(CATEGORIES)))
            if category in categories:
                continue
            colours = CATEGORIES[category].colours
            coloured = bool(colours) and rng.random() < 0.4
            return category, int(rng.choice(colours)) if coloured else OWN_COLOUR
        if not visible:
            return None
        category, colour = (int(v) for v in objects[visible[int(rng.integers(len(visible)))]])
        if CATEGORIES[category].colours and rng.random() < 0.6:
            colour = int(rng.choice(CATEGORIES[category].colours))
        elif colour != OWN_COLOUR:
            category = int(
                rng.choice([c for c, kind in enumerate(CATEGORIES) if colour in kind.colours])
            )
        else:
            continue
        if (category, colour) not in present:
            return category, colour
    return None


def _pick(
    sightings: Sightings, rng: np.random.Generator, *, several: float, coloured: float
) -> tuple[int, int] | None:
    """Category and colour of an object that is seen.

    Args:
        sightings: of the clip.
        rng: source of chance.
        several: chance to prefer a category that is seen several times.
        coloured: chance to name the colour.
    """
    objects = sightings.objects
    visible = [j for j in range(len(objects)) if (sightings.state[:, j] == SEEN).any()]
    if not visible:
        return None
    repeated = [j for j in visible if sum(objects[j, 0] == objects[i, 0] for i in visible) > 1]
    pool = repeated if repeated and rng.random() < several else visible
    category, colour = (int(v) for v in objects[pool[int(rng.integers(len(pool)))]])
    return category, colour if rng.random() < coloured else OWN_COLOUR


def still_questions(
    sightings: Sightings, rng: np.random.Generator, num_questions: int = 5
) -> list[Question]:
    """Up to `num_questions` about one frame: one thing twice, all, a count, an absent one."""
    kinds = ("point", "point", "mixed", "count", "absent")
    questions: list[Question] = []
    for slot in range(num_questions):
        kind = kinds[slot % len(kinds)]
        for _ in range(6):
            question = _draw_still_question(sightings, kind, rng)
            if question is not None and all(q.text != question.text for q in questions):
                questions.append(question)
                break
    return questions


def _draw_still_question(
    sightings: Sightings, kind: str, rng: np.random.Generator
) -> Question | None:
    if kind == "absent" or (kind == "count" and rng.random() < 0.2):
        hard = rng.random() < 0.5
        thing = absent_thing(sightings, rng, hard=hard)
        if thing is None:
            return None
        form = "count" if kind == "count" else ("point_all" if rng.random() < 0.25 else "point")
        question = still_question(sightings, form, *thing, rng, hard=hard)
        return question if question is not None and question.absent else None
    several = 0.0 if kind == "point" else 0.6
    thing = _pick(sightings, rng, several=several, coloured=0.7 if kind == "point" else 0.35)
    if thing is None:
        return None
    form = "point_all" if kind == "mixed" and rng.random() < 0.8 else kind.replace("mixed", "point")
    return still_question(sightings, form, *thing, rng)


def clip_questions(
    sightings: Sightings,
    stamps_s: Sequence[float],
    rng: np.random.Generator,
    kinds: Sequence[str] = CLIP_KINDS,
) -> list[Question]:
    """Tracking questions about a clip.

    Args:
        sightings: of all frames.
        stamps_s: each frame's time as printed.
        rng: source of chance.
        kinds: what to draw: "gap" prefers an object that is out of sight in some frame ("track"
            and "seed" half of the time), "several" a category seen more than once, "seed" starts
            from a given point.
    """
    questions: list[Question] = []
    for kind in kinds:
        for _ in range(8):
            question = _draw_clip_question(sightings, stamps_s, kind, rng)
            if question is not None and all(q.text != question.text for q in questions):
                questions.append(question)
                break
    return questions


def _draw_clip_question(
    sightings: Sightings, stamps_s: Sequence[float], kind: str, rng: np.random.Generator
) -> Question | None:
    if kind == "absent":
        hard = rng.random() < 0.5
        thing = absent_thing(sightings, rng, hard=hard)
        if thing is None:
            return None
        question = track_question(sightings, stamps_s, *thing, rng, hard=hard)
        return question if question is not None and question.absent else None
    several = {"several": 0.85}.get(kind, 0.0)
    thing = None
    if kind == "gap" or (kind in ("track", "seed") and rng.random() < 0.5):
        candidates = np.flatnonzero(_gaps(sightings))
        if len(candidates):
            category, colour = (int(v) for v in sightings.objects[rng.choice(candidates)])
            thing = (category, colour if rng.random() < 0.8 else OWN_COLOUR)
    if thing is None:
        thing = _pick(sightings, rng, several=several, coloured=0.35 if several else 0.75)
    if thing is None:
        return None
    question = track_question(sightings, stamps_s, *thing, rng, from_point=kind == "seed")
    return None if question is None or question.absent else question

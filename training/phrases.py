"""The words of the scenes: nouns, and Molmo2's trained ways of asking.

Source: template families of the released training code (pointing, point_count,
video_point_track_per_frame, video_single_point_track_per_frame). The first template of each family
is the one that `molmo2_ros.prompt.query.question_text` writes.
"""

from __future__ import annotations

from molmo2_ros.answers.text import NONE
from molmo2_ros.simulation.objects import CATEGORIES, COLOUR_NAMES, OWN_COLOUR

POINT_ONE = (
    "Point to the {x}.",
    "Find the {x}.",
    "Where is the {x}?",
    "Point to {x}\nPlease say 'There are none.' if it is not in the image.",
)
POINT_ALL = (
    "Point to all {x}.",
    "Locate every {x}.",
    "Where are the {x}?",
    'Point to all occurrences of "{x}"',
)
COUNT = (
    "How many {x} are there?",
    "Count the {x}.",
    "Point at the {x} and then count them.",
)
TRACK = (
    "Track the {x}.",
    "Follow the {x}.",
    "Track {x}.",
)
SEED_TRACK = "video_single_point_track_per_frame: Track {points} in 2 FPS."


def noun(category: int, colour: int, *, plural: bool = False) -> str:
    """The phrase that names a kind of object.

    Args:
        category: index into CATEGORIES.
        colour: index into COLOUR_NAMES, or OWN_COLOUR to leave the colour out.
        plural: "red mugs" instead of "red mug".
    """
    kind = CATEGORIES[category]
    word = kind.plural if plural else kind.noun
    return f"{COLOUR_NAMES[colour]} {word}" if colour >= 0 else word


# What a nano may be asked for after more training on a robot's pictures; its scenes hold none.
OTHER_NOUNS = (
    ("person", "people"),
    ("pedestrian", "pedestrians"),
    ("man", "men"),
    ("woman", "women"),
    ("hand", "hands"),
    ("face", "faces"),
    ("car", "cars"),
    ("robot", "robots"),
    ("chair", "chairs"),
    ("object", "objects"),
)


def _nouns() -> list[tuple[str, str]]:
    """Each kind of object, with and without its colours: one and several."""
    return [
        (noun(index, colour), noun(index, colour, plural=True))
        for index, kind in enumerate(CATEGORIES)
        for colour in (OWN_COLOUR, *kind.colours)
    ]


def tokenizer_corpus() -> list[str]:
    """Every phrase that is ever asked or answered, so that no word is spelt in letters."""
    lines: list[str] = []
    for one, many in [*_nouns(), *OTHER_NOUNS]:
        asked = [t.format(x=one) for t in POINT_ONE + TRACK]
        asked += [t.format(x=many) for t in POINT_ALL + COUNT + TRACK]
        seed = f'<points coords="0.5 1 500 500">{one}</points>'
        asked.append(SEED_TRACK.format(points=seed))
        lines += [f"<|im_start|>user\n{q}<|im_end|>\n<|im_start|>assistant\n" for q in asked]
        for label in (one, many):
            points = f'<points coords="0.0 1 500 500 2 510 520">{label}</points>'
            lines += [
                points,
                f"Counting the {points} shows a total of 2.",
                f'<tracks coords="0.0 1 500 500;0.5 1 500 500 2 510 520">{label}</tracks>',
                NONE,
            ]
    return lines

"""In which words things are asked: families of wordings, in the manner of Molmo2's own.

The first of each family is the one that this package asks. {x} stands for the label, {fps} for the
answer's rate, {points} for the point that is given, {images} for the images that are meant.
"""

from __future__ import annotations

from collections.abc import Mapping

from molmo2_ros.answers.text import NONE

NONE_LINE = f"\nPlease say '{NONE}' if it is not in the image."

POINT = (
    "Point to {x}.",
    "Point to the {x}.",
    "Point to {x}" + NONE_LINE,
    "Point to all {x}.",
    'Point to every "{x}"',
    "Where is the {x}?",
    "Where are the {x}?",
    "Find the {x}.",
    "find {x}",
    "Locate the {x} in the image.",
    "Show me each {x}.",
    "Mark all {x} that you see",
    "Give the positions of {x}.",
    "Object: {x}\nInstruction: point to it.",
    "Can you point out the {x}?",
)
COUNT = (
    "How many {x} are there?",
    "count {x}",
    "Count the {x}.",
    "How many {x} are in the image?",
    "How many {x} do you see?",
    "Point to the {x} and count them.",
    "What is the number of {x}?",
    "Give me the count of {x} in this image.",
    "Total of {x}?",
)
TRACK = (
    "Track {x}.",
    "Track the {x}.",
    "track the {x}",
    "Track every {x}.",
    "Track: {x}",
    "Follow the {x} through the video.",
    "Keep track of {x}.",
)
TRACK_AT = (
    "Track {x} at {fps} FPS.",
    "Track {x} in {fps} FPS.",
    "Track the {x} at {fps} FPS",
    "Follow {x} through the video, with positions at {fps} FPS.",
    "Where is {x} over time? Answer at {fps} FPS.",
)
TRACK_FROM_POINT = (
    "Track {points} in {fps} FPS.",
    "Track {points} at {fps} FPS.",
    "Follow {points} from there on in {fps} FPS.",
    "From this point on, track {points} in {fps} FPS.",
)
ENDS = (
    "For each '{x}' in this video, point to where it is seen first and last.",
    "When and where does each {x} appear first, and when last? Point to both.",
    "Point to the first and the last sight of every {x}.",
)
MULTI_POINT = (
    "Point to {x} in {images}.",
    "Point to all {x} in {images}.",
    "Find the {x} in {images}.",
    "Where are the {x}? Look at {images}.",
)
MULTI_COUNT = (
    "How many {x} are there in {images}?",
    "Count the {x} in {images}.",
    "Point to the {x} in {images} and count them.",
)
LONG_CAPTION = (
    "Describe this {medium} in detail.",
    "Write a long caption.",
    "Tell me all that is to be seen in this {medium}.",
    "Give a thorough description of the {medium}.",
)
SHORT_CAPTION = (
    "Describe this {medium} briefly.",
    "Write a short caption.",
    "Sum this {medium} up in a sentence.",
)
CHOICES = "{question}\nOnly return the correct answer option.\n{options}"

MEDIUM: Mapping[bool, str] = {False: "image", True: "video"}


def for_medium(text: str, *, is_clip: bool) -> str:
    """A wording about an image, said of a video where it is one."""
    if not is_clip:
        return text
    for word in ("image", "picture", "photo"):
        text = text.replace(word, "video")
    return text

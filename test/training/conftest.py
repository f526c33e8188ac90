import numpy as np
import pytest

from molmo2_ros.simulation.motion import LabelledClip
from molmo2_ros.simulation.objects import CATEGORY_NAMES, COLOUR_NAMES, OWN_COLOUR
from molmo2_ros.simulation.world import SceneObject


def thing(name, colour=None):
    index = OWN_COLOUR if colour is None else COLOUR_NAMES.index(colour)
    return SceneObject(category=CATEGORY_NAMES.index(name), colour=index)


def draw_clip(objects, boxes, fraction=None, side=168):
    """A clip whose masks are rectangles.

    boxes[t][j] is (left, top, right, bottom) in pixels, or None where object j is not in view.
    """
    instances = np.zeros((len(boxes), side, side), np.uint8)
    visible = np.zeros((len(boxes), len(objects)), np.float32)
    for t, frame in enumerate(boxes):
        for j, box in enumerate(frame):
            if box is not None:
                left, top, right, bottom = box
                instances[t, top:bottom, left:right] = j + 1
                visible[t, j] = 1.0
    rng = np.random.default_rng(0)
    frames = rng.integers(0, 256, (*instances.shape, 3), np.uint8)
    return LabelledClip(
        frames=frames,
        instances=instances,
        visible_fraction=visible if fraction is None else np.asarray(fraction, np.float32),
        objects=tuple(objects),
    )


@pytest.fixture
def make_clip():
    return draw_clip


@pytest.fixture
def make_thing():
    return thing

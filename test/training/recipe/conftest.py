"""A model with both ways of pooling, and examples of every kind of media."""

import numpy as np
import pytest
import torch

from molmo2_ros.engines.torchvision_ops import declare_missing_ops

declare_missing_ops()  # before anything imports transformers

from transformers import Molmo2ForConditionalGeneration  # noqa: E402

from molmo2_ros.prompt.tokenizer import PromptTokenizer  # noqa: E402
from molmo2_ros.runtime.engine import NANO  # noqa: E402
from molmo2_ros.runtime.manifest import VisionFacts  # noqa: E402
from molmo2_ros.training.recipe.messages import TreeWriter, Turn  # noqa: E402

CHECKPOINT = NANO / "checkpoint"
# Clips pool nine patches into a token, images four, as the released models do.
VISION = VisionFacts(
    image_size=168,
    patch_size=14,
    feature_width=128,
    video_pooling=(3, 3),
    image_pooling=(2, 2),
    max_crops=4,
    overlap_margins=(2, 2),
    use_single_crop_col_tokens=False,
)


@pytest.fixture(scope="session")
def model():
    """molmo2-nano in float32, without dropout; it has one set of weights for any pooling."""
    model = Molmo2ForConditionalGeneration.from_pretrained(CHECKPOINT, dtype=torch.float32)
    return model.eval()


@pytest.fixture(scope="session")
def writer():
    return TreeWriter(PromptTokenizer(CHECKPOINT), VISION)


def picture(seed, height=120, width=160):
    return np.random.default_rng(seed).integers(0, 256, (height, width, 3), np.uint8)


BRANCHES = (
    [Turn(question="Point to the red mug.", answer="There are none.")],
    [Turn(question="How many lemons are there?", answer="3", weight=0.2)],
    [
        Turn(question="What is this?", answer="a table"),
        Turn(question="And on it?", answer="nothing but a mug"),
    ],
)


@pytest.fixture(scope="session")
def visuals(writer):
    """What is shown: a clip, an image cut into tiles, and two images."""
    return {
        "clip": writer.clip([picture(i) for i in range(3)], [0.0, 0.5, 1.2]),
        "image": writer.images([picture(10, 300, 400)]),
        "images": writer.images([picture(11), picture(12, 200, 100)]),
        "words": writer.nothing(),
    }


@pytest.fixture(scope="session")
def branches():
    return BRANCHES


@pytest.fixture(scope="session")
def trees(writer, visuals):
    return [
        writer.write(name, visual, BRANCHES, max_tokens=4096) for name, visual in visuals.items()
    ]

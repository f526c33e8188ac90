"""The trainer's own way through the vision tower equals transformers' and the package's."""

import numpy as np
import pytest
import torch

from molmo2_ros.prompt.patches import clip_patches, clip_pooling
from molmo2_ros.training.nano.model import (
    ModelConfig,
    build_model,
    encode_frames,
    pooling_windows,
    to_patches,
)
from molmo2_ros.training.nano.tokenizer import train_nano_tokenizer

CONFIG = ModelConfig(vocab_size=576)


@pytest.fixture(scope="module")
def frames():
    return np.random.default_rng(0).integers(0, 256, (3, 168, 168, 3), np.uint8)


def test_patches_equal_those_that_the_package_cuts(frames):
    ours = to_patches(torch.from_numpy(frames), CONFIG.patch_size).numpy()
    assert np.abs(ours - clip_patches(list(frames), 168, 14)).max() < 1e-6


def test_features_equal_those_of_the_stock_model(frames):
    torch.manual_seed(0)
    model = build_model(CONFIG, train_nano_tokenizer(576)).eval()
    patches = to_patches(torch.from_numpy(frames), CONFIG.patch_size)
    side = CONFIG.token_grid
    with torch.no_grad():
        ours, _ = encode_frames(model, patches, pooling_windows(CONFIG))
        stock = model.model.get_video_features(
            patches,
            torch.from_numpy(clip_pooling(3, CONFIG.grid, (2, 2))),
            torch.tensor([[3, side, side]]),
        ).pooler_output[0]
    assert torch.allclose(ours.flatten(0, 1), stock, atol=1e-5)

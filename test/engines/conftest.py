"""A small random checkpoint and its exported engine."""

import pytest
import torch

from molmo2_ros.engines.checkpoint import load_checkpoint
from molmo2_ros.engines.export import main
from molmo2_ros.training.model import ModelConfig, build_model, save_checkpoint
from molmo2_ros.training.nano_tokenizer import train_nano_tokenizer


@pytest.fixture(scope="session")
def make_checkpoint(tmp_path_factory):
    """Write a small random Molmo2 as a Hugging Face folder."""

    def make(seed):
        config = ModelConfig(
            image_size=56,
            vision_width=32,
            vision_layers=2,
            text_width=64,
            text_layers=2,
            head_dim=16,
            vocab_size=320,
        )
        tokenizer = train_nano_tokenizer(config.vocab_size)
        torch.manual_seed(seed)
        folder = tmp_path_factory.mktemp(f"checkpoint-{seed}")
        save_checkpoint(build_model(config, tokenizer), tokenizer, folder)
        return folder

    return make


@pytest.fixture(scope="session")
def checkpoint(make_checkpoint):
    return make_checkpoint(0)


@pytest.fixture(scope="session")
def model(checkpoint):
    return load_checkpoint(checkpoint)


@pytest.fixture(scope="session")
def exported(checkpoint, tmp_path_factory):
    """The checkpoint's engine folder, made by the command."""
    folder = tmp_path_factory.mktemp("exported") / "engine"
    assert main([str(checkpoint), str(folder)]) == 0
    return folder

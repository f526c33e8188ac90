"""A small random checkpoint and its exported engine."""

import onnxruntime
import pytest
import torch

from benchmarks import random_checkpoint
from molmo2_ros.engines.checkpoint import load_checkpoint
from molmo2_ros.engines.export import main
from molmo2_ros.runtime.providers import release
from molmo2_ros.training.nano.model import ModelConfig, build_model, save_checkpoint
from molmo2_ros.training.nano.tokenizer import train_nano_tokenizer


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


@pytest.fixture(scope="session")
def reduced():
    """Widths that make a released variant small, its kind of heads kept: text and vision."""

    def widths(variant):
        num_heads = 4
        return {
            "text": {
                "hidden_size": 64,
                "intermediate_size": 96,
                "num_attention_heads": num_heads,
                "num_key_value_heads": num_heads if variant == "Molmo2-O-7B" else 2,
                "head_dim": 16,
                "vocab_size": 600,
            },
            "vision": {
                "hidden_size": 48,
                "intermediate_size": 64,
                "num_hidden_layers": 2,
                "num_attention_heads": 2,
                "num_key_value_heads": 2,
                "head_dim": 24,
            },
        }

    return widths


@pytest.fixture(scope="session")
def sharded(tmp_path_factory, reduced):
    """A small checkpoint of several files in the released layout, bfloat16."""
    folder = tmp_path_factory.mktemp("sharded") / "checkpoint"
    widths = reduced("Molmo2-8B")
    return random_checkpoint.make_checkpoint(
        folder, "Molmo2-8B", num_layers=2, shard_bytes=100_000, **widths
    )


@pytest.fixture(scope="session")
def float16(sharded, tmp_path_factory):
    """The engine folder of several files of weights, in float16 and proven in it."""
    folder = tmp_path_factory.mktemp("float16") / "engine"
    # ONNX Runtime before 1.26 has no fast fused attention in float16 on the CPU.
    form = "fused" if release(onnxruntime.__version__) >= (1, 26) else "decomposed"
    assert main([str(sharded), str(folder), "--dtype", "float16", "--form", form]) == 0
    return folder

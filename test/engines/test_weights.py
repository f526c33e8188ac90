"""The tensors of a checkpoint: every stored layout, and files that are not what they should be."""

import hashlib
import json
import os
import shutil
import time

import pytest
import torch
from safetensors.torch import load_file, save_file

from benchmarks.random_checkpoint import VARIANTS, make_checkpoint
from molmo2_ros.engines.checkpoint import load_checkpoint, open_skeleton
from molmo2_ros.engines.skeleton import parameter_shapes
from molmo2_ros.engines.weights import CheckpointWeights, weight_files, weights_sha256
from molmo2_ros.errors import EngineError


def open_weights(folder):
    return CheckpointWeights(folder, parameter_shapes(open_skeleton(folder, torch.float32)))


@pytest.fixture
def spoilt(sharded, tmp_path):
    return shutil.copytree(sharded, tmp_path / "checkpoint")


def shard(folder, number):
    return sorted(folder.glob("*.safetensors"))[number]


def rewrite(path, change):
    """Save a file of weights again after `change` was applied to its tensors."""
    tensors = load_file(path)
    change(tensors)
    save_file(tensors, path)


@pytest.mark.parametrize("variant", VARIANTS)
def test_released_layout_is_read_as_transformers_reads_it(variant, tmp_path, reduced):
    widths = reduced(variant)
    folder = make_checkpoint(tmp_path, variant, num_layers=2, shard_bytes=100_000, **widths)
    assert len(weight_files(folder)) > 2
    expected = dict(load_checkpoint(folder).named_parameters())
    weights = open_weights(folder)
    for name, parameter in expected.items():
        assert torch.equal(weights.read(name).float(), parameter), name


def test_layout_that_transformers_saves_is_read_too(checkpoint, model):
    weights = open_weights(checkpoint)
    for name, parameter in model.named_parameters():
        assert torch.equal(weights.read(name), parameter), name


def test_layout_under_transformers_own_names_is_read_too(spoilt, model, checkpoint, tmp_path):
    folder = shutil.copytree(checkpoint, tmp_path / "own")
    tensors = {name: value.detach().clone() for name, value in model.named_parameters()}
    save_file(tensors, folder / "model.safetensors")
    weights = open_weights(folder)
    for name, parameter in model.named_parameters():
        assert torch.equal(weights.read(name), parameter), name


def test_files_are_read_one_after_the_other(sharded):
    weights = open_weights(sharded)
    names = sorted(parameter_shapes(open_skeleton(sharded, torch.float32)), key=weights.order)
    numbers = [weights.order(name)[0] for name in names]
    assert numbers == sorted(numbers)
    assert set(numbers) == set(range(len(weights.files)))


def test_truncated_shard_is_refused_before_anything_is_read(spoilt):
    path = shard(spoilt, 1)
    path.write_bytes(path.read_bytes()[:-1000])
    with pytest.raises(EngineError, match="model-00002-of.* is truncated or no safetensors file"):
        open_weights(spoilt)


def test_shard_without_its_header_is_refused(spoilt):
    shard(spoilt, 0).write_bytes(b"\x00\x01")
    with pytest.raises(EngineError, match="model-00001-of.* is truncated or no safetensors file"):
        open_weights(spoilt)


def test_missing_shard_is_named(spoilt):
    shard(spoilt, 1).unlink()
    with pytest.raises(EngineError, match="lacks model-00002-of-.* of model.safetensors.index"):
        open_weights(spoilt)


def test_index_that_is_no_index_is_refused(spoilt):
    (spoilt / "model.safetensors.index.json").write_text('{"weight_map": {}}')
    with pytest.raises(EngineError, match=r"is no index of weights \(weight_map is empty\)"):
        open_weights(spoilt)


def test_shard_that_lacks_a_tensor_of_the_index_is_refused(spoilt):
    rewrite(shard(spoilt, 1), lambda tensors: tensors.pop(sorted(tensors)[0]))
    with pytest.raises(EngineError, match="is not in model-00002-of-.*, where model.safetensors"):
        open_weights(spoilt)


def test_shard_with_bytes_that_the_index_does_not_count_is_refused(spoilt):
    rewrite(shard(spoilt, 1), lambda tensors: tensors.update(more=torch.zeros(3)))
    with pytest.raises(EngineError, match="the tensors have .* bytes, model.safetensors.index"):
        open_weights(spoilt)


def test_weights_of_another_config_are_refused(spoilt):
    config = json.loads((spoilt / "config.json").read_text())
    config["text_config"]["num_hidden_layers"] = 3
    (spoilt / "config.json").write_text(json.dumps(config))
    with pytest.raises(EngineError, match=r"lacks .* tensors, the first is .*blocks\.2\."):
        open_weights(spoilt)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda tensor: tensor[:-1], r"lm_head.weight has shape \[599, 64\], config.json asks for"),
        (lambda tensor: tensor[:, :-1], r"has shape \[600, 63\], config.json asks for \[600, 64\]"),
        (lambda tensor: tensor.to(torch.int8), "is I8, expected one of F64, F32, F16, BF16"),
    ],
)
def test_altered_tensor_is_refused(spoilt, change, message):
    (spoilt / "model.safetensors.index.json").unlink()
    tensors = {}
    for path in sorted(spoilt.glob("*.safetensors")):
        tensors |= load_file(path)
        path.unlink()
    tensors["lm_head.weight"] = change(tensors["lm_head.weight"]).contiguous()
    save_file(tensors, spoilt / "model.safetensors")
    with pytest.raises(EngineError, match=message):
        open_weights(spoilt)


@pytest.mark.parametrize("name", ["pytorch_model.bin", "model.pt", "weights.pkl"])
def test_pickle_is_refused_unread(spoilt, name):
    for path in spoilt.glob("*.safetensors*"):
        path.unlink()
    (spoilt / name).write_bytes(b"cos\nsystem\n(S'touch pwned'\ntR.")
    with pytest.raises(EngineError, match=f"its weights as {name}, a pickle, which may run any"):
        open_weights(spoilt)
    with pytest.raises(EngineError, match="expected safetensors"):
        load_checkpoint(spoilt)


def test_folder_without_weights_is_refused(spoilt):
    for path in spoilt.glob("*.safetensors*"):
        path.unlink()
    with pytest.raises(EngineError, match="has neither model.safetensors nor model.safetensors.in"):
        open_weights(spoilt)


def test_file_that_goes_away_meanwhile_is_told(spoilt):
    weights = open_weights(spoilt)
    shard(spoilt, 0).unlink()
    with pytest.raises(EngineError, match="model-00001-of-.* cannot be read any more"):
        weights.read(min(parameter_shapes(open_skeleton(spoilt, torch.float32)), key=weights.order))


def as_in_hub_cache(folder, tmp_path):
    """Weight files as links to files that are named after their hashes, as the hub's cache has."""
    for path in folder.glob("*.safetensors"):
        one = tmp_path / "one"
        shutil.rmtree(one, ignore_errors=True)
        one.mkdir()
        shutil.copy(path, one / "model.safetensors")
        blob = tmp_path / weights_sha256(one)
        path.rename(blob)
        path.symlink_to(blob)


def as_downloaded(folder):
    """Note each file's hash beside the folder's files, as `hf download --local-dir` does."""
    notes = folder / ".cache" / "huggingface" / "download"
    notes.mkdir(parents=True)
    for path in folder.glob("*.safetensors"):
        digest = hashlib.sha256(path.read_bytes()).hexdigest()
        (notes / f"{path.name}.metadata").write_text(f"{'a' * 40}\n{digest}\n{time.time()}\n")


def test_downloaded_file_that_was_altered_is_found_unless_it_was_written_since(spoilt):
    as_downloaded(spoilt)
    whole = weights_sha256(spoilt)
    path = shard(spoilt, 1)
    fetched_s = path.stat().st_mtime
    content = bytearray(path.read_bytes())
    content[-1] ^= 1
    path.write_bytes(content)
    os.utime(path, (fetched_s, fetched_s))
    with pytest.raises(EngineError, match="model-00002-of-.* was altered: its sha256 is not"):
        weights_sha256(spoilt)
    after_s = time.time() + 60
    os.utime(path, (after_s, after_s))  # somebody's own weights
    assert weights_sha256(spoilt) != whole


def test_file_of_the_hub_that_was_altered_is_found(spoilt, tmp_path):
    whole = weights_sha256(spoilt)
    as_in_hub_cache(spoilt, tmp_path)
    assert weights_sha256(spoilt) == whole
    blob = shard(spoilt, 1).resolve()
    content = bytearray(blob.read_bytes())
    content[-1] ^= 1
    blob.write_bytes(content)
    with pytest.raises(EngineError, match="model-00002-of-.* was altered: its sha256 is not"):
        weights_sha256(spoilt)

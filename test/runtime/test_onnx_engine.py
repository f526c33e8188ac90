"""The ONNX engine: caches, branches, features, and graphs that do not load."""

import json
import shutil
import sys
from types import ModuleType

import numpy as np
import onnxruntime
import pytest

from molmo2_ros.errors import EngineError
from molmo2_ros.runtime.engine import NANO, load_engine
from molmo2_ros.runtime.manifest import FILE_NAME
from molmo2_ros.runtime.onnx_session import PROVIDERS, DeviceLostError, check_device, choose_device
from molmo2_ros.runtime.providers import release

UNSEEN = np.finfo(np.float32).min
# An older ONNX Runtime is refused for a float16 engine on the CPU before its graphs are looked at.
RUNS_HALF_PRECISION = release(onnxruntime.__version__) >= (1, 26)


def causal(num_new, num_past=0):
    """Bias [1, 1, S, T] of plain text."""
    row, column = np.indices((num_new, num_past + num_new))
    return np.where(column <= row + num_past, np.float32(0), UNSEEN)[None, None]


def positions(start, stop):
    return np.arange(start, stop)[None]


@pytest.fixture(scope="module")
def ids(nano):
    return np.random.default_rng(1).integers(0, nano.manifest.text.vocab_size, (1, 9))


def test_text_read_in_two_parts_gives_the_logits_of_one(nano, ids):
    whole, kv = nano.forward(
        ids, positions(0, 9), causal(9), nano.empty_kv(), logit_indices_L=np.arange(9)
    )
    assert kv.length == 9
    _, kv = nano.forward(ids[:, :5], positions(0, 5), causal(5), nano.empty_kv())
    rest, kv = nano.forward(
        ids[:, 5:], positions(5, 9), causal(4, 5), kv, logit_indices_L=np.arange(4)
    )
    assert kv.length == 9
    np.testing.assert_allclose(rest, whole[:, 5:], atol=1e-4)


def test_only_the_wanted_logits_are_returned_and_the_last_one_by_default(nano, ids):
    arguments = (ids, positions(0, 9), causal(9), nano.empty_kv())
    every, _ = nano.forward(*arguments, logit_indices_L=np.arange(9))
    some, _ = nano.forward(*arguments, logit_indices_L=np.array([7, 2]))
    last, _ = nano.forward(*arguments)
    assert last.shape == (1, 1, nano.manifest.text.vocab_size)
    np.testing.assert_allclose(some, every[:, [7, 2]], atol=1e-4)
    np.testing.assert_allclose(last, every[:, 8:], atol=1e-4)


def test_a_cache_stays_valid_after_it_was_continued(nano, ids):
    _, kv = nano.forward(ids, positions(0, 9), causal(9), nano.empty_kv())
    one = np.array([[3]])
    first, _ = nano.forward(one, positions(9, 10), causal(1, 9), kv)
    nano.forward(np.array([[4]]), positions(9, 10), causal(1, 9), kv)
    again, _ = nano.forward(one, positions(9, 10), causal(1, 9), kv)
    np.testing.assert_array_equal(first, again)


def test_a_cut_cache_is_that_of_its_first_tokens(nano, ids):
    _, whole = nano.forward(ids, positions(0, 9), causal(9), nano.empty_kv())
    _, short = nano.forward(ids[:, :6], positions(0, 6), causal(6), nano.empty_kv())
    cut = nano.keep_kv(whole, np.arange(6))
    assert (whole.length, cut.length) == (9, 6)
    assert nano.keep_kv(whole, np.arange(9)) is whole
    one = np.array([[3]])
    after_cut, after_short = (
        nano.forward(one, positions(6, 7), causal(1, 6), kv)[0] for kv in (cut, short)
    )
    np.testing.assert_allclose(after_cut, after_short, atol=1e-4)


@pytest.mark.parametrize(("cut_share", "num_columns"), [(0.0, 6), (1.0, 9)])
def test_cut_tokens_are_seen_by_nobody_whether_they_are_left_in_or_taken_out(
    nano, ids, monkeypatch, cut_share, num_columns
):
    """On a GPU what was cut stays in the cache, masked, until it is more than what counts."""
    monkeypatch.setattr(nano, "_cut_share", cut_share)
    _, kv = nano.forward(ids, positions(0, 9), causal(9), nano.empty_kv())
    kv = nano.keep_kv(kv, np.arange(6))
    assert (kv.length, kv.num_columns) == (6, num_columns)
    other = (ids[:, 6:] + 1) % nano.manifest.text.vocab_size
    _, kv = nano.forward(other, positions(6, 9), causal(3, 6), kv)
    plain = np.concatenate([ids[:, :6], other[:, :2], ids[:, :1]], axis=1)
    expected, _ = nano.forward(plain, positions(0, 9), causal(9), nano.empty_kv())
    left_in = nano.keep_kv(kv, np.arange(8))  # what is left is not in one piece
    monkeypatch.setattr(nano, "_cut_share", 0.0)
    taken_out = nano.keep_kv(kv, np.arange(8))
    assert taken_out.num_columns == 8
    for cut in (left_in, taken_out):
        last, _ = nano.forward(ids[:, :1], positions(8, 9), causal(1, 8), cut)
        np.testing.assert_allclose(last, expected, atol=1e-4)


def test_visual_features_are_added_to_the_embedding(nano, ids):
    visual = np.zeros((1, 9, nano.manifest.text.hidden_size), np.float32)
    arguments = (ids, positions(0, 9), causal(9), nano.empty_kv())
    without, _ = nano.forward(*arguments)
    zeros, _ = nano.forward(*arguments, visual_BSD=visual)
    visual[0, 4] = 1
    added, _ = nano.forward(*arguments, visual_BSD=visual)
    np.testing.assert_array_equal(without, zeros)
    assert np.abs(added - without).max() > 1e-3


def test_a_view_has_the_same_features_alone_and_among_others(nano):
    vision = nano.manifest.vision
    num_patches = (vision.image_size // vision.patch_size) ** 2
    views = np.random.default_rng(2).uniform(-1, 1, (3, num_patches, 3 * vision.patch_size**2))
    views = views.astype(np.float32)
    window = np.arange(num_patches).reshape(-1, 4)
    together = nano.encode(views, np.concatenate([window + k * num_patches for k in range(3)]))
    alone = np.concatenate([nano.encode(view[None], window) for view in views])
    np.testing.assert_allclose(together, alone, atol=1e-4)


def test_a_padded_slot_has_no_influence_on_its_window(nano):
    vision = nano.manifest.vision
    num_patches = (vision.image_size // vision.patch_size) ** 2
    view = np.random.default_rng(3).uniform(-1, 1, (1, num_patches, 3 * vision.patch_size**2))
    view = view.astype(np.float32)
    narrow = nano.encode(view, np.array([[7, 8]]))
    padded = nano.encode(view, np.array([[7, -1, 8, -1], [1, 2, 3, 4]]))
    np.testing.assert_allclose(padded[:1], narrow, atol=1e-4)
    assert np.abs(nano.encode(view, np.array([[7, 0, 8, 0]])) - narrow).max() > 1e-3


def test_impossible_shapes_are_reported_with_the_shapes(nano):
    with pytest.raises(EngineError, match=r"vision\.onnx failed on patches \(1, 3, 588\)"):
        nano.encode(np.zeros((1, 3, 588), np.float32), np.zeros((1, 4), np.int64))
    with pytest.raises(EngineError, match=r"decoder\.onnx failed on inputs of shapes .* after 0"):
        nano.forward(np.zeros((1, 2), np.int64), positions(0, 2), causal(3), nano.empty_kv())


@pytest.mark.parametrize("path", [None, "nano", NANO, str(NANO)])
def test_shipped_engine_is_found_by_its_name(path):
    assert load_engine(path, threads=1).folder == NANO


@pytest.mark.parametrize("found", [None, ModuleType("onnxruntime")], ids=["missing", "emptied"])
def test_missing_onnxruntime_is_reported_with_the_cure(monkeypatch, found):
    for name in ("onnx_engine", "onnx_session"):
        monkeypatch.delitem(sys.modules, f"molmo2_ros.runtime.{name}")
    monkeypatch.setitem(sys.modules, "onnxruntime", found)
    with pytest.raises(EngineError, match="install it with `pip install onnxruntime`, on a machin"):
        load_engine(NANO)


@pytest.mark.parametrize(
    ("asked", "available", "device"),
    [
        ("auto", ["CPUExecutionProvider"], "cpu"),
        ("auto", ["TensorrtExecutionProvider", *PROVIDERS.values()], "cuda"),
        ("cpu", [*PROVIDERS.values()], "cpu"),  # also where there is a GPU
        ("cuda", [*PROVIDERS.values()], "cuda"),
    ],
)
def test_cuda_is_taken_where_onnxruntime_offers_it(asked, available, device):
    assert choose_device(asked, available) == device


def test_device_that_this_onnxruntime_lacks_is_refused_with_what_it_has_and_the_cure():
    has = ["AzureExecutionProvider", "CPUExecutionProvider"]
    with pytest.raises(EngineError, match=r"'cuda', which needs CUDAE.* has Azure.*, CPU.*pip un"):
        choose_device("cuda", has)


def test_unknown_device_is_refused():
    with pytest.raises(EngineError, match="device is 'gpu', expected one of auto, cpu, cuda"):
        load_engine(NANO, device="gpu")


def test_engine_says_where_it_runs_and_runs_there():
    engine = load_engine(NANO, threads=1, device="cpu")
    assert engine.device == "cpu"
    _, kv = engine.forward(np.array([[3]]), positions(0, 1), causal(1), engine.empty_kv())
    assert {tensor.device_name() for tensor in kv.tensors} == {"cpu"}


def test_provider_that_fell_back_is_noticed():
    """What a session says of itself where CUDA's libraries are missing."""
    session = onnxruntime.InferenceSession(
        NANO / "decoder.onnx", providers=["CPUExecutionProvider"]
    )
    check_device("cpu", session.get_providers())
    with pytest.raises(DeviceLostError, match="could not start CUDAExec.* fell back to CPUEx"):
        check_device("cuda", session.get_providers())


@pytest.mark.parametrize("threads", [0, -1])
def test_impossible_number_of_threads_is_refused(threads):
    with pytest.raises(EngineError, match=f"threads is {threads}, expected at least 1"):
        load_engine(NANO, threads=threads)


def test_folder_that_does_not_exist_is_refused(tmp_path):
    with pytest.raises(EngineError, match=r"no manifest\.json in .*nowhere"):
        load_engine(tmp_path / "nowhere")


@pytest.mark.parametrize("name", ["vision.onnx", "decoder.onnx"])
def test_graph_that_does_not_load_is_reported_with_the_cure(engine_folder, vouch_for, name):
    graph = engine_folder / name
    graph.write_bytes(graph.read_bytes().replace(b"MatMul", b"MutMal"))
    vouch_for(engine_folder, name)
    with pytest.raises(EngineError, match=rf"{name} does not load in onnxruntime .*fetch the fold"):
        load_engine(engine_folder)


@pytest.mark.parametrize(
    ("dtype", "message"),
    [
        (
            "float16",
            r"takes attn_bias as tensor\(float\), the manifest says float16: they"
            if RUNS_HALF_PRECISION
            else r"needs onnxruntime 1\.26",
        ),
        ("bfloat16", r"is in bfloat16, which ONNX Runtime does not multiply on the CPU"),
    ],
)
def test_graph_of_another_precision_than_the_manifest_says_is_refused(
    engine_folder, dtype, message
):
    path = engine_folder / FILE_NAME
    path.write_text(json.dumps({**json.loads(path.read_text()), "dtype": dtype}))
    with pytest.raises(EngineError, match=message):
        load_engine(engine_folder)


def test_engine_tells_its_runtime(nano):
    assert nano.runtime == f"onnxruntime {onnxruntime.__version__} CPUExecutionProvider"


def test_graph_with_other_inputs_is_refused(engine_folder, vouch_for):
    shutil.copyfile(engine_folder / "vision.onnx", engine_folder / "decoder.onnx")
    vouch_for(engine_folder, "decoder.onnx")
    with pytest.raises(EngineError, match=r"decoder\.onnx has inputs \['patches', 'pooling'\]"):
        load_engine(engine_folder)

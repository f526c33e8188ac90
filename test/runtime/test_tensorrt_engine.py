"""The TensorRT engine's bookkeeping, on the host's memory and ONNX Runtime (host_gpu.py).

It shows that addresses, masks, padding, caches and replays fit together. It does not show that the
engine runs on a GPU.
"""

import gc
from dataclasses import replace

import numpy as np
import pytest

from molmo2_ros.camera.clip import Clip
from molmo2_ros.engines.embedding_table import split_embedding
from molmo2_ros.errors import EngineError
from molmo2_ros.grounder import Grounder
from molmo2_ros.prompt.layout import HIDDEN
from molmo2_ros.prompt.query import parse_query
from molmo2_ros.prompt.tokenizer import PromptTokenizer
from molmo2_ros.runtime.decoding import Draft, Guide, generate, prefill
from molmo2_ros.runtime.device_features import DeviceFeatures
from molmo2_ros.runtime.engine import NANO
from molmo2_ros.runtime.golden import Golden, clip_inputs, verify_golden
from molmo2_ros.runtime.tensorrt_engine import TensorRTEngine
from molmo2_ros.runtime.tensorrt_plan import choose_limits, plan_graphs
from molmo2_ros.simulation.source import TableSource

QUESTIONS = ("Point to the red mug", "How many mugs are there?", "Track the plate", "Point: a cone")


@pytest.fixture
def make(nano, host_gpu):
    """Make a TensorRTEngine over the shipped graphs, and the HostCuda under it."""

    def make_engine(*, floats="FLOAT", limits=None, host_embedding=False, **cuda_facts):
        manifest = nano.manifest
        limits = limits or choose_limits(manifest, embedding="host" if host_embedding else "device")
        cuda = host_gpu.HostCuda(**cuda_facts)
        decoder, vision = plan_graphs(manifest, limits)
        model, table = str(NANO / "decoder.onnx"), None
        if host_embedding:
            model, table = split_embedding(NANO / "decoder.onnx")
            table = table if floats == "FLOAT" else table.astype(np.float16)
        engines = {
            "decoder": host_gpu.HostEngine(cuda, decoder, model, floats),
            "vision": host_gpu.HostEngine(cuda, vision, str(NANO / "vision.onnx"), floats),
        }
        return TensorRTEngine(
            NANO, manifest, limits, host_gpu.FOUND, cuda, engines, table=table
        ), cuda

    return make_engine


@pytest.fixture(scope="module")
def table_clip():
    source = TableSource(seed=3, rate_hz=2)
    return Clip(tuple(source.read() for _ in range(5)))


def causal(num_new, num_past=0):
    row, column = np.indices((num_new, num_past + num_new))
    return np.where(column <= row + num_past, np.float32(0), HIDDEN)[None, None]


def read(engine, ids, kv, wanted=None):
    """Read tokens as plain text; the logits [L, V] and the cache."""
    start, count = kv.length, len(ids)
    logits, kv = engine.forward(
        np.array(ids)[None],
        np.arange(start, start + count)[None],
        causal(count, start).astype(np.float32),
        kv,
        logit_indices_L=None if wanted is None else np.array(wanted),
    )
    return logits[0], kv


@pytest.fixture(scope="module")
def ids(nano):
    return np.random.default_rng(1).integers(0, nano.manifest.text.vocab_size, 300)


@pytest.mark.parametrize("host_embedding", [False, True])
def test_the_golden_example_comes_out(make, host_embedding):
    engine, _ = make(host_embedding=host_embedding)
    assert verify_golden(engine) < 1e-4


def test_the_golden_example_comes_out_in_float16(make, nano):
    """Mask, cache, features and embeddings pass through float16; float32's HIDDEN has no place."""
    for host_embedding in (False, True):
        engine, _ = make(floats="HALF", host_embedding=host_embedding)
        golden = Golden.load(NANO / "golden.npz")
        inputs = clip_inputs(
            nano.manifest.vision,
            PromptTokenizer(NANO),
            golden.frames,
            golden.times_s,
            golden.question,
        )
        features = engine.encode(inputs.patches_KNC, inputs.pooling_MW)
        prefix = prefill(engine, inputs.prefix, features)
        (answer,) = generate(engine, prefix, [inputs.suffix.ids], max_new_tokens=len(golden.tokens))
        assert answer.ids == tuple(golden.tokens.tolist())


@pytest.mark.parametrize("question", QUESTIONS)
def test_answers_are_those_of_onnx_runtime(make, nano, table_clip, question):
    engine, _ = make()
    ours, theirs = Grounder(engine), Grounder(nano)
    query = parse_query(question)
    for _ in range(2):  # the second time the features and the prefix are there
        answer, expected = (grounder.answer(table_clip, query) for grounder in (ours, theirs))
        assert answer.text == expected.text


def test_questions_asked_together_are_those_of_onnx_runtime(make, nano, table_clip):
    queries = [parse_query(question) for question in QUESTIONS]
    engine, _ = make()
    ours, theirs = (
        [answer.text for answer in Grounder(each).answer_all(table_clip, queries)]
        for each in (engine, nano)
    )
    assert ours == theirs


def test_wide_drafts_and_many_wanted_logits_are_read_in_several_passes(make, nano, ids):
    limits = choose_limits(nano.manifest, verify_tokens=4)
    limits = replace(limits, prefill_tokens=40, prefill_logits=8)
    engine, _ = make(limits=limits)
    wanted = [2, 3, *range(20, 45), 99]
    logits, kv = read(engine, ids[:100], engine.empty_kv(), wanted)
    expected, _ = read(nano, ids[:100], nano.empty_kv(), wanted)
    np.testing.assert_allclose(logits, expected, atol=1e-4)
    assert kv.length == 100


@pytest.mark.parametrize("count", [1, 2, 4, 16, 17, 40])
def test_a_pass_of_any_width_gives_the_logits_of_onnx_runtime(make, nano, ids, count):
    engine, _ = make()
    _, kv = read(engine, ids[:30], engine.empty_kv())
    _, other = read(nano, ids[:30], nano.empty_kv())
    more = ids[30 : 30 + count]
    logits, kv = read(engine, more, kv, range(count))
    expected, other = read(nano, more, other, range(count))
    np.testing.assert_allclose(logits, expected, atol=1e-4)
    after, _ = read(engine, [7], kv)
    np.testing.assert_allclose(after, read(nano, [7], other)[0], atol=1e-4)


def test_a_cache_stays_valid_after_it_was_continued(make, ids):
    engine, _ = make()
    _, kv = read(engine, ids[:9], engine.empty_kv())
    first, _ = read(engine, [3], kv)
    _, other = read(engine, [4], kv)
    again, _ = read(engine, [3], kv)
    np.testing.assert_array_equal(first, again)
    assert (kv.length, other.length) == (9, 10)


def test_branches_of_one_cache_do_not_write_over_each_other(make, nano, ids):
    engine, _ = make()
    _, kv = read(engine, ids[:9], engine.empty_kv())
    _, left = read(engine, [3, 5], kv)
    _, right = read(engine, [4, 6], kv)  # while `left` is still held
    assert left.buffer is not right.buffer
    for branch, tokens in ((left, [3, 5]), (right, [4, 6])):
        _, expected = read(nano, [*ids[:9], *tokens], nano.empty_kv())
        np.testing.assert_allclose(
            read(engine, [8], branch)[0], read(nano, [8], expected)[0], atol=1e-4
        )


def test_what_was_cut_off_is_written_over_in_place(make, nano, ids):
    engine, _ = make()
    _, kv = read(engine, ids[:9], engine.empty_kv())
    buffer = kv.buffer
    kv = engine.keep_kv(kv, np.arange(6))
    _, kv = read(engine, ids[20:23], kv)
    assert kv.buffer is buffer
    _, expected = read(nano, [*ids[:6], *ids[20:23]], nano.empty_kv())
    np.testing.assert_allclose(read(engine, [8], kv)[0], read(nano, [8], expected)[0], atol=1e-4)


def test_what_was_not_kept_between_tokens_is_seen_by_nobody(make, nano, ids):
    engine, _ = make()
    _, kv = read(engine, ids[:20], engine.empty_kv())
    prefix = engine.keep_kv(kv, np.arange(6))
    buffer = kv.buffer
    kv = engine.keep_kv(kv, np.array([0, 1, 2, 3, 4, 5, 9, 10, 15]))
    # As branches do: what stands between is masked for those that come behind it.
    logits, kv = read(engine, ids[20:23], kv, range(3))
    assert (kv.length, kv.buffer) == (12, buffer)
    _, expected = read(nano, ids[:20], nano.empty_kv())
    expected = nano.keep_kv(expected, np.array([0, 1, 2, 3, 4, 5, 9, 10, 15]))
    wanted, expected = read(nano, ids[20:23], expected, range(3))
    np.testing.assert_allclose(logits, wanted, atol=1e-4)
    np.testing.assert_allclose(read(engine, [8], kv)[0], read(nano, [8], expected)[0], atol=1e-4)
    _, expected = read(nano, ids[:6], nano.empty_kv())
    np.testing.assert_allclose(
        read(engine, [8], prefix)[0], read(nano, [8], expected)[0], atol=1e-4
    )


def test_a_cache_grows_over_its_buckets(make, nano, ids):
    engine, _ = make()
    kv, expected = engine.empty_kv(), nano.empty_kv()
    columns = []
    for start in range(0, 300, 20):
        logits, kv = read(engine, ids[start : start + 20], kv)
        columns.append(kv.buffer.columns)
        wanted, expected = read(nano, ids[start : start + 20], expected)
        np.testing.assert_allclose(logits, wanted, atol=1e-4)
    assert sorted(set(columns)) == [256, 512]


def test_passes_of_one_shape_are_replayed_and_their_contexts_left_alone(make, nano, ids):
    engine, cuda = make()
    _, kv = read(engine, ids[:30], engine.empty_kv())
    _, other = read(nano, ids[:30], nano.empty_kv())
    cuda.calls.clear()
    for token in ids[30:36]:
        logits, kv = read(engine, [token], kv)
        expected, other = read(nano, [token], other)
        np.testing.assert_allclose(logits, expected, atol=1e-4)
    # The first runs, the second is written down and launched, as are all later ones.
    assert cuda.calls.count("launch") == 5
    for first in range(36, 48, 4):
        logits, kv = read(engine, ids[first : first + 4], kv)
        expected, other = read(nano, ids[first : first + 4], other)
        np.testing.assert_allclose(logits, expected, atol=1e-4)
    assert cuda.calls.count("launch") == 5 + 2


def test_a_frame_is_encoded_by_a_replayed_pass(make, nano):
    engine, cuda = make()
    vision = nano.manifest.vision
    random = np.random.default_rng(2)
    pooling = np.arange(144).reshape(36, 4)
    for _ in range(3):
        patches = random.uniform(-1, 1, (1, 144, 588)).astype(np.float32)
        expected = nano.encode(patches, pooling)
        np.testing.assert_allclose(engine.encode(patches, pooling), expected, atol=1e-4)
    assert cuda.calls.count("launch") == 2
    assert vision.image_size // vision.patch_size == 12


def test_more_views_than_one_pass_takes_are_encoded_in_several(make, nano):
    engine, _ = make()
    patches = np.random.default_rng(2).uniform(-1, 1, (11, 144, 588)).astype(np.float32)
    pooling = np.arange(11 * 144).reshape(-1, 4)
    pooling[5, 2:] = -1
    features = engine.encode(patches, pooling)
    assert [part.num_tokens for part in features.parts] == [288, 108]
    np.testing.assert_allclose(features, nano.encode(patches, pooling), atol=1e-4)
    pooling[7, 0] = 10 * 144
    with pytest.raises(EngineError, match="a window reaches out of views 0 to 8 of 11"):
        engine.encode(patches, pooling)


def test_features_stay_on_the_device_from_frame_to_prompt(make, nano, table_clip):
    engine, cuda = make()
    grounder = Grounder(engine)
    cuda.calls.clear()
    grounder.answer(table_clip, parse_query("Track the mug"))
    width = nano.manifest.text.vocab_size * 4
    downloads = [call[1] for call in cuda.calls if isinstance(call, tuple)]
    assert downloads
    assert all(num_bytes % width == 0 for num_bytes in downloads)  # rows of logits, nothing else
    features = grounder.features.frames(table_clip.frames)
    assert isinstance(features, DeviceFeatures)
    assert features.shape == (len(table_clip.frames) * 36, 128)


def test_no_memory_is_left_behind(make, table_clip):
    engine, cuda = make()
    grounder = Grounder(engine)
    grounder.answer(table_clip, parse_query("Point to the mug"))
    assert cuda.alive
    assert cuda.pinned
    del grounder, engine
    gc.collect()
    assert not cuda.alive
    assert not cuda.pinned


def test_memory_of_old_clips_is_used_again(make):
    engine, cuda = make()
    grounder = Grounder(engine, max_frames=4)
    source = TableSource(seed=1, rate_hz=2)
    query = parse_query("Track the mug")
    used = []
    for _ in range(6):
        grounder.answer(Clip(tuple(source.read() for _ in range(4))), query)
        used.append(sum(map(len, cuda.alive.values())))
    assert used[2] == used[-1]


def test_a_gpu_without_room_is_reported_with_what_helps(make, table_clip):
    engine, _ = make(memory_bytes=3_000_000)
    with pytest.raises(EngineError, match=r"out of memory .* no room .* MB in use; ask"):
        Grounder(engine).answer(table_clip, parse_query("Track the mug"))


def test_a_longer_clip_than_the_engine_was_built_for_is_refused(make, nano, table_clip):
    limits = replace(choose_limits(nano.manifest, max_frames=2), prefill_tokens=120)
    engine, _ = make(limits=limits)
    with pytest.raises(EngineError, match=r"a clip of \d+ tokens, this engine was built for 120"):
        Grounder(engine).answer(table_clip, parse_query("Track the mug"))


def test_a_fuller_cache_than_the_engine_was_built_for_is_refused(make, nano, ids):
    limits = replace(choose_limits(nano.manifest), past_tokens=256)
    engine, _ = make(limits=limits)
    _, kv = read(engine, ids[:200], engine.empty_kv())
    with pytest.raises(EngineError, match="would hold 300 tokens, this engine was built for 256"):
        read(engine, ids[:100], kv)


def test_a_batch_is_refused(make):
    engine, _ = make()
    with pytest.raises(EngineError, match="reads one sequence at once, not 2"):
        engine.forward(
            np.zeros((2, 1), np.int64),
            np.zeros((2, 1), np.int64),
            np.zeros((2, 1, 1, 1), np.float32),
            engine.empty_kv(),
        )


def test_plans_of_two_dtypes_are_refused(nano, host_gpu):
    cuda, limits = host_gpu.HostCuda(), choose_limits(nano.manifest)
    decoder, vision = plan_graphs(nano.manifest, limits)
    engines = {
        "decoder": host_gpu.HostEngine(cuda, decoder, str(NANO / "decoder.onnx")),
        "vision": host_gpu.HostEngine(cuda, vision, str(NANO / "vision.onnx"), "HALF"),
    }
    with pytest.raises(EngineError, match="mix float32 with other features"):
        TensorRTEngine(NANO, nano.manifest, limits, host_gpu.FOUND, cuda, engines)


def test_a_plan_with_other_bindings_is_refused(nano, host_gpu):
    cuda = host_gpu.HostCuda()
    limits = choose_limits(nano.manifest, embedding="host")
    decoder, vision = plan_graphs(nano.manifest, limits)
    engines = {
        "decoder": host_gpu.HostEngine(cuda, decoder, str(NANO / "decoder.onnx")),
        "vision": host_gpu.HostEngine(cuda, vision, str(NANO / "vision.onnx")),
    }
    with pytest.raises(EngineError, match=r"bindings that only one side has: \['input_ids', 'inpu"):
        TensorRTEngine(NANO, nano.manifest, limits, host_gpu.FOUND, cuda, engines)


def test_a_pass_that_cannot_be_written_down_is_run_plainly(make, nano, ids, monkeypatch):
    engine, cuda = make()

    def fail():
        cuda.captured = None
        raise EngineError("cudaStreamEndCapture failed: operation not permitted (CUDA error 900)")

    monkeypatch.setattr(cuda, "end_capture", fail)
    _, kv = read(engine, ids[:30], engine.empty_kv())
    _, other = read(nano, ids[:30], nano.empty_kv())
    for token in ids[30:34]:
        logits, kv = read(engine, [token], kv)
        expected, other = read(nano, [token], other)
        np.testing.assert_allclose(logits, expected, atol=1e-4)
    assert "launch" not in cuda.calls


def test_a_drafted_answer_is_that_of_plain_decoding(make, nano, table_clip):
    """Drafts of all widths: verify passes, wider ones, and what is cut off after them."""

    class Guess:
        def __init__(self, tokens, share):
            self.tokens, self.share = tokens, share

        def draft(self, written):
            ahead = list(self.tokens[len(written) : len(written) + 40])
            if len(ahead) > 3:
                ahead[len(ahead) // self.share] += 1  # wrong from here on
            return Draft.line(ahead)

        def verified(self, written, draft, chosen):
            pass

    engine, _ = make()
    grounder = Grounder(engine)
    text = grounder.answer(table_clip, parse_query("Track the mug")).text
    plain = Grounder(nano).answer(table_clip, parse_query("Track the mug")).text
    assert text == plain
    golden = Golden.load(NANO / "golden.npz")
    inputs = clip_inputs(
        nano.manifest.vision, PromptTokenizer(NANO), golden.frames, golden.times_s, golden.question
    )
    prefix = prefill(engine, inputs.prefix, engine.encode(inputs.patches_KNC, inputs.pooling_MW))
    tokens = golden.tokens.tolist()
    for share in (1, 2, 3):
        (answer,) = generate(
            engine,
            prefix,
            [inputs.suffix.ids],
            max_new_tokens=len(tokens),
            guides=[Guide(drafts=Guess(tokens, share + 1))],
        )
        assert list(answer.ids) == tokens
        assert answer.num_accepted

"""What is asked of an engine on a GPU, stage by stage, for bench_tensorrt.py.

Letters as in molmo2_ros/runtime/engine.py.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import numpy.typing as npt

from molmo2_ros.camera.clip import Clip
from molmo2_ros.camera.frame import Frame
from molmo2_ros.errors import EngineError
from molmo2_ros.grounder import Grounder
from molmo2_ros.prompt.layout import prefix_bias
from molmo2_ros.prompt.patches import frame_pooling
from molmo2_ros.prompt.query import parse_query
from molmo2_ros.prompt.tokenizer import PromptTokenizer
from molmo2_ros.runtime.cuda_api import Copy2D, Cuda
from molmo2_ros.runtime.decoding import generate, prefill
from molmo2_ros.runtime.device_features import DeviceFeatures
from molmo2_ros.runtime.engine import KV, Engine
from molmo2_ros.runtime.examination import read_text
from molmo2_ros.runtime.golden import ClipInputs, Golden, clip_inputs, verify_golden
from molmo2_ros.runtime.manifest import GoldenFacts
from molmo2_ros.runtime.tensorrt_engine import TensorRTEngine

_WIDTHS = (1, 1, 1, 4, 16, 16, 20)  # tokens of the passes that read an answer
_GROWN = 700  # tokens that fill buckets of 256, 512 and 768 columns


def memory(cuda: Cuda) -> bool:
    """Bytes go there, are moved, written down and replayed, and come back as they must."""
    source, target = cuda.allocate(4096), cuda.allocate(4096)
    pinned = cuda.allocate_pinned(4096)
    pinned[:] = np.arange(4096) % 251
    sent = pinned.copy()
    rows = Copy2D(
        target_offset=16, target_pitch=128, source_offset=0, source_pitch=64, width=32, height=20
    )
    cuda.zero(target, 4096)
    cuda.upload(source, pinned)
    cuda.copy_2d(target, source, rows)
    pinned_back = cuda.allocate_pinned(4096)
    cuda.download(pinned_back, target)
    cuda.synchronize()
    expected = np.zeros((32, 128), np.uint8)
    expected[:20, 16:48] = sent.reshape(64, 64)[:20, :32]
    _same("rows copied on the device", pinned_back, expected.reshape(-1))
    cuda.begin_capture()
    cuda.copy(target, source, 4096)
    graph = cuda.end_capture()
    for value in (3, 4, 5):
        pinned[:] = value
        cuda.upload(source, pinned)
        cuda.launch(graph)
        cuda.download(pinned_back, target)
        cuda.synchronize()
        _same("a replayed copy", pinned_back, np.full(4096, value, np.uint8))
    cuda.free_graph(graph)
    for address in (source, target):
        cuda.free(address)
    for array in (pinned, pinned_back):
        cuda.free_pinned(array)
    return True


def golden(engine: Engine) -> float:
    """Largest error of a logit of the golden example; refused as a node would refuse it."""
    return verify_golden(engine)


def golden_tokens(engine: Engine) -> bool:
    """The answer of the golden example, token for token."""
    example, inputs = _golden_inputs(engine)
    prefix = prefill(engine, inputs.prefix, engine.encode(inputs.patches_KNC, inputs.pooling_MW))
    most = len(example.tokens)
    (answer,) = generate(engine, prefix, [inputs.suffix.ids], max_new_tokens=most)
    return answer.ids == tuple(example.tokens.tolist())


def features(engine: Engine, reference: Engine) -> float:
    """Of the golden clip, one frame by a pass of its own and all of them together."""
    _, inputs = _golden_inputs(engine)
    vision = engine.manifest.vision
    window_MW = frame_pooling(vision.image_size // vision.patch_size, vision.video_pooling)
    farthest = 0.0
    for patches, pooling in (
        (inputs.patches_KNC[:1], window_MW),
        (inputs.patches_KNC[:1], window_MW),
        (inputs.patches_KNC[:1], window_MW),
        (inputs.patches_KNC, inputs.pooling_MW),
    ):
        theirs = reference.encode(patches, pooling)
        tolerance = _golden_facts(engine).feature_tolerance * float(np.abs(theirs).max())
        difference = _close("features", engine.encode(patches, pooling), theirs, tolerance)
        farthest = max(farthest, difference)
    return farthest


def logits(engine: Engine, reference: Engine) -> float:
    """After the question and the golden answer, read in passes of all profiles."""
    example, inputs = _golden_inputs(engine)
    ids_S = np.concatenate([inputs.suffix.ids, example.tokens]).astype(np.int64)
    ours, theirs = (_read_in_passes(side, inputs, ids_S, _WIDTHS) for side in (engine, reference))
    return _close("logits", ours, theirs, _golden_facts(engine).logit_tolerance)


def streaming(engine: Engine, reference: Engine) -> bool:
    """A window that slides over the golden clip: each frame is encoded once, answers are equal."""
    images = Golden.load(engine.folder / "golden.npz").frames
    frames = [
        Frame(image=images[number % len(images)].copy(), stamp_ns=number * 500_000_000)
        for number in range(6)
    ]
    ours, theirs = Grounder(engine), Grounder(reference)
    query = parse_query("Track the red mug")
    for first in range(3):
        clip = Clip(tuple(frames[first : first + 4]))
        said, expected = (side.answer(clip, query).text for side in (ours, theirs))
        if said != expected:
            raise EngineError(f"window {first}: {said!r}, expected {expected!r}")
        if not isinstance(ours.features.frames(clip.frames), DeviceFeatures):
            raise EngineError("features came to the host, expected them to stay on the device")
    if ours.features.num_encoded != len(frames):
        raise EngineError(f"{ours.features.num_encoded} frames encoded, expected {len(frames)}")
    return True


def growth(engine: TensorRTEngine, reference: Engine) -> str:
    """A text that fills several buckets, with a branch of an early cache read at its end."""
    vocabulary = engine.manifest.text.vocab_size
    ids_S = np.random.default_rng(1).integers(0, vocabulary, _GROWN)
    kv, expected_kv = engine.empty_kv(), reference.empty_kv()
    tolerance, columns, early = _golden_facts(engine).logit_tolerance, [], None
    for start in range(0, _GROWN, 20):
        piece_S = ids_S[start : start + 20]
        ours, kv = read_text(engine, piece_S, start, kv)
        theirs, expected_kv = read_text(reference, piece_S, start, expected_kv)
        _close(f"logits of tokens {start} to {start + 20}", ours, theirs, tolerance)
        columns.append(kv.buffer.columns)
        early = early or (kv, expected_kv)
    assert early is not None
    ours, theirs = (
        read_text(side, ids_S[:3], 20, cache)[0]
        for side, cache in zip((engine, reference), early, strict=True)
    )
    _close("logits of a branch of an early cache", ours, theirs, tolerance)
    return f"{sorted(set(columns))} columns"


def replays(engine: TensorRTEngine) -> int:
    """How many passes were written down by all that went before, decoding among it."""
    _decoded(engine, 6)
    if not engine.num_replayable:
        raise EngineError("no pass could be written down; the log says why (INFO)")
    return engine.num_replayable


def cases(engine: Engine) -> dict[str, Callable[[], Any]]:
    """The stages of an answer, to be timed."""
    example, inputs = _golden_inputs(engine)
    vision = engine.manifest.vision
    window_MW = frame_pooling(vision.image_size // vision.patch_size, vision.video_pooling)
    features_MD = engine.encode(inputs.patches_KNC, inputs.pooling_MW)
    prefix = prefill(engine, inputs.prefix, features_MD)
    tokens = np.resize(example.tokens, 16).astype(np.int64)
    return {
        "vision, one frame": lambda: engine.encode(inputs.patches_KNC[:1], window_MW),
        f"prefill, {prefix.num_tokens} tokens": lambda: prefill(engine, inputs.prefix, features_MD),
        "verify, 16 tokens": lambda: read_text(engine, tokens, prefix.num_tokens, prefix.kv),
        "decode, one token": lambda: read_text(engine, tokens[:1], prefix.num_tokens, prefix.kv),
    }


def _golden_inputs(engine: Engine) -> tuple[Golden, ClipInputs]:
    example = Golden.load(engine.folder / "golden.npz")
    return example, clip_inputs(
        engine.manifest.vision,
        PromptTokenizer(engine.folder),
        example.frames,
        example.times_s,
        example.question,
    )


def _read_in_passes(
    engine: Engine, inputs: ClipInputs, ids_S: npt.NDArray[np.int64], widths: Sequence[int]
) -> npt.NDArray[np.float32]:
    """Logits [S, V] after each token behind the golden clip, in passes of some widths."""
    features_MD = engine.encode(inputs.patches_KNC, inputs.pooling_MW)
    prefix = prefill(engine, inputs.prefix, features_MD)
    kv, start, found = prefix.kv, 0, []
    for width in (*widths, len(ids_S)):
        piece_S = ids_S[start : start + width]
        if len(piece_S):
            rows, kv = read_text(engine, piece_S, prefix.num_tokens + start, kv)
            found.append(rows)
        start += width
    return np.concatenate(found)


def _decoded(engine: Engine, num_tokens: int) -> KV:
    """A cache of a short text and tokens written one by one."""
    ids_S = np.arange(20, 50)
    bias = prefix_bias(np.zeros(30, np.bool_))[None, None]
    _, kv = engine.forward(ids_S[None], np.arange(30)[None], bias, engine.empty_kv())
    for number in range(num_tokens):
        _, kv = read_text(engine, ids_S[:1], 30 + number, kv)
    return kv


def _golden_facts(engine: Engine) -> GoldenFacts:
    facts = engine.manifest.golden
    if facts is None:
        raise EngineError(f"{engine.folder} has no golden example, expected one with tolerances")
    return facts


def _close(what: str, ours: Any, theirs: Any, tolerance: float) -> float:
    difference = float(np.abs(np.asarray(ours) - np.asarray(theirs)).max())
    if not difference < tolerance:  # a difference that is no number is none, too
        raise EngineError(f"{what} differ by {difference}, expected less than {tolerance}")
    return difference


def _same(what: str, ours: npt.NDArray[np.uint8], expected: npt.NDArray[np.uint8]) -> None:
    if not np.array_equal(ours, expected):
        places = np.flatnonzero(ours != expected)
        raise EngineError(f"{what}: {len(places)} bytes differ, the first at {places[0]}")

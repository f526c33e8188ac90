"""The shapes that a TensorRT engine is built for, as data that builder and runtime share.

TensorRT chooses kernels for named ranges of shapes, called profiles. The decoder has three: reading
a clip, verifying a draft of fixed width, writing one token. The cache is given in whole buckets of
columns, what a bucket holds too much being masked, so that shapes repeat and passes can be
replayed.

Letters as in runtime/engine.py.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

from molmo2_ros.errors import EngineError
from molmo2_ros.runtime.manifest import Manifest, TextFacts, VisionFacts

LAYOUT = 2  # of profiles and bindings; another number makes plans of earlier versions unfit
DECODER_PROFILES = ("prefill", "verify", "decode")  # in the order of the plan
VISION_PROFILES = ("frame", "views")
EMBEDDINGS = ("device", "host")  # where the embedding table stands
_FRAME_MARKERS = 10  # tokens at most for a frame's time, start and end
_QUESTION_ROOM = 512  # tokens of a question that follow a clip in one pass
_ANSWER_ROOM = 2048  # tokens of answers, and of drafts that were not taken over
_USUAL_FRAMES = 8  # of a clip: what kernels are chosen for
_MOST_LOGITS = 128  # rows of logits of one prefill pass; more are read in several passes
_BUCKET = 256  # columns of the cache
_SMALLEST_BUCKET = 16  # what a pass without a past is given, all of it masked
DEFAULT_FRAMES = 32  # frames of a clip that an engine is built for, where the model takes more
DEFAULT_VERIFY = 16
MOST_VERIFY = 256

Shape = tuple[int, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """The largest work that an engine is built for; everything else follows from it."""

    max_frames: int
    prefill_tokens: int  # of one pass
    past_tokens: int  # columns of the cache before a pass
    usual_tokens: int  # of a clip and a question
    verify_tokens: int  # the fixed width of a verify pass
    prefill_logits: int
    max_views: int  # of one vision pass
    embedding: str = "device"  # one of EMBEDDINGS
    workspace_mb: int = 1024  # scratch memory that TensorRT may try kernels with


@dataclass(frozen=True, slots=True, kw_only=True)
class InputRange:
    """The shapes that a profile takes for one input."""

    name: str
    min: Shape
    opt: Shape
    max: Shape


@dataclass(frozen=True, slots=True, kw_only=True)
class Profile:
    """One use of a graph."""

    name: str
    inputs: tuple[InputRange, ...]

    def takes(self, name: str, shape: Sequence[int]) -> bool:
        """Whether an input may have this shape."""
        (wanted,) = (entry for entry in self.inputs if entry.name == name)
        return all(
            low <= size <= high
            for low, size, high in zip(wanted.min, shape, wanted.max, strict=True)
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class GraphPlan:
    """One graph, and what becomes of it."""

    name: str  # "decoder" or "vision"
    profiles: tuple[Profile, ...]
    outputs: tuple[str, ...]
    output_dtype: str | None = None  # of floating point outputs, where the ONNX graph's is another

    @property
    def onnx(self) -> str:
        """The graph's file in the engine folder."""
        return f"{self.name}.onnx"

    @property
    def file(self) -> str:
        """The built plan's file."""
        return f"{self.name}.plan"

    @property
    def inputs(self) -> tuple[str, ...]:
        """Names of its inputs."""
        return tuple(entry.name for entry in self.profiles[0].inputs)


def choose_limits(
    manifest: Manifest,
    *,
    max_frames: int | None = None,
    verify_tokens: int = DEFAULT_VERIFY,
    embedding: str = "device",
    workspace_mb: int = 1024,
) -> Limits:
    """The limits of an engine for clips of so many frames.

    Args:
        manifest: the model's.
        max_frames: of a clip; None for what the model was trained on, 32 at most (a mask of 384
            frames alone takes 2 GB in float16).
        verify_tokens: width of a verify pass.
        embedding: where the embedding table stands: "device", or "host" to keep it out of the GPU.
        workspace_mb: scratch memory for trying kernels.

    Raises:
        EngineError: a number that the model cannot have.
    """
    known = manifest.sampling.max_frames
    max_frames = min(known, DEFAULT_FRAMES) if max_frames is None else max_frames
    for name, value, most in (
        ("max-frames", max_frames, known),
        ("verify-tokens", verify_tokens, MOST_VERIFY),
    ):
        least = 1 if name == "max-frames" else 2
        if not least <= value <= most:
            raise EngineError(
                f"{name} is {value}, expected {least} to {most} for {manifest.name}; choose one"
            )
    if embedding not in EMBEDDINGS:
        raise EngineError(f"embedding is {embedding!r}, expected one of {', '.join(EMBEDDINGS)}")
    if workspace_mb < 16:
        raise EngineError(f"workspace is {workspace_mb} MB, expected 16 at least")
    frame = tokens_per_view(manifest.vision, manifest.vision.video_pooling) + _FRAME_MARKERS
    prompt = 1 + max_frames * frame
    if "crops" in manifest.skills:
        prompt = max(prompt, 1 + _image_tokens(manifest.vision))
    positions = manifest.text.max_positions
    prefill = min(prompt + _QUESTION_ROOM, positions)
    return Limits(
        max_frames=max_frames,
        prefill_tokens=prefill,
        past_tokens=bucket_for(min(prompt + _QUESTION_ROOM + _ANSWER_ROOM, positions)),
        usual_tokens=min(1 + min(max_frames, _USUAL_FRAMES) * frame + 64, prefill),
        verify_tokens=min(verify_tokens, prefill),
        prefill_logits=min(_MOST_LOGITS, prefill),
        max_views=_max_views(manifest),
        embedding=embedding,
        workspace_mb=workspace_mb,
    )


def bucket_for(num_columns: int) -> int:
    """The smallest bucket of so many columns: 16, 256, 512, 768 ..."""
    if num_columns <= _SMALLEST_BUCKET:
        return _SMALLEST_BUCKET
    return -(-num_columns // _BUCKET) * _BUCKET


def tokens_per_view(vision: VisionFacts, pooling: tuple[int, int]) -> int:
    """Visual tokens of one view under a pooling."""
    grid = vision.image_size // vision.patch_size
    return math.prod(-(-grid // pool) for pool in pooling)


def plan_graphs(manifest: Manifest, limits: Limits) -> tuple[GraphPlan, GraphPlan]:
    """Decoder and vision graph with their profiles."""
    return _decoder_plan(manifest.text, limits), _vision_plan(manifest, limits)


def past_names(num_layers: int) -> tuple[str, ...]:
    """Inputs of the cache: past_key_0, past_value_0, past_key_1 ..."""
    return tuple(f"past_{part}_{layer}" for layer in range(num_layers) for part in ("key", "value"))


def present_names(num_layers: int) -> tuple[str, ...]:
    """Outputs of the cache, in the order of its inputs."""
    return tuple(name.replace("past", "present") for name in past_names(num_layers))


def decoder_shapes(
    text: TextFacts, embedding: str, num_new: int, num_past: int, num_logits: int
) -> dict[str, Shape]:
    """Shapes of all inputs of the decoder for one pass."""
    first: dict[str, Shape] = {"input_ids": (1, num_new)}
    if embedding == "host":
        first = {"inputs_embeds": (1, num_new, text.hidden_size)}
    past = (1, text.num_kv_heads, num_past, text.head_dim)
    return {
        **first,
        "visual_add": (1, num_new, text.hidden_size),
        "position_ids": (1, num_new),
        "attn_bias": (1, 1, num_new, num_past + num_new),
        "logit_indices": (num_logits,),
        **dict.fromkeys(past_names(text.num_layers), past),
    }


def _decoder_plan(text: TextFacts, limits: Limits) -> GraphPlan:
    usual_past = min(bucket_for(limits.usual_tokens), limits.past_tokens)
    width, most_past = limits.verify_tokens, limits.past_tokens
    # (new tokens, past, logits): smallest, usual, largest
    uses = {
        "prefill": (
            (1, 0, 1),
            (limits.usual_tokens, _SMALLEST_BUCKET, 1),
            (limits.prefill_tokens, most_past, limits.prefill_logits),
        ),
        "verify": ((width, 1, width), (width, usual_past, width), (width, most_past, width)),
        # Kernels for one token alone keep another copy of every weight (docs/journal.md).
        "decode": ((1, 1, 1), (width, usual_past, width), (width, most_past, width)),
    }
    profiles = []
    for name in DECODER_PROFILES:
        low, usual, high = (decoder_shapes(text, limits.embedding, *use) for use in uses[name])
        profiles.append(_profile(name, low, usual, high))
    return GraphPlan(
        name="decoder",
        profiles=tuple(profiles),
        outputs=("logits", *present_names(text.num_layers)),
    )


def _vision_plan(manifest: Manifest, limits: Limits) -> GraphPlan:
    vision = manifest.vision
    num_patches = (vision.image_size // vision.patch_size) ** 2
    num_values = 3 * vision.patch_size**2
    frame_tokens = tokens_per_view(vision, vision.video_pooling)
    frame_window = math.prod(vision.video_pooling)
    most_window = max(frame_window, math.prod(vision.image_pooling))
    most_tokens = max(frame_tokens, tokens_per_view(vision, vision.image_pooling))

    def shapes(num_views: int, num_tokens: int, window: int) -> dict[str, Shape]:
        return {
            "patches": (num_views, num_patches, num_values),
            "pooling": (num_tokens, window),
        }

    one = shapes(1, frame_tokens, frame_window)
    views = limits.max_views
    usual = shapes(min(views, 4), min(views, 4) * frame_tokens, frame_window)
    return GraphPlan(
        name="vision",
        profiles=(
            _profile("frame", one, one, one),
            _profile(
                "views", shapes(1, 1, 1), usual, shapes(views, views * most_tokens, most_window)
            ),
        ),
        outputs=("features",),
        output_dtype=manifest.dtype,  # ONNX gives float32, the decoder adds them in its own
    )


def _profile(
    name: str, low: dict[str, Shape], usual: dict[str, Shape], high: dict[str, Shape]
) -> Profile:
    return Profile(
        name=name,
        inputs=tuple(
            InputRange(name=key, min=low[key], opt=usual[key], max=high[key]) for key in low
        ),
    )


def _max_views(manifest: Manifest) -> int:
    """Views of one vision pass: a still image in tiles, or a few frames of a clip together."""
    tiles = 1 + manifest.vision.max_crops if "crops" in manifest.skills else 1
    return max(tiles, _USUAL_FRAMES)


def _image_tokens(vision: VisionFacts) -> int:
    """Tokens of the largest still image, columns and markers included; never too few."""
    grid = vision.image_size // vision.patch_size
    down, across = (-(-grid // pool) for pool in vision.image_pooling)
    return (1 + vision.max_crops) * down * (across + 1) + 4

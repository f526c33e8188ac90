"""The shapes that an engine's inputs can have, for providers that compile it for a range of them.

ONNX Runtime's TensorRT provider stays on the first range that it is given, so there is one.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from molmo2_ros.runtime.manifest import Manifest

_MOST_FRAMES = 32  # of a clip; a mask over the 384 that Molmo2 can read would take 2 GB
_USUAL_FRAMES = 8
_QUESTION = 512  # tokens at most of the questions that follow a clip
_ANSWERS = 2048  # tokens at most of all answers to them
_LOGITS = 1024  # tokens at most whose next one is wanted in one pass
_DRAFT = 12  # tokens of a pass that verifies a draft: most passes of a stream


def profile_shapes(manifest: Manifest, graph: str) -> tuple[str, str, str]:
    """Smallest, most usual and largest shape of every input, as `name:1x2x3,other:4x5`.

    Args:
        manifest: sets how long clips, prompts and answers get.
        graph: "vision" or "decoder".
    """
    shapes = _vision_shapes if graph == "vision" else _decoder_shapes
    return shapes(manifest)


def _vision_shapes(manifest: Manifest) -> tuple[str, str, str]:
    """One view, a frame of a video, and a picture with all of its tiles."""
    vision = manifest.vision
    side = vision.image_size // vision.patch_size
    values = 3 * vision.patch_size**2
    video, image = _area(vision.video_pooling), _area(vision.image_pooling)
    tokens = _tokens(side, vision.video_pooling)
    views = max(vision.max_crops + 1, _clip_frames(manifest))
    most = views * max(tokens, _tokens(side, vision.image_pooling))

    def shapes(num_views: int, num_tokens: int, window: int) -> str:
        return _joined({"patches": (num_views, side**2, values), "pooling": (num_tokens, window)})

    return (
        shapes(1, 1, min(video, image)),
        shapes(1, tokens, video),
        shapes(views, most, max(video, image)),
    )


def _decoder_shapes(manifest: Manifest) -> tuple[str, str, str]:
    """One token after nothing, a draft after a usual clip, the longest prompt after the longest.

    That past and new tokens are longest at once never happens, but one profile has to hold both.
    """
    text, vision = manifest.text, manifest.vision
    side = vision.image_size // vision.patch_size
    per_frame = _tokens(side, vision.video_pooling) + 10  # its markers and its stamp
    tiles = 2 * (vision.max_crops + 1) * _tokens(side, vision.image_pooling)  # with column tokens
    prompt = min(text.max_positions, max(_clip_frames(manifest) * per_frame, tiles) + _QUESTION)
    usual = min(prompt, _USUAL_FRAMES * per_frame + _QUESTION)

    def shapes(new: int, past: int, logits: int) -> str:
        cache = (1, text.num_kv_heads, past, text.head_dim)
        return _joined(
            {
                "input_ids": (1, new),
                "visual_add": (1, new, text.hidden_size),
                "position_ids": (1, new),
                "attn_bias": (1, 1, new, past + new),
                "logit_indices": (logits,),
                **{
                    f"past_{part}_{layer}": cache
                    for layer in range(text.num_layers)
                    for part in ("key", "value")
                },
            }
        )

    past = min(text.max_positions, prompt + _ANSWERS)
    return shapes(1, 0, 1), shapes(_DRAFT, usual, _DRAFT), shapes(prompt, past, _LOGITS)


def _clip_frames(manifest: Manifest) -> int:
    """Most frames that a clip of this engine can have."""
    sampling = manifest.sampling
    rate = max(sampling.point_fps, sampling.track_fps)
    return max(1, min(sampling.max_frames, int(sampling.max_clip_s * rate) + 1, _MOST_FRAMES))


def _tokens(side: int, pooling: tuple[int, int]) -> int:
    down, across = pooling
    return -(-side // down) * -(-side // across)


def _area(pooling: tuple[int, int]) -> int:
    return pooling[0] * pooling[1]


def _joined(shapes: Mapping[str, Sequence[int]]) -> str:
    return ",".join(f"{name}:{'x'.join(map(str, shape))}" for name, shape in shapes.items())

"""The build plan as data: profiles, buckets and limits that follow from the manifest."""

import json
from dataclasses import replace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from molmo2_ros.errors import EngineError
from molmo2_ros.runtime.engine import NANO
from molmo2_ros.runtime.manifest import Manifest
from molmo2_ros.runtime.tensorrt_plan import (
    DECODER_PROFILES,
    bucket_for,
    choose_limits,
    plan_graphs,
    tokens_per_view,
)


@pytest.fixture(scope="module")
def manifest():
    return Manifest.parse(json.loads((NANO / "manifest.json").read_text()))


@pytest.fixture(scope="module")
def released(manifest):
    """The shapes of Molmo2-4B."""
    return replace(
        manifest,
        name="Molmo2-4B",
        dtype="float16",
        vision=replace(
            manifest.vision,
            image_size=378,
            feature_width=2560,
            video_pooling=(3, 3),
            overlap_margins=(4, 4),
        ),
        text=replace(
            manifest.text,
            num_layers=36,
            num_kv_heads=8,
            head_dim=128,
            hidden_size=2560,
            vocab_size=151_936,
            max_positions=36_864,
        ),
        sampling=replace(manifest.sampling, max_frames=384),
        skills=("point", "crops"),
    )


def shapes(plan, profile, name):
    """The smallest, usual and largest shape of an input."""
    (wanted,) = (entry for entry in plan.profiles if entry.name == profile)
    (found,) = (entry for entry in wanted.inputs if entry.name == name)
    return found.min, found.opt, found.max


def test_limits_of_the_released_model_hold_its_clips_and_stills(released):
    limits = choose_limits(released)
    # A frame is 81 visual tokens and at most 10 of time and markers.
    assert limits.max_frames == 32
    assert limits.prefill_tokens == 1 + 32 * 91 + 512
    assert limits.usual_tokens == 1 + 8 * 91 + 64
    assert limits.past_tokens == bucket_for(1 + 32 * 91 + 512 + 2048) == 5632
    assert limits.max_views == 9  # a still image and its 8 tiles
    still = choose_limits(released, max_frames=1)
    # Nine views of 14 x 14 tokens, a column token a row.
    assert still.prefill_tokens == 1 + 9 * 14 * 15 + 4 + 512


def test_decoder_has_three_profiles_of_the_model_s_shapes(released):
    decoder, _ = plan_graphs(released, choose_limits(released, verify_tokens=12))
    assert tuple(profile.name for profile in decoder.profiles) == DECODER_PROFILES
    assert decoder.onnx == "decoder.onnx"
    assert decoder.file == "decoder.plan"
    assert len(decoder.inputs) == 5 + 72
    assert len(decoder.outputs) == 1 + 72
    assert shapes(decoder, "prefill", "input_ids") == ((1, 1), (1, 793), (1, 3425))
    assert shapes(decoder, "verify", "input_ids") == ((1, 12), (1, 12), (1, 12))
    # One token is what it is used for; see docs/journal.md for what a range of one alone costs.
    assert shapes(decoder, "decode", "input_ids") == ((1, 1), (1, 12), (1, 12))
    assert shapes(decoder, "decode", "logit_indices") == ((1,), (12,), (12,))
    assert shapes(decoder, "prefill", "past_value_35") == (
        (1, 8, 0, 128),
        (1, 8, 16, 128),
        (1, 8, 5632, 128),
    )
    assert shapes(decoder, "verify", "past_key_0") == (
        (1, 8, 1, 128),
        (1, 8, 1024, 128),
        (1, 8, 5632, 128),
    )
    assert shapes(decoder, "verify", "attn_bias")[2] == (1, 1, 12, 5644)
    assert shapes(decoder, "verify", "logit_indices") == ((12,), (12,), (12,))
    assert shapes(decoder, "prefill", "logit_indices") == ((1,), (1,), (128,))
    assert shapes(decoder, "decode", "visual_add")[0] == (1, 1, 2560)


def test_vision_has_a_fixed_profile_for_a_frame_and_one_for_several_views(released):
    _, vision = plan_graphs(released, choose_limits(released))
    one = ((1, 729, 588),) * 3
    assert shapes(vision, "frame", "patches") == one
    assert shapes(vision, "frame", "pooling") == ((81, 9),) * 3
    assert shapes(vision, "views", "patches") == ((1, 729, 588), (4, 729, 588), (9, 729, 588))
    # Stills are pooled 2 x 2, which gives more tokens a view; frames 3 x 3, larger windows.
    assert shapes(vision, "views", "pooling") == ((1, 1), (324, 9), (9 * 196, 9))
    assert vision.outputs == ("features",)


def test_embeddings_take_the_place_of_ids_where_the_table_stands_outside(manifest):
    limits = choose_limits(manifest, embedding="host")
    decoder, _ = plan_graphs(manifest, limits)
    assert decoder.inputs[0] == "inputs_embeds"
    assert "input_ids" not in decoder.inputs
    assert shapes(decoder, "verify", "inputs_embeds")[1] == (1, 16, 128)


def test_a_small_model_is_given_no_more_than_it_can_read(manifest):
    limits = choose_limits(manifest)
    assert limits.max_frames == manifest.sampling.max_frames == 8
    short = replace(manifest, text=replace(manifest.text, max_positions=300))
    limits = choose_limits(short)
    assert limits.prefill_tokens == 300
    assert limits.past_tokens == 512  # a whole bucket


@pytest.mark.parametrize("verify_tokens", [2, 12, 64])
@pytest.mark.parametrize("max_frames", [1, 5, 8])
def test_every_profile_s_usual_shape_lies_between_its_smallest_and_largest(
    manifest, verify_tokens, max_frames
):
    limits = choose_limits(manifest, verify_tokens=verify_tokens, max_frames=max_frames)
    for plan in plan_graphs(manifest, limits):
        for profile in plan.profiles:
            for entry in profile.inputs:
                for shape in (entry.min, entry.opt, entry.max):
                    assert profile.takes(entry.name, shape), (profile.name, entry)


def test_a_profile_takes_no_shape_outside_its_range(manifest):
    decoder, _ = plan_graphs(manifest, choose_limits(manifest))
    verify = decoder.profiles[1]
    assert verify.takes("input_ids", (1, 16))
    assert not verify.takes("input_ids", (1, 15))
    assert not verify.takes("past_key_0", (1, 2, 0, 32))


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"max_frames": 0}, "max-frames is 0, expected 1 to 8 for molmo2-nano"),
        ({"max_frames": 9}, "max-frames is 9, expected 1 to 8"),
        ({"verify_tokens": 1}, "verify-tokens is 1, expected 2 to 256"),
        ({"verify_tokens": 300}, "verify-tokens is 300, expected 2 to 256"),
        ({"embedding": "disk"}, "embedding is 'disk', expected one of device, host"),
        ({"workspace_mb": 1}, "workspace is 1 MB, expected 16 at least"),
    ],
)
def test_limits_that_no_engine_has_are_refused(manifest, options, message):
    with pytest.raises(EngineError, match=message):
        choose_limits(manifest, **options)


@given(st.integers(1, 100_000))
def test_a_bucket_holds_what_it_is_for_and_wastes_less_than_another_bucket(num_columns):
    bucket = bucket_for(num_columns)
    assert num_columns <= bucket < num_columns + 256
    assert bucket == 16 or bucket % 256 == 0
    assert bucket_for(bucket) == bucket


@pytest.mark.parametrize(("pooling", "tokens"), [((3, 3), 81), ((2, 2), 196), ((4, 5), 42)])
def test_windows_at_the_edge_of_a_view_count_too(released, pooling, tokens):
    assert tokens_per_view(released.vision, pooling) == tokens

"""The feature cache: what is encoded, kept and dropped."""

import numpy as np
import pytest

from molmo2_ros.camera.frame import Frame
from molmo2_ros.prompt.crops import image_patches
from molmo2_ros.prompt.patches import clip_patches, clip_pooling
from molmo2_ros.prompt.query import Detail
from molmo2_ros.runtime.features import FeatureCache, crop_settings


def test_features_equal_those_of_the_whole_clip_at_once(nano, clip):
    vision = nano.manifest.vision
    patches = clip_patches([frame.image for frame in clip], vision.image_size, vision.patch_size)
    grid = vision.image_size // vision.patch_size
    at_once = nano.encode(patches, clip_pooling(len(clip), grid, vision.video_pooling))
    cache = FeatureCache(nano)
    np.testing.assert_allclose(cache.frames(clip), at_once, atol=1e-4)
    assert len(at_once) == len(clip) * cache.tokens_per_frame


def test_sliding_window_encodes_only_the_new_frame(nano, clip):
    cache = FeatureCache(nano)
    first = cache.frames(clip[:2])
    second = cache.frames(clip[1:])
    assert (cache.num_encoded, cache.num_hits) == (3, 1)
    tokens = cache.tokens_per_frame
    np.testing.assert_array_equal(first[tokens:], second[:tokens])


def test_equal_pixels_in_two_frames_are_two_frames(nano, clip):
    cache = FeatureCache(nano)
    twin = Frame(image=clip[0].image, stamp_ns=clip[0].stamp_ns)
    cache.frames([clip[0], twin])
    assert cache.num_encoded == 2


def test_least_recently_used_frame_goes_first(nano, clip):
    cache = FeatureCache(nano, max_frames=2)
    cache.frames([clip[0], clip[1], clip[0], clip[2]])  # clip[1] makes way
    assert cache.num_encoded == 3
    cache.frames([clip[0], clip[2]])
    assert cache.num_encoded == 3
    cache.frames([clip[1]])
    assert cache.num_encoded == 4


def test_still_image_has_features_of_view_and_tiles(nano, clip):
    cache = FeatureCache(nano)
    (image,) = cache.images(clip[:1])
    cut = image_patches([clip[0].image], crop_settings(nano.manifest.vision))
    assert image.grid == cut.grids[0]
    np.testing.assert_array_equal(image.features_MD, nano.encode(cut.patches_KNC, cut.pooling_MW))
    cache.images(clip[:1])
    assert (cache.num_encoded, cache.num_hits) == (1, 1)


def test_frame_and_still_image_of_one_picture_are_kept_apart(nano, clip):
    cache = FeatureCache(nano)
    (image,) = cache.images(clip[:1])
    assert len(cache.frames(clip[:1])) == cache.tokens_per_frame
    assert cache.num_encoded == 2
    assert len(image.features_MD) != cache.tokens_per_frame


def test_a_frame_encoded_ahead_is_found_by_the_question(nano, clip):
    cache, fresh = FeatureCache(nano), FeatureCache(nano)
    assert cache.found_share == 0
    assert cache.encode_ahead(clip[0])
    assert not cache.encode_ahead(clip[0]), "it is here already"
    assert (cache.num_encoded, cache.num_encoded_ahead, cache.num_hits) == (1, 1, 0)
    np.testing.assert_array_equal(cache.frames(clip[:1]), fresh.frames(clip[:1]))
    assert cache.found_share == 1
    cache.frames(clip)  # two frames that nobody foresaw, and one that was here
    assert (cache.num_encoded, cache.num_encoded_ahead, cache.num_hits) == (3, 1, 2)
    assert cache.found_share == 0.5


def test_a_still_image_encoded_ahead_is_found_too_and_is_no_frame(nano, clip):
    cache = FeatureCache(nano)
    assert cache.encode_ahead(clip[0], Detail.CROPS)
    assert cache.encode_ahead(clip[0])
    assert not cache.encode_ahead(clip[0], Detail.CROPS)
    cache.images(clip[:1])
    assert (cache.num_encoded, cache.num_hits) == (2, 1)


def test_cleared_cache_encodes_anew(nano, clip):
    cache = FeatureCache(nano)
    cache.frames(clip)
    cache.clear()
    cache.frames(clip)
    assert cache.num_encoded == 6


def test_cache_of_nothing_is_refused(nano):
    with pytest.raises(ValueError, match="max_frames is 0"):
        FeatureCache(nano, max_frames=0)

"""Cut-out objects and the pictures pasted from them."""

import numpy as np
import pytest

from molmo2_ros.simulation import sprites as module
from molmo2_ros.simulation.objects import CATEGORIES
from molmo2_ros.simulation.sprites import ELEVATIONS_DEG, SpriteComposer, Sprites


@pytest.fixture(scope="module")
def sprites():
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "NUM_AZIMUTHS", 1)
        yield Sprites.render(4, variants=1, side_px=28)


@pytest.fixture(scope="module")
def clips(sprites):
    composer = SpriteComposer(sprites, np.random.default_rng(2), (64, 64), 4 / 3)
    return [composer.clip(5) for _ in range(60)]


def test_every_category_is_cut_out_at_every_elevation(sprites):
    assert len(sprites.images) == len(CATEGORIES) * len(ELEVATIONS_DEG)
    alpha = sprites.images[..., 3]
    assert np.all((alpha > 127).mean(axis=(1, 2)) > 0.05)
    # The square is drawn about the object: nothing is cut off, nothing is lost in it.
    assert not np.any(alpha[:, [0, -1]] == 255)
    columns, rows = ((alpha > 127).any(axis=axis).sum(axis=1) for axis in (1, 2))
    assert np.all(columns + rows > 28)
    assert np.all(sprites.images[..., :3] <= alpha[..., None].astype(int) + 1)


def test_cache_returns_what_was_drawn_and_is_redrawn_for_another_seed(tmp_path, monkeypatch):
    monkeypatch.setattr(module, "NUM_AZIMUTHS", 1)
    monkeypatch.setattr(module, "ELEVATIONS_DEG", (45.0,))
    path = tmp_path / "cache" / "sprites.npz"
    first = Sprites.cached(path, 1, variants=1, side_px=16)
    stamp = path.stat().st_mtime_ns
    again = Sprites.cached(path, 1, variants=1, side_px=16)
    assert path.stat().st_mtime_ns == stamp
    assert np.array_equal(first.images, again.images)
    other = Sprites.cached(path, 2, variants=1, side_px=16)
    assert not np.array_equal(first.images, other.images)
    assert list(path.parent.iterdir()) == [path]


def test_same_seed_composes_the_same_clip(sprites):
    one, two = (SpriteComposer(sprites, np.random.default_rng(7), (64, 64)) for _ in range(2))
    first, second = one.clip(3), two.clip(3)
    assert np.array_equal(first.frames, second.frames)
    assert np.array_equal(first.instances, second.instances)
    assert not np.array_equal(first.frames, one.clip(3).frames)


def test_mask_and_visible_fraction_agree_in_every_frame(clips):
    for clip in clips:
        assert clip.frames.shape == (5, 64, 64, 3)
        for ids, fraction in zip(clip.instances, clip.visible_fraction, strict=True):
            seen = np.bincount(ids.ravel(), minlength=len(clip.objects) + 1)[1:]
            assert len(seen) == len(clip.objects)
            assert np.array_equal(seen > 0, fraction > 0)
            assert np.all(fraction <= 1)


def test_a_fifth_of_the_sightings_is_hidden(clips):
    hidden = seen = 0
    for clip in clips:
        known = clip.visible_fraction[:, (clip.visible_fraction > 0.05).any(axis=0)]
        hidden += int((known <= 0.05).sum())
        seen += known.size
    assert 0.15 < hidden / seen < 0.35


def test_object_in_the_middle_of_the_picture_alone_is_wholly_visible(sprites):
    composer = SpriteComposer(sprites, np.random.default_rng(3), (64, 64))
    stills = [composer.still(1) for _ in range(40)]
    inside = [
        still
        for still in stills
        if still.instances.any()
        and not still.instances[0, [0, -1]].any()
        and not still.instances[0][:, [0, -1]].any()
    ]
    assert len(inside) > 10
    assert all(still.visible_fraction[0, 0] == 1 for still in inside)

"""What training sees: tracks with exits, entries and occlusions; no pair that is held out."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from molmo2_ros.simulation import sprites as sprites_module
from molmo2_ros.simulation.sprites import SpriteComposer, Sprites
from molmo2_ros.training.nano.batches import gap_share
from molmo2_ros.training.nano.config import load_config
from molmo2_ros.training.nano.pool import ASPECTS, Pool, PoolConfig, render_pool
from molmo2_ros.training.nano.stream import ExampleStream
from molmo2_ros.training.pairs import holds_held_out_pair, names_held_out_pair

CONFIG = load_config(Path(__file__).parents[3] / "training" / "configs" / "nano.yaml")
SIZE = (84, 84)  # half of the nano's input, to render quickly; areas count at the nano's size
POOL = PoolConfig(
    image_size=SIZE[0], still_worlds=1, stills_per_world=12, clip_worlds=1, clips_per_world=12
)


@pytest.fixture(scope="module")
def sources(tmp_path_factory):
    """Few scenes, drawn as all are: rendered stills and clips, and cut-outs."""
    folder = tmp_path_factory.mktemp("pool")
    render_pool(POOL, folder, processes=2)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(sprites_module, "NUM_AZIMUTHS", 1)
        sprites = Sprites.render(4, variants=1, side_px=36)
    return Pool(folder, "still"), Pool(folder, "clip"), sprites


def test_half_of_the_tracks_have_an_exit_an_entry_or_an_occlusion(sources):
    stills, clips, sprites = sources
    rng = np.random.default_rng(0)
    composers = [SpriteComposer(sprites, rng, SIZE, aspect) for aspect in ASPECTS]
    stream = ExampleStream(CONFIG, stills, clips, composers, rng)
    # Sixty clips of the last stage's lengths, those of one frame too.
    stage = CONFIG.stages[-1]
    shares = {n: stage.clip_shares[n] * stage.clips[n] for n in stage.clips}
    numbers = {n: round(60 * share / sum(shares.values())) for n, share in shares.items()}
    examples = [stream.asked_clip(n) for n, number in numbers.items() for _ in range(number)]
    assert gap_share(examples) >= 0.5


@pytest.mark.parametrize("exclude", [True, False])
def test_held_out_pairs_are_in_no_scene_and_no_question_where_the_configuration_says_so(
    sources, exclude
):
    stills, clips, sprites = sources
    rng = np.random.default_rng(1)
    composers = [SpriteComposer(sprites, rng, SIZE, aspect) for aspect in ASPECTS]
    config = replace(CONFIG, exclude_pairs=exclude)
    stream = ExampleStream(config, stills, clips, composers, rng)
    examples = [stream.asked_still(5) for _ in range(120)]
    examples += [stream.asked_clip(2) for _ in range(12)] + [stream.still() for _ in range(12)]
    shown = any(holds_held_out_pair(example.clip.objects) for example in examples)
    named = any(names_held_out_pair(q.label) for e in examples for q in e.questions)
    assert (shown, named) == (not exclude, not exclude)

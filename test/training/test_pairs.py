"""The pairs that training leaves out: few, and nothing is left out with them."""

import json

import pytest

from molmo2_ros.simulation.objects import CATEGORIES, COLOUR_NAMES
from molmo2_ros.training.pairs import (
    ALL_PAIRS,
    HELD_OUT_PAIRS,
    holds_held_out_pair,
    names_held_out_pair,
    trained_without_pairs,
)


def test_an_eighth_of_the_pairs_is_held_out_and_each_is_one_that_scenes_have():
    assert set(ALL_PAIRS) > HELD_OUT_PAIRS
    assert 0.1 <= len(HELD_OUT_PAIRS) / len(ALL_PAIRS) <= 0.14


def test_every_colour_and_every_category_is_still_seen_in_two_other_pairs_at_least():
    left = set(ALL_PAIRS) - HELD_OUT_PAIRS
    for category, kind in enumerate(CATEGORIES):
        assert not kind.colours or sum(c == category for c, _ in left) >= 2
    for colour in range(len(COLOUR_NAMES)):
        assert sum(k == colour for _, k in left) >= 2


def test_a_scene_is_held_out_by_colour_and_category_together(make_thing):
    assert holds_held_out_pair([make_thing("lemon"), make_thing("can", "red")])
    assert not holds_held_out_pair([make_thing("can", "blue"), make_thing("bowl", "red")])
    assert not holds_held_out_pair([])


def test_a_question_is_held_out_by_its_words_in_the_singular_and_the_plural():
    assert names_held_out_pair("green book")
    assert names_held_out_pair("green books")
    assert not names_held_out_pair("books")
    assert not names_held_out_pair("red book")


@pytest.mark.parametrize(
    ("name", "told", "without"),
    [
        ("config.json", {"exclude_pairs": True}, True),  # of a run
        ("config.json", {"exclude_pairs": False}, False),
        ("config.json", {"seed": 0}, False),  # of before there was such a key
        ("manifest.json", {"training": {"config": {"exclude_pairs": True}}}, True),
        ("manifest.json", {"training": {"config": {}}}, False),
        ("config.json", ["of", "something else"], False),
        ("else.json", {}, False),
    ],
)
def test_whether_a_checkpoint_has_seen_the_held_out_pairs_is_told_beside_it(
    tmp_path, name, told, without
):
    (tmp_path / name).write_text(json.dumps(told))
    assert trained_without_pairs(tmp_path / "checkpoint") is without

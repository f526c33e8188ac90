import itertools
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from molmo2_ros.errors import DataError
from molmo2_ros.training.recipe.packing import CROP_VALUE, TOKEN_STEP, Packer, choose


def tree(tokens, crops=1):
    """What the packer looks at of a tree."""
    return SimpleNamespace(
        name=f"t{tokens}", num_tokens=tokens, num_crops=crops, patches_KNC=np.zeros((crops, 1, 1))
    )


def worth(tokens, crops, chosen):
    return sum(tokens[i] + CROP_VALUE * crops[i] for i in chosen)


def fits(tokens, crops, chosen, max_tokens, max_crops):
    steps = sum(-(-tokens[i] // TOKEN_STEP) for i in chosen)
    return steps <= max_tokens // TOKEN_STEP and sum(crops[i] for i in chosen) <= max_crops


@given(
    trees=st.lists(st.tuples(st.integers(1, 300), st.integers(0, 6)), min_size=1, max_size=8),
    max_tokens=st.integers(TOKEN_STEP, 500),
    max_crops=st.integers(0, 12),
)
def test_the_choice_is_worth_as_much_as_the_best_of_all_subsets(trees, max_tokens, max_crops):
    tokens, crops = zip(*trees, strict=True)
    chosen = choose(tokens, crops, max_tokens, max_crops)
    assert chosen == sorted(set(chosen))
    assert fits(tokens, crops, chosen, max_tokens, max_crops)
    subsets = itertools.chain.from_iterable(
        itertools.combinations(range(len(trees)), n) for n in range(len(trees) + 1)
    )
    best = max(
        worth(tokens, crops, subset)
        for subset in subsets
        if fits(tokens, crops, subset, max_tokens, max_crops)
    )
    assert worth(tokens, crops, chosen) == best


def test_two_that_fill_a_sequence_go_before_a_larger_one():
    assert choose([96, 64, 64], [0, 0, 0], 128, 0) == [1, 2]


def test_every_tree_is_packed_once_and_sequences_are_nearly_full():
    rng = np.random.default_rng(0)
    trees = [
        tree(int(n), int(c))
        for n, c in zip(rng.integers(40, 400, 300), rng.integers(1, 9, 300), strict=True)
    ]
    packs = list(Packer(1024, 64).pack(enumerate(trees)))
    seen = [id(t) for pack in packs for t in pack]
    assert sorted(seen) == sorted(id(t) for t in trees)
    filled = [sum(t.num_tokens for t in pack) for pack in packs[:-3]]
    assert max(filled) <= 1024
    assert np.mean(filled) > 0.93 * 1024


def test_a_packer_goes_on_where_another_stopped():
    trees = [tree(30 + 37 * i % 300) for i in range(120)]
    whole = list(Packer(512, 32).pack(enumerate(trees)))
    first = Packer(512, 32)
    packs, stream = [], iter(enumerate(trees))
    for key, each in itertools.islice(stream, 70):
        first.add(key, each)
        if first.is_full:
            packs.append(first.take())
    state = first.state_dict()
    second = Packer(512, 32)
    second.load_state_dict(state, [trees[key] for key in state["buffer"]])
    packs += second.pack(stream)
    assert [[t.name for t in pack] for pack in packs] == [[t.name for t in pack] for pack in whole]


@pytest.mark.parametrize(("tokens", "crops"), [(513, 1), (10, 33)])
def test_a_tree_that_fits_into_no_sequence_is_named(tokens, crops):
    with pytest.raises(
        DataError, match=rf"example t{tokens} has {tokens} tokens and {crops} views"
    ):
        Packer(512, 32).add(0, tree(tokens, crops))

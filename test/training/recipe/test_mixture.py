import itertools
from collections import Counter

import pytest

from molmo2_ros.errors import ConfigError, DataError
from molmo2_ros.training.recipe.mixture import Group, Member, Mixture, shares

GROUPS = {
    "pointing": Group(
        weight=0.3, members=(Member(name="a", size=100), Member(name="b", size=25, factor=2.0))
    ),
    "tracking": Group(weight=0.2, members=(Member(name="c", size=7),)),
}


def test_groups_share_by_weight_and_members_by_the_root_of_their_size():
    # 0.3 and 0.2 make 0.6 and 0.4; the roots 10 and 2 x 5 are equal.
    assert shares(GROUPS) == pytest.approx({"a": 0.3, "b": 0.3, "c": 0.4})


def test_the_paper_s_seven_weights_are_normalised():
    weights = (0.15, 0.15, 0.1, 0.2, 0.25, 0.15, 0.1)
    groups = {
        str(i): Group(weight=w, members=(Member(name=str(i), size=9),))
        for i, w in enumerate(weights)
    }
    assert list(shares(groups).values()) == pytest.approx(
        [0.1364, 0.1364, 0.0909, 0.1818, 0.2273, 0.1364, 0.0909], abs=1e-4
    )


def test_draws_come_in_their_shares_and_every_example_before_any_comes_again():
    draws = list(itertools.islice(Mixture(GROUPS, seed=3), 2000))
    counted = Counter(draw.dataset for draw in draws)
    assert counted["c"] / 2000 == pytest.approx(0.4, abs=0.04)
    assert counted["a"] / 2000 == pytest.approx(0.3, abs=0.04)
    of_c = [draw.index for draw in draws if draw.dataset == "c"]
    for start in range(0, 70, 7):
        assert sorted(of_c[start : start + 7]) == list(range(7))
    assert of_c[:7] != of_c[7:14]  # another order each time


def test_processes_share_the_draws_without_overlap():
    whole = list(itertools.islice(Mixture(GROUPS, seed=3), 60))
    parts = [
        list(itertools.islice(Mixture(GROUPS, seed=3, rank=rank, world=3), 20)) for rank in range(3)
    ]
    assert sorted((d for part in parts for d in part), key=lambda d: d.number) == whole


def test_a_mixture_goes_on_where_another_stopped():
    whole = list(itertools.islice(Mixture(GROUPS, seed=3), 300))
    first = Mixture(GROUPS, seed=3)
    begun = list(itertools.islice(first, 111))
    second = Mixture(GROUPS, seed=3)
    second.load_state_dict(first.state_dict())
    assert begun + list(itertools.islice(second, 189)) == whole
    assert whole[5].rng(1).integers(1 << 30) == begun[5].rng(1).integers(1 << 30)


@pytest.mark.parametrize(
    ("groups", "error", "message"),
    [
        ({}, ConfigError, "mixture has no group"),
        ({"x": Group(weight=0.0, members=GROUPS["tracking"].members)}, ConfigError, "weight 0.0"),
        ({"x": Group(weight=1.0, members=())}, ConfigError, "0 data sets"),
        ({"x": Group(weight=1.0, members=(Member(name="a", size=0),))}, DataError, "a is empty"),
        (
            {"x": Group(weight=1.0, members=(Member(name="a", size=1, factor=-1.0),))},
            ConfigError,
            "a has factor -1.0",
        ),
        (
            {"x": GROUPS["tracking"], "y": GROUPS["tracking"]},
            ConfigError,
            "data set c is in the mixture twice",
        ),
    ],
)
def test_a_mixture_that_cannot_be_drawn_from_is_refused(groups, error, message):
    with pytest.raises(error, match=message):
        Mixture(groups, seed=0)


def test_a_state_of_another_mixture_is_refused():
    other = Mixture({"tracking": GROUPS["tracking"]}, seed=3)
    with pytest.raises(ConfigError, match="the checkpoint drew from a, b, c, the mixture has c"):
        other.load_state_dict(Mixture(GROUPS, seed=3).state_dict())

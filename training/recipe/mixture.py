"""Which example comes next: groups by their weights, data sets by the root of their size.

A draw depends on the seed and its number alone, so that a run that goes on needs to know little;
processes that share a run draw every n-th one each. Within a data set no example comes twice
before all have come.
Source: the authors' mixture; group weights need not sum to one.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

from molmo2_ros.errors import ConfigError, DataError


@dataclass(frozen=True, slots=True, kw_only=True)
class Member:
    """A data set of a group."""

    name: str
    size: int  # examples
    factor: float = 1.0  # on the root of its size


@dataclass(frozen=True, slots=True, kw_only=True)
class Group:
    """Data sets that share a weight."""

    weight: float
    members: tuple[Member, ...]


@dataclass(frozen=True, slots=True, kw_only=True)
class Draw:
    """One example to train on."""

    number: int  # of the draw, from 0, over all processes
    dataset: str
    index: int  # in the data set

    def rng(self, seed: int) -> np.random.Generator:
        """Chance for all that is decided about this example, the same whenever it is asked for."""
        return np.random.default_rng([seed, 1, self.number])


def shares(groups: Mapping[str, Group]) -> dict[str, float]:
    """The share of draws that each data set gets; they sum to 1.

    Raises:
        ConfigError: no group, or a weight or factor that is not above 0, or two of one name.
        DataError: a data set without examples.
    """
    if not groups:
        raise ConfigError("the mixture has no group, expected at least one with a data set")
    total = sum(group.weight for group in groups.values())
    result: dict[str, float] = {}
    for title, group in groups.items():
        if not group.weight > 0 or not group.members:
            raise ConfigError(
                f"group {title} has weight {group.weight} and {len(group.members)} data sets, "
                "expected a weight above 0 and at least one"
            )
        roots = {}
        for member in group.members:
            if member.size < 1:
                raise DataError(f"data set {member.name} is empty, expected at least one example")
            if not member.factor > 0:
                raise ConfigError(f"{member.name} has factor {member.factor}, expected above 0")
            if member.name in result or member.name in roots:
                raise ConfigError(f"data set {member.name} is in the mixture twice")
            roots[member.name] = member.factor * member.size**0.5
        for name, root in roots.items():
            result[name] = group.weight / total * root / sum(roots.values())
    return result


class Mixture:
    """Draws without end.

    Args:
        groups: by title.
        seed: of everything.
        rank: of this process.
        world: processes that share the draws.
    """

    def __init__(
        self, groups: Mapping[str, Group], seed: int, *, rank: int = 0, world: int = 1
    ) -> None:
        self.shares = shares(groups)
        self._sizes = {m.name: m.size for group in groups.values() for m in group.members}
        self._seed, self._rank, self._world = seed, rank, world
        self._number = 0  # draws of all processes that this one has gone past
        self._drawn = dict.fromkeys(self._sizes, 0)  # of each data set, by all processes
        self._orders: dict[tuple[str, int], npt.NDArray[np.int64]] = {}

    def __iter__(self) -> Iterator[Draw]:
        return self

    def __next__(self) -> Draw:
        """The next draw of this process."""
        while True:
            draw = self._advance()
            if draw.number % self._world == self._rank:
                return draw

    def _advance(self) -> Draw:
        names = list(self.shares)
        chance = np.random.default_rng([self._seed, 0, self._number])
        name = names[int(chance.choice(len(names), p=list(self.shares.values())))]
        epoch, place = divmod(self._drawn[name], self._sizes[name])
        draw = Draw(number=self._number, dataset=name, index=int(self._order(name, epoch)[place]))
        self._drawn[name] += 1
        self._number += 1
        return draw

    def _order(self, name: str, epoch: int) -> npt.NDArray[np.int64]:
        key = (name, epoch)
        if key not in self._orders:
            self._orders = {k: v for k, v in self._orders.items() if k[0] != name}
            number = list(self.shares).index(name)
            rng = np.random.default_rng([self._seed, 2, number, epoch])
            self._orders[key] = rng.permutation(self._sizes[name])
        return self._orders[key]

    def state_dict(self) -> dict[str, Any]:
        """How far the draws have come, the same on every process at the same step."""
        return {"number": self._number, "drawn": dict(self._drawn)}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        """Go on from there.

        Raises:
            ConfigError: the state is of a mixture of other data sets.
        """
        if set(state["drawn"]) != set(self._sizes):
            raise ConfigError(
                f"the checkpoint drew from {', '.join(sorted(state['drawn']))}, the mixture has "
                f"{', '.join(sorted(self._sizes))}; start another run for another mixture"
            )
        self._number, self._drawn = int(state["number"]), dict(state["drawn"])

"""From data sets to packed sequences: what each step of a run is trained on.

The draws are cut into a fixed number of shares, each with a packer of its own, whatever the number
of processes: a step has the same sequences on one machine and on many, and a run that goes on needs
of each share how far its draws have come and which examples wait in its packer. Threads make
the next sequences while a step is computed: each follows from its share and number alone.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from concurrent.futures import Executor, Future
from pathlib import Path
from typing import Any

import numpy as np

from molmo2_ros.errors import ConfigError
from molmo2_ros.training.config import TrainConfig
from molmo2_ros.training.data.dataset import Dataset
from molmo2_ros.training.data.example import Example, Task
from molmo2_ros.training.data.shown import show
from molmo2_ros.training.recipe.messages import TokenTree, TreeWriter
from molmo2_ros.training.recipe.mixture import Draw, Group, Member, Mixture
from molmo2_ros.training.recipe.packing import Packer


class ExampleReader:
    """Examples of the mixture's data sets as trees.

    Args:
        config: names them.
        writer: the model's.

    Raises:
        DataError: a data set is missing, empty, or mixes sources unasked.
        ConfigError: two of one path.
    """

    def __init__(self, config: TrainConfig, writer: TreeWriter) -> None:
        self._config, self._writer = config, writer
        self._datasets: dict[str, Dataset] = {}
        self._wanted: dict[str, list[int]] = {}
        for group in config.mixture.values():
            for data in group.datasets:
                if data.path in self._datasets:
                    raise ConfigError(f"data set {data.path} is in the mixture twice")
                dataset = Dataset.open(Path(data.path), data.sources)
                self._datasets[data.path] = dataset
                self._wanted[data.path] = dataset.wanted()

    def groups(self) -> dict[str, Group]:
        """The mixture's groups with the sizes of their data sets."""
        return {
            title: Group(
                weight=group.weight,
                members=tuple(
                    Member(name=d.path, size=len(self._wanted[d.path]), factor=d.factor)
                    for d in group.datasets
                ),
            )
            for title, group in self._config.mixture.items()
        }

    def tree(self, draw: Draw) -> TokenTree:
        """The example of a draw; the same whenever it is asked for.

        Raises:
            DataError: its files are missing or broken, or it does not fit into a sequence.
        """
        dataset, config = self._datasets[draw.dataset], self._config
        example, rng = dataset[self._wanted[draw.dataset][draw.index]], draw.rng(config.seed)
        return show(
            dataset.folder,
            example,
            self._writer,
            max_frames=config.max_frames,
            max_tokens=config.sequence_tokens,
            max_tiles=self._max_tiles(example, draw),
            rng=rng,
            hints=config.hints,
        ).tree

    def _max_tiles(self, example: Example, draw: Draw) -> int:
        """More of them for a share of the single images in which things are pointed to."""
        config = self._config
        points = all(a.task in (Task.POINT, Task.COUNT) for a in example.annotations)
        if not config.fine_share or len(example.media.images) != 1 or not points:
            return config.max_tiles
        chance = np.random.default_rng([config.seed, 3, draw.number])  # beside that of the words
        return config.fine_tiles if chance.random() < config.fine_share else config.max_tiles


class Share:
    """One of the streams that a run's examples are cut into."""

    def __init__(self, config: TrainConfig, reader: ExampleReader, number: int) -> None:
        self._reader = reader
        self._mixture = Mixture(reader.groups(), config.seed, rank=number, world=config.data_shares)
        self._packer = Packer(config.sequence_tokens, config.max_crops, config.pack_buffer)

    def __iter__(self) -> Iterator[list[TokenTree]]:
        return self

    def __next__(self) -> list[TokenTree]:
        """The next sequence."""
        while not self._packer.is_full:
            draw = next(self._mixture)
            self._packer.add([draw.number, draw.dataset, draw.index], self._reader.tree(draw))
        return self._packer.take()

    def state_dict(self) -> dict[str, Any]:
        """All that the next sequence depends on, as JSON has it."""
        return {"mixture": self._mixture.state_dict(), "packer": self._packer.state_dict()}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from there; the examples that wait are read again."""
        self._mixture.load_state_dict(state["mixture"])
        draws = [
            Draw(number=number, dataset=dataset, index=index)
            for number, dataset, index in state["packer"]["buffer"]
        ]
        self._packer.load_state_dict(state["packer"], [self._reader.tree(d) for d in draws])


class Ahead:
    """A share whose next sequence is made by a thread while this one is trained on.

    Args:
        share: nobody else may use it.
        threads: that make sequences, of any number of shares.
    """

    def __init__(self, share: Share, threads: Executor) -> None:
        self._share, self._threads = share, threads
        self._state = share.state_dict()
        self._made: Future[tuple[list[TokenTree], dict[str, Any]]] | None = None

    def __next__(self) -> list[TokenTree]:
        """The next sequence; what went wrong when it was made is raised here."""
        made = self._made or self._threads.submit(self._make)
        pack, self._state = made.result()
        self._made = self._threads.submit(self._make)
        return pack

    def _make(self) -> tuple[list[TokenTree], dict[str, Any]]:
        return next(self._share), self._share.state_dict()

    def state_dict(self) -> dict[str, Any]:
        """As the share's when the last sequence was handed out, whatever was made since."""
        return self._state

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on from there; what was made ahead is thrown away."""
        if self._made is not None:
            self._made.exception()  # waits: the share is the thread's until then
            self._made = None
        self._share.load_state_dict(state)
        self._state = self._share.state_dict()

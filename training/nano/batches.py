"""What the steps of a training run train on, each made from its number alone.

A step's batch depends on the seed, the share and the step, on nothing that came before it: so a
run that was stopped goes on to the same batches, and other processes can make them ahead of time.

Letters: K frames, B clips, T frames a clip, M visual tokens.
"""

from __future__ import annotations

import resource
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import torch
from torch.utils.data import DataLoader, Dataset

from molmo2_ros.simulation.sprites import SpriteComposer, Sprites
from molmo2_ros.training.nano.config import StageConfig, TrainConfig
from molmo2_ros.training.nano.losses import DenseLabels, dense_labels, link_labels
from molmo2_ros.training.nano.pool import ASPECTS, Pool
from molmo2_ros.training.nano.stream import Example, ExampleStream
from molmo2_ros.training.nano.tokenizer import train_nano_tokenizer
from molmo2_ros.training.nano.trees import TreeBatch, TreeWriter
from molmo2_ros.training.scenes import track_has_gap

_AHEAD = 3  # steps that each process makes before they are asked for


@dataclass(frozen=True, slots=True, kw_only=True)
class Part:
    """Stills or clips of one share of a step."""

    frames_KHWC: torch.Tensor  # uint8
    trees: TreeBatch | None  # no questions: what trains the dense heads only
    labels: DenseLabels | None = None  # of stills
    links_BTM2: torch.Tensor | None = None  # of clips: `link_labels`
    gap_share: float = 0.0  # of clips: tracks with an exit, an entry or an occlusion


@dataclass(frozen=True, slots=True, kw_only=True)
class StepBatch:
    """One share of a step."""

    images: Part | None = None
    stills: Part | None = None
    clips: Part | None = None


def gap_share(examples: Sequence[Example]) -> float:
    """Share of the tracks with an exit, an entry or an occlusion; half of them are to have one."""
    tracks = [(q, e.sightings) for e in examples for q in e.questions if not q.absent]
    return float(np.mean([track_has_gap(q, sightings) for q, sightings in tracks]))


def open_stream(config: TrainConfig, folder: Path) -> ExampleStream:
    """The examples of a run's folder, whose scenes are there already."""
    size = (config.model.image_size,) * 2
    stills, clips = (Pool(folder / "pool", kind) for kind in ("still", "clip"))
    rng = np.random.default_rng(config.seed)
    composers = []
    if config.sprite_share:
        sprites = Sprites.cached(folder / "sprites.npz", config.sprite_seed)
        composers = [SpriteComposer(sprites, rng, size, aspect) for aspect in ASPECTS]
    return ExampleStream(config, stills, clips, composers, rng)


class StepBatches(Dataset[list[StepBatch]]):
    """A run's steps in order, those of all stages: for each the batches of some shares.

    Args:
        config: of the run.
        folder: with the scenes of the run.
        shares: of each step.
    """

    def __init__(self, config: TrainConfig, folder: Path, shares: Sequence[int]) -> None:
        self._config, self._folder, self._shares = config, folder, tuple(shares)
        self._steps = [(s, n) for s, stage in enumerate(config.stages) for n in range(stage.steps)]
        self._opened: tuple[ExampleStream, TreeWriter] | None = None

    def __len__(self) -> int:
        return len(self._steps)

    def __getitem__(self, index: int) -> list[StepBatch]:
        """The batches of the shares, in their order."""
        return [self._share(*self._steps[index], share) for share in self._shares]

    def _share(self, stage: int, step: int, share: int) -> StepBatch:
        if self._opened is None:  # in the process that makes them
            tokenizer = train_nano_tokenizer(self._config.model.vocab_size)
            writer = TreeWriter(tokenizer, self._config.model.token_grid)
            self._opened = open_stream(self._config, self._folder), writer
        stream, writer = self._opened
        fresh = np.random.default_rng([self._config.seed, share, stage, step])
        stream.rng.bit_generator.state = fresh.bit_generator.state  # the composers share it
        return _Maker(self._config, stream, writer).batch(self._config.stages[stage])


@dataclass(frozen=True, slots=True)
class _Maker:
    config: TrainConfig
    stream: ExampleStream
    writer: TreeWriter

    def batch(self, stage: StageConfig) -> StepBatch:
        return StepBatch(
            images=self._stills([self.stream.still() for _ in range(stage.images)]),
            stills=self._stills(
                [self.stream.asked_still(stage.questions) for _ in range(stage.stills)]
            ),
            clips=self._clips(stage) if stage.clips else None,
        )

    def _stills(self, examples: list[Example]) -> Part | None:
        if not examples:
            return None
        instances = np.concatenate([e.clip.instances for e in examples])
        return Part(
            frames_KHWC=_frames(examples),
            trees=self._trees(examples) if examples[0].questions else None,
            labels=dense_labels(instances, [e.sightings for e in examples], self.config.model),
        )

    def _clips(self, stage: StageConfig) -> Part:
        lengths = list(stage.clip_shares)
        shares = np.array(list(stage.clip_shares.values()))
        num_frames = int(self.stream.rng.choice(lengths, p=shares / shares.sum()))
        examples = [
            self.stream.asked_clip(num_frames, stage.clip_kinds)
            for _ in range(stage.clips[num_frames])
        ]
        sightings = [e.sightings for e in examples]
        return Part(
            frames_KHWC=_frames(examples),
            trees=self._trees(examples),
            links_BTM2=link_labels(sightings, self.config.model.token_grid),
            gap_share=gap_share(examples),
        )

    def _trees(self, examples: list[Example]) -> TreeBatch:
        trees = [self.writer.write(e.stamps_s, e.questions, e.sightings) for e in examples]
        return self.writer.collate(trees, len(examples[0].stamps_s))


def _frames(examples: list[Example]) -> torch.Tensor:
    return torch.from_numpy(np.concatenate([e.clip.frames for e in examples]))


def step_batches(steps: StepBatches, first: int, workers: int) -> Iterator[list[StepBatch]]:
    """The steps from one on.

    Args:
        steps: all of them.
        first: number of the first one, counted over all stages.
        workers: processes that make them ahead of time; 0: made when they are asked for.
    """
    if workers:  # each tensor that waits takes a file descriptor
        _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
        resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    return iter(
        DataLoader(
            steps,
            sampler=range(first, len(steps)),
            batch_size=None,
            num_workers=workers,
            worker_init_fn=_one_thread,
            prefetch_factor=_AHEAD if workers else None,
            multiprocessing_context="spawn" if workers else None,
            pin_memory=bool(workers) and torch.cuda.is_available(),  # they arrive in a thread
        )
    )


def _one_thread(_worker: int) -> None:
    import cv2

    cv2.setNumThreads(1)
    torch.set_num_threads(1)

"""Endless examples for training: rendered or composed, changed at random, with their questions."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from molmo2_ros.simulation.motion import LabelledClip
from molmo2_ros.simulation.sprites import SpriteComposer
from molmo2_ros.training.nano.augment import augment_clip, augment_still, pan_still
from molmo2_ros.training.nano.config import TrainConfig
from molmo2_ros.training.nano.pool import ASPECT_SHARES, ASPECTS, Pool
from molmo2_ros.training.pairs import holds_held_out_pair, names_held_out_pair
from molmo2_ros.training.scenes import (
    CLIP_KINDS,
    Question,
    Sightings,
    clip_questions,
    has_gap,
    locate,
    still_questions,
)

GRID_S = 0.5  # between the frames of a clip


@dataclass(frozen=True, slots=True, kw_only=True)
class Example:
    """A clip, where its objects are, and what is asked about it."""

    clip: LabelledClip
    sightings: Sightings
    stamps_s: tuple[float, ...]
    questions: tuple[Question, ...] = ()


class ExampleStream:
    """Draws examples from pools of rendered scenes and from sprites.

    Args:
        config: shares of the sources, and whether held-out pairs are kept out of scenes and
            questions.
        stills: rendered stills.
        clips: rendered clips.
        composers: compose scenes on the fly, one per aspect of ASPECTS.
        rng: the only source of chance; the composers share it.
    """

    def __init__(
        self,
        config: TrainConfig,
        stills: Pool,
        clips: Pool,
        composers: Sequence[SpriteComposer],
        rng: np.random.Generator,
    ) -> None:
        self._config = config
        self._stills = stills
        self._clips = clips
        self._composers = composers
        self.rng = rng

    def still(self) -> Example:
        """One frame, no questions."""
        clip = self._draw_still()
        while self._is_excluded(clip):
            clip = self._draw_still()
        return Example(clip=clip, sightings=locate(clip), stamps_s=(0.0,))

    def asked_still(self, num_questions: int) -> Example:
        """One frame with at least two questions."""
        while True:
            example = self.still()
            questions = self._kept(still_questions(example.sightings, self.rng, num_questions))
            if len(questions) >= 2:
                return replace(example, questions=tuple(questions))

    def asked_clip(self, num_frames: int, kinds: Sequence[str] = CLIP_KINDS) -> Example:
        """A clip with at least three tracking questions of these kinds."""
        while True:
            clip = self._draw_clip(num_frames)
            if self._is_excluded(clip):
                continue
            sightings = locate(clip)
            if not has_gap(sightings) and self.rng.random() < self._config.gapless_redraw_share:
                continue
            stamps_s = self._draw_stamps(num_frames)
            questions = self._kept(clip_questions(sightings, stamps_s, self.rng, kinds))
            if len(questions) >= 3:
                return Example(
                    clip=clip, sightings=sightings, stamps_s=stamps_s, questions=tuple(questions)
                )

    def _is_excluded(self, clip: LabelledClip) -> bool:
        return self._config.exclude_pairs and holds_held_out_pair(clip.objects)

    def _kept(self, questions: list[Question]) -> list[Question]:
        if not self._config.exclude_pairs:
            return questions
        return [q for q in questions if not names_held_out_pair(q.label)]

    def _draw_still(self) -> LabelledClip:
        if self.rng.random() < self._config.sprite_share:
            return self._composer().still()
        return augment_still(self._stills.draw(self.rng), self.rng)

    def _draw_clip(self, num_frames: int) -> LabelledClip:
        source = self.rng.random()
        if source < self._config.sprite_share:
            return self._composer().clip(num_frames)
        if source < self._config.sprite_share + self._config.pan_share:
            return pan_still(self._stills.draw(self.rng), self.rng, num_frames)
        return augment_clip(self._clips.draw(self.rng), self.rng, num_frames)

    def _composer(self) -> SpriteComposer:
        return self._composers[int(self.rng.choice(len(ASPECTS), p=ASPECT_SHARES))]

    def _draw_stamps(self, num_frames: int) -> tuple[float, ...]:
        """A half-second grid; the newest frame of a live clip falls between its points."""
        stamps = GRID_S * np.arange(num_frames)
        if self.rng.random() < self._config.stamp_jitter_share:
            stamps[1:] += self.rng.integers(-1, 2, num_frames - 1) / 10
        if num_frames > 1 and self.rng.random() < self._config.newest_between_share:
            stamps[-1] = stamps[-2] + self.rng.integers(1, 6) / 10
        return tuple(round(float(s), 1) for s in stamps)

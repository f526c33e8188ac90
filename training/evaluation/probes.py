"""What else is asked about rendered scenes: other phrasings, and pairs that training left out."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import numpy.typing as npt

from molmo2_ros.answers.answer import Answer
from molmo2_ros.asking import AnyGrounder, token_limit
from molmo2_ros.camera.clip import Clip
from molmo2_ros.prompt.query import Query, QueryKind
from molmo2_ros.simulation.objects import OWN_COLOUR
from molmo2_ros.training import phrases
from molmo2_ros.training.evaluation.rendered import AskedScene, as_clip, as_query
from molmo2_ros.training.evaluation.rendered_scores import Tally, score_asked
from molmo2_ros.training.evaluation.result import Result, add_mean, add_value
from molmo2_ros.training.metrics import joint_interval
from molmo2_ros.training.pairs import HELD_OUT_PAIRS, holds_held_out_pair
from molmo2_ros.training.scenes import Question, still_question

NUM_PHRASINGS = 3
_TEMPLATES = {
    "point": phrases.POINT_ONE,
    "point_all": phrases.POINT_ALL,
    "count": phrases.COUNT,
    "track": phrases.TRACK,
}
_COMPARED = ("pointing_f1", "tracking_f1")


@contextmanager
def in_any_words(grounder: AnyGrounder) -> Iterator[None]:
    """Let a model be asked in words as they stand, which nano is not offered for.

    `point` and its kin always ask in one phrasing; here it is the others that are measured.
    """
    asked: Any = grounder  # what runs elsewhere (RemoteGrounder) can be asked anyway
    before = grounder.model
    if "ask" in before.skills:
        yield
        return
    asked.model = replace(before, skills=(*before.skills, "ask"))
    try:
        yield
    finally:
        asked.model = before


@dataclass(slots=True, kw_only=True)
class PhrasingProbe:
    """Asks the questions of every scene again in other phrasings.

    Args:
        grounder: the model that was asked before.
        tallies: of each phrasing; the first is the one that the package itself writes.
    """

    grounder: AnyGrounder
    tallies: list[Tally] = field(default_factory=lambda: [Tally() for _ in range(NUM_PHRASINGS)])

    def __call__(self, number: int, scene: AskedScene) -> None:
        """Ask about one scene; it was asked in the first phrasing before."""
        self.take(number, scene, 0, scene.answers)
        for phrasing in range(1, NUM_PHRASINGS):
            self.take(number, scene, phrasing, self.ask(scene, phrasing))

    def ask(self, scene: AskedScene, phrasing: int) -> list[Answer]:
        """The scene's questions in one of the phrasings of their families, from 0."""
        clip = as_clip(scene.clip)
        with in_any_words(self.grounder):
            return [self._ask(clip, question, phrasing) for question in scene.questions]

    def take(
        self, number: int, scene: AskedScene, phrasing: int, answers: Sequence[Answer]
    ) -> None:
        """Score answers to one phrasing of a scene's questions."""
        tally = self.tallies[phrasing]
        tally.scene = number
        for question, answer in zip(scene.questions, answers, strict=True):
            score_asked(scene, question, answer, tally)

    def add_to(self, result: Result) -> None:
        """The greatest difference of an F1 between phrasings, and each F1 by phrasing."""
        columns = [
            [tally.cases(name) for tally in self.tallies if tally.scores.get(name)]
            for name in _COMPARED
        ]
        sizes = [len(column) for column in columns if column]
        cases = [each for column in columns for each in column]
        if not cases:
            return
        interval = joint_interval(cases, lambda means: _widest(means, sizes))
        means = np.array([[np.mean(each.values)] for each in cases])
        num = sum(len(column[0].values) for column in columns if column)
        add_value(result, "phrasing_spread", float(_widest(means, sizes)[0]), interval, num)
        for name in (*_COMPARED, "counting_exact"):
            for phrasing, tally in enumerate(self.tallies, 1):
                if tally.scores.get(name):
                    title = f"{name}, phrasing {phrasing}"
                    result["finer"][title] = round(tally.mean(name), 4)
                    result["cases"][title] = len(tally.scores[name])

    def _ask(self, clip: Clip, question: Question, phrasing: int) -> Answer:
        text = _TEMPLATES[question.kind][phrasing].format(x=question.label)
        limit = token_limit(as_query(question, "native"), len(clip))
        query = Query(name="phrasing", kind=QueryKind.ASK, words=text)
        answer = self.grounder.answer(clip, query, max_new_tokens=limit)
        if question.kind == "count" and answer.count is None and answer.none:
            return replace(answer, count=0)  # as a counting query reads it
        return answer


def _widest(means: npt.NDArray[np.float64], sizes: list[int]) -> npt.NDArray[np.float64]:
    """The greatest range within the groups of rows of these sizes, by column."""
    groups = np.split(means, np.cumsum(sizes)[:-1])
    ranges: npt.NDArray[np.float64] = np.max([np.ptp(group, axis=0) for group in groups], axis=0)
    return ranges


@dataclass(slots=True, kw_only=True)
class PairProbe:
    """Points to everything with a colour in stills that hold a pair of `training/pairs.py`.

    Pairs that are held out and pairs that are not stand in the same pictures, so that light, size
    and clutter are alike.

    Args:
        grounder: the model.
        tally: `held_out` and `seen` F1s.
    """

    grounder: AnyGrounder
    tally: Tally = field(default_factory=Tally)

    def __call__(self, number: int, scene: AskedScene) -> None:
        """Ask about one scene, if it holds such a pair."""
        clip = as_clip(scene.clip)
        for question, is_held_out in pair_questions(scene):
            answer = self.grounder.answer(clip, as_query(question, "pair"))
            self.take(number, scene, question, answer, is_held_out)

    def take(
        self,
        number: int,
        scene: AskedScene,
        question: Question,
        answer: Answer,
        is_held_out: bool,
    ) -> None:
        """Score one answer about a pair."""
        one = Tally()
        score_asked(scene, question, answer, one)
        self.tally.scene = number
        self.tally.add("held_out" if is_held_out else "seen", one.mean("pointing_f1"))

    def add_to(self, result: Result) -> None:
        """Both F1s and by how much the held-out one is lower."""
        seen, held_out = self.tally.cases("seen"), self.tally.cases("held_out")
        if not seen.values or not held_out.values:
            return
        add_mean(result, "seen_pairs_f1", seen)
        add_mean(result, "held_out_pairs_f1", held_out)
        gap = self.tally.mean("seen") - self.tally.mean("held_out")
        interval = joint_interval([seen, held_out], lambda means: means[0] - means[1])
        add_value(result, "held_out_pairs_gap", gap, interval, len(held_out.values))


def pair_questions(scene: AskedScene) -> list[tuple[Question, bool]]:
    """Pointing to each thing with a colour in a still that holds a held-out pair, and which are."""
    if scene.is_clip or not holds_held_out_pair(scene.clip.objects):
        return []
    asked = []
    for pair in sorted({(thing.category, thing.colour) for thing in scene.clip.objects}):
        question = still_question(scene.sightings, "point", *pair, None)
        if pair[1] != OWN_COLOUR and question is not None and not question.absent:
            asked.append((question, pair in HELD_OUT_PAIRS))
    return asked

"""A model on a data set: asked, scored and summarised."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass, replace

from molmo2_ros.asking import AnyGrounder
from molmo2_ros.training.data.dataset import Dataset
from molmo2_ros.training.evaluation.answer_log import AnswerLog
from molmo2_ros.training.evaluation.asking import LeftOut, Progress, ask_dataset
from molmo2_ros.training.evaluation.figures import summarise
from molmo2_ros.training.evaluation.questions import Kind
from molmo2_ros.training.evaluation.report import Report
from molmo2_ros.training.evaluation.result import Result
from molmo2_ros.training.evaluation.scoring import Scored, score_answered
from molmo2_ros.training.evaluation.segmenter import Segmenter

_NUM_SHOWN = 5  # reasons of each kind


@dataclass(frozen=True, slots=True, kw_only=True)
class Outcome:
    """What came of an evaluation.

    Args:
        scored: every question that was asked and scored.
        left_out: the others.
    """

    scored: tuple[Scored, ...]
    left_out: LeftOut

    @property
    def result(self) -> Result:
        """Figures of all questions."""
        return summarise(self.scored)

    @property
    def settings(self) -> dict[str, object]:
        """Numbers of questions, and reasons of those left out, for JSON."""
        return {
            "examples": len({one.example for one in self.scored}),
            "questions": len(self.scored),
            "questions_refused": dict(self.left_out.refused),
            "questions_unscored": dict(self.left_out.unscored),
            "tracks_cut": self.left_out.num_cut,
        }

    @property
    def notes(self) -> list[str]:
        """The same for people."""
        num = len({one.example for one in self.scored})
        lines = [f"{len(self.scored)} questions about {num} examples"]
        left = self.left_out
        if left.num_cut:
            lines.append(
                f"{left.num_cut} tracks go on behind the last frame that the model reads; their "
                "beginnings were scored"
            )
        lines += self._reasons("refused by the engine", left.refused)
        return lines + self._reasons("without a score", left.unscored)

    def _reasons(self, what: str, counter: Counter[str]) -> list[str]:
        if not counter:
            return []
        lines = [f"{counter.total()} {what}:"]
        for reason, number in counter.most_common(_NUM_SHOWN):
            lines.append(f"  {number}: {reason} (first: {self.left_out.firsts[reason]})")
        if len(counter) > _NUM_SHOWN:
            lines.append(f"  and {len(counter) - _NUM_SHOWN} more reasons")
        return lines


def evaluate_dataset(
    grounder: AnyGrounder,
    dataset: Dataset,
    *,
    limit: int | None = None,
    progress: Progress,
    report: Report | None = None,
    segmenter: Segmenter | None = None,
    log: AnswerLog | None = None,
) -> Outcome:
    """Ask all that a data set knows, and score the answers.

    Args: as `ask_dataset`; `report` gets every question with its pictures, `segmenter` makes masks
        of tracks, for J&F.

    Raises:
        Molmo2Error: as `ask_dataset`.
    """
    left_out = LeftOut()
    scored: list[Scored] = []
    for answered in ask_dataset(
        grounder, dataset, left_out, limit=limit, progress=progress, log=log
    ):
        one = score_answered(dataset.folder, answered)
        if segmenter is not None and one.kind is Kind.TRACKING:
            told, media = answered.asked.annotation, answered.example.media
            masked = segmenter.measure(dataset.folder, told, media, answered.answer)
            one = replace(one, measures={**one.measures, **masked})
        scored.append(one)
        if report is not None:
            frames = [frame.image for frame in answered.shown.frames]
            times_s = answered.shown.times_s
            places = list(times_s) or [float(n) for n in range(1, len(frames) + 1)]
            report.add(one, frames, places)
    return Outcome(scored=tuple(scored), left_out=left_out)

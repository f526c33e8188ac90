"""Asking about a video of any length: clips slide over it, and ids last from clip to clip."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence

from tqdm import tqdm

from molmo2_ros.answers.answer import Answer, point_stamp_ns
from molmo2_ros.asking import AnyGrounder
from molmo2_ros.camera.clip import Clip, ClipBuffer, Sampling, choose_stamps, sample_clip
from molmo2_ros.camera.frame import Frame
from molmo2_ros.camera.sources import FrameSource
from molmo2_ros.cli.findings import Finding, Result, finding_of
from molmo2_ros.errors import ImageError
from molmo2_ros.prompt.query import Query, QueryKind
from molmo2_ros.prompt.subtitles import Subtitle
from molmo2_ros.tracking.target import Target
from molmo2_ros.tracking.tracker import Tracker

_NS = 1_000_000_000
_QUERY_ID = 1
_MAX_HELD = 4096  # frames, more than any clip has
_FOR_EVER_S = 1e9

Opener = Callable[[], FrameSource]


def ask_stream(
    grounder: AnyGrounder,
    files: Sequence[str],
    open_frames: Opener,
    query: Query,
    *,
    every_s: float | None = None,
    subtitles: Sequence[Subtitle] = (),
) -> Result:
    """Ask about a video or a folder of frames.

    A question in words, and points and counts of the whole clip, are asked for once. Other points
    are asked for in one frame after the other, tracks in clips as long as the model was trained on;
    the tracker gives an object the same id in all of them.

    Args:
        grounder: the model.
        files: what is asked about.
        open_frames: opens it.
        query: the question.
        every_s: seconds between answers; None for half a clip for tracks, else the model's rate.
        subtitles: of the whole video.

    Raises:
        QueryError: the model cannot answer it.
        ImageError: the video breaks off with an error.
    """
    grounder.check(query, has_subtitles=bool(subtitles))
    if query.kind.is_in_words or query.over_clip:
        answers, findings = _ask_whole(grounder, open_frames, query, subtitles)
    else:
        answers, rows = _ask_sliding(grounder, open_frames, query, every_s)
        findings = [_finding(row) for row in rows]
    return Result(
        query=query,
        engine=grounder.model.name,
        files=tuple(files),
        answers=tuple(answers),
        findings=tuple(findings),
    )


def frames_of(open_frames: Opener, task: str) -> Iterator[Frame]:
    """Read a source to its end with a progress bar.

    Args:
        open_frames: opens it.
        task: what the bar is called.
    """
    source = open_frames()
    total = getattr(source, "num_frames", 0) or None
    try:
        with tqdm(total=total, desc=task, unit="frame", disable=None) as bar:
            while (frame := source.read()) is not None:
                yield frame
                bar.update()
    finally:
        source.close()


def _ask_whole(
    grounder: AnyGrounder, open_frames: Opener, query: Query, subtitles: Sequence[Subtitle]
) -> tuple[list[Answer], list[Finding]]:
    facts = grounder.model.sampling
    sampling = Sampling(fps=facts.point_fps, max_frames=facts.max_frames)
    clip = read_whole(open_frames, sampling)
    answer = grounder.answer(clip, query, subtitles=subtitles)
    frames = {frame.stamp_ns: frame for frame in clip}
    findings = [
        finding_of(answer, point, frames[point_stamp_ns(answer, point)]) for point in answer.points
    ]
    return [answer], findings


def read_whole(open_frames: Opener, sampling: Sampling) -> Clip:
    """Choose the frames of a video of any length.

    No more of them are held than the clip has: a video that is too long for the sampling's rate is
    read twice, once to learn its length.

    Args:
        open_frames: opens it.
        sampling: what to choose.

    Raises:
        ImageError: it has no frame.
    """
    held = ClipBuffer(_FOR_EVER_S, sampling.max_frames + 1, keep_fps=sampling.fps)
    stamps = []
    for frame in frames_of(open_frames, "reading"):
        held.push(frame)
        stamps.append(frame.stamp_ns)
    if len(held) <= sampling.max_frames:
        return sample_clip(held.frames(), sampling)
    held.clear()
    wanted = {stamps[index] for index in choose_stamps(stamps, sampling)}
    again = frames_of(open_frames, "reading again")
    return Clip(tuple(frame for frame in again if frame.stamp_ns in wanted))


def _ask_sliding(
    grounder: AnyGrounder, open_frames: Opener, query: Query, every_s: float | None
) -> tuple[list[Answer], list[Target]]:
    facts = grounder.model.sampling
    is_track = query.kind is QueryKind.TRACK
    clip_s = facts.max_clip_s if is_track else 0.0
    step_s = every_s or (clip_s / 2 if is_track else 1 / facts.point_fps)
    held = ClipBuffer(clip_s + 1.0, _MAX_HELD, keep_fps=facts.track_fps if is_track else None)
    tracker = Tracker(buffer_s=clip_s + 1.0)
    answers: list[Answer] = []
    rows: list[Target] = []

    def answer_now() -> None:
        clip = grounder.clip_for(held, query)
        answer = grounder.answer(clip, query)
        reported_ns = answers[-1].stamps_ns[-1] if answers else -1
        answers.append(answer)
        measured = tracker.measure(answer, _QUERY_ID)
        rows.extend(
            sorted(
                (row for row in measured if row.stamp_ns > reported_ns),
                key=lambda row: (row.stamp_ns, row.track_id),
            )
        )

    due_ns = 0
    newest: Frame | None = None
    for frame in frames_of(open_frames, "asking"):
        if newest is None:
            due_ns = frame.stamp_ns + round(clip_s * _NS)
        newest = frame
        held.push(frame)
        tracker.update(frame)
        if frame.stamp_ns >= due_ns:
            answer_now()
            due_ns += round(step_s * _NS)
    if newest is None:
        raise ImageError("the source gave no frame; check that the file is whole")
    if not answers or answers[-1].stamps_ns[-1] < newest.stamp_ns:
        answer_now()
    return answers, rows


def _finding(row: Target) -> Finding:
    return Finding(
        stamp_ns=row.stamp_ns,
        image=None,
        track_id=row.track_id,
        u=row.u,
        v=row.v,
        label=row.label,
        confidence=row.confidence,
    )

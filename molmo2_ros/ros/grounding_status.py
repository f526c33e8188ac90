"""The grounding node's lines on /diagnostics: one for each stage from the image to the points."""

from __future__ import annotations

import time
from collections.abc import Sequence

from diagnostic_msgs.msg import DiagnosticStatus

from molmo2_ros.answer_loop import AnswerLoop
from molmo2_ros.opening import Model, facts_of
from molmo2_ros.remote.server import RemoteServer
from molmo2_ros.ros.diagnostics import ProblemLog, status
from molmo2_ros.ros.gpu_status import GpuStatus
from molmo2_ros.ros.grounded_camera import GroundedCamera
from molmo2_ros.ros.metres import metres_status
from molmo2_ros.ros.parameters import GroundingParameters
from molmo2_ros.ros.process_meter import ProcessMeter
from molmo2_ros.runtime.self_test import SelfTest

_LOST_IS_MUCH = 0.1  # of the images


def grounding_statuses(
    name: str,
    *,
    parameters: GroundingParameters,
    engine: Model | None,
    self_test: SelfTest | None,
    cameras: Sequence[GroundedCamera],
    loop: AnswerLoop | None,
    problems: ProblemLog,
    process: ProcessMeter,
    gpus: GpuStatus,
) -> list[DiagnosticStatus]:
    """How the node's parts are now.

    Args:
        name: of the node; lines about a camera with a name say `name/camera`.
        parameters: its newest snapshot.
        engine: None until it is configured.
        self_test: of that engine.
        cameras: those that share it.
        loop: None unless it is active.
        problems: what went wrong with none of the cameras.
        process: what it takes of the machine.
        gpus: those of the machine.
    """
    names = {camera: f"{name}/{camera.name}" if camera.name else name for camera in cameras}
    lines = []
    for camera, of in names.items():
        lines += [
            _camera(of, camera),
            _tracking(of, camera),
            metres_status(
                of,
                None if camera.carrying is None else camera.carrying.metres.take(),
                is_wanted=parameters.use_depth,
                target_frame=parameters.target_frame,
                elsewhere=camera.problems.recent("target_frame"),
            ),
        ]
    return [
        *lines,
        _engine(name, parameters, engine, self_test, loop, problems),
        _answers(name, loop, cameras, problems),
        *(_queries(of, camera) for camera, of in names.items()),
        process.status(name),
        *gpus.statuses(name, in_use=_on_gpu(engine)),
    ]


def _on_gpu(engine: Model | None) -> bool:
    """Whether a GPU of this machine has the work."""
    return engine is not None and not isinstance(engine, RemoteServer) and engine.device != "cpu"


def _camera(name: str, camera: GroundedCamera) -> DiagnosticStatus:
    topic, carrying, asked = camera.image_topic, camera.carrying, camera.asked
    if carrying is None or asked is None:
        return status(f"{name}: camera", topic, {}, message="not active")
    num_received, num_lost = carrying.mailbox.num_put, carrying.num_lost
    warning = ""
    if num_lost > _LOST_IS_MUCH * (num_received + num_lost):
        warning = (
            f"{num_lost} of {num_received + num_lost} images got lost on the way here; let the "
            "camera's process use shared memory (docs/interfaces.md), or set image_reliability to "
            "reliable where it publishes reliably"
        )
    if carrying.frame_rate.is_stale:
        warning = (
            f"no image on {topic} for {carrying.frame_rate.age_s:.1f} s; points are those of the "
            "last one. Check that the camera still runs"
        )
    elif not carrying.frame_rate.count:
        warning = (
            f"no image on {topic}; check that the camera runs, the topic's name (remap it) and "
            "image_transport"
        )
    values = {
        "frames": carrying.frame_rate.count,
        "rate_hz": carrying.frame_rate.rate_hz,
        "age_s": carrying.frame_rate.age_s,
        "frames_received": num_received,
        "frames_dropped": carrying.mailbox.num_dropped,
        "frames_lost_in_transport": num_lost,
        "has_depth": carrying.has_depth,
        "clip_frames": len(asked.clip),
        "clip_mb": asked.clip.num_bytes / 1e6,
        **_counted(camera.problems),
    }
    error = camera.problems.recent("camera")
    return status(f"{name}: camera", topic, values, error=error, warning=warning)


def _counted(problems: ProblemLog) -> dict[str, object]:
    return {f"problems_{kind}": number for kind, number in problems.counts.items()}


def _tracking(name: str, camera: GroundedCamera) -> DiagnosticStatus:
    carrying = camera.carrying
    if carrying is None:
        return status(f"{name}: tracking", "", {}, message="not active")
    frames, mailbox = carrying.frame_rate, carrying.mailbox
    warning = ""
    if mailbox.num_dropped > _LOST_IS_MUCH * mailbox.num_put:
        warning = (
            f"{mailbox.num_dropped} of {mailbox.num_put} images were dropped, since a newer one "
            f"came before targets were carried to them ({carrying.carry_s * 1e3:.0f} ms an image); "
            "let the camera send smaller or fewer ones"
        )
    values = {
        "targets": carrying.num_targets,
        "oldest_s": carrying.oldest_s,
        "targets_lost": carrying.num_targets_lost,
        "carry_ms": carrying.carry_s * 1e3,
        "frames": frames.count,
        "points_rate_hz": camera.results.points_rate.rate_hz,
    }
    return status(f"{name}: tracking", "", values, warning=warning)


def _engine(
    name: str,
    parameters: GroundingParameters,
    engine: Model | None,
    self_test: SelfTest | None,
    loop: AnswerLoop | None,
    problems: ProblemLog,
) -> DiagnosticStatus:
    error = problems.standing("engine")
    if engine is None:
        return status(
            f"{name}: engine", parameters.engine, {}, error=error, message="not configured"
        )
    model = facts_of(engine)
    values: dict[str, object] = {
        "device": engine.device,
        "skills": ", ".join(model.skills),
        "confidence": "raw score" if model.calibration is None else "probability",
    }
    error = warning = ""
    if isinstance(engine, RemoteServer):
        # It may be lost and found again; what is wrong is told until it answers.
        error, warning = engine.trouble, engine.warning
    else:
        values["runtime"] = engine.runtime
        values["precision"] = engine.manifest.precision
        values["license"] = engine.manifest.source.license or "not said"
    if self_test is not None:
        warning = self_test.problem
        values["checksum"] = self_test.checksum[:12]
        values["self_test"] = self_test.text
    return status(
        f"{name}: engine",
        model.name,
        values,
        error=error,
        warning=warning,
        message="answering" if loop is not None else "loaded",
    )


def _answers(
    name: str,
    loop: AnswerLoop | None,
    cameras: Sequence[GroundedCamera],
    problems: ProblemLog,
) -> DiagnosticStatus:
    error = problems.recent("answer")
    if loop is None:
        values = _counted(problems)
        return status(f"{name}: answers", "", values, error=error, message="not active")
    values = {
        "answers": sum(camera.results.answer_rate.count for camera in cameras),
        "answers_rate_hz": sum(camera.results.answer_rate.rate_hz for camera in cameras),
        **loop.facts(),
        **_counted(problems),
    }
    return status(f"{name}: answers", "", values, error=error, warning=loop.pace.warning)


def _queries(name: str, camera: GroundedCamera) -> DiagnosticStatus:
    queries = camera.queries.all(time.monotonic())
    values: dict[str, object] = {
        f"query_{entry.id}": f"{entry.query.kind.value}: {entry.query.words[:100]}"
        for entry in queries
    }
    values["detections"] = camera.results.detections_text
    values["answers_rate_hz"] = camera.results.answer_rate.rate_hz
    return status(
        f"{name}: queries",
        "",
        values,
        error=camera.problems.recent("query"),
        warning="" if queries else "nothing is asked; publish to ~/query or set `queries`",
        message=f"{len(queries)} standing",
    )

"""What Molmo2 is measured by; definitions and differences to the authors in docs/evaluating.md."""

from molmo2_ros.training.metrics.confidence import (
    Cases,
    ReliabilityBin,
    auroc,
    bootstrap_interval,
    brier_score,
    calibration_error,
    joint_interval,
    reliability,
)
from molmo2_ros.training.metrics.points import (
    FrameScore,
    ids_one_to_one,
    instance_at,
    score_frame,
    track_f1,
)

__all__ = [
    "Cases",
    "FrameScore",
    "ReliabilityBin",
    "auroc",
    "bootstrap_interval",
    "brier_score",
    "calibration_error",
    "ids_one_to_one",
    "instance_at",
    "joint_interval",
    "reliability",
    "score_frame",
    "track_f1",
]

"""Learning rate over the steps of a stage."""

from __future__ import annotations

import math

from molmo2_ros.training.nano.config import StageConfig


def learning_rate(stage: StageConfig, step: int) -> float:
    """Linear warm-up, a constant part, then a cosine or linear fall to `final_share`.

    Args:
        stage: the schedule.
        step: steps already made in this stage.
    """
    warmup = min(1.0, (step + 1) / max(stage.warmup_steps, 1))
    done = step / stage.steps
    if done < stage.constant_share or stage.constant_share >= 1:
        return stage.lr * warmup
    fall = (done - stage.constant_share) / (1 - stage.constant_share)
    left = 1 - fall if stage.decay == "linear" else 0.5 * (1 + math.cos(math.pi * fall))
    return stage.lr * warmup * (stage.final_share + (1 - stage.final_share) * left)

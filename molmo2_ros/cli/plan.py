"""A roofline plan as a table for people and as JSON for programs; both say that it is computed."""

from __future__ import annotations

import json
from typing import Any

from molmo2_ros.machine.facts import GB
from molmo2_ros.machine.roofline import Plan, Stage

_MS = 1e3
_TERA = 1e12
_LABEL = "computed from bytes and arithmetic, not measured"
_WORDS = {
    "vision": "vision tower, one frame",
    "connector": "connector, one frame",
    "prefill": "prefill, {prompt} tokens",
    "token": "one token",
    "verify": "verify {verify} tokens",
}


def as_plan_table(plan: Plan) -> str:
    """Stages with their bounds, and below them what they come to for one answer."""
    workload, memory = plan.workload, plan.memory
    frames = workload.frames
    lines = [
        f"{plan.model.name} in {plan.precision.name} on {plan.device.title}: {_LABEL}",
        "",
        f"{'stage':<26} {'TFLOP':>7} {'GB':>7} {'bound ms':>9} {'set by':>11} {'likely ms':>10}",
        *(_row(plan, stage) for stage in plan.stages),
        "",
        f"{frames} frames through the tower: {plan.vision.bound_s * frames * _MS:.0f} ms, "
        "each frame once in its life",
        f"answer of {workload.answer_tokens} tokens: {plan.plain_s * _MS:.0f} ms one by one, "
        f"{plan.verified_s * _MS:.0f} ms in {workload.verify_passes} passes when its draft is good",
        f"a pass is bound by reading weights up to {plan.ridge_tokens:.0f} tokens",
        f"memory: {memory.total / GB:.2f} GB (weights {memory.weights / GB:.2f}, cache "
        f"{memory.kv / GB:.2f}, activations {memory.activations / GB:.2f}) of "
        f"{plan.device.usable_gb:.1f} usable: {'fits' if plan.fits else 'does not fit'}",
        "likely: by the share that NVIDIA's own runtime reaches on this device; - unknown",
    ]
    return "\n".join(lines)


def as_plan_json(plan: Plan) -> str:
    """One object; seconds, bytes and operations, null where nothing is known."""
    payload = {
        "label": _LABEL,
        "model": plan.model.name,
        "device": plan.device.name,
        "precision": plan.precision.name,
        "workload": {
            "frames": plan.workload.frames,
            "prompt_tokens": plan.workload.prompt_tokens(plan.model),
            "cached_tokens": plan.workload.cached_tokens(plan.model),
            "answer_tokens": plan.workload.answer_tokens,
            "verify_tokens": plan.workload.verify_tokens,
            "verify_passes": plan.workload.verify_passes,
        },
        "stages": {stage.name: _stage_json(stage) for stage in plan.stages},
        "answer_s": {"plain": plan.plain_s, "verified": plan.verified_s},
        "ridge_tokens": plan.ridge_tokens,
        "memory": {
            "weights_bytes": plan.memory.weights,
            "kv_bytes": plan.memory.kv,
            "activation_bytes": plan.memory.activations,
            "usable_bytes": plan.device.usable_gb * GB,
            "fits": plan.fits,
        },
    }
    return json.dumps(payload, indent=2, allow_nan=False)


def _row(plan: Plan, stage: Stage) -> str:
    words = _WORDS[stage.name].format(
        prompt=plan.workload.prompt_tokens(plan.model), verify=plan.workload.verify_tokens
    )
    likely = "-" if stage.likely_s is None else _milliseconds(stage.likely_s)
    return (
        f"{words:<26} {stage.flops / _TERA:>7.3f} {stage.bytes / GB:>7.2f} "
        f"{_milliseconds(stage.bound_s):>9} {stage.bound_by:>11} {likely:>10}"
    )


def _milliseconds(seconds: float) -> str:
    value = seconds * _MS
    return f"{value:.1f}" if value < 100 else f"{value:.0f}"


def _stage_json(stage: Stage) -> dict[str, Any]:
    return {
        "flops": stage.flops,
        "bytes": stage.bytes,
        "bound_s": stage.bound_s,
        "bound_by": stage.bound_by,
        "arithmetic_s": stage.arithmetic_s,
        "bandwidth_s": stage.bandwidth_s,
        "likely_s": stage.likely_s,
    }

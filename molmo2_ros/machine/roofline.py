"""How fast a device can be at most: each stage's bytes over bandwidth, or arithmetic over rate.

Nothing here was measured: a bound says what no program beats, not what one reaches.
"""

from __future__ import annotations

from dataclasses import dataclass

from molmo2_ros.errors import ConfigError
from molmo2_ros.machine.devices import Device
from molmo2_ros.machine.facts import GB
from molmo2_ros.machine.models import Architecture
from molmo2_ros.machine.precision import Precision

_TERA = 1e12
_ACCEPTED = (10, 12)  # of the tokens of a verify pass, how many it is planned to settle


@dataclass(frozen=True, slots=True, kw_only=True)
class Workload:
    """One question about one clip."""

    frames: int = 8
    text_tokens: int = 60  # question, header and stamps
    answer_tokens: int = 100
    verify_tokens: int = 12  # of a pass that checks drafted tokens
    context_tokens: int | None = None  # in the cache while answering; None: with half the answer

    def __post_init__(self) -> None:
        """Refuse what is no question.

        Raises:
            ConfigError: a count below 1.
        """
        for name in ("frames", "text_tokens", "answer_tokens", "verify_tokens"):
            value = getattr(self, name)
            if value < 1:
                raise ConfigError(f"{name} is {value}, expected at least 1")

    @property
    def verify_passes(self) -> int:
        """Passes that write the whole answer when its draft is good."""
        settled, width = _ACCEPTED
        return -(-self.answer_tokens * width // (self.verify_tokens * settled))

    def prompt_tokens(self, model: Architecture) -> int:
        """Tokens that the model reads before it answers."""
        return self.frames * model.frame_tokens + self.text_tokens

    def cached_tokens(self, model: Architecture) -> int:
        """Tokens in the cache while it answers."""
        if self.context_tokens is not None:
            return self.context_tokens
        return self.prompt_tokens(model) + self.answer_tokens // 2


@dataclass(frozen=True, slots=True, kw_only=True)
class Stage:
    """What one pass costs at least."""

    name: str
    flops: float
    bytes: float
    arithmetic_s: float
    bandwidth_s: float
    likely_s: float | None  # by what such stages reach on this device; None where unknown

    @property
    def bound_s(self) -> float:
        """Seconds that the pass takes at least."""
        return max(self.arithmetic_s, self.bandwidth_s)

    @property
    def bound_by(self) -> str:
        """What sets the bound: "arithmetic" or "bandwidth"."""
        return "arithmetic" if self.arithmetic_s >= self.bandwidth_s else "bandwidth"


@dataclass(frozen=True, slots=True, kw_only=True)
class Memory:
    """Bytes that have to be there at once."""

    weights: float
    kv: float  # two sets, one read while the other is written
    activations: float  # of the widest stage

    @property
    def total(self) -> float:
        """All of it."""
        return self.weights + self.kv + self.activations


@dataclass(frozen=True, slots=True, kw_only=True)
class Plan:
    """A model on a device."""

    model: Architecture
    device: Device
    precision: Precision
    workload: Workload
    vision: Stage  # one view
    connector: Stage  # one view
    prefill: Stage
    token: Stage
    verify: Stage
    memory: Memory

    @property
    def stages(self) -> tuple[Stage, ...]:
        """In the order in which they run."""
        return (self.vision, self.connector, self.prefill, self.token, self.verify)

    @property
    def fits(self) -> bool:
        """Whether the device has memory for it."""
        return self.memory.total <= self.device.usable_gb * GB

    @property
    def ridge_tokens(self) -> float:
        """Tokens of a pass from which on arithmetic costs more than reading the layers' weights."""
        weights_s = self.precision.block_bytes / (self.device.bandwidth_gbs * GB)
        return weights_s * self.device.tflops * _TERA / 2

    @property
    def plain_s(self) -> float:
        """The answer's bound when each token has a pass of its own."""
        return self.workload.answer_tokens * self.token.bound_s

    @property
    def verified_s(self) -> float:
        """The answer's bound when it was drafted well."""
        return self.workload.verify_passes * self.verify.bound_s


def plan(
    model: Architecture, device: Device, precision: Precision, workload: Workload | None = None
) -> Plan:
    """Bounds of every stage.

    Args:
        model: its dimensions.
        device: its bandwidth and arithmetic.
        precision: of its weights; they are multiplied in half precision.
        workload: the clip and the answer; None for eight frames and a hundred tokens.
    """
    workload = workload or Workload()
    prompt, cached = workload.prompt_tokens(model), workload.cached_tokens(model)
    blocks = model.block_weights * precision.block_bytes
    decoder = blocks + model.head_weights * precision.head_bytes
    kv = model.kv_values_per_token * precision.value_bytes

    def stage(name: str, flops: float, num_bytes: float) -> Stage:
        arithmetic_s = flops / (device.tflops * _TERA)
        bandwidth_s = num_bytes / (device.bandwidth_gbs * GB)
        return Stage(
            name=name,
            flops=flops,
            bytes=num_bytes,
            arithmetic_s=arithmetic_s,
            bandwidth_s=bandwidth_s,
            likely_s=_likely_s(name, arithmetic_s, bandwidth_s, device.reached.get(name)),
        )

    def answering(name: str, tokens: int) -> Stage:
        return stage(name, model.text_flops(tokens, cached, tokens), decoder + cached * kv)

    value = precision.value_bytes
    return Plan(
        model=model,
        device=device,
        precision=precision,
        workload=workload,
        vision=stage("vision", model.tower_flops(), model.tower_weights * value),
        connector=stage("connector", model.connector_flops(), model.connector_weights * value),
        prefill=stage("prefill", model.text_flops(prompt, prompt, 1), decoder + prompt * kv),
        token=answering("token", 1),
        verify=answering("verify", workload.verify_tokens),
        memory=memory_of(model, precision, workload),
    )


def _likely_s(
    name: str, arithmetic_s: float, bandwidth_s: float, reached: float | None
) -> float | None:
    """Seconds by the share that others reach: of bandwidth for a token, else of arithmetic."""
    if reached is None:
        return None
    if name == "token":
        return max(arithmetic_s, bandwidth_s / reached)
    return max(arithmetic_s / reached, bandwidth_s)


def memory_of(model: Architecture, precision: Precision, workload: Workload) -> Memory:
    """Memory of a model at work.

    Args:
        model: its dimensions.
        precision: of its weights and values.
        workload: sets cache and activations; frames are encoded one by one.
    """
    value = precision.value_bytes
    plain = model.embedding_weights + model.tower_weights + model.connector_weights
    weights = model.block_weights * precision.block_bytes + plain * value
    prompt, tower = workload.prompt_tokens(model), model.tower
    # Scores and their softmax, as where attention is not one operator; gate and up of the MLP.
    text = 2 * model.heads * prompt**2 + 2 * prompt * model.mlp
    vision = 2 * tower.heads * tower.patches**2 + tower.patches * tower.mlp
    return Memory(
        weights=weights + model.head_weights * precision.head_bytes,
        kv=2 * value * model.kv_values_per_token * workload.cached_tokens(model),
        activations=value * max(text, vision),
    )

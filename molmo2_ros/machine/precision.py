"""How many bytes a model's weights and values take, by the name of a precision or by a manifest."""

from __future__ import annotations

from dataclasses import dataclass

from molmo2_ros.errors import ConfigError
from molmo2_ros.runtime.manifest import Manifest

HALF = 2  # bytes of a float16 or bfloat16 value


@dataclass(frozen=True, slots=True, kw_only=True)
class Precision:
    """Bytes of a value, wherever one is kept."""

    name: str
    block_bytes: float  # a weight of the language model's layers, with its share of a scale
    head_bytes: float  # a weight of its head
    value_bytes: int = HALF  # an activation, a value of the cache, a weight of all the rest


PRECISIONS = {
    precision.name: precision
    for precision in (
        Precision(name="fp32", block_bytes=4, head_bytes=4, value_bytes=4),
        Precision(name="bf16", block_bytes=2, head_bytes=2),
        Precision(name="fp16", block_bytes=2, head_bytes=2),
        Precision(name="int8", block_bytes=1, head_bytes=1),
        # 128 weights share a float16 scale; the head stays in half precision.
        Precision(name="int4", block_bytes=0.5 + 2 / 128, head_bytes=2),
    )
}


def find_precision(name: str) -> Precision:
    """A precision by its name.

    Raises:
        ConfigError: an unknown one; the message lists the known.
    """
    try:
        return PRECISIONS[name.casefold()]
    except KeyError:
        raise ConfigError(
            f"{name!r} is no known precision, expected one of {', '.join(PRECISIONS)}"
        ) from None


def precision_of(manifest: Manifest) -> Precision:
    """How an exported engine keeps its values."""
    value = 4 if manifest.dtype == "float32" else HALF
    facts = manifest.quantized.get("decoder")
    if facts is None:
        return Precision(
            name=manifest.dtype, block_bytes=value, head_bytes=value, value_bytes=value
        )
    weight = 1.0 if facts.scheme.endswith("8") else 0.5
    scale = HALF / facts.block if facts.block else 0.0
    return Precision(
        name=facts.scheme, block_bytes=weight + scale, head_bytes=value, value_bytes=value
    )

"""What can be asked of the quantiser: schemes, blocks, runtimes, devices, and accuracy."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass

from molmo2_ros.engines.modelopt_forms import Fp8, Nvfp4
from molmo2_ros.engines.weight_forms import Dequantized, NBits, WeightForm
from molmo2_ros.errors import EngineError
from molmo2_ros.runtime.engine import Engine
from molmo2_ros.runtime.manifest import AccuracyFacts

RUNTIMES = ("onnxruntime", "tensorrt")
BLOCKS = (32, 128)
# What a device multiplies by (TensorRT Edge-LLM's support matrix; FP8 from SM 89, FP4 from SM 100).
ARCHITECTURES: Mapping[str, tuple[str, ...]] = {
    "orin": ("int4", "int8"),
    "ampere": ("int4", "int8"),
    "ada": ("int4", "int8", "fp8"),
    "hopper": ("int4", "int8", "fp8"),
    "thor": ("int4", "int8", "fp8", "nvfp4"),
    "blackwell": ("int4", "int8", "fp8", "nvfp4"),
}
SCHEMES = ARCHITECTURES["blackwell"]

# An engine's figures, each a share in 0..1, and the number of cases behind each.
Figures = tuple[Mapping[str, float], Mapping[str, float]]


@dataclass(frozen=True, slots=True, kw_only=True)
class Quantization:
    """How the weights of an engine are to be stored.

    Raises:
        EngineError: a scheme, block or device that do not go together.
    """

    scheme: str = "int4"  # of the decoder, one of SCHEMES
    block: int = 32  # weights that share a scale: 32 or 128
    vision: str | None = None  # scheme of the vision tower, "int8"; None leaves it as it is
    runtime: str = "onnxruntime"  # or "tensorrt"
    architecture: str | None = None  # of the device, a key of ARCHITECTURES; None asks nothing

    def __post_init__(self) -> None:
        for name, value, known in (
            ("scheme", self.scheme, SCHEMES),
            ("block", self.block, BLOCKS),
            ("vision", self.vision, (None, "int8")),
            ("runtime", self.runtime, RUNTIMES),
            ("device", self.architecture, (None, *ARCHITECTURES)),
        ):
            if value not in known:
                choices = ", ".join(str(choice) for choice in known if choice is not None)
                raise EngineError(f"{name} is {value!r}, expected one of {choices}")
        if self.runtime == "onnxruntime" and not self.scheme.startswith("int"):
            raise EngineError(
                f"{self.scheme} is for TensorRT, onnxruntime multiplies by int4 and int8; take one "
                "of these, or --for tensorrt"
            )
        if self.architecture and self.scheme not in ARCHITECTURES[self.architecture]:
            raise EngineError(
                f"{self.architecture} cannot multiply by {self.scheme}, it has "
                f"{', '.join(ARCHITECTURES[self.architecture])}; take one of these"
            )

    def forms(self) -> dict[str, WeightForm]:
        """The form of each graph that changes, by the graph's name.

        Raises:
            EngineError: modelopt is needed and cannot be imported.
        """
        forms = {"decoder": self._form(self.scheme)}
        if self.vision:
            forms["vision"] = self._form(self.vision)
        return forms

    def _form(self, scheme: str) -> WeightForm:
        if self.runtime == "onnxruntime":
            return NBits(scheme, self.block)
        if scheme == "int4":
            return Dequantized(scheme, self.block)
        if scheme == "int8":
            return Dequantized(scheme, 0)
        return Fp8() if scheme == "fp8" else Nvfp4()

    @property
    def runs_here(self) -> bool:
        """Whether ONNX Runtime can run the result: it has no product with E2M1."""
        return self.scheme != "nvfp4"


@dataclass(frozen=True, slots=True, kw_only=True)
class Gauge:
    """How accuracy is measured, and how much of it may be lost.

    Figures of so few cases that one answer moves them by more than `largest_drop` are written down
    and not held to it.
    """

    measure: Callable[[Engine], Figures]
    errors: tuple[str, ...]  # figures that are better when they are lower
    largest_drop: float
    scenes: int
    seed: int

    def compare(self, before: Figures, after: Figures) -> AccuracyFacts:
        """What goes into the manifest.

        Raises:
            EngineError: a figure is worse by more than `largest_drop`; names each such figure.
        """
        worse = []
        for name, value in before[0].items():
            drop = value - after[0].get(name, float("nan"))
            drop = -drop if name in self.errors else drop
            is_sure = before[1][name] * self.largest_drop >= 1
            if is_sure and not drop <= self.largest_drop:
                worse.append(f"{name} from {value:.4f} to {after[0].get(name, float('nan')):.4f}")
        if worse:
            raise EngineError(
                f"quantised, the engine answers worse: {', '.join(worse)} on {self.scenes} scenes "
                f"of seed {self.seed}, allowed is {self.largest_drop:g}; take int8 or a smaller "
                "block, train with quantised weights, or allow more with --largest-drop"
            )
        return AccuracyFacts(
            before=dict(before[0]),
            after=dict(after[0]),
            largest_drop=self.largest_drop,
            scenes=self.scenes,
            seed=self.seed,
        )

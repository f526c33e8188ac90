"""manifest.json: what an engine folder holds, proven by hashes before anything is loaded."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from molmo2_ros.errors import EngineError
from molmo2_ros.runtime.onnx_file import read_onnx_facts
from molmo2_ros.runtime.strict_json import read_dataclass

FORMAT = 1
FILE_NAME = "manifest.json"
FORMS = ("fused", "decomposed")  # attention as one operator (opset 23), or in plain ones (opset 20)
FUSED_OPSET = 23  # the first that has attention as one operator
GRAPHS = ("vision.onnx", "decoder.onnx")
SCHEMES = ("int4", "int8", "fp8", "nvfp4")
DTYPES = ("float32", "float16", "bfloat16")
SKILLS: Mapping[str, str] = {  # what a model may have been trained to do
    "track": "follow things through a clip",
    "point": "point to things",
    "count": "count things",
    "clip": "point and count over all frames of a clip",
    "seed": "track from a given point",
    "crops": "read an image in tiles",
    "images": "read several images at once",
    "ask": "answer questions in words",
    "caption": "describe what it sees",
    "subtitles": "read subtitles with a clip",
}
REFIT = "fit the curve again with `python -m molmo2_ros.training.calibrate`"
REBUILD = "fetch the folder again, or make it anew with `python -m molmo2_ros.engines.export`"


@dataclass(frozen=True, slots=True, kw_only=True)
class FileEntry:
    """One file of the folder."""

    sha256: str  # hexadecimal
    bytes: int  # size


@dataclass(frozen=True, slots=True, kw_only=True)
class VisionFacts:
    """How pictures are cut into patches and patches pooled into tokens."""

    image_size: int  # pixels, side of the square view that the tower reads
    patch_size: int  # pixels, side of a patch
    feature_width: int  # values of one visual feature: the language model's width
    video_pooling: tuple[int, int]  # patches (down, across) that become one token of a video frame
    image_pooling: tuple[int, int]  # the same for still images
    max_crops: int  # most tiles of one still image
    overlap_margins: tuple[int, int]  # patches (leading, trailing) that neighbouring tiles share
    use_single_crop_col_tokens: bool  # whether the low-resolution view has column tokens


@dataclass(frozen=True, slots=True, kw_only=True)
class TextFacts:
    """Shapes of the language model."""

    num_layers: int
    num_kv_heads: int
    head_dim: int
    hidden_size: int
    vocab_size: int  # tokens that can be written; ids from here on can only be read
    max_positions: int  # most tokens of prompt and answer together


@dataclass(frozen=True, slots=True, kw_only=True)
class TokenFacts:
    """The special tokens, by their text."""

    bos: str
    eos: tuple[str, ...]  # any of them ends an answer
    ids: Mapping[str, int]

    @property
    def bos_id(self) -> int:
        """Id of the token that opens every prompt."""
        return self.ids[self.bos]

    @property
    def eos_ids(self) -> frozenset[int]:
        """Ids that end an answer."""
        return frozenset(self.ids[text] for text in self.eos)


@dataclass(frozen=True, slots=True, kw_only=True)
class SamplingFacts:
    """Which frames the model was trained to read."""

    point_fps: float  # frames per second for pointing, counting and free questions
    track_fps: float  # frames per second at most for tracking
    max_frames: int
    max_clip_s: float  # seconds


@dataclass(frozen=True, slots=True, kw_only=True)
class TrainingFacts:
    """Where the weights come from."""

    commit: str = ""
    config: Mapping[str, Any] = field(default_factory=dict)
    seed: int | None = None
    metrics: Mapping[str, Any] = field(default_factory=dict)


@dataclass(frozen=True, slots=True, kw_only=True)
class SourceFacts:
    """Which checkpoint was exported, by what, and on what terms its weights may be used."""

    checkpoint: str = ""  # hub name or folder, as given
    revision: str = ""  # commit of the hub
    weights_sha256: str = ""  # over the weight files in the order of their names
    license: str = ""  # SPDX name, or the checkpoint's own word
    versions: Mapping[str, str] = field(default_factory=dict)  # of the packages that exported it


@dataclass(frozen=True, slots=True, kw_only=True)
class QuantizedFacts:
    """How the weights of one graph are stored."""

    scheme: str  # "int4", "int8", "fp8" or "nvfp4"
    operator: str  # "MatMulNBits" for ONNX Runtime, "DequantizeLinear" for TensorRT
    block: int  # weights that share a scale; 0 for a whole output channel


@dataclass(frozen=True, slots=True, kw_only=True)
class AccuracyFacts:
    """What quantising did to the answers, by the evaluator, on scenes of simulated tables."""

    before: Mapping[str, Any]  # figures of the engine that was quantised
    after: Mapping[str, Any]  # the same figures of this one
    largest_drop: float  # of a figure, in 0..1, that was allowed
    scenes: int
    seed: int


@dataclass(frozen=True, slots=True, kw_only=True)
class CurveFacts:
    """A rising curve, straight between its knots, from a point's raw score to a probability."""

    scores: tuple[float, ...]  # of the knots, 0..1, rising
    probabilities: tuple[float, ...]  # that the point is right, one a knot, 0..1, never falling
    num_points: int  # that it was fitted on


@dataclass(frozen=True, slots=True, kw_only=True)
class CalibrationFacts:
    """What makes a probability of a point's raw score, and what that was fitted on."""

    points: CurveFacts  # for points of one frame
    tracks: CurveFacts  # for points of tracks
    stills: int  # scenes of one frame
    clips: int  # scenes of several frames
    seed: int  # of the scenes


@dataclass(frozen=True, slots=True, kw_only=True)
class GoldenFacts:
    """The example by which a freshly loaded engine proves itself, and how near it must come.

    A tolerance is set when the engine is made, from what its precision costs there: too wide, and a
    mistake passes; too narrow, and a good engine is refused on another processor.
    """

    file: str
    logit_tolerance: float = 1e-3  # largest absolute error; float32 kernels differ by about 1e-5
    feature_tolerance: float = 1e-3  # of a visual feature, as a share of the largest one


@dataclass(frozen=True, slots=True, kw_only=True)
class Manifest:
    """Everything about an engine that is not in its graphs."""

    format: int
    name: str
    head: str  # how coordinates are written: "digits"
    opset: int
    dtype: str  # of activations, cache and attention bias, and of weights that are not quantised
    files: Mapping[str, FileEntry]
    vision: VisionFacts
    text: TextFacts
    tokens: TokenFacts
    sampling: SamplingFacts
    skills: tuple[str, ...]
    form: str = "fused"  # one of FORMS
    source: SourceFacts = field(default_factory=SourceFacts)
    quantized: Mapping[str, QuantizedFacts] = field(default_factory=dict)  # by "vision", "decoder"
    accuracy: AccuracyFacts | None = None  # None: not quantised, or not measured
    vocabulary: tuple[str, ...] = ()  # nouns that a small model knows; empty: no such limit
    training: TrainingFacts = field(default_factory=TrainingFacts)
    golden: GoldenFacts | None = None
    calibration: CalibrationFacts | None = None  # None: a point's confidence is its raw score

    @property
    def checksum(self) -> str:
        """One for all files, hexadecimal: whatever is altered, added or renamed changes it."""
        listed = "".join(f"{self.files[name].sha256} {name}\n" for name in sorted(self.files))
        return hashlib.sha256(listed.encode()).hexdigest()

    @property
    def precision(self) -> str:
        """For people: "float32", or "float16, decoder int4"."""
        stored = [f"{graph} {facts.scheme}" for graph, facts in sorted(self.quantized.items())]
        return ", ".join([self.dtype, *stored])

    @staticmethod
    def load(folder: str | Path, verify: bool = True) -> Manifest:
        """Read and check the manifest of an engine folder.

        Args:
            folder: the engine.
            verify: also hash every file; without it only their sizes are compared.

        Raises:
            EngineError: no such folder or manifest, another format, a missing, unknown or wrong
                key, or a file that is missing or is not the one that was exported.
        """
        path = Path(folder) / FILE_NAME
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
        except FileNotFoundError:
            raise EngineError(
                f"no {FILE_NAME} in {folder}, expected an engine folder; check the path or make "
                "one with `python -m molmo2_ros.engines.export CHECKPOINT FOLDER`"
            ) from None
        except (OSError, ValueError) as error:
            raise EngineError(f"{path} cannot be read ({error}); {REBUILD}") from error
        manifest = Manifest.parse(content, where=str(path))
        for name, entry in manifest.files.items():
            _check_file(Path(folder), name, entry, verify)
        for name in GRAPHS:
            _check_graph(Path(folder) / name, manifest)
        return manifest

    @staticmethod
    def parse(content: Any, *, where: str = FILE_NAME) -> Manifest:
        """Build from decoded JSON.

        Raises:
            EngineError: another format, or a missing, unknown or wrong key; the message names it.
        """
        if not isinstance(content, dict):
            raise EngineError(
                f"{where} holds {type(content).__name__}, expected an object; {REBUILD}"
            )
        if content.get("format") != FORMAT:
            raise EngineError(
                f"{where} has format {content.get('format')!r}, this version reads format "
                f"{FORMAT}; export the checkpoint again with this version"
            )
        manifest = read_dataclass(Manifest, content, where, REBUILD)
        missing = {*GRAPHS, "tokenizer.json"} - manifest.files.keys()
        if manifest.golden is not None:
            missing |= {manifest.golden.file} - manifest.files.keys()
        if missing:
            raise EngineError(f"{where}: files lacks {', '.join(sorted(missing))}; {REBUILD}")
        if manifest.head != "digits":
            raise EngineError(
                f"{where}: head is {manifest.head!r}, this version reads answers of 'digits' only; "
                "use an engine of a digits checkpoint"
            )
        unknown = sorted(set(manifest.skills) - set(SKILLS))
        if unknown:
            raise EngineError(
                f"{where}: unknown skills {unknown}, known are {list(SKILLS)}; {REBUILD}"
            )
        for key, known in (("form", FORMS), ("dtype", DTYPES)):
            value = getattr(manifest, key)
            if value not in known:
                raise EngineError(
                    f"{where}: {key} is {value!r}, expected one of {', '.join(known)}; {REBUILD}"
                )
        if (manifest.form == "fused") != (manifest.opset >= FUSED_OPSET):
            raise EngineError(
                f"{where}: form is {manifest.form!r} with opset {manifest.opset}, expected opset "
                f"{FUSED_OPSET} or later for 'fused' and an earlier one for 'decomposed'; {REBUILD}"
            )
        for part in (manifest.vision, manifest.text, manifest.sampling):
            _check_sizes(part, where)
        _check_precision(manifest, where)
        if manifest.calibration is not None:
            for name in ("points", "tracks"):
                _check_curve(getattr(manifest.calibration, name), f"{where}: calibration: {name}")
        absent = sorted({manifest.tokens.bos, *manifest.tokens.eos} - manifest.tokens.ids.keys())
        if absent:
            raise EngineError(f"{where}: tokens.ids lacks {absent}; {REBUILD}")
        return manifest

    def write(self, folder: Path) -> None:
        """Write manifest.json into `folder`."""
        text = json.dumps(asdict(self), indent=2, ensure_ascii=False)
        (folder / FILE_NAME).write_text(text + "\n", encoding="utf-8")


def file_entry(path: Path) -> FileEntry:
    """Hash and size of a file."""
    digest = hashlib.sha256()
    with path.open("rb") as stream:
        for block in iter(lambda: stream.read(1 << 20), b""):
            digest.update(block)
    return FileEntry(sha256=digest.hexdigest(), bytes=path.stat().st_size)


def _check_sizes(part: VisionFacts | TextFacts | SamplingFacts, where: str) -> None:
    """Refuse numbers that no model has, before arithmetic meets them."""
    for entry in fields(part):
        value = getattr(part, entry.name)
        smallest = min(value) if isinstance(value, tuple) else value
        least = {"overlap_margins": 0, "point_fps": 1e-3, "track_fps": 1e-3, "max_clip_s": 1e-3}
        wanted = least.get(entry.name, 1)
        if not isinstance(smallest, bool) and not smallest >= wanted:
            raise EngineError(
                f"{where}: {entry.name} is {value}, expected {wanted} at least; {REBUILD}"
            )
    if isinstance(part, VisionFacts) and part.image_size % part.patch_size:
        raise EngineError(
            f"{where}: image_size {part.image_size} is no multiple of patch_size "
            f"{part.patch_size}; {REBUILD}"
        )


def _check_curve(curve: CurveFacts, where: str) -> None:
    """Refuse knots that are no rising curve within 0..1."""
    if not curve.scores or len(curve.scores) != len(curve.probabilities):
        raise EngineError(
            f"{where} has {len(curve.scores)} scores and {len(curve.probabilities)} probabilities, "
            f"expected as many of both, and one at least; {REFIT}"
        )
    for name, values in (("scores", curve.scores), ("probabilities", curve.probabilities)):
        steps = zip((0.0, *values), (*values, 1.0), strict=True)
        if not all(low <= high for low, high in steps):
            raise EngineError(
                f"{where}: {name} are {list(values)}, expected values within 0..1 that never fall; "
                f"{REFIT}"
            )
    if len(set(curve.scores)) < len(curve.scores):
        raise EngineError(f"{where}: a score stands twice in {list(curve.scores)}; {REFIT}")


def _check_file(folder: Path, name: str, entry: FileEntry, verify: bool) -> None:
    path = folder / name
    if Path(name).name != name:
        raise EngineError(f"{folder / FILE_NAME}: {name!r} is not a plain file name; {REBUILD}")
    if path.is_symlink() and path.resolve().parent != folder.resolve():
        raise EngineError(
            f"{path} is a link to {path.resolve()}, expected a file of the folder itself, so that "
            f"it can be moved; copy the folder with its files: `cp -rL {folder} ELSEWHERE`"
        )
    if not path.is_file():
        raise EngineError(f"{path} is missing, {FILE_NAME} lists it; {REBUILD}")
    size = path.stat().st_size
    if size != entry.bytes:
        raise EngineError(f"{path} has {size} bytes, {FILE_NAME} says {entry.bytes}; {REBUILD}")
    if verify and file_entry(path).sha256 != entry.sha256:
        raise EngineError(
            f"{path} was altered: its sha256 is not the one in {FILE_NAME}; {REBUILD}"
        )


def _check_graph(path: Path, manifest: Manifest) -> None:
    """Refuse weights that nobody hashed, and a graph of another form than the manifest says."""
    facts = read_onnx_facts(path)
    outside = sorted(facts.external - manifest.files.keys())
    if outside:
        raise EngineError(
            f"{path} reads weights from {', '.join(outside)}, which {FILE_NAME} does not list; "
            f"{REBUILD}"
        )
    if (manifest.form == "fused") != (facts.opset >= FUSED_OPSET):
        raise EngineError(
            f"{path} has opset {facts.opset}, {FILE_NAME} says form {manifest.form!r} of opset "
            f"{manifest.opset}: they are of two exports; {REBUILD}"
        )


def _check_precision(manifest: Manifest, where: str) -> None:
    """Refuse what no quantiser writes, and tolerances within which nothing or everything lies."""
    for graph, stored in manifest.quantized.items():
        if f"{graph}.onnx" not in GRAPHS or stored.scheme not in SCHEMES or stored.block < 0:
            raise EngineError(
                f"{where}: quantized has {graph}: {stored}, expected vision or decoder, a scheme "
                f"of {', '.join(SCHEMES)} and a block of 0 or more; {REBUILD}"
            )
    accuracy, golden = manifest.accuracy, manifest.golden
    if accuracy is not None and not 0 <= accuracy.largest_drop <= 1:
        raise EngineError(
            f"{where}: accuracy: largest_drop is {accuracy.largest_drop}, expected 0..1; {REBUILD}"
        )
    for name in ("logit_tolerance", "feature_tolerance") if golden is not None else ():
        value = getattr(golden, name)
        if not 0 < value < float("inf"):
            raise EngineError(
                f"{where}: golden: {name} is {value}, expected a number above 0; {REBUILD}"
            )

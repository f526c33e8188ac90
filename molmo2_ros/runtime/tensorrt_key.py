"""What a built TensorRT plan fits: the record beside it, and what differs from this machine.

A plan is machine code for one GPU, one TensorRT and one graph. TensorRT refuses some of the plans
that do not fit, with a number for a message, and takes others that then compute wrongly.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

from molmo2_ros.errors import EngineError
from molmo2_ros.runtime.cuda_api import Gpu
from molmo2_ros.runtime.manifest import FileEntry, Manifest, file_entry
from molmo2_ros.runtime.strict_json import read_dataclass
from molmo2_ros.runtime.tensorrt_api import TensorRT, product_title
from molmo2_ros.runtime.tensorrt_plan import LAYOUT, Limits

RECORD = "plan.json"
EMBEDDING_TABLE = "embedding.npy"
_NOT_GRAPHS = (".json", ".npz", ".jinja", ".txt", ".md")  # files that no plan depends on


class PlanMismatchError(EngineError):
    """A built plan that does not fit this machine or this engine folder."""


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanKey:
    """What must be equal for a plan to run, and to compute what it was checked for."""

    product: str  # "tensorrt" or "tensorrt_rtx"
    version: str  # of it
    sm: str  # compute capability of the GPU: "8.7"
    driver: str  # the CUDA version that the driver speaks; "" where it was built without a GPU
    graphs: str  # sha256 over the ONNX files
    layout: int = LAYOUT


@dataclass(frozen=True, slots=True, kw_only=True)
class PlanRecord:
    """plan.json."""

    key: PlanKey
    limits: Limits
    files: Mapping[str, FileEntry]
    seconds: Mapping[str, float] = field(default_factory=dict)  # that building took, by graph

    @property
    def checksum(self) -> str:
        """One for all plans and what they were built with, hexadecimal."""
        listed = {"key": asdict(self.key), "files": {n: e.sha256 for n, e in self.files.items()}}
        return hashlib.sha256(json.dumps(listed, sort_keys=True).encode()).hexdigest()

    @staticmethod
    def load(folder: Path) -> PlanRecord:
        """Read the record of a folder of plans, and compare the sizes of its files.

        Raises:
            PlanMismatchError: it cannot be read, or a file is missing or of another size.
        """
        path = folder / RECORD
        cure = build_command(folder.parent)
        try:
            content = json.loads(path.read_text(encoding="utf-8"))
        except (OSError, ValueError) as error:
            raise PlanMismatchError(f"{path} cannot be read ({error}); {cure}") from error
        record = read_dataclass(PlanRecord, content, str(path), cure, PlanMismatchError)
        for name, entry in record.files.items():
            file = folder / name
            size = file.stat().st_size if file.is_file() else 0
            if size != entry.bytes:
                raise PlanMismatchError(
                    f"{file} has {size} bytes, {RECORD} says {entry.bytes}: the build or a copy of "
                    f"it was cut off; {cure}"
                )
        return record

    def write(self, folder: Path) -> None:
        """Write plan.json, which is what makes a folder of plans one."""
        text = json.dumps(asdict(self), indent=2)
        (folder / RECORD).write_text(text + "\n", encoding="utf-8")


def build_command(folder: Path) -> str:
    """How to build the plans anew."""
    return f"build it again with `molmo2 build-engine {folder} --rebuild`"


def plan_folder(engine: Path, product: str, sm: str) -> Path:
    """Where the plans for one kind of GPU stand: ENGINE/tensorrt_sm87."""
    return engine / f"{product}_sm{sm.replace('.', '')}"


def built_folders(engine: Path) -> list[Path]:
    """All folders of finished plans in an engine folder."""
    return sorted(path.parent for path in engine.glob(f"tensorrt*_sm*/{RECORD}"))


def graphs_hash(manifest: Manifest) -> str:
    """One sha256 over the files that plans are made of, by those that the manifest holds."""
    digest = hashlib.sha256()
    for name, entry in sorted(manifest.files.items()):
        if Path(name).suffix not in _NOT_GRAPHS:
            digest.update(f"{name} {entry.sha256}\n".encode())
    return digest.hexdigest()


def key_here(found: TensorRT, gpu: Gpu, manifest: Manifest) -> PlanKey:
    """The key that a plan of this folder must have on this machine."""
    return PlanKey(
        product=found.product,
        version=found.version,
        sm=gpu.sm,
        driver=gpu.driver,
        graphs=graphs_hash(manifest),
    )


def differences(built: PlanKey, here: PlanKey) -> list[str]:
    """What keeps a plan from running, in words; empty where it fits."""
    found = []
    if built.product != here.product:
        titles = product_title(built.product), product_title(here.product)
        found.append(f"it is for {titles[0]}, here is {titles[1]}")
    elif built.version != here.version:
        found.append(
            f"it is for {product_title(built.product)} {built.version}, here is {here.version}"
        )
    if built.sm != here.sm:
        found.append(f"it is for a GPU of compute capability {built.sm}, this one has {here.sm}")
    if built.driver not in ("", here.driver):
        found.append(f"the driver spoke CUDA {built.driver}, now it speaks {here.driver}")
    if built.graphs != here.graphs:
        found.append("the ONNX graphs have changed since")
    if built.layout != here.layout:
        found.append(
            f"its profiles are of layout {built.layout}, this version of molmo2_ros runs "
            f"{here.layout}"
        )
    return found


def check_key(folder: Path, built: PlanKey, here: PlanKey) -> None:
    """Refuse a plan that does not fit.

    Raises:
        PlanMismatchError: says exactly what differs.
    """
    found = differences(built, here)
    if found:
        raise PlanMismatchError(
            f"{folder} does not fit: {'; '.join(found)}; {build_command(folder.parent)}"
        )


def read_plan(folder: Path, name: str, record: PlanRecord) -> bytes:
    """A plan's bytes, proven to be those that were built.

    Raises:
        PlanMismatchError: they are not.
    """
    path = folder / name
    if file_entry(path) != record.files[name]:
        raise PlanMismatchError(
            f"{path} was altered: its sha256 is not the one in {RECORD}; "
            f"{build_command(folder.parent)}"
        )
    return path.read_bytes()


def find_plans(engine: Path, product: str, sm: str) -> Path:
    """The folder of plans for a GPU.

    Raises:
        PlanMismatchError: there are only others; the message names them.
    """
    folder = plan_folder(engine, product, sm)
    if (folder / RECORD).is_file():
        return folder
    others = ", ".join(path.name for path in built_folders(engine)) or "none"
    raise PlanMismatchError(
        f"{engine} holds plans for other GPUs ({others}), this one needs {folder.name}: "
        f"{product_title(product)} on compute capability {sm}; build them here with "
        f"`molmo2 build-engine {engine}`, or run on the CPU (device cpu)"
    )

"""Finds a checkpoint by folder or hub name, and tells where it comes from."""

from __future__ import annotations

import re
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

import yaml

from molmo2_ros.engines.weights import weights_sha256
from molmo2_ros.errors import EngineError
from molmo2_ros.runtime.manifest import SourceFacts

_HUB_NAME = re.compile(r"[A-Za-z0-9][\w.-]*/[A-Za-z0-9][\w.-]*")
_COMMIT = re.compile(r"[0-9a-f]{40}")
# No pickles and no code.
_WANTED = ["*.safetensors", "*.json", "*.txt", "*.jinja", "README.md", "LICENSE*"]
_PACKAGES = (
    "molmo2_ros", "torch", "transformers", "safetensors", "onnx", "onnx-ir", "onnxscript",
    "onnxruntime",
)  # fmt: skip


def find_checkpoint(name: str | Path, revision: str | None = None) -> Path:
    """The folder of a checkpoint, fetched from the hub where it is not one already.

    Args:
        name: a folder, or owner/name on the Hugging Face hub.
        revision: branch, tag or commit of the hub; None for its newest.

    Raises:
        EngineError: the hub cannot be reached or has no such model.
    """
    folder = Path(name).expanduser()
    if folder.exists() or not _HUB_NAME.fullmatch(str(name)):
        return folder
    from huggingface_hub import snapshot_download

    try:
        return Path(snapshot_download(str(name), revision=revision, allow_patterns=_WANTED))
    except Exception as error:  # errors of the network come from several libraries
        first_line = next(iter(str(error).strip().splitlines()), type(error).__name__)
        raise EngineError(
            f"{name} is no folder here and cannot be fetched from the Hugging Face hub "
            f"({first_line}); check the name, the network, and HF_TOKEN for a closed model, or "
            "give a folder with the checkpoint"
        ) from error


def source_facts(name: str | Path, folder: Path, license_name: str | None = None) -> SourceFacts:
    """What the manifest keeps of a checkpoint.

    Args:
        name: as it was asked for.
        folder: where it lies.
        license_name: of the weights; None for what the folder's README.md says.

    Raises:
        EngineError: a weight file is not the one that the hub has.
    """
    commit = folder.resolve().name
    return SourceFacts(
        # A folder's parents say something about this machine, nothing about the checkpoint.
        checkpoint=folder.resolve().name if Path(name).expanduser().exists() else str(name),
        revision=commit if _COMMIT.fullmatch(commit) else "",
        weights_sha256=weights_sha256(folder),
        license=license_name if license_name is not None else _license(folder),
        versions=_versions(),
    )


def _license(folder: Path) -> str:
    """The `license` of the model card's header."""
    try:
        text = (folder / "README.md").read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError):
        return ""
    header = re.match(r"---\s*\n(.*?)\n---\s*(\n|$)", text, re.DOTALL)
    if header is None:
        return ""
    try:
        content = yaml.safe_load(header[1])
    except yaml.YAMLError:
        return ""
    found = content.get("license", "") if isinstance(content, dict) else ""
    return str(found or "")


def _versions() -> dict[str, str]:
    found = {}
    for package in _PACKAGES:
        try:
            found[package] = version(package)
        except PackageNotFoundError:  # molmo2_ros in its source tree
            continue
    return found

"""The tensors of a checkpoint's safetensors files, one at a time, under transformers' names.

The released checkpoints store queries, keys and values as one matrix, gate and up projection as
another, and the table of the visual tokens apart; transformers joins and splits them when it loads
a whole model. Here each parameter is a list of row ranges of stored tensors, so that nothing but
those rows is read.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open

from molmo2_ros.errors import EngineError

INDEX_FILE = "model.safetensors.index.json"
# Formats that run code when they are read.
_PICKLES = ("*.bin", "*.pt", "*.pth", "*.pkl", "*.ckpt")
_DTYPES = ("F64", "F32", "F16", "BF16")
_FRESH = "fetch the checkpoint again"
_BLOB = re.compile(r"[0-9a-f]{64}")

_TEXT, _VISION = "model.language_model.", "model.vision_tower."
_ADAPTER = "model.multi_modal_projector."
# Prefix in transformers -> prefix in a released file, the longest first.
_PREFIXES = {
    f"{_TEXT}layers.": "model.transformer.blocks.",
    f"{_TEXT}norm.": "model.transformer.ln_f.",
    f"{_VISION}layers.": "model.vision_backbone.image_vit.transformer.resblocks.",
    _VISION: "model.vision_backbone.image_vit.",
    _ADAPTER: "model.vision_backbone.",
}
_TEXT_PARTS = {
    "self_attn.o_proj": "self_attn.attn_out",
    "input_layernorm": "attn_norm",
    "post_attention_layernorm": "ff_norm",
    "mlp.down_proj": "mlp.ff_out",
}
_VISION_PARTS = {
    "layers.": {
        **{f"self_attn.{letter}_proj": f"attention.w{letter}" for letter in "qkvo"},
        "mlp.fc1": "feed_forward.w1",
        "mlp.fc2": "feed_forward.w2",
        "layer_norm1": "attention_norm",
        "layer_norm2": "ffn_norm",
    },
    "image_pooling_2d.": {f"{letter}_proj": f"w{letter}" for letter in "qkvo"},
    "image_projector.": {"gate_proj": "w1", "down_proj": "w2", "up_proj": "w3"},
}
# Parameters that one stored tensor holds one below the other, in its order.
_FUSED = {
    "self_attn.att_proj": ("self_attn.q_proj", "self_attn.k_proj", "self_attn.v_proj"),
    "mlp.ff_proj": ("mlp.up_proj", "mlp.gate_proj"),
}
_EMBEDDING = f"{_TEXT}embed_tokens.weight"
_TABLES = ("model.transformer.wte.embedding", "model.transformer.wte.new_embedding")


@dataclass(frozen=True, slots=True, kw_only=True)
class Rows:
    """Part of a stored tensor."""

    key: str  # in the safetensors file
    start: int  # first row
    stop: int  # after the last row


def stored_rows(name: str, shapes: Mapping[str, tuple[int, ...]], table_rows: int) -> list[Rows]:
    """Where a parameter lies in a file of the released layout.

    Args:
        name: of the parameter in transformers.
        shapes: of all parameters in transformers.
        table_rows: of the first of the two tables that make the embedding.

    Worked example: with 4096 query rows and 1024 key rows, `...layers.0.self_attn.k_proj.weight` is
    rows 4096 to 5120 of `model.transformer.blocks.0.self_attn.att_proj.weight`.
    """
    num_rows = shapes[name][0]
    if name == _EMBEDDING:
        base, extra = _TABLES
        return [
            Rows(key=base, start=0, stop=table_rows),
            Rows(key=extra, start=0, stop=num_rows - table_rows),
        ]
    for fused, parts in _FUSED.items():
        for part in parts:
            if name.startswith(_TEXT) and f".{part}." in name:
                above = parts[: parts.index(part)]
                start = sum(shapes[name.replace(part, other)][0] for other in above)
                key = _released_name(name.replace(part, fused))
                return [Rows(key=key, start=start, stop=start + num_rows)]
    return [Rows(key=_released_name(name), start=0, stop=num_rows)]


def _released_name(name: str) -> str:
    prefix = next((prefix for prefix in _PREFIXES if name.startswith(prefix)), None)
    if prefix is None:
        return name  # lm_head.weight
    if prefix.startswith(_TEXT):
        renamed = _TEXT_PARTS
    else:
        within = name.removeprefix(_VISION).removeprefix(_ADAPTER)
        renamed = next((to for part, to in _VISION_PARTS.items() if within.startswith(part)), {})
    rest = name.removeprefix(prefix)
    for part, other in renamed.items():
        rest = re.sub(rf"(^|\.){re.escape(part)}\.", rf"\g<1>{other}.", rest)
    return _PREFIXES[prefix] + rest


class CheckpointWeights:
    """The weights of one checkpoint folder, proven to be all there before the first is read.

    Args:
        folder: Hugging Face folder with one or several safetensors files.
        shapes: of every parameter, by its name in transformers.

    Raises:
        EngineError: no safetensors file, a truncated one, a missing tensor, or one of another shape
            or dtype.
    """

    def __init__(self, folder: Path, shapes: Mapping[str, tuple[int, ...]]) -> None:
        self.files = weight_files(folder)
        self._stored = {entry.key: entry for path in self.files for entry in _entries(path)}
        _check_total(folder, self._stored.values())
        # The released tables meet where the visual tokens begin, those that transformers saves in
        # the middle.
        table = self._stored.get(_TABLES[0])
        table_rows = table.shape[0] if table else 0
        self._rows = {
            name: [Rows(key=name, start=0, stop=shape[0])]
            if name in self._stored
            else stored_rows(name, shapes, table_rows)
            for name, shape in shapes.items()
        }
        self._check(folder, shapes)
        self._open: tuple[Path, Any] | None = None

    def _check(self, folder: Path, shapes: Mapping[str, tuple[int, ...]]) -> None:
        num_rows: dict[str, int] = {}
        for rows in (rows for parts in self._rows.values() for rows in parts):
            num_rows[rows.key] = max(num_rows.get(rows.key, 0), rows.stop)
        absent = sorted(num_rows.keys() - self._stored.keys())
        if absent:
            raise EngineError(
                f"{folder} lacks {len(absent)} tensors, the first is {absent[0]}; expected the "
                f"weights that config.json describes; {_FRESH}"
            )
        for name, parts in self._rows.items():
            for rows in parts:
                entry = self._stored[rows.key]
                expected = (num_rows[rows.key], *shapes[name][1:])
                if entry.shape != expected:
                    raise EngineError(
                        f"{entry.file}: {rows.key} has shape {list(entry.shape)}, config.json asks "
                        f"for {list(expected)}; give weights and config.json of one checkpoint"
                    )
                if entry.dtype not in _DTYPES:
                    raise EngineError(
                        f"{entry.file}: {rows.key} is {entry.dtype}, expected one of "
                        f"{', '.join(_DTYPES)}; give the checkpoint before it was quantised"
                    )

    def order(self, name: str) -> tuple[int, str]:
        """Sorts parameters so that each file is opened once."""
        key = self._rows[name][0].key
        return self.files.index(self._stored[key].file), key

    def read(self, name: str) -> torch.Tensor:
        """A parameter in the dtype in which it is stored; it lies in the file's own pages.

        Args:
            name: in transformers.

        Raises:
            EngineError: the file went away or changed since it was checked.
        """
        parts = [self._slice(rows) for rows in self._rows[name]]
        return parts[0] if len(parts) == 1 else torch.cat(parts)

    def _slice(self, rows: Rows) -> torch.Tensor:
        path = self._stored[rows.key].file
        try:
            if self._open is None or self._open[0] != path:
                self._open = None  # the pages of one file at a time
                self._open = path, safe_open(path, framework="pt")
            return self._open[1].get_tensor(rows.key)[rows.start : rows.stop]
        except (OSError, SafetensorError) as error:
            raise EngineError(f"{path} cannot be read any more ({error}); {_FRESH}") from error

    def close(self) -> None:
        """Let go of the open file."""
        self._open = None


def weight_files(folder: Path) -> list[Path]:
    """The safetensors files of a checkpoint, in the order of their names.

    Raises:
        EngineError: there are none, only pickles, or the index names one that is missing.
    """
    index = folder / INDEX_FILE
    if index.is_file():
        names = sorted(set(_read_index(index)["weight_map"].values()))
        files = [folder / name for name in names]
        missing = [path.name for path in files if not path.is_file()]
        if missing:
            raise EngineError(f"{folder} lacks {', '.join(missing)} of {INDEX_FILE}; {_FRESH}")
        return files
    if (folder / "model.safetensors").is_file():
        return [folder / "model.safetensors"]
    pickles = sorted(path.name for pattern in _PICKLES for path in folder.glob(pattern))
    if pickles:
        raise EngineError(
            f"{folder} holds its weights as {pickles[0]}, a pickle, which may run any code when it "
            "is read; expected safetensors: convert it with save_pretrained() of transformers on a "
            "machine where you trust it"
        )
    raise EngineError(f"{folder} has neither model.safetensors nor {INDEX_FILE}; {_FRESH}")


def weights_sha256(folder: Path) -> str:
    """Hash over all weight files in the order of their names.

    Raises:
        EngineError: a file that was fetched from the hub is not the one that the hub has.
    """
    together = hashlib.sha256()
    for path in weight_files(folder):
        alone = hashlib.sha256()
        with path.open("rb") as stream:
            for block in iter(lambda: stream.read(1 << 22), b""):
                together.update(block)
                alone.update(block)
        wanted = _hub_sha256(path)
        if wanted and alone.hexdigest() != wanted:
            raise EngineError(
                f"{path} was altered: its sha256 is not {wanted}, which the hub has; {_FRESH}"
            )
    return together.hexdigest()


def _hub_sha256(path: Path) -> str:
    """What the hub said of a file when it was fetched; "" where it was not, or was written since.

    Source: huggingface_hub's cache names a file by its hash and links to it; `hf download
    --local-dir` writes commit, hash and time below .cache/huggingface/download.
    """
    found = path.resolve().name if path.is_symlink() else ""
    told = path.parent / ".cache" / "huggingface" / "download" / f"{path.name}.metadata"
    try:
        _, digest, fetched_s = told.read_text(encoding="utf-8").split()
        if path.stat().st_mtime <= float(fetched_s) + 1:
            found = digest
    except (OSError, ValueError):
        pass  # not fetched so
    return found if _BLOB.fullmatch(found) else ""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Entry:
    """A tensor of a safetensors file."""

    key: str
    file: Path
    shape: tuple[int, ...]
    dtype: str  # as safetensors writes it
    bytes: int


def _entries(path: Path) -> Iterator[_Entry]:
    try:
        with path.open("rb") as stream:
            length = int.from_bytes(stream.read(8), "little")
            # safe_open proves that the header is whole and that the file is as long as it says.
            with safe_open(path, framework="pt"):
                header = json.loads(stream.read(length))
    except (OSError, ValueError, SafetensorError) as error:
        raise EngineError(
            f"{path} is truncated or no safetensors file ({error}); {_FRESH}"
        ) from error
    for key, content in header.items():
        if key != "__metadata__":
            start, stop = content["data_offsets"]
            yield _Entry(
                key=key,
                file=path,
                shape=tuple(content["shape"]),
                dtype=content["dtype"],
                bytes=stop - start,
            )


def _check_total(folder: Path, entries: Any) -> None:
    index = folder / INDEX_FILE
    if not index.is_file():
        return
    content = _read_index(index)
    by_file = {entry.key: entry.file.name for entry in entries}
    moved = sorted(key for key, name in content["weight_map"].items() if by_file.get(key) != name)
    if moved:
        raise EngineError(
            f"{folder}: {moved[0]} is not in {content['weight_map'][moved[0]]}, where "
            f"{INDEX_FILE} has it; {_FRESH}"
        )
    total = content.get("metadata", {}).get("total_size")
    found = sum(entry.bytes for entry in entries)
    if total is not None and found != total:
        raise EngineError(
            f"{folder}: the tensors have {found} bytes, {INDEX_FILE} says {total}; {_FRESH}"
        )


def _read_index(path: Path) -> dict[str, Any]:
    try:
        content: dict[str, Any] = json.loads(path.read_text(encoding="utf-8"))
        if not isinstance(content["weight_map"], dict) or not content["weight_map"]:
            raise ValueError("weight_map is empty")
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise EngineError(f"{path} is no index of weights ({error}); {_FRESH}") from error
    return content

"""Runs an engine folder's two graphs with ONNX Runtime.

Letters as in runtime/engine.py.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from molmo2_ros.errors import EngineError
from molmo2_ros.runtime.manifest import REBUILD, Manifest

try:
    import onnxruntime
except ImportError as error:
    raise EngineError(
        f"onnxruntime cannot be imported ({error}); install it with `pip install onnxruntime`"
    ) from error

_LOG = logging.getLogger(__name__)
_VISION_INPUTS = ("patches", "pooling")
_DECODER_INPUTS = ("input_ids", "visual_add", "position_ids", "attn_bias", "logit_indices")


@dataclass(frozen=True, slots=True)
class OnnxKV:
    """Keys and values of `length` tokens, kept by the runtime: key, value, key ... by layer."""

    tensors: tuple[Any, ...]  # onnxruntime.OrtValue [B, kv heads, length, head_dim]
    length: int


class OnnxEngine:
    """An `Engine` of vision.onnx and decoder.onnx.

    Not for several threads at once: one worker owns it.

    Args:
        folder: engine folder with a manifest.
        threads: CPU threads for one operator; None for ONNX Runtime's choice (all cores).

    Raises:
        EngineError: a missing or altered file, an unfit manifest, or a graph that does not load.
    """

    def __init__(self, folder: str | Path, threads: int | None = None) -> None:
        if threads is not None and threads < 1:
            raise EngineError(f"threads is {threads}, expected at least 1, or None for all cores")
        self.folder = Path(folder)
        self.manifest = Manifest.load(self.folder)
        self._vision = _session(self.folder / "vision.onnx", threads, _VISION_INPUTS)
        num_tensors = 2 * self.manifest.text.num_layers
        self._past_names = _names("past", num_tensors)
        self._decoder = _session(
            self.folder / "decoder.onnx", threads, (*_DECODER_INPUTS, *self._past_names)
        )
        self._output_names = ["logits", *_names("present", num_tensors)]
        _LOG.info("loaded %s from %s", self.manifest.name, self.folder)

    def encode(
        self, patches_KNC: npt.NDArray[np.float32], pooling_MW: npt.NDArray[np.int64]
    ) -> npt.NDArray[np.float32]:
        """See Engine.encode."""
        feeds = {"patches": patches_KNC, "pooling": pooling_MW}
        try:
            (features_MD,) = self._vision.run(["features"], feeds)
        except Exception as error:  # ONNX Runtime's own classes share no public parent
            raise EngineError(
                f"vision.onnx failed on patches {patches_KNC.shape} and pooling "
                f"{pooling_MW.shape}: {error}"
            ) from error
        return features_MD  # type: ignore[no-any-return]

    def empty_kv(self) -> OnnxKV:
        """See Engine.empty_kv."""
        text = self.manifest.text
        nothing = np.zeros((1, text.num_kv_heads, 0, text.head_dim), np.float32)
        tensor = _ort_value(nothing)
        return OnnxKV((tensor,) * (2 * text.num_layers), 0)

    def forward(
        self,
        ids_BS: npt.NDArray[np.int64],
        positions_BS: npt.NDArray[np.int64],
        bias_B1ST: npt.NDArray[np.float32],
        kv: OnnxKV,
        *,
        visual_BSD: npt.NDArray[np.float32] | None = None,
        logit_indices_L: npt.NDArray[np.int64] | None = None,
    ) -> tuple[npt.NDArray[np.float32], OnnxKV]:
        """See Engine.forward."""
        batch, num_new = ids_BS.shape
        if visual_BSD is None:
            visual_BSD = np.zeros((batch, num_new, self.manifest.text.hidden_size), np.float32)
        if logit_indices_L is None:
            logit_indices_L = np.array([num_new - 1])
        inputs: list[npt.NDArray[Any]] = [
            ids_BS,
            visual_BSD,
            positions_BS,
            bias_B1ST,
            logit_indices_L,
        ]
        feeds = dict(zip(_DECODER_INPUTS, map(_ort_value, inputs), strict=True))
        feeds.update(zip(self._past_names, kv.tensors, strict=True))
        try:
            logits_BLV, *present = self._decoder.run_with_ort_values(self._output_names, feeds)
        except Exception as error:  # ONNX Runtime's own classes share no public parent
            shapes = [list(array.shape) for array in inputs]
            raise EngineError(
                f"decoder.onnx failed on inputs of shapes {shapes} after {kv.length} tokens: "
                f"{error}"
            ) from error
        return logits_BLV.numpy(), OnnxKV(tuple(present), kv.length + num_new)

    def cut_kv(self, kv: OnnxKV, length: int) -> OnnxKV:
        """See Engine.cut_kv."""
        if length == kv.length:
            return kv
        cut = (tensor.numpy()[:, :, :length] for tensor in kv.tensors)
        return OnnxKV(tuple(map(_ort_value, cut)), length)


def _ort_value(array: npt.NDArray[Any]) -> Any:
    return onnxruntime.OrtValue.ortvalue_from_numpy(np.ascontiguousarray(array))


def _names(prefix: str, num_tensors: int) -> tuple[str, ...]:
    """Graph names of the cache's tensors: past_key_0, past_value_0, past_key_1 ..."""
    return tuple(
        f"{prefix}_{part}_{layer}" for layer in range(num_tensors // 2) for part in ("key", "value")
    )


def _session(path: Path, threads: int | None, inputs: Sequence[str]) -> Any:
    """A session that leaves the cores alone between two runs.

    Spinning threads answer a little sooner and burn the cores that the camera, the tracker and the
    robot's other nodes need.
    """
    options = onnxruntime.SessionOptions()
    if threads is not None:
        options.intra_op_num_threads = threads
    options.add_session_config_entry("session.intra_op.allow_spinning", "0")
    options.log_severity_level = 3
    try:
        session = onnxruntime.InferenceSession(
            str(path), options, providers=["CPUExecutionProvider"]
        )
    except Exception as error:  # ONNX Runtime's own classes share no public parent
        raise EngineError(
            f"{path} does not load in onnxruntime {onnxruntime.__version__} ({error}); opset 23 "
            f"needs 1.23 or later; {REBUILD}"
        ) from error
    found = [value.name for value in session.get_inputs()]
    if set(found) != set(inputs):
        raise EngineError(f"{path} has inputs {found}, expected {list(inputs)}; {REBUILD}")
    return session

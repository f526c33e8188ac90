"""Runs an engine folder's two graphs with ONNX Runtime.

Letters as in runtime/engine.py.
"""

from __future__ import annotations

import logging
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from molmo2_ros.errors import EngineError
from molmo2_ros.prompt.layout import HIDDEN
from molmo2_ros.runtime.half_precision import STORED, stored, stored_bias
from molmo2_ros.runtime.manifest import Manifest
from molmo2_ros.runtime.onnx_session import (
    DeviceLostError,
    check_dtype,
    choose_device,
    fit_device,
    memory_name,
    open_session,
    ort_value,
    runtime_name,
)
from molmo2_ros.runtime.providers import make_cache, provider_options

_LOG = logging.getLogger(__name__)
_VISION_INPUTS = ("patches", "pooling")
_DECODER_INPUTS = ("input_ids", "visual_add", "position_ids", "attn_bias", "logit_indices")
# Columns of cut tokens that may stay in a cache, masked, for each one that counts. On the CPU a
# copy is paid once and they in every pass (docs/journal.md); on a GPU it goes through the host.
_CUT_SHARE = {"cpu": 0.0, "cuda": 1.0, "tensorrt": 1.0, "tensorrt-rtx": 1.0}


@dataclass(frozen=True, slots=True, eq=False)
class OnnxKV:
    """Keys and values on the engine's device: key, value, key ... by layer."""

    tensors: tuple[Any, ...]  # onnxruntime.OrtValue [B, kv heads, columns, head_dim]
    columns_P: npt.NDArray[np.int64]  # where the tokens stand; what lies between was not kept
    num_columns: int

    @property
    def length(self) -> int:
        """Tokens that count."""
        return len(self.columns_P)


class OnnxEngine:
    """An `Engine` of vision.onnx and decoder.onnx.

    Keys and values stay on the device from pass to pass. Not for several threads at once: one
    worker owns it.

    Args:
        folder: engine folder with a manifest.
        threads: CPU threads for one operator; None for ONNX Runtime's choice (all cores).
        device: one of `DEVICES`; "auto" takes CUDA where ONNX Runtime offers it and it starts.

    Raises:
        EngineError: a missing or altered file, an unfit manifest, a graph that does not load, a
            device that is not there, or an ONNX Runtime that is too old for the engine on it.
    """

    def __init__(
        self, folder: str | Path, threads: int | None = None, device: str = "auto"
    ) -> None:
        if threads is not None and threads < 1:
            raise EngineError(f"threads is {threads}, expected at least 1, or None for all cores")
        self.device = choose_device(device)
        self.folder = Path(folder)
        self.manifest = Manifest.load(self.folder)
        self._dtype = self.manifest.dtype
        self.device, unfit = fit_device(self.manifest, device, self.device)
        if unfit is not None:
            _LOG.warning("%s. Going on with the CPU", unfit)
        num_tensors = 2 * self.manifest.text.num_layers
        self._past_names = _names("past", num_tensors)
        self._present_names = _names("present", num_tensors)
        try:
            self._open(threads)
        except DeviceLostError as error:
            if device != "auto":
                raise
            _LOG.warning("%s. Going on with the CPU", error)
            self.device, _ = fit_device(self.manifest, "cpu", "cpu")
            self._open(threads)
        self.runtime = runtime_name(self.device)
        self.most_tokens: int | None = None
        self._cut_share = _CUT_SHARE[self.device]
        _LOG.info("loaded %s from %s on %s", self.manifest.name, self.folder, self.device)

    def _open(self, threads: int | None) -> None:
        self._vision = self._open_graph("vision", threads, _VISION_INPUTS)
        inputs = (*_DECODER_INPUTS, *self._past_names)
        self._decoder = self._open_graph("decoder", threads, inputs)
        check_dtype(self._decoder, self.folder / "decoder.onnx", self._dtype)

    def _open_graph(self, graph: str, threads: int | None, inputs: tuple[str, ...]) -> Any:
        """A session that knows what the device's provider is to be told of this engine."""
        cache = make_cache(self.manifest, self.device)
        told = provider_options(self.manifest, graph, self.device, cache)
        return open_session(self.folder / f"{graph}.onnx", self.device, threads, inputs, told)

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
        nothing = np.zeros((1, text.num_kv_heads, 0, text.head_dim), STORED[self._dtype])
        tensor = ort_value(nothing, "cpu", self._dtype)
        return OnnxKV((tensor,) * (2 * text.num_layers), np.zeros(0, np.int64), 0)

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
            stored(visual_BSD, self._dtype),
            positions_BS,
            stored_bias(_spread(bias_B1ST, kv), self._dtype),
            logit_indices_L,
        ]
        inputs = [np.ascontiguousarray(array) for array in inputs]
        try:
            logits_BLV, present = self._run_decoder(inputs, kv)
        except Exception as error:  # ONNX Runtime's own classes share no public parent
            shapes = [list(array.shape) for array in inputs]
            raise EngineError(
                f"decoder.onnx failed on inputs of shapes {shapes} after {kv.length} tokens: "
                f"{error}"
            ) from error
        num_columns = kv.num_columns + num_new
        columns_T = np.concatenate([kv.columns_P, np.arange(kv.num_columns, num_columns)])
        return logits_BLV, OnnxKV(present, columns_T, num_columns)

    def _run_decoder(
        self, inputs: list[npt.NDArray[Any]], kv: OnnxKV
    ) -> tuple[npt.NDArray[np.float32], tuple[Any, ...]]:
        """One pass whose keys and values never leave the device."""
        # A binding that is used again would write over the cache that the last pass returned.
        binding = self._decoder.io_binding()
        for name, array in zip(_DECODER_INPUTS, inputs, strict=True):
            if array.dtype == np.uint16:
                binding.bind_ortvalue_input(name, ort_value(array, "cpu", self._dtype))
            else:
                binding.bind_cpu_input(name, array)
        for name, tensor in zip(self._past_names, kv.tensors, strict=True):
            binding.bind_ortvalue_input(name, tensor)
        binding.bind_output("logits", "cpu")
        for name in self._present_names:
            binding.bind_output(name, memory_name(self.device))
        binding.synchronize_inputs()
        self._decoder.run_with_iobinding(binding)
        binding.synchronize_outputs()
        logits, *present = binding.get_outputs()
        return logits.numpy(), tuple(present)

    def keep_kv(self, kv: OnnxKV, kept_K: npt.NDArray[np.int64]) -> OnnxKV:
        """See Engine.keep_kv."""
        length = len(kept_K)
        if length == kv.length:
            return kv
        columns_P = kv.columns_P[kept_K]
        is_small = kv.num_columns - length <= self._cut_share * length
        if is_small or self._dtype == "bfloat16":  # which numpy cannot hold, to copy it
            return OnnxKV(kv.tensors, columns_P, kv.num_columns)
        tensors = tuple(
            ort_value(np.take(tensor.numpy(), columns_P, axis=2), self.device, self._dtype)
            for tensor in kv.tensors
        )
        return OnnxKV(tensors, np.arange(length), length)


def _spread(bias_B1ST: npt.NDArray[np.float32], kv: OnnxKV) -> npt.NDArray[np.float32]:
    """The mask over all columns of the cache: no token sees those that were not kept.

    Worked example: of four columns the first two count, one new token sees all: [0, 0, 0] becomes
    [0, 0, HIDDEN, HIDDEN, 0].
    """
    if kv.length == kv.num_columns:
        return bias_B1ST
    *rows, num_tokens = bias_B1ST.shape
    num_new = num_tokens - kv.length
    spread = np.full((*rows, kv.num_columns + num_new), HIDDEN, np.float32)
    spread[..., kv.columns_P] = bias_B1ST[..., : kv.length]
    spread[..., kv.num_columns :] = bias_B1ST[..., kv.length :]
    return spread


def _names(prefix: str, num_tensors: int) -> tuple[str, ...]:
    """Graph names of the cache's tensors: past_key_0, past_value_0, past_key_1 ..."""
    return tuple(
        f"{prefix}_{part}_{layer}" for layer in range(num_tensors // 2) for part in ("key", "value")
    )

"""Runs an engine folder's built plans with TensorRT: all but tokens and logits stays on the GPU.

Letters as in runtime/engine.py. No engine has run on a GPU yet; the bookkeeping here is tested with
memory of the host in place of the device's, and ONNX Runtime in place of the kernels.
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from molmo2_ros.errors import EngineError
from molmo2_ros.runtime.cuda_api import Cuda
from molmo2_ros.runtime.device_features import DeviceFeatures, DeviceVisual, FeaturePart
from molmo2_ros.runtime.device_kv import DeviceKV, KvLayout, KvPool
from molmo2_ros.runtime.device_memory import (
    DeviceMemory,
    Staging,
    bias_to_device,
    from_device,
    item_bytes,
    to_device,
)
from molmo2_ros.runtime.manifest import Manifest
from molmo2_ros.runtime.tensorrt_api import CudaEngine, Messages, TensorRT
from molmo2_ros.runtime.tensorrt_passes import (
    choose_profile,
    padded,
    padded_bias,
    split_pass,
    too_long,
)
from molmo2_ros.runtime.tensorrt_plan import (
    Limits,
    decoder_shapes,
    past_names,
    plan_graphs,
    present_names,
)
from molmo2_ros.runtime.tensorrt_runner import GraphRunner


class TensorRTEngine:
    """An `Engine` of two built plans.

    Not for several threads at once: one worker owns it.

    Args:
        folder: engine folder with a manifest.
        manifest: of it.
        limits: what the plans were built for.
        found: TensorRT.
        cuda: the device.
        engines: "decoder" and "vision", loaded.
        table: the embedding table [V, D] in the decoder's dtype, where it is not in the plan.
        messages: what TensorRT says goes here.
        checksum: of the plans (PlanRecord.checksum); other plans are another runtime.

    Raises:
        EngineError: the plans are not what the manifest says, or the GPU has too little memory.
    """

    device = "cuda"

    def __init__(
        self,
        folder: Path,
        manifest: Manifest,
        limits: Limits,
        found: TensorRT,
        cuda: Cuda,
        engines: Mapping[str, CudaEngine],
        *,
        table: npt.NDArray[Any] | None = None,
        messages: Messages | None = None,
        checksum: str = "",
    ) -> None:
        self.folder = folder
        self.manifest = manifest
        self.runtime = f"{found.title} {checksum}".rstrip()
        self.limits = limits
        self._cuda = cuda
        self._table = table
        self._memory = DeviceMemory(cuda)
        self._staging = Staging(cuda, self._memory)
        scratch_bytes = max(engine.device_memory_size_v2 for engine in engines.values())
        scratch = self._memory.allocate(scratch_bytes)
        messages = messages or Messages()
        self._decoder, self._vision = (
            GraphRunner(found, cuda, engines[plan.name], plan, scratch, messages)
            for plan in plan_graphs(manifest, limits)
        )
        text = manifest.text
        self._past = past_names(text.num_layers)
        self._present = present_names(text.num_layers)
        kinds = self._decoder.dtypes
        self._dtype = kinds["visual_add"]
        odd = {kinds[name] for name in ("attn_bias", *self._past, *self._present)} - {self._dtype}
        if odd or self._vision.dtypes["features"] != self._dtype:
            raise EngineError(
                f"the plans of {folder} mix {self._dtype} with {sorted(odd) or 'other'} features, "
                "expected one dtype for features, mask and cache; export the checkpoint again"
            )
        row_bytes = text.head_dim * item_bytes(self._dtype)
        self._layout = KvLayout(len(self._past), text.num_kv_heads, row_bytes)
        self.most_tokens: int | None = limits.past_tokens
        self._pool = KvPool(cuda, self._memory, self._layout, limits.past_tokens)
        self._num_patches = (manifest.vision.image_size // manifest.vision.patch_size) ** 2

    @property
    def num_replayable(self) -> int:
        """Passes that are kept ready as CUDA graphs, for whoever wonders about speed."""
        return self._decoder.num_written_down + self._vision.num_written_down

    def encode(
        self, patches_KNC: npt.NDArray[np.float32], pooling_MW: npt.NDArray[np.int64]
    ) -> DeviceFeatures:
        """See Engine.encode; the features stay on the GPU until someone reads them."""
        parts = [
            self._encode(patches_KNC[first:last], windows_MW)
            for first, last, windows_MW in self._view_groups(len(patches_KNC), pooling_MW)
        ]
        width = self.manifest.vision.feature_width
        return DeviceFeatures(parts, width, self._read_features)

    def _encode(
        self, patches_KNC: npt.NDArray[np.float32], pooling_MW: npt.NDArray[np.int64]
    ) -> FeaturePart:
        shapes = {"patches": patches_KNC.shape, "pooling": pooling_MW.shape}
        names = [
            profile.name
            for profile in self._vision.plan.profiles
            if all(profile.takes(name, shape) for name, shape in shapes.items())
        ]
        if not names:
            raise EngineError(
                f"vision.plan takes no patches {patches_KNC.shape} with pooling "
                f"{pooling_MW.shape}; build it again with more --max-frames"
            )
        width = self.manifest.vision.feature_width
        num_bytes = len(pooling_MW) * width * item_bytes(self._dtype)
        kinds = self._vision.dtypes
        addresses = {
            "patches": self._staging.upload("patches", to_device(patches_KNC, kinds["patches"])),
            "pooling": self._staging.upload("pooling", to_device(pooling_MW, kinds["pooling"])),
            "features": self._staging.place("features", num_bytes),
        }
        self._vision.run(names[0], shapes, addresses, replay=names[0] == "frame")
        block = self._memory.block(num_bytes)
        self._cuda.copy(block.address, addresses["features"], num_bytes)
        self._cuda.synchronize()
        return FeaturePart(block=block, num_tokens=len(pooling_MW))

    def _view_groups(
        self, num_views: int, pooling_MW: npt.NDArray[np.int64]
    ) -> Iterator[tuple[int, int, npt.NDArray[np.int64]]]:
        """First and last view of each pass, and the windows on them, counted from the first.

        Views are independent of each other, so that several passes give what one would.
        """
        most = self.limits.max_views
        if num_views <= most:
            yield 0, num_views, pooling_MW
            return
        for first in range(0, num_views, most):
            last = min(first + most, num_views)
            low, high = first * self._num_patches, last * self._num_patches
            inside_MW = (pooling_MW >= low) & (pooling_MW < high)
            here_M = inside_MW.any(1)
            windows_MW = pooling_MW[here_M]
            if not (inside_MW[here_M] | (windows_MW < 0)).all():
                raise EngineError(
                    f"a window reaches out of views {first} to {last} of {num_views}, this engine "
                    f"takes {most} at once; build it again with more --max-frames"
                )
            yield first, last, np.where(windows_MW < 0, windows_MW, windows_MW - low)

    def _read_features(self, address: int, num_values: int) -> npt.NDArray[np.float32]:
        """Features on the host."""
        num_bytes = num_values * item_bytes(self._dtype)
        self._cuda.copy(self._staging.place("read", num_bytes), address, num_bytes)
        content = self._staging.download("read", num_bytes)
        self._cuda.synchronize()
        return from_device(content, self._dtype)

    def empty_kv(self) -> DeviceKV:
        """See Engine.empty_kv."""
        return self._pool.empty()

    def keep_kv(self, kv: DeviceKV, kept_K: npt.NDArray[np.int64]) -> DeviceKV:
        """See Engine.keep_kv; the next pass moves what is kept together, over the rest."""
        return kv if len(kept_K) == kv.length else DeviceKV(kv.buffer, kv.columns_P[kept_K])

    def forward(
        self,
        ids_BS: npt.NDArray[np.int64],
        positions_BS: npt.NDArray[np.int64],
        bias_B1ST: npt.NDArray[np.float32],
        kv: DeviceKV,
        *,
        visual_BSD: npt.NDArray[np.float32] | DeviceVisual | None = None,
        logit_indices_L: npt.NDArray[np.int64] | None = None,
    ) -> tuple[npt.NDArray[np.float32], DeviceKV]:
        """See Engine.forward; a batch is always of one."""
        batch, num_new = ids_BS.shape
        if batch != 1:
            raise EngineError(
                f"a TensorRT engine reads one sequence at once, not {batch}; several questions are "
                "branches of one (runtime/decoding.py)"
            )
        indices_L = np.array([num_new - 1]) if logit_indices_L is None else logit_indices_L
        kv = self._pool.packed(kv)
        num_past = kv.length
        logits = np.zeros((1, len(indices_L), self.manifest.text.vocab_size), np.float32)
        pieces = split_pass(bias_B1ST[0, 0], num_past, indices_L, self.limits)
        if len(pieces) > 1 and visual_BSD is not None:
            raise too_long(num_new, self.limits)
        for start, stop in pieces:
            wanted = np.flatnonzero((indices_L >= start) & (indices_L < stop))
            logits[0, wanted], kv = self._pass(
                ids_BS[0, start:stop],
                positions_BS[0, start:stop],
                bias_B1ST[0, 0, start:stop, : num_past + stop],
                kv,
                visual_BSD,
                indices_L[wanted] - start,
            )
        return logits, kv

    def _pass(
        self,
        ids_S: npt.NDArray[np.int64],
        positions_S: npt.NDArray[np.int64],
        bias_ST: npt.NDArray[np.float32],
        kv: DeviceKV,
        visual_BSD: npt.NDArray[np.float32] | DeviceVisual | None,
        indices_L: npt.NDArray[np.int64],
    ) -> tuple[npt.NDArray[np.float32], DeviceKV]:
        """One run of the decoder."""
        count, columns = len(ids_S), kv.buffer.columns
        profile, width, rows = choose_profile(count, len(indices_L), self.limits)
        kinds, stage = self._decoder.dtypes, self._staging.upload
        bias = padded_bias(bias_ST, kv.length, columns, width)
        addresses = {
            **self._stage_ids(padded(ids_S, width)),
            "visual_add": self._stage_visual(visual_BSD, width),
            "position_ids": stage(
                "position_ids", to_device(padded(positions_S, width), kinds["position_ids"])
            ),
            "attn_bias": stage("attn_bias", bias_to_device(bias, self._dtype)),
            "logit_indices": stage(
                "logit_indices", to_device(padded(indices_L, rows), kinds["logit_indices"])
            ),
        }
        vocab_size = self.manifest.text.vocab_size
        logit_bytes = vocab_size * item_bytes(kinds["logits"])
        present = self._staging.place("present", self._layout.total_bytes(columns + width))
        addresses["logits"] = self._staging.place("logits", rows * logit_bytes)
        for name, offset in zip(self._past, self._layout.offsets(columns), strict=True):
            addresses[name] = kv.buffer.address + offset
        for name, offset in zip(self._present, self._layout.offsets(columns + width), strict=True):
            addresses[name] = present + offset
        shapes = decoder_shapes(self.manifest.text, self.limits.embedding, width, columns, rows)
        self._decoder.run(profile, shapes, addresses, replay=profile != "prefill")
        grown = self._pool.append(kv, present, columns + width, columns, count)
        content = self._staging.download("logits", len(indices_L) * logit_bytes)
        self._cuda.synchronize()
        logits_LV = from_device(content, kinds["logits"]).reshape(-1, vocab_size)
        return logits_LV, grown

    def _stage_ids(self, ids_S: npt.NDArray[np.int64]) -> dict[str, int]:
        """The tokens, or their embeddings where the table stands outside the plan."""
        kinds = self._decoder.dtypes
        if self._table is None:
            return {
                "input_ids": self._staging.upload("input_ids", to_device(ids_S, kinds["input_ids"]))
            }
        rows_SD = np.ascontiguousarray(self._table[ids_S])
        content = rows_SD.reshape(-1).view(np.uint8)
        return {"inputs_embeds": self._staging.upload("inputs_embeds", content)}

    def _stage_visual(
        self, visual_BSD: npt.NDArray[np.float32] | DeviceVisual | None, width: int
    ) -> int:
        """What is added to the embeddings, [width, D] on the device."""
        row_bytes = self.manifest.text.hidden_size * item_bytes(self._dtype)
        address = self._staging.place("visual_add", width * row_bytes)
        self._cuda.zero(address, width * row_bytes)
        if isinstance(visual_BSD, DeviceVisual):
            for offset, source, num_bytes in visual_BSD.copies(row_bytes):
                self._cuda.copy(address + offset, source, num_bytes)
        elif visual_BSD is not None:
            self._staging.upload("visual_add", to_device(visual_BSD, self._dtype))
        return address

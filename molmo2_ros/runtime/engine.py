"""What every inference engine offers, whoever runs it.

Letters: B batch, S new tokens, P past tokens, T = P + S, L wanted logits, V vocabulary, D width of
the language model, K views, N patches a view, C = 588 values a patch, M visual tokens, W patches
pooled into one token.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Protocol

import numpy as np
import numpy.typing as npt

from molmo2_ros.runtime.engine_store import EngineStore, is_installed
from molmo2_ros.runtime.manifest import Manifest

NANO = Path(__file__).parents[1] / "engines" / "nano"  # the shipped engine
DEVICES = ("auto", "cpu", "cuda", "tensorrt", "tensorrt-rtx")  # where an engine may be asked to run
KV = Any  # engine-owned handle of keys and values; opaque to everyone else
Features = Any  # float32 [M, D]: an array, or what an engine keeps on its device and numpy reads


class Engine(Protocol):
    """A loaded vision tower and language model."""

    folder: Path  # holds tokenizer.json and the golden example
    manifest: Manifest
    device: str  # where it runs: one of DEVICES but "auto"
    runtime: str  # what computes, with versions and, beside the folder's, hashes of what it reads
    most_tokens: int | None  # that a cache may hold; None where memory alone bounds it

    def encode(
        self, patches_KNC: npt.NDArray[np.float32], pooling_MW: npt.NDArray[np.int64]
    ) -> Features:
        """Turn views into visual features.

        Args:
            patches_KNC: normalised patches of K views, float32 [K, N, 588].
            pooling_MW: indices into the K * N patches for each visual token, -1 where padded.

        Returns:
            features, float32 [M, D], to be ADDED to the embedding of `<im_patch>`.
        """
        ...

    def empty_kv(self) -> KV:
        """A cache of no tokens, for a batch of one."""
        ...

    def forward(
        self,
        ids_BS: npt.NDArray[np.int64],
        positions_BS: npt.NDArray[np.int64],
        bias_B1ST: npt.NDArray[np.float32],
        kv: KV,
        *,
        visual_BSD: Features | None = None,
        logit_indices_L: npt.NDArray[np.int64] | None = None,
    ) -> tuple[npt.NDArray[np.float32], KV]:
        """Run S new tokens on top of `kv`; `kv` itself stays valid (branches may share it).

        Args:
            ids_BS: token ids.
            positions_BS: rotary positions.
            bias_B1ST: additive attention mask, 0 where seen and a large negative number where not.
            kv: cache of P tokens.
            visual_BSD: features to add to the embeddings, as an array or by
                `device_features.place_features`; None for text only.
            logit_indices_L: which of the S tokens to give logits for; None for the last one.

        Returns:
            logits float32 [B, L, V] and the cache of T tokens.
        """
        ...

    def keep_kv(self, kv: KV, kept_K: npt.NDArray[np.int64]) -> KV:
        """The cache of some of the tokens of `kv`, which itself stays valid.

        Args:
            kv: cache of P tokens.
            kept_K: which of the P, int64 [K], ascending.
        """
        ...


def load_engine(
    path: str | Path | None = None,
    *,
    threads: int | None = None,
    device: str = "auto",
    rebuild: bool = False,
    self_test: str = "refuse",
) -> Engine:
    """Load an engine folder and prove that it is whole and computes rightly here.

    Args:
        path: the folder; None or "nano" for molmo2-nano, which the package ships ("./nano" is a
            folder of that name); or what `molmo2 engine install` was told to call it.
        threads: CPU threads for one operator; None for ONNX Runtime's choice (all cores).
        device: "cpu", "cuda", "tensorrt" or "tensorrt-rtx" (ONNX Runtime's execution providers of
            these names), or "auto" for CUDA where ONNX Runtime offers it and it starts. For "auto"
            and "cuda", TensorRT plans that `molmo2 build-engine` left in the folder come first.
        rebuild: build such plans anew where they do not fit this machine, which takes minutes.
        self_test: what follows where the engine does not reproduce its golden example: "refuse",
            "warn" in the log, or "off" to leave it untested (see runtime/self_test.py).

    Raises:
        EngineError: the folder, a file of it, the device, or the runtime that it needs is missing
            or unfit; or the self-test fails.
    """
    from molmo2_ros.runtime.onnx_engine import OnnxEngine
    from molmo2_ros.runtime.self_test import check_mode, prove
    from molmo2_ros.runtime.tensorrt_loading import load_tensorrt

    check_mode(self_test)
    folder = engine_folder(path)
    built = load_tensorrt(folder, rebuild=rebuild) if device in ("auto", "cuda") else None
    engine: Engine = built or OnnxEngine(folder, threads=threads, device=device)
    prove(engine, self_test)
    return engine


def engine_folder(path: str | Path | None) -> Path:
    """What somebody calls an engine as a folder; a folder that is there goes before a name.

    Raises:
        EngineError: it is the name of an installed engine whose store was damaged.
    """
    if path in (None, "nano"):
        return NANO
    if isinstance(path, str) and not Path(path).exists() and is_installed(path):
        return EngineStore().find(path).folder
    return Path(path)

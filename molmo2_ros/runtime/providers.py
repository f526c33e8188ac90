"""ONNX Runtime's execution providers: what each needs, and what it is told about an engine.

Data only: nothing here imports onnxruntime, so that `molmo2 doctor` and tests ask the same rules.
"""

from __future__ import annotations

import hashlib
import logging
import os
import re
from collections.abc import Mapping
from pathlib import Path

from molmo2_ros.errors import EngineError
from molmo2_ros.runtime.manifest import Manifest
from molmo2_ros.runtime.provider_shapes import profile_shapes

_LOG = logging.getLogger(__name__)
PROVIDERS = {
    "cpu": "CPUExecutionProvider",
    "cuda": "CUDAExecutionProvider",
    "tensorrt": "TensorrtExecutionProvider",
    "tensorrt-rtx": "NvTensorRTRTXExecutionProvider",
}
PLUGIN_MODULE = "onnxruntime_ep_nv_tensorrt_rtx"  # brings tensorrt-rtx to a plain onnxruntime
GPU_CURE = (
    "on a machine with an NVIDIA GPU: `pip uninstall -y onnxruntime onnxruntime-gpu && pip install "
    '"onnxruntime-gpu[cuda,cudnn]"` (the two write the same folder, so that only one may be there)'
)
CURES = {
    "cuda": GPU_CURE,
    "tensorrt": f"{GPU_CURE}, and install TensorRT 10, whose libnvinfer.so.10 it links to",
    "tensorrt-rtx": '`pip install "onnxruntime>=1.24" onnxruntime-ep-nv-tensorrt-rtx-cu13`',
}
LOST = {  # what a provider that is there and does not start is short of
    "cuda": "the GPU's driver (see nvidia-smi), CUDA or cuDNN is missing or of another version "
    'than this onnxruntime needs; `pip install "onnxruntime-gpu[cuda,cudnn]"` brings all but the '
    "driver",
    "tensorrt": "TensorRT 10 (libnvinfer.so.10; 11 does not do), the GPU's driver, CUDA or cuDNN "
    "is missing or of another version than this onnxruntime needs; `molmo2 doctor` names it",
    "tensorrt-rtx": "it takes RTX GPUs of compute capability 8.6, 8.9, and 12.0 or later, with a "
    "driver for CUDA 13; `molmo2 doctor` tells what is there",
}
_COMPILE = ("tensorrt", "tensorrt-rtx")  # devices that compile an engine before its first answer
_MOST_IN_MESSAGE = 2**31 - 2**24  # bytes of weights
_OTHER_FORM = "or export the checkpoint again with `--form decomposed`, which older ones run"


def release(version: str) -> tuple[int, int]:
    """The first two numbers of a version; of a text without them (0, 0)."""
    found = re.match(r"(\d+)\.(\d+)", version)
    return (int(found[1]), int(found[2])) if found else (0, 0)


def needed_release(manifest: Manifest, device: str) -> tuple[tuple[int, int], str]:
    """The oldest ONNX Runtime that runs an engine on a device at a usable speed, and why that one.

    Args:
        manifest: of the engine.
        device: one of `PROVIDERS`.

    Source: fused attention in half precision on the CPU took 589-895 ms for 12 tokens before 1.26
        and 7.9 ms from then on; CUDA's own came after 1.24, which runs it on the CPU and copies.
    """
    fused = manifest.form == "fused"
    rules = (
        (True, (1, 17), f"opset {manifest.opset}"),
        (manifest.opset >= 23, (1, 23), f"opset {manifest.opset}"),
        (manifest.opset >= 24, (1, 24), f"opset {manifest.opset}"),
        (device == "tensorrt-rtx", (1, 24), "a provider that is plugged in"),
        (fused and device == "cpu" and manifest.dtype == "float16", (1, 26), "float16 on the CPU"),
        (fused and device in ("cuda", "tensorrt"), (1, 27), "fused attention on CUDA"),
    )
    return max((wanted, why) for holds, wanted, why in rules if holds)


def check_fit(manifest: Manifest, device: str, version: str) -> None:
    """Refuse an engine that a provider of this ONNX Runtime does not run, or only at a crawl.

    Args:
        manifest: of the engine.
        device: one of `PROVIDERS`.
        version: of onnxruntime.

    Raises:
        EngineError: onnxruntime is too old for the engine on this device, or the device lacks the
            engine's type; the message says what to install or to export instead.
    """
    wanted, why = needed_release(manifest, device)
    if release(version) < wanted:
        other = _OTHER_FORM if manifest.form == "fused" else "or ask for another device"
        raise EngineError(
            f"{manifest.name} needs onnxruntime {wanted[0]}.{wanted[1]} or later for {why}, found "
            f"{version}; install it (Python 3.10 ends at 1.23), {other}"
        )
    if device == "cpu" and manifest.dtype == "bfloat16":
        raise EngineError(
            f"{manifest.name} is in bfloat16, which ONNX Runtime does not multiply on the CPU; ask "
            "for cuda, or export the checkpoint again in float32 or float16"
        )
    if device == "tensorrt-rtx" and manifest.form == "fused" and manifest.dtype == "float32":
        raise EngineError(
            f"{manifest.name} has fused attention in float32, for which TensorRT-RTX has no "
            "kernel; export the checkpoint again in float16, or with `--form decomposed`"
        )


def cache_folder(manifest: Manifest, device: str, environ: Mapping[str, str] = os.environ) -> Path:
    """Where a provider keeps what it compiled of an engine, apart for every state of its files.

    Args:
        manifest: of the engine.
        device: one of `PROVIDERS`.
        environ: MOLMO2_ROS_CACHE names another place than the user's cache.
    """
    chosen = environ.get("MOLMO2_ROS_CACHE")
    user = environ.get("XDG_CACHE_HOME") or Path(environ.get("HOME", "/tmp"), ".cache")
    hashes = "".join(entry.sha256 for _, entry in sorted(manifest.files.items()))
    key = hashlib.sha256(hashes.encode()).hexdigest()[:16]
    return Path(chosen or Path(user, "molmo2_ros")) / device / f"{manifest.name}-{key}"


def make_cache(manifest: Manifest, device: str, environ: Mapping[str, str] = os.environ) -> Path:
    """The same folder, made where the device's provider writes into one.

    Raises:
        EngineError: it cannot be made.
    """
    folder = cache_folder(manifest, device, environ)
    if device in _COMPILE:
        try:
            folder.mkdir(parents=True, exist_ok=True)
        except OSError as error:
            raise EngineError(
                f"{folder} cannot be made ({error}), and {device} keeps there what it compiles; "
                "name a folder that can be written to: export MOLMO2_ROS_CACHE=FOLDER"
            ) from error
        if not any(folder.iterdir()):
            _LOG.info("%s compiles %s, which takes minutes, once", device, manifest.name)
    return folder


def provider_options(manifest: Manifest, graph: str, device: str, cache: Path) -> dict[str, str]:
    """What a provider is told about one graph of an engine.

    Args:
        manifest: of the engine.
        graph: "vision" or "decoder".
        device: one of `PROVIDERS`.
        cache: folder for what the provider compiles.

    Source: option names of onnxruntime 1.31's TensorRT provider and of version 0.5's TensorRT-RTX
        plug-in, read from their libraries.
    """
    if device == "cuda":
        # TF32 keeps ten bits: with it a float32 engine is no longer the one that was proven.
        return {"use_tf32": "0"}
    if device == "cpu":
        return {}
    bounds = ("min", "opt", "max")
    profiles = dict(zip(bounds, profile_shapes(manifest, graph), strict=True))
    # A protobuf message ends at 2 GB: larger graphs are handed over without their weights.
    apart = _num_bytes(manifest, graph) > _MOST_IN_MESSAGE
    if device == "tensorrt-rtx":
        return {
            **{f"nv_profile_{bound}_shapes": text for bound, text in profiles.items()},
            "nv_runtime_cache_path": str(cache),
            "nv_use_external_data_initializer": str(int(apart)),
        }
    return {
        "trt_load_user_initializer": str(int(apart)),
        "trt_engine_cache_enable": "1",
        "trt_engine_cache_path": str(cache),
        "trt_engine_cache_prefix": graph,
        "trt_timing_cache_enable": "1",
        "trt_timing_cache_path": str(cache),
        # The types of the file are to be kept, and no others taken.
        "trt_fp16_enable": str(int(manifest.dtype == "float16")),
        "trt_bf16_enable": str(int(manifest.dtype == "bfloat16")),
        **{f"trt_profile_{bound}_shapes": text for bound, text in profiles.items()},
    }


def _num_bytes(manifest: Manifest, graph: str) -> int:
    """Size of a graph and the files that hold its weights."""
    return sum(e.bytes for name, e in manifest.files.items() if name.startswith(f"{graph}."))

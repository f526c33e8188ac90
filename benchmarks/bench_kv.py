"""Ways of keeping keys and values between two passes of the decoder, on the CPU.

    python benchmarks/bench_kv.py [--engine DIR] [--threads 1] [--capacity 1024] [--json]

A clip of 569 tokens has been read, and a pass reads 1, 12, 48 or 128 more. Against the engine as it
is (I/O binding, cut tokens copied away) stand ONNX Runtime's call that takes and gives its own
values, cut tokens left in the cache and masked, and TensorScatter: one buffer into which each pass
writes in place, so that nothing is concatenated, and that no second answer can share.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt
import onnx

sys.path[:0] = [str(Path(__file__).parents[1])]

from benchmarks.report import publish, timed  # noqa: E402
from molmo2_ros.prompt.layout import HIDDEN, suffix_bias  # noqa: E402
from molmo2_ros.runtime.engine import KV, NANO  # noqa: E402
from molmo2_ros.runtime.onnx_engine import OnnxEngine  # noqa: E402
from molmo2_ros.runtime.onnx_session import open_session, ort_value  # noqa: E402

NUM_PREFIX = 569  # BOS and eight frames of the nano
NUM_CUT = 100  # tokens of a draft that the model did not write
READ = (1, 12, 48, 128)  # tokens of a pass
Logits = npt.NDArray[np.float32]


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--engine", type=Path, default=NANO)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--capacity", type=int, default=1024, help="columns of that buffer")
    parser.add_argument("--runs", type=int, default=200)
    parser.add_argument("--json", action="store_true", help="one JSON object on stdout")
    options = parser.parse_args()
    engine = OnnxEngine(options.engine, threads=options.threads, device="cpu")
    with tempfile.TemporaryDirectory() as folder:
        in_place = InPlaceDecoder(engine, Path(folder), options.capacity, options.threads)
        ways = _Ways(engine, in_place)
        rows, farthest = [], 0.0
        for num_new in READ:
            cases = ways.cases(num_new)
            expected = next(iter(cases.values()))()
            farthest = max(farthest, *(abs(case() - expected).max() for case in cases.values()))
            rows += timed(cases, options.runs)
    publish(
        "kv",
        rows,
        packages=("numpy", "onnxruntime"),
        settings={
            "engine": engine.manifest.name,
            "threads": options.threads,
            "capacity": options.capacity,
        },
        figures={},
        equality={"largest difference of a logit": float(farthest)},
        as_json=options.json,
    )


class _Ways:
    """A prefix that has been read, and the same pass behind it in each way."""

    def __init__(self, engine: OnnxEngine, in_place: InPlaceDecoder) -> None:
        self._engine, self._in_place = engine, in_place
        self._rng = np.random.default_rng(0)
        self._ids = self._rng.integers(0, engine.manifest.text.vocab_size, (1, NUM_PREFIX))
        _, self._prefix = self._read(self._ids, 0, engine.empty_kv())
        _, self._drafted = self._read(self._ids[:, :NUM_CUT], NUM_PREFIX, self._prefix)
        in_place.fill(self._prefix)

    def cases(self, num_new: int) -> dict[str, Callable[[], Logits]]:
        """By way: a pass over `num_new` tokens, which returns their logits."""
        engine, ids = self._engine, self._ids[:, :num_new]

        def cut(share: float) -> Logits:
            engine._cut_share = share
            kept = engine.keep_kv(self._drafted, np.arange(NUM_PREFIX))
            return self._read(ids, NUM_PREFIX, kept)[0]

        return {
            f"{num_new} tokens, I/O binding": lambda: self._read(ids, NUM_PREFIX, self._prefix)[0],
            f"{num_new} tokens, run_with_ort_values": lambda: self._run_with_values(ids),
            f"{num_new} tokens, TensorScatter in place": lambda: self._in_place.read(ids),
            f"{num_new} tokens after {NUM_CUT} cut: copied": lambda: cut(0.0),
            f"{num_new} tokens after {NUM_CUT} cut: masked": lambda: cut(1.0),
        }

    def _read(self, ids: npt.NDArray[np.int64], num_past: int, kv: KV) -> tuple[Logits, KV]:
        num_new = ids.shape[1]
        return self._engine.forward(
            ids,
            num_past + np.arange(num_new)[None],
            suffix_bias(num_new, num_past)[None, None],
            kv,
            logit_indices_L=np.arange(num_new),
        )

    def _run_with_values(self, ids: npt.NDArray[np.int64]) -> Logits:
        session = self._engine._decoder
        feeds = {
            name: ort_value(array, "cpu")
            for name, array in decoder_inputs(self._engine, ids).items()
        }
        feeds.update(zip(self._engine._past_names, self._prefix.tensors, strict=True))
        logits, *_ = session.run_with_ort_values(["logits", *self._engine._present_names], feeds)
        return logits.numpy()  # type: ignore[no-any-return]


def decoder_inputs(engine: OnnxEngine, ids: npt.NDArray[np.int64]) -> dict[str, npt.NDArray[Any]]:
    """What a pass behind the prefix feeds besides keys and values."""
    num_new = ids.shape[1]
    return {
        "input_ids": np.ascontiguousarray(ids),
        "visual_add": np.zeros((1, num_new, engine.manifest.text.hidden_size), np.float32),
        "position_ids": NUM_PREFIX + np.arange(num_new)[None],
        "attn_bias": suffix_bias(num_new, NUM_PREFIX)[None, None],
        "logit_indices": np.arange(num_new),
    }


class InPlaceDecoder:
    """The engine's decoder with TensorScatter for each Concat of past and new."""

    def __init__(self, engine: OnnxEngine, folder: Path, capacity: int, threads: int) -> None:
        self._engine, self._capacity = engine, capacity
        model = onnx.load(engine.folder / "decoder.onnx")
        for node in model.graph.node:
            if node.output[0] in engine._present_names:
                node.op_type = "TensorScatter"
                node.input.append("write_indices")
                node.attribute[0].i = -2
        del model.graph.value_info[:]
        del model.opset_import[:]
        model.opset_import.append(onnx.helper.make_opsetid("", 24))
        model.ir_version = max(model.ir_version, 11)
        indices = onnx.helper.make_tensor_value_info("write_indices", onnx.TensorProto.INT64, ["B"])
        model.graph.input.append(indices)
        onnx.save(model, folder / "in_place.onnx")
        names = [value.name for value in model.graph.input]
        self._session = open_session(folder / "in_place.onnx", "cpu", threads, names)
        self._buffers: list[Any] = []

    def fill(self, kv: KV) -> None:
        """Begin with the keys and values of a prefix."""
        for tensor in kv.tensors:
            array = tensor.numpy()
            buffer = np.zeros((*array.shape[:2], self._capacity, array.shape[3]), np.float32)
            buffer[:, :, : kv.length] = array
            self._buffers.append(ort_value(buffer, "cpu"))

    def read(self, ids: npt.NDArray[np.int64]) -> Logits:
        """Logits of new tokens behind the prefix; what stood there is written over."""
        inputs = decoder_inputs(self._engine, ids)
        num_new = ids.shape[1]
        bias = np.full((1, 1, num_new, self._capacity), HIDDEN, np.float32)
        bias[..., : NUM_PREFIX + num_new] = inputs["attn_bias"]
        inputs |= {"attn_bias": bias, "write_indices": np.array([NUM_PREFIX])}
        binding = self._session.io_binding()
        for name, array in inputs.items():
            binding.bind_cpu_input(name, array)
        names = zip(self._engine._past_names, self._engine._present_names, strict=True)
        binding.bind_output("logits", "cpu")
        for (past, present), buffer in zip(names, self._buffers, strict=True):
            binding.bind_ortvalue_input(past, buffer)
            binding.bind_ortvalue_output(present, buffer)
        self._session.run_with_iobinding(binding)
        return binding.get_outputs()[0].numpy()  # type: ignore[no-any-return]


if __name__ == "__main__":
    main()

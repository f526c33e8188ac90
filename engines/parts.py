"""Runs an engine that memory cannot hold, a few of its nodes at a time, to prove it once.

A graph's nodes stand in the order in which they are computed; it is cut into runs of them whose
weights are few enough. Letters as in runtime/engine.py.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import numpy.typing as npt
import onnx
import onnxruntime
from onnx import helper

from molmo2_ros.engines.parity import reference_features
from molmo2_ros.prompt.tokenizer import PromptTokenizer
from molmo2_ros.runtime.closeness import Judge
from molmo2_ros.runtime.decoding import prefill
from molmo2_ros.runtime.examination import read_text
from molmo2_ros.runtime.golden import Golden, clip_inputs
from molmo2_ros.runtime.onnx_engine import OnnxEngine, OnnxKV
from molmo2_ros.runtime.onnx_session import ort_value

if TYPE_CHECKING:
    from transformers import Molmo2ForConditionalGeneration

PART_BYTES = 1 << 29  # the CPU's kernels may widen halves, which doubles them
_FOLDER_OF_WEIGHTS = "session.model_external_initializers_file_folder_path"


@dataclass(frozen=True, slots=True, kw_only=True)
class _Part:
    """Nodes that follow one another."""

    nodes: list[Any]  # onnx.NodeProto
    inputs: list[str]  # computed before, or given
    outputs: list[str]  # wanted later, or at the end
    weights: list[Any]  # onnx.TensorProto


class PartedGraph:
    """An ONNX file of which one part is in memory at a time.

    Args:
        path: of the file; its weights may lie beside it.
        part_bytes: most bytes of weights in a part, unless one node has more.
    """

    def __init__(self, path: Path, part_bytes: int) -> None:
        self._model = onnx.load(path, load_external_data=False)
        self._folder = path.parent
        self.parts = list(_parts(self._model.graph, part_bytes))

    def run(
        self, outputs: Sequence[str], feeds: Mapping[str, npt.NDArray[Any]]
    ) -> list[npt.NDArray[Any]]:
        """As InferenceSession.run.

        Args:
            outputs: names of those to return.
            feeds: the graph's inputs by name.
        """
        values = dict(feeds)
        waiting = Counter([*outputs, *(name for part in self.parts for name in part.inputs)])
        for part in self.parts:
            results = self._session(part, values).run(
                part.outputs, {name: values[name] for name in part.inputs}
            )
            values.update(zip(part.outputs, results, strict=True))
            waiting.subtract(part.inputs)
            values = {name: value for name, value in values.items() if waiting[name]}
        return [values[name] for name in outputs]

    def _session(self, part: _Part, values: Mapping[str, npt.NDArray[Any]]) -> Any:
        inputs = [
            helper.make_tensor_value_info(
                name, helper.np_dtype_to_tensor_dtype(values[name].dtype), None
            )
            for name in part.inputs
        ]
        outputs = [onnx.ValueInfoProto(name=name) for name in part.outputs]
        graph = helper.make_graph(part.nodes, "part", inputs, outputs, part.weights)
        model = helper.make_model(
            graph,
            opset_imports=self._model.opset_import,
            ir_version=self._model.ir_version,
        )
        options = onnxruntime.SessionOptions()
        options.log_severity_level = 3
        options.enable_cpu_mem_arena = False
        # Each part runs once: another layout of its weights would be a second copy for nothing.
        options.add_session_config_entry("session.disable_prepacking", "1")
        options.add_session_config_entry(_FOLDER_OF_WEIGHTS, str(self._folder))
        return onnxruntime.InferenceSession(
            model.SerializeToString(), options, providers=["CPUExecutionProvider"]
        )


def _parts(graph: Any, part_bytes: int) -> Iterator[_Part]:
    weights = {tensor.name: tensor for tensor in graph.initializer}
    wanted = Counter(name for node in graph.node for name in node.input)
    wanted.update(output.name for output in graph.output)
    nodes: list[Any] = []
    own: dict[str, Any] = {}
    for node in graph.node:
        more = {name: weights[name] for name in node.input if name in weights}
        if nodes and sum(map(_num_bytes, {**own, **more}.values())) > part_bytes:
            yield _part(nodes, own, wanted)
            nodes, own = [], {}
        nodes.append(node)
        own.update(more)
    yield _part(nodes, own, wanted)


def _part(nodes: list[Any], weights: Mapping[str, Any], wanted: Counter[str]) -> _Part:
    made = [name for node in nodes for name in node.output if name]
    read = Counter(name for node in nodes for name in node.input if name)
    return _Part(
        nodes=nodes,
        inputs=[name for name in read if name not in weights and name not in set(made)],
        outputs=[name for name in made if wanted[name] > read[name]],
        weights=list(weights.values()),
    )


def _num_bytes(weight: Any) -> int:
    item: int = helper.tensor_dtype_to_np_dtype(weight.data_type).itemsize
    return int(np.prod(weight.dims, dtype=np.int64)) * item


class PartedEngine(OnnxEngine):
    """An engine on the CPU that reads all its weights anew in each pass."""

    def _open(self, threads: int | None) -> None:
        self._vision = PartedGraph(self.folder / "vision.onnx", PART_BYTES)
        self._decoder = PartedGraph(self.folder / "decoder.onnx", PART_BYTES)

    def _run_decoder(
        self, inputs: list[npt.NDArray[Any]], kv: OnnxKV
    ) -> tuple[npt.NDArray[np.float32], tuple[Any, ...]]:
        past = [tensor.numpy() for tensor in kv.tensors]
        names = [value.name for value in self._decoder._model.graph.input]
        logits, *present = self._decoder.run(
            ["logits", *self._present_names], dict(zip(names, [*inputs, *past], strict=True))
        )
        return logits, tuple(ort_value(array, "cpu") for array in present)


def check_in_parts(folder: Path, model: Molmo2ForConditionalGeneration, golden: Golden) -> float:
    """Compare an engine of any size with the model in few passes: features, logits, every token.

    The tokens of the answer are given, and each must be what the engine would choose after those
    before it: then it would have written the answer.

    Args:
        folder: the engine.
        model: the reference.
        golden: filled by the reference.

    Returns:
        The largest error of a logit after the prompt.

    Raises:
        EngineError: the graphs do not compute what the model does.
    """
    engine = PartedEngine(folder, device="cpu")
    facts = engine.manifest.golden
    assert facts is not None  # it was exported a moment ago
    judge = Judge(
        name=engine.manifest.name,
        runtime=f"{engine.runtime}, part by part",
        dtype=engine.manifest.dtype,
        tolerance=facts.logit_tolerance,
    )
    inputs = clip_inputs(
        engine.manifest.vision,
        PromptTokenizer(folder),
        golden.frames,
        golden.times_s,
        golden.question,
    )
    features_MD = engine.encode(inputs.patches_KNC, inputs.pooling_MW)
    expected_MD = reference_features(model, inputs.patches_KNC, inputs.pooling_MW)
    largest = float(np.abs(expected_MD).max())
    judge.close(features_MD, expected_MD, "visual features", facts.feature_tolerance * largest)
    prefix = prefill(engine, inputs.prefix, features_MD)
    ids_S = np.concatenate([inputs.suffix.ids, golden.tokens])
    logits_SV, _ = read_text(engine, ids_S, prefix.num_tokens, prefix.kv)
    steps_NV = logits_SV[len(inputs.suffix) - 1 :]
    error = judge.close(steps_NV[0], golden.logits, "logits")
    judge.peaks(steps_NV, golden.steps, golden.tokens, "logits along the answer")
    return error

"""Turns an engine folder into a smaller and faster one whose weights are small integers or floats.

    molmo2 quantize ENGINE OUT --scheme int4

What this may have cost is measured before the folder appears: its answers are compared with those
of a reference that computes from the same numbers by other code, and its accuracy on simulated
tables with the source's.
"""

from __future__ import annotations

import shutil
from collections.abc import Callable, Mapping
from dataclasses import replace
from functools import partial
from pathlib import Path

from molmo2_ros.engines.golden import record_golden, write_answer
from molmo2_ros.engines.onnx_file import Progress, quiet_progress
from molmo2_ros.engines.parity import measured_facts
from molmo2_ros.engines.quantization import Gauge, Quantization
from molmo2_ros.engines.quantized_graph import quantize_graph
from molmo2_ros.engines.reference import ReferenceEngine, write_reference
from molmo2_ros.engines.scratch import check_space, install, scratch_beside
from molmo2_ros.engines.tensor_files import GraphFile
from molmo2_ros.engines.weight_forms import RowCodes, WeightForm
from molmo2_ros.errors import EngineError
from molmo2_ros.runtime.engine import Engine, load_engine
from molmo2_ros.runtime.golden import Golden
from molmo2_ros.runtime.manifest import Manifest, QuantizedFacts, file_entry

_SHARE = 0.6  # at most, of a graph's size, that is left of it: float16 made int8 with its scales


def quantize_engine(
    source: Path,
    out: Path,
    quantization: Quantization,
    *,
    gauge: Gauge | None,
    threads: int | None = None,
    progress: Progress = quiet_progress,
) -> Manifest:
    """Write a quantised engine folder, prove it, and let it appear whole or not at all.

    While it is written, memory holds a few pieces of weights (64 MB each) if the source's lie
    beside its graphs, however large it is; while it is proven, what the engine itself takes.

    Args:
        source: engine folder that is not quantised.
        out: engine folder to make or replace; other files in it stay.
        quantization: what to do.
        gauge: of accuracy; None for weights that nobody trained.
        threads: CPU threads for checking.
        progress: wraps the nodes of a graph while they are rewritten.

    Raises:
        EngineError: the source is missing, altered or quantised already, the disk is too small,
            the result does not compute what its weights say, or it is less accurate than allowed.
    """
    manifest, example = _check_source(source, out)
    forms = quantization.forms()
    try:
        check_space(out, _needed_bytes(manifest, forms))
        with scratch_beside(out) as built:
            _write_files(source, built, manifest, forms, quantization.runtime, progress)
            made = _described(built, manifest, forms)
            twin = built.with_name("reference")
            write_reference(built, twin)
            open_twin = partial(ReferenceEngine, twin, threads=threads, device="cpu")
            # What nothing on this machine can run is judged by its twin in plain operators.
            open_made: Callable[[], Engine] = open_twin
            if quantization.runs_here:
                open_made = partial(load_engine, built, threads=threads, self_test="off")
            made = _prove(example, built, made, open_twin, open_made)
            if gauge is not None:
                before = gauge.measure(load_engine(source, threads=threads))
                made = replace(made, accuracy=gauge.compare(before, gauge.measure(open_made())))
                made.write(built)
            install(built, out)
    except OSError as error:
        raise EngineError(
            f"{out} cannot be written ({error}); make room, or give another folder"
        ) from error
    return made


def _check_source(source: Path, out: Path) -> tuple[Manifest, Golden]:
    """Manifest and example of an engine that can be quantised into `out`.

    Raises:
        EngineError: it cannot.
    """
    manifest = Manifest.load(source)
    if manifest.quantized:
        raise EngineError(
            f"{source} is quantised already ({', '.join(sorted(manifest.quantized))}); give the "
            "engine that it was made from"
        )
    if manifest.golden is None:
        raise EngineError(f"{source} has no golden example; export the checkpoint again")
    if out.resolve() == source.resolve():
        raise EngineError(f"{out} is the engine itself, expected another folder to write")
    return manifest, Golden.load(source / manifest.golden.file)


def _needed_bytes(manifest: Manifest, forms: Mapping[str, WeightForm]) -> int:
    """An upper bound of what the folder takes."""
    shrinking = tuple(f"{graph}." for graph in forms)
    return sum(
        round(entry.bytes * (_SHARE if name.startswith(shrinking) else 1))
        for name, entry in manifest.files.items()
    )


def _write_files(
    source: Path,
    folder: Path,
    manifest: Manifest,
    forms: Mapping[str, WeightForm],
    runtime: str,
    progress: Progress,
) -> None:
    """Everything but manifest and golden example."""
    replaced = {manifest.golden.file} if manifest.golden else set()
    table_form = RowCodes() if runtime == "onnxruntime" else None
    for graph, form in forms.items():
        path = source / f"{graph}.onnx"
        replaced |= {path.name, *GraphFile(path).data_files}
        quantize_graph(path, folder / path.name, form, table_form, progress)
    for name in manifest.files.keys() - replaced:
        shutil.copyfile(source / name, folder / name)


def _described(folder: Path, source: Manifest, forms: Mapping[str, WeightForm]) -> Manifest:
    """The manifest without what is yet to be measured."""
    opsets = (
        entry.version
        for entry in GraphFile(folder / "decoder.onnx").model.opset_import
        if not entry.domain
    )
    manifest = replace(
        source,
        name=f"{source.name} {forms['decoder'].scheme}",
        opset=next(opsets),
        files={path.name: file_entry(path) for path in sorted(folder.iterdir())},
        quantized={
            graph: QuantizedFacts(scheme=form.scheme, operator=form.operator, block=form.block)
            for graph, form in forms.items()
        },
        golden=None,
    )
    manifest.write(folder)
    return manifest


def _prove(
    example: Golden,
    folder: Path,
    manifest: Manifest,
    open_reference: Callable[[], Engine],
    open_engine: Callable[[], Engine],
) -> Manifest:
    """Write the golden example with what the reference computes, and let the engine compute it.

    One of the two is in memory at a time. The engine writes the answer and the reference reads it,
    since each pass of the reference unpacks all weights.

    Raises:
        EngineError: it computes something else.
    """
    answer = write_answer(open_engine(), example)
    golden = record_golden(open_reference(), example, answer)
    facts = measured_facts(open_engine(), golden)
    golden.save(folder / facts.file)
    files = {**manifest.files, facts.file: file_entry(folder / facts.file)}
    manifest = replace(manifest, files=files, golden=facts)
    manifest.write(folder)
    return manifest

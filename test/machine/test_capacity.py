"""What is said of memory, disk, and an engine that has to run."""

import json
from dataclasses import replace

import pytest

from molmo2_ros.machine.capacity import check_capacity, needs, room_gb
from molmo2_ros.machine.facts import ABSENT, Package
from molmo2_ros.runtime.engine import NANO
from molmo2_ros.runtime.manifest import FILE_NAME


def lines(machine, engine=None):
    return {check.name: check for check in check_capacity(machine, engine)}


def fitting(machine, model):
    return [need.precision for need in needs(machine) if need.model == model and need.fits]


def test_every_model_fits_into_agx_orin(machines):
    told = lines(machines["agx-orin"])
    assert {check.state for name, check in told.items() if name.startswith("memory.")} == {"ok"}
    assert told["memory.Molmo2-4B"].found == "bf16 10.0, int8 6.0, int4 4.6 of 64.7 GB"


def test_a_board_of_8_gb_holds_the_small_model_quantised_only(machines):
    nano = replace(machines["agx-orin"], memory_gb=7.95)
    told = lines(nano)
    assert fitting(nano, "Molmo2-4B") == ["int8", "int4"]
    assert told["memory.Molmo2-4B"].state == "warn"
    assert told["memory.Molmo2-4B"].cure == "molmo2 quantize, to int8 or int4"
    assert told["memory.Molmo2-8B"].found.endswith("of 6.8 GB: does not fit")
    assert told["memory.molmo2-nano"].state == "ok"


def test_a_gpu_with_its_own_memory_counts_that_and_not_the_machines(machines):
    assert room_gb(machines["desktop"]) == pytest.approx(25.76 - 0.6, abs=0.01)
    assert fitting(machines["desktop"], "Molmo2-8B") == ["bf16", "int8", "int4"]


def test_without_a_gpu_weights_are_counted_in_float32(machines):
    laptop = machines["laptop"]
    assert [need.precision for need in needs(laptop)][:3] == ["fp32", "int8", "int4"]
    assert fitting(laptop, "Molmo2-4B") == ["int8", "int4"]


def test_a_full_disk_is_told(machines):
    assert lines(replace(machines["laptop"], disk_free_gb=3.2))["disk"].state == "warn"
    assert lines(replace(machines["laptop"], disk_free_gb=300))["disk"].state == "ok"


def test_the_shipped_engine_runs_on_a_laptop(machines):
    told = lines(machines["laptop"], NANO)
    assert told["engine"].found == "molmo2-nano, fused, float32, opset 23"
    assert told["engine.runtime"].found == "onnxruntime 1.32.0 on cpu"
    assert told["engine.memory"].state == "ok"


def test_an_old_onnxruntime_on_orin_runs_a_fused_engine_on_the_cpu_alone(machines):
    assert lines(machines["agx-orin"], NANO)["engine.runtime"].found.endswith("1.23.0 on cpu")


def test_an_engine_is_said_to_run_where_its_providers_start(machines):
    """Thor's wheel has no kernels for it; fused float32 has none in TensorRT-RTX."""
    assert lines(machines["thor"], NANO)["engine.runtime"].found.endswith("1.31.1 on cpu")
    assert lines(machines["desktop"], NANO)["engine.runtime"].found.endswith("on cpu, cuda")


def test_an_altered_engine_fails(machines, engine_folder):
    with (engine_folder / "decoder.onnx").open("r+b") as graph:
        graph.write(b"spoilt")
    check = lines(machines["laptop"], engine_folder)["engine"]
    assert check.state == "fail"
    assert "decoder.onnx was altered" in check.found


def spoil(folder, **changes):
    path = folder / FILE_NAME
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))
    return folder


def test_an_engine_that_no_provider_runs_fails_with_each_reason(machines, engine_folder):
    spoil(engine_folder, dtype="bfloat16")
    check = lines(machines["laptop"], engine_folder)["engine.runtime"]
    assert (check.state, "does not multiply on the CPU" in check.found) == ("fail", True)


def test_an_engine_without_any_runtime_fails(machines):
    laptop = machines["laptop"]
    for package in (ABSENT, Package(version="1.32.0", error="no libstdc++")):
        runtime = replace(laptop.onnxruntime, package=package)
        check = lines(replace(laptop, onnxruntime=runtime), NANO)["engine.runtime"]
        assert (check.state, check.cure) == ("fail", "pip install -U onnxruntime")


def test_an_engine_larger_than_memory_fails(machines):
    check = lines(replace(machines["laptop"], memory_gb=1.21), NANO)["engine.memory"]
    assert (check.state, check.found) == ("fail", "0.018 of 0.0 GB: does not fit")

"""What is said of GPUs, drivers and runtimes, on captured machines and on changed ones."""

from dataclasses import replace

import pytest

from molmo2_ros.machine import probes
from molmo2_ros.machine.facts import ABSENT, Package
from molmo2_ros.machine.probes import probe
from molmo2_ros.machine.runtimes import check_runtimes, startable


def lines(machine):
    return {check.name: check for check in check_runtimes(machine)}


def test_orin_with_jetpack_6_runs_its_own_kernels_and_decomposed_exports(machines):
    told = lines(machines["agx-orin"])
    assert told["system"].state == "ok"
    assert "JetPack 6.2 (Jetson Linux 36.4.3)" in told["system"].found
    assert told["gpu"].found.endswith("compute capability 8.7, the board's memory")
    assert told["tensorrt"].found == "10.3.0, builds decomposed exports"
    # Python 3.10 has no onnxruntime with CUDA's fused attention.
    assert told["onnxruntime.cuda"].state == "warn"
    assert told["onnxruntime.cuda"].cure == "export with `--form decomposed`"
    assert "onnxruntime ends at 1.23" in told["python"].found
    assert "driver" not in told  # it comes with JetPack


def test_pips_wheel_on_thor_has_no_kernel_for_it(machines):
    told = lines(machines["thor"])
    assert told["onnxruntime.cuda"].state == "fail"
    assert "for sm 89, 90, 120, 121, and this GPU is sm 110" in told["onnxruntime.cuda"].found
    assert "built for this JetPack" in told["onnxruntime.cuda"].cure
    assert told["tensorrt"].found == "10.13.3.9, builds decomposed exports"


def test_pips_wheel_on_orin_has_no_kernel_for_it_either(machines):
    wheel = machines["thor"].onnxruntime
    told = lines(replace(machines["agx-orin"], onnxruntime=wheel))
    assert told["onnxruntime.cuda"].state == "fail"
    assert "this GPU is sm 87: none would run" in told["onnxruntime.cuda"].found


def test_devices_that_start_are_those_with_kernels_and_libraries(machines):
    desktop = machines["desktop"]
    assert startable(machines["agx-orin"]) == ["cpu", "cuda"]
    assert startable(machines["thor"]) == startable(machines["laptop"]) == ["cpu"]
    assert startable(desktop) == ["cpu", "cuda", "tensorrt-rtx"]
    nvinfer = {"libnvinfer.so.10", "libnvonnxparser.so.10"}
    complete = replace(desktop, loadable=desktop.loadable | nvinfer)
    assert startable(complete) == ["cpu", "cuda", "tensorrt", "tensorrt-rtx"]
    assert lines(complete)["onnxruntime.tensorrt"].state == "ok"
    bare = replace(complete, loadable=nvinfer)
    assert startable(bare) == ["cpu", "tensorrt-rtx"]


def test_numpy_2_beside_apts_cv_bridge_is_a_trap(machines):
    assert lines(machines["thor"])["packages"].cure == 'pip install "numpy<2"'
    assert lines(machines["agx-orin"])["packages"].state == "ok"


def test_desktop_lacks_only_tensorrt(machines):
    told = lines(machines["desktop"])
    assert told["onnxruntime.cuda"].found == "starts, kernels for sm 89"
    assert told["onnxruntime.tensorrt-rtx"].found == "0.5.0, 1 GPU"
    assert told["onnxruntime.tensorrt"].state == "warn"
    assert "libnvinfer.so.10, libnvonnxparser.so.10" in told["onnxruntime.tensorrt"].found
    assert told["tensorrt"].cure == 'pip install "tensorrt>=10.3"'
    assert {name for name, check in told.items() if check.state == "fail"} == set()


def test_a_laptop_without_gpu_is_told_so_and_nothing_about_gpus_else(machines):
    told = lines(machines["laptop"])
    assert list(told) == ["system", "gpu", "python", "packages", "onnxruntime"]
    assert told["gpu"].state == "warn"
    assert told["onnxruntime"].found == "1.32.0 with Azure, CPU"


def test_a_gpu_without_driver_is_found_on_the_bus(outside):
    machine = probe(outside("desktop", outputs={probes.NVIDIA_SMI: ""}))
    assert lines(machine)["gpu"].state == "fail"
    assert "ubuntu-drivers install" in lines(machine)["gpu"].cure


def test_a_gpu_of_unknown_capability_is_told(machines):
    (gpu,) = machines["desktop"].gpus
    machine = replace(machines["desktop"], gpus=(replace(gpu, sm=None), gpu))
    assert lines(machine)["gpu"].state == "warn"
    assert lines(machine)["gpu"].found.endswith("capability unknown, 25.8 GB and 1 more")
    assert lines(machine)["onnxruntime.cuda"].found == "starts"


@pytest.mark.parametrize(("driver", "state"), [("570.86", "fail"), ("580.65", "ok"), ("", "ok")])
def test_driver_must_know_the_cuda_of_onnxruntime(machines, driver, state):
    (gpu,) = machines["desktop"].gpus
    machine = replace(machines["desktop"], gpus=(replace(gpu, driver=driver),))
    assert lines(machine)["driver"].state == state


@pytest.mark.parametrize(
    ("change", "state", "found", "cure"),
    [
        ({"package": ABSENT, "distributions": ()}, "fail", "not installed", "onnxruntime-gpu"),
        (
            {"package": Package(version="1.31.1", error="libstdc++.so.6: GLIBCXX")},
            "fail",
            "cannot be imported (libstdc++.so.6: GLIBCXX)",
            "onnxruntime-gpu",
        ),
        (
            {"distributions": ("onnxruntime", "onnxruntime-gpu")},
            "fail",
            "onnxruntime and onnxruntime-gpu write the same folder",
            "pip uninstall -y onnxruntime onnxruntime-gpu",
        ),
        ({"package": Package(version="1.22.1")}, "fail", "opset 23 needs 1.23", "pip install -U"),
    ],
)
def test_an_onnxruntime_that_will_not_do_is_named_with_its_cure(
    machines, change, state, found, cure
):
    desktop = machines["desktop"]
    machine = replace(desktop, onnxruntime=replace(desktop.onnxruntime, **change))
    check = lines(machine)["onnxruntime"]
    assert check.state == state
    assert found in check.found
    assert cure in check.cure


def test_without_onnxruntime_tensorrt_still_runs_engines(machines):
    orin = machines["agx-orin"]
    machine = replace(orin, onnxruntime=replace(orin.onnxruntime, package=ABSENT))
    assert lines(machine)["onnxruntime"].state == "warn"


def test_libraries_that_cuda_would_not_find_are_named(machines):
    desktop = machines["desktop"]
    machine = replace(desktop, loadable=desktop.loadable - {"libcublas.so.13"})
    check = lines(machine)["onnxruntime.cuda"]
    assert (check.state, check.found) == ("warn", "does not start: libcublas.so.13 not found")
    assert "onnxruntime-gpu[cuda,cudnn]" in check.cure


def test_onnxruntime_without_cuda_on_a_gpu_is_told(machines):
    desktop, laptop = machines["desktop"], machines["laptop"]
    check = lines(replace(desktop, onnxruntime=laptop.onnxruntime))["onnxruntime.cuda"]
    assert (check.state, "built without CUDA" in check.found) == ("warn", True)


@pytest.mark.parametrize(("sm", "state"), [(86, "ok"), (121, "ok"), (80, "warn"), (90, "warn")])
def test_tensorrt_rtx_takes_rtx_gpus_only(machines, sm, state):
    (gpu,) = machines["desktop"].gpus
    machine = replace(machines["desktop"], gpus=(replace(gpu, sm=sm),))
    assert lines(machine)["onnxruntime.tensorrt-rtx"].state == state


def test_a_plug_in_that_does_not_start_says_why(machines):
    desktop = machines["desktop"]
    plugin = Package(version="0.5.0", error="libcuda.so.1: cannot open shared object file")
    machine = replace(desktop, onnxruntime=replace(desktop.onnxruntime, plugin=plugin))
    check = lines(machine)["onnxruntime.tensorrt-rtx"]
    assert (check.state, "libcuda.so.1: cannot open" in check.found) == ("warn", True)
    assert check.cure.startswith("pip install -U onnxruntime-ep-nv-tensorrt-rtx-cu13")


@pytest.mark.parametrize(
    ("version", "state", "words"),
    [
        ("8.6.2", "fail", "expected 10.3 or later"),
        ("10.14.1", "ok", "decomposed"),
        ("10.16.2.1", "ok", "fused"),
        ("11.4.1", "ok", "fused"),
    ],
)
def test_tensorrts_version_decides_about_the_form(machines, version, state, words):
    machine = replace(machines["agx-orin"], tensorrt=Package(version=version))
    check = lines(machine)["tensorrt"]
    assert (check.state, words in check.found) == (state, True)


@pytest.mark.parametrize(("l4t", "state"), [("36.3", "warn"), ("35.4.1", "warn"), ("38.2", "ok")])
def test_an_old_jetpack_is_told_to_be_flashed(machines, l4t, state):
    orin = machines["agx-orin"]
    machine = replace(orin, jetson=replace(orin.jetson, l4t=l4t))
    assert lines(machine)["system"].state == state


def test_an_old_python_fails(machines):
    assert lines(replace(machines["laptop"], python=(3, 8)))["python"].state == "fail"

"""Looking at a machine: the real one that runs this test, and captured ones."""

import os
import platform
import sys

import numpy
import onnxruntime
import pytest

from molmo2_ros.machine import outside as outside_module
from molmo2_ros.machine import probes
from molmo2_ros.machine.facts import ABSENT, Package
from molmo2_ros.machine.outside import Outside, run_command
from molmo2_ros.machine.probes import probe


@pytest.fixture(scope="module")
def here():
    return probe()


def test_this_machine_is_told_as_it_is(here):
    assert here.arch == platform.machine()
    assert here.python == sys.version_info[:2]
    assert here.cores == os.cpu_count()
    assert here.memory_gb * 1e9 == pytest.approx(
        os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES"), rel=0.01
    )
    assert here.disk_free_gb > 0
    assert "libc.so.6" in here.loadable


def test_packages_are_those_of_this_process(here):
    assert here.packages["numpy"] == numpy.__version__
    assert here.onnxruntime.package == Package(version=onnxruntime.__version__)
    assert here.onnxruntime.providers == tuple(onnxruntime.get_available_providers())


def test_ros_is_found_without_being_imported_here(here):
    import rclpy.utilities

    assert here.ros.rclpy.works
    assert here.ros.distro
    assert here.ros.rmw == rclpy.utilities.get_rmw_implementation_identifier()


def test_a_package_that_takes_its_process_down_is_only_reported():
    outside = Outside()
    assert "status -6" in outside.loaded("import os; os.abort()")["error"]
    told = outside.loaded("raise ImportError('libcudart.so.13: cannot open\\nsee the manual')")
    assert told == {"error": "ImportError: libcudart.so.13: cannot open"}
    assert "printed [1]" in outside.loaded("print([1])")["error"]


def test_a_command_that_is_not_there_or_hangs_is_no_output(monkeypatch):
    monkeypatch.setattr(outside_module, "_PATIENCE_S", 0.2)
    assert run_command(("no-such-command",)).status == 127
    assert run_command(("sleep", "5")).status == 124
    assert Outside().output(("false",)) == ""


def test_captured_orin_is_a_jetson_whose_gpu_shares_its_memory(machines):
    orin = machines["agx-orin"]
    assert orin.jetson.jetpack == "6.2"
    assert (orin.gpu.sm, orin.gpu.memory_gb) == (87, None)
    assert orin.model_memory_gb == pytest.approx(65.9, abs=0.1)
    assert orin.onnxruntime.libraries["CUDAExecutionProvider"].cubins == {87}
    assert orin.tensorrt == Package(version="10.3.0")
    assert (orin.ros.distro, orin.ros.apt, orin.ros.cv_bridge) == ("humble", True, True)
    assert orin.network.rmem_max == 212992


def test_captured_desktop_has_its_own_memory_and_a_plug_in(machines):
    desktop = machines["desktop"]
    assert desktop.jetson is None
    assert (desktop.gpu.sm, desktop.gpu_on_bus) == (89, True)
    assert desktop.model_memory_gb == pytest.approx(25.8, abs=0.1)
    assert desktop.onnxruntime.plugin == Package(version="0.5.0")
    assert desktop.onnxruntime.plugin_gpus == 1
    assert desktop.tensorrt == ABSENT
    assert desktop.ros.rclpy == ABSENT


def test_what_a_laptop_lacks_is_absent_and_not_broken(machines):
    laptop = machines["laptop"]
    assert laptop.gpus == ()
    assert (laptop.tensorrt, laptop.tensorrt_rtx, laptop.ros.rclpy) == (ABSENT, ABSENT, ABSENT)
    assert laptop.network.rmem_max is None


def test_a_runtime_that_cannot_be_imported_keeps_its_version_and_tells_why(outside):
    machine = probe(outside("laptop", outputs={probes.ONNXRUNTIME: "Illegal instruction"}))
    assert machine.onnxruntime.package.version == "1.32.0"
    assert machine.onnxruntime.package.error
    assert machine.onnxruntime.providers == ()


def test_a_plug_in_without_a_driver_tells_what_it_misses(outside):
    told = '{"version": "0.5.0", "gpus": 0, "error": "libcuda.so.1: cannot open"}'
    machine = probe(outside("desktop", outputs={probes.PLUGIN: told}))
    assert machine.onnxruntime.plugin == Package(version="0.5.0", error="libcuda.so.1: cannot open")


def test_segments_of_dead_nodes_are_counted(outside):
    names = [f"dev/shm/fastdds_{i}" for i in range(3)] + ["dev/shm/fastrtps_1", "dev/shm/other"]
    machine = probe(outside("laptop", files=dict.fromkeys(names, "")))
    assert machine.stale_segments == 4

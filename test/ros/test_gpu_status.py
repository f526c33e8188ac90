"""The GPU's line on /diagnostics, of a Jetson written down as its files."""

import sys
import time

import pytest
from diagnostic_msgs.msg import DiagnosticStatus

from molmo2_ros.machine.gpu_meter import GpuMeter, GpuReading
from molmo2_ros.ros import gpu_status
from molmo2_ros.ros.gpu_status import GpuStatus

PATIENCE_S = 60.0


def lines_of(gpus, wanted=bool, *, in_use=True):
    """Lines once they are as wanted: another thread reads the GPUs."""
    end_s = time.monotonic() + PATIENCE_S
    while not wanted(lines := gpus.statuses("grounding", in_use=in_use)):
        assert time.monotonic() < end_s, lines
        time.sleep(0.01)
    return lines


def values_of(line):
    return {entry.key: entry.value for entry in line.values}


def write(folder, name, text):
    (folder / name).parent.mkdir(parents=True, exist_ok=True)
    (folder / name).write_text(text)


@pytest.fixture
def jetson(tmp_path):
    """Its GPU's folder below a root."""
    folder = tmp_path / "sys/class/devfreq/17000000.gpu"
    write(folder, "device/of_node/name", "gpu\0")
    write(folder, "device/load", "437\n")
    return folder


def test_a_jetson_has_one_line_with_what_it_tells_now(tmp_path, jetson):
    gpus = GpuStatus(tmp_path)
    (line,) = lines_of(gpus)
    told = (line.name, line.hardware_id, line.level)
    assert told == ("grounding: gpu", "Jetson", DiagnosticStatus.OK)
    assert values_of(line) == {"load": "0.437"}
    write(jetson, "device/load", "1000\n")
    lines_of(gpus, lambda lines: values_of(lines[0]) == {"load": "1"})


def test_a_machine_without_a_gpu_has_no_line(tmp_path):
    gpus = GpuStatus(tmp_path)
    time.sleep(0.2)
    assert gpus.statuses("grounding", in_use=True) == []


def test_a_driver_that_cannot_be_read_is_told_and_no_fault_of_the_node(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pynvml", None)
    (tmp_path / "proc/driver/nvidia").mkdir(parents=True)
    (line,) = lines_of(GpuStatus(tmp_path))
    assert line.level == DiagnosticStatus.OK
    assert "pip install nvidia-ml-py" in line.message


@pytest.mark.parametrize(
    ("reading", "warning"),
    [
        (GpuReading(name="RTX", load=1.0, memory_used_mb=4000.0, memory_mb=8000.0), ""),
        (GpuReading(name="RTX", load=0.1, slowed="by heat (hardware)"), "slowed down by heat"),
        (GpuReading(name="RTX"), "its driver does not answer about it any more"),
        (
            GpuReading(name="RTX", memory_used_mb=7900.0, memory_mb=8000.0),
            "7900 of 8000 MB of its memory are taken",
        ),
    ],
)
@pytest.mark.parametrize("in_use", [True, False])
def test_what_somebody_should_act_upon_is_a_warning(
    tmp_path, monkeypatch, reading, warning, in_use
):
    monkeypatch.setattr(GpuMeter, "read", lambda _: (reading, reading))
    lines = lines_of(GpuStatus(tmp_path), in_use=in_use)
    assert [line.name for line in lines] == ["grounding: gpu 0", "grounding: gpu 1"]
    is_warned = bool(warning) and in_use
    for line in lines:
        assert line.level == (DiagnosticStatus.WARN if is_warned else DiagnosticStatus.OK)
        assert (warning in line.message) == (is_warned or not warning)


def test_a_driver_that_hangs_keeps_nobody_waiting_and_is_told(tmp_path, jetson, monkeypatch):
    monkeypatch.setattr(gpu_status, "_SILENT_S", 0.2)
    gpus = GpuStatus(tmp_path)
    lines_of(gpus)
    monkeypatch.setattr(GpuMeter, "read", lambda _: time.sleep(PATIENCE_S))
    lines_of(gpus, lambda lines: "does not answer" in lines[0].message)

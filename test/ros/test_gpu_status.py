"""The GPU's line on /diagnostics, of a Jetson written down as its files."""

import sys

import pytest
from diagnostic_msgs.msg import DiagnosticStatus

from molmo2_ros.machine.gpu_meter import GpuMeter, GpuReading
from molmo2_ros.ros.gpu_status import GpuStatus


def values_of(line):
    return {entry.key: entry.value for entry in line.values}


def test_a_jetson_has_one_line_with_what_it_tells(tmp_path):
    folder = tmp_path / "sys/class/devfreq/17000000.gpu/device"
    (folder / "of_node").mkdir(parents=True)
    (folder / "of_node/name").write_text("gpu\0")
    (folder / "load").write_text("437\n")
    (line,) = GpuStatus(tmp_path).statuses("grounding")
    assert (line.name, line.hardware_id, line.level) == (
        "grounding: gpu",
        "Jetson",
        DiagnosticStatus.OK,
    )
    assert values_of(line) == {"load": "0.437"}


def test_a_machine_without_a_gpu_has_no_line(tmp_path):
    assert GpuStatus(tmp_path).statuses("grounding") == []


def test_a_driver_that_cannot_be_read_is_told_and_no_fault_of_the_node(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pynvml", None)
    (tmp_path / "proc/driver/nvidia").mkdir(parents=True)
    (line,) = GpuStatus(tmp_path).statuses("grounding")
    assert line.level == DiagnosticStatus.OK
    assert "pip install nvidia-ml-py" in line.message


@pytest.mark.parametrize(
    ("reading", "warning"),
    [
        (GpuReading(name="RTX", load=1.0, memory_used_mb=4000.0, memory_mb=8000.0), ""),
        (GpuReading(name="RTX", slowed="by heat (hardware)"), "slowed down by heat (hardware)"),
        (
            GpuReading(name="RTX", memory_used_mb=7900.0, memory_mb=8000.0),
            "7900 of 8000 MB of its memory are taken",
        ),
    ],
)
def test_what_somebody_should_act_upon_is_a_warning(tmp_path, monkeypatch, reading, warning):
    monkeypatch.setattr(GpuMeter, "read", lambda _: (reading, reading))
    lines = GpuStatus(tmp_path).statuses("grounding")
    assert [line.name for line in lines] == ["grounding: gpu 0", "grounding: gpu 1"]
    for line in lines:
        assert line.level == (DiagnosticStatus.WARN if warning else DiagnosticStatus.OK)
        assert warning in line.message

"""How busy a GPU is: on this machine, on a Jetson's files, and by NVML with a stand-in below it."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from molmo2_ros.errors import ConfigError
from molmo2_ros.machine.gpu_meter import GpuMeter, GpuReading

READ = """
import dataclasses, json, pathlib, sys
from molmo2_ros.errors import ConfigError
from molmo2_ros.machine.gpu_meter import GpuMeter
try:
    print(json.dumps([dataclasses.asdict(r) for r in GpuMeter(pathlib.Path(sys.argv[1])).read()]))
except ConfigError as error:
    print(json.dumps(str(error)))
"""


def write(root, files):
    for name, content in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(content)
    return root


@pytest.fixture
def orin(tmp_path):
    """What the kernel of JetPack 6 tells of an Orin; another device scales its clock, too."""
    return write(
        tmp_path,
        {
            "proc/device-tree/model": "NVIDIA Jetson AGX Orin Developer Kit\0",
            "sys/class/devfreq/15340000.vic/device/of_node/name": "vic\0",
            "sys/class/devfreq/15340000.vic/device/load": "0\n",
            "sys/class/devfreq/17000000.gpu/device/of_node/name": "gpu\0",
            "sys/class/devfreq/17000000.gpu/device/load": "437\n",
            "sys/class/devfreq/17000000.gpu/cur_freq": "1300500000\n",
            "sys/class/thermal/thermal_zone0/type": "cpu-thermal\n",
            "sys/class/thermal/thermal_zone0/temp": "41000\n",
            "sys/class/thermal/thermal_zone1/type": "gpu-thermal\n",
            "sys/class/thermal/thermal_zone1/temp": "38562\n",
        },
    )


def test_a_jetson_tells_load_heat_and_clock_and_has_no_memory_of_its_own(orin):
    assert GpuMeter(orin).read() == (
        GpuReading(
            name="NVIDIA Jetson AGX Orin Developer Kit",
            load=0.437,
            temperature_c=38.562,
            clock_mhz=1300.5,
        ),
    )


def test_what_a_jetson_does_not_tell_now_is_unknown_and_comes_back(orin):
    meter = GpuMeter(orin)
    load = orin / "sys/class/devfreq/17000000.gpu/device/load"
    load.write_text("")
    (orin / "sys/class/thermal/thermal_zone1/temp").unlink()
    reading = meter.read()[0]
    assert (reading.load, reading.temperature_c, reading.clock_mhz) == (None, None, 1300.5)
    load.write_text("1000\n")
    assert meter.read()[0].load == 1.0


def test_a_machine_without_a_gpu_has_none(tmp_path):
    assert GpuMeter(tmp_path).read() == ()


def test_this_machine_is_read_without_trouble():
    for reading in GpuMeter().read():
        assert reading.load is None or 0 <= reading.load <= 1


def test_a_driver_without_its_python_package_is_told(tmp_path, monkeypatch):
    monkeypatch.setitem(sys.modules, "pynvml", None)
    (tmp_path / "proc/driver/nvidia").mkdir(parents=True)
    with pytest.raises(ConfigError, match="pip install nvidia-ml-py"):
        GpuMeter(tmp_path)


@pytest.fixture(scope="module")
def library(tmp_path_factory):
    """A folder in which NVIDIA's Python package finds a library."""
    folder = tmp_path_factory.mktemp("nvml")
    source = Path(__file__).with_name("nvml_stand_in.c")
    target = folder / "libnvidia-ml.so.1"
    subprocess.run(["cc", "-shared", "-fPIC", "-o", target, source], check=True)
    return folder


def read_by_nvml(library, root, *, before="", **environment):
    """What a process of its own reads: the package holds its library for good."""
    (root / "proc/driver/nvidia").mkdir(parents=True)
    values = {"NVML_LOAD": 73, "NVML_USED": 5_000_000_000, "NVML_REASONS": 1, **environment}
    done = subprocess.run(
        [sys.executable, "-c", f"{before}\n{READ}", root],
        env={
            **os.environ,
            "LD_LIBRARY_PATH": str(library),
            **{name: str(value) for name, value in values.items()},
        },
        capture_output=True,
        text=True,
        check=True,
    )
    return json.loads(done.stdout)


def test_each_gpu_is_read_as_far_as_it_tells(library, tmp_path):
    first, second = read_by_nvml(library, tmp_path)
    assert first == {
        "name": "First",
        "load": 0.73,
        "memory_used_mb": 5000.0,
        "memory_mb": 8000.0,
        "temperature_c": 61,
        "clock_mhz": 1980,
        "slowed": "",
    }
    assert second["name"] == "Second"
    assert second["temperature_c"] == 62
    assert (second["load"], second["memory_mb"], second["clock_mhz"]) == (None, None, None)


@pytest.mark.parametrize(
    ("reasons", "slowed"),
    [
        (0x4, ""),  # at its power limit: as it should be under load
        (0x20 | 0x1, "by heat (software)"),
        (0x40 | 0x80, "by heat (hardware) and by its power supply"),
    ],
)
def test_why_a_gpu_is_slowed_down_is_told(library, tmp_path, reasons, slowed):
    assert read_by_nvml(library, tmp_path, NVML_REASONS=reasons)[0]["slowed"] == slowed


def test_a_gpu_that_is_lost_keeps_its_name_and_tells_nothing(library, tmp_path):
    lost, _ = read_by_nvml(library, tmp_path, NVML_LOST=1)
    assert lost.pop("name") == "First"
    assert set(lost.values()) == {None, ""}
    assert GpuReading(name="First").is_silent


def test_a_package_of_before_2023_tells_why_a_gpu_is_slowed_down_under_another_name(
    library, tmp_path
):
    old = "import pynvml; del pynvml.nvmlDeviceGetCurrentClocksEventReasons"
    first, _ = read_by_nvml(library, tmp_path, before=old, NVML_REASONS=0x20)
    assert first["slowed"] == "by heat (software)"


def test_a_driver_that_does_not_answer_is_told(library, tmp_path):
    said = read_by_nvml(library, tmp_path, NVML_NO_DRIVER=1)
    assert "driver does not answer (Driver Not Loaded)" in said

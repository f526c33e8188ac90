"""Shared libraries by their headers: architectures of kernels, links, and files that are none."""

from pathlib import Path

import onnxruntime
import pytest
from hypothesis import given
from hypothesis import strategies as st

from molmo2_ros.errors import DataError
from molmo2_ros.machine.elf import GpuLibrary, read_library, runs_on


def library(cubins=(), ptx=()):
    return GpuLibrary(cubins=frozenset(cubins), ptx=frozenset(ptx), needs=())


def test_architectures_and_links_are_read_from_the_headers(tmp_path, make_library):
    path = tmp_path / "libkernels.so"
    path.write_bytes(make_library((89, 90, 121), (80,), ("libcudart.so.13", "libcuda.so.1")))
    found = read_library(path)
    assert found.cubins == {89, 90, 121}
    assert found.ptx == {80}
    assert found.needs == ("libcudart.so.13", "libcuda.so.1")


def test_a_library_of_the_system_has_links_and_no_kernels():
    (path,) = Path(onnxruntime.__file__).parent.glob("capi/libonnxruntime.so.*")
    found = read_library(path)
    assert "libc.so.6" in found.needs
    assert not found.cubins
    assert not found.ptx


@pytest.mark.parametrize(
    ("cubins", "ptx", "sm", "runs"),
    [
        ((87,), (), 87, True),
        ((80,), (), 86, True),  # machine code runs on later minor versions
        ((86,), (), 80, False),  # and not on earlier ones
        ((89,), (), 90, False),  # nor on the next generation
        ((80, 86), (), 87, False),  # but a Tegra chip takes its own alone
        ((87,), (), 89, False),  # which no desktop GPU takes
        ((89, 90, 120, 121), (), 87, False),  # pip's wheel for aarch64 on Orin
        ((89, 90, 120, 121), (), 110, False),  # and on Thor
        ((120,), (), 121, True),
        ((), (80,), 87, True),  # what the driver translates runs on all later ones
        ((), (90,), 89, False),
        ((), (), 89, False),
    ],
)
def test_kernels_run_where_cuda_lets_them(cubins, ptx, sm, runs):
    assert runs_on(library(cubins, ptx), sm) is runs


@pytest.mark.parametrize("kept", [0, 5, 63, 64, 400, -90])
def test_a_library_that_was_cut_off_is_reported(tmp_path, make_library, kept):
    path = tmp_path / "libcut.so"
    path.write_bytes(make_library((87,), needs=("libcudart.so.12",))[:kept])
    with pytest.raises(DataError, match=r"libcut\.so cannot be read as a shared library"):
        read_library(path)


def test_what_is_no_library_is_reported(tmp_path):
    script = tmp_path / "libc.so"
    script.write_text("/* GNU ld script */\nGROUP ( /lib/libc.so.6 )\n" * 9)
    with pytest.raises(DataError, match="expected 64-bit ELF; install the package"):
        read_library(script)
    with pytest.raises(DataError, match="none.so cannot be read"):
        read_library(tmp_path / "none.so")


def test_a_fat_binary_of_no_size_does_not_hold_up_the_reader(tmp_path, make_library):
    content = make_library((87,), needs=("libcudart.so.12",))
    header = b"\x50\xed\x55\xba"
    place = content.rindex(header)
    path = tmp_path / "libempty.so"
    path.write_bytes(content[: place + 6] + bytes(10) + content[place + 16 :])
    assert not read_library(path).cubins


@given(st.data())
def test_spoilt_headers_end_in_an_error_or_an_answer(tmp_path_factory, make_library, data):
    content = bytearray(make_library((87, 90), (80,), ("libcudart.so.12",)))
    for place in data.draw(st.lists(st.integers(6, len(content) - 1), min_size=1, max_size=8)):
        content[place] = data.draw(st.integers(0, 255))
    path = tmp_path_factory.getbasetemp() / "libspoilt.so"
    path.write_bytes(content)
    try:
        found = read_library(path)
    except DataError:
        return
    assert isinstance(found, GpuLibrary)

"""The record beside a plan: what it must fit, and what is said where it does not."""

import json
from dataclasses import replace

import pytest

from molmo2_ros.runtime.cuda_api import Gpu
from molmo2_ros.runtime.engine import NANO
from molmo2_ros.runtime.manifest import FileEntry, Manifest, file_entry
from molmo2_ros.runtime.tensorrt_key import (
    RECORD,
    PlanMismatchError,
    PlanRecord,
    built_folders,
    check_key,
    differences,
    find_plans,
    graphs_hash,
    key_here,
    plan_folder,
    read_plan,
)
from molmo2_ros.runtime.tensorrt_plan import choose_limits

ORIN = Gpu(sm="8.7", driver="12.6", memory_bytes=1 << 33)


@pytest.fixture(scope="module")
def manifest():
    return Manifest.parse(json.loads((NANO / "manifest.json").read_text()))


@pytest.fixture
def key(manifest, host_gpu):
    return key_here(host_gpu.FOUND, ORIN, manifest)


@pytest.fixture
def plans(tmp_path, manifest, key):
    """A folder of plans, whose content no TensorRT made."""
    folder = plan_folder(tmp_path, "tensorrt", "8.7")
    folder.mkdir()
    (folder / "decoder.plan").write_bytes(b"plan" * 100)
    entry = file_entry(folder / "decoder.plan")
    limits = choose_limits(manifest)
    PlanRecord(key=key, limits=limits, files={"decoder.plan": entry}).write(folder)
    return folder


def test_a_record_is_read_as_it_was_written(plans, key, manifest):
    record = PlanRecord.load(plans)
    assert record.key == key
    assert record.limits == choose_limits(manifest)
    assert plans.name == "tensorrt_sm87"
    assert read_plan(plans, "decoder.plan", record) == b"plan" * 100
    check_key(plans, record.key, key)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"version": "10.3.0"}, r"it is for TensorRT 10\.16\.2, here is 10\.3\.0"),
        (
            {"product": "tensorrt_rtx", "version": "1.7.1"},
            "it is for TensorRT, here is TensorRT-RTX",
        ),
        ({"sm": "11.0"}, r"GPU of compute capability 8\.7, this one has 11\.0"),
        ({"driver": "13.2"}, r"the driver spoke CUDA 12\.6, now it speaks 13\.2"),
        ({"graphs": "0" * 64}, "the ONNX graphs have changed since"),
        ({"layout": 99}, "its profiles are of layout 2, this version of molmo2_ros runs 99"),
    ],
)
def test_whatever_differs_is_named_with_the_cure(plans, key, change, message):
    with pytest.raises(PlanMismatchError, match=rf"{message}; build it again with `molmo2 build-"):
        check_key(plans, PlanRecord.load(plans).key, replace(key, **change))


def test_all_differences_are_named_at_once(key):
    other = replace(key, version="10.3.0", sm="8.6")
    assert len(differences(other, key)) == 2


def test_a_driver_matters_only_to_plans_that_were_built_under_one(key):
    assert differences(replace(key, driver=""), key) == []


def test_plans_of_another_gpu_are_refused_by_name(plans):
    engine = plans.parent
    with pytest.raises(
        PlanMismatchError,
        match=r"holds plans for other GPUs \(tensorrt_sm87\), this one needs tensorrt_sm110: Tens",
    ):
        find_plans(engine, "tensorrt", "11.0")
    assert find_plans(engine, "tensorrt", "8.7") == plans


def test_several_kinds_of_gpu_are_served_by_one_folder(plans):
    other = plan_folder(plans.parent, "tensorrt_rtx", "12.0")
    other.mkdir()
    assert built_folders(plans.parent) == [plans]  # without a record it is no folder of plans
    (other / RECORD).write_text((plans / RECORD).read_text())
    assert built_folders(plans.parent) == [other, plans]


def test_a_plan_that_was_cut_off_is_refused(plans):
    (plans / "decoder.plan").write_bytes(b"plan" * 50)
    with pytest.raises(
        PlanMismatchError, match=r"has 200 bytes, plan\.json says 400: the build or a copy of it"
    ):
        PlanRecord.load(plans)
    (plans / "decoder.plan").unlink()
    with pytest.raises(PlanMismatchError, match=r"has 0 bytes, plan\.json says 400"):
        PlanRecord.load(plans)


def test_an_altered_plan_is_refused(plans):
    (plans / "decoder.plan").write_bytes(b"PLAN" * 100)
    with pytest.raises(PlanMismatchError, match=r"decoder\.plan was altered: its sha256"):
        read_plan(plans, "decoder.plan", PlanRecord.load(plans))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ("{", "cannot be read"),
        ("{}", "key files, key, limits is missing"),
        ('{"colour": 1}', "unknown key colour"),
    ],
)
def test_a_record_that_is_none_is_refused(plans, content, message):
    (plans / RECORD).write_text(content)
    with pytest.raises(PlanMismatchError, match=message):
        PlanRecord.load(plans)


def test_the_hash_of_the_graphs_depends_on_them_and_their_weights_alone(manifest):
    before = graphs_hash(manifest)

    def changed(name):
        files = {**manifest.files, name: FileEntry(sha256="0" * 64, bytes=1)}
        return graphs_hash(replace(manifest, files=files)) != before

    assert changed("decoder.onnx")
    assert changed("decoder.onnx.data")
    assert changed("vision.onnx")
    assert not changed("golden.npz")
    assert not changed("tokenizer.json")

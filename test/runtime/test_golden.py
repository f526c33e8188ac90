"""The golden example: an engine that computes wrongly is found."""

import json
from dataclasses import replace

import numpy as np
import pytest

from molmo2_ros.errors import EngineError
from molmo2_ros.runtime.engine import NANO, load_engine
from molmo2_ros.runtime.examination import late_positions, probe_pooling
from molmo2_ros.runtime.golden import GOLDEN_FILE, Golden, examine, verify_golden
from molmo2_ros.runtime.manifest import FILE_NAME


def test_shipped_engine_reproduces_its_golden_example(nano):
    assert verify_golden(nano) < 1e-4


def test_example_reads_back_equal(tmp_path):
    golden = Golden.load(NANO / GOLDEN_FILE)
    golden.save(tmp_path / "again.npz")
    again = Golden.load(tmp_path / "again.npz")
    assert again.question == golden.question
    for name in golden.__slots__:
        np.testing.assert_array_equal(getattr(again, name), getattr(golden, name))


def test_other_logits_are_found(engine_folder, vouch_for):
    golden = Golden.load(engine_folder / GOLDEN_FILE)
    replace(golden, logits=golden.logits + np.float32(0.1)).save(engine_folder / GOLDEN_FILE)
    vouch_for(engine_folder, GOLDEN_FILE)
    with pytest.raises(EngineError, match="computes wrongly here .*: the golden example's logits "):
        load_engine(engine_folder, threads=1)


def test_other_frames_are_found(engine_folder, vouch_for):
    golden = Golden.load(engine_folder / GOLDEN_FILE)
    replace(golden, frames=255 - golden.frames).save(engine_folder / GOLDEN_FILE)
    vouch_for(engine_folder, GOLDEN_FILE)
    with pytest.raises(EngineError, match="computes wrongly here .* visual features differ by"):
        load_engine(engine_folder, threads=1)


def test_other_tokens_are_found(engine_folder, vouch_for):
    golden = Golden.load(engine_folder / GOLDEN_FILE)
    tokens = golden.tokens.copy()
    tokens[-1] += 1
    replace(golden, tokens=tokens).save(engine_folder / GOLDEN_FILE)
    vouch_for(engine_folder, GOLDEN_FILE)
    with pytest.raises(EngineError, match="golden example's logits along the answer differ by"):
        load_engine(engine_folder, threads=1)


def test_engine_without_example_says_so(engine_folder):
    path = engine_folder / FILE_NAME
    content = json.loads(path.read_text())
    content["golden"] = None
    path.write_text(json.dumps(content))
    with pytest.raises(EngineError, match="has no golden example, .* molmo2_ros.engines.golden"):
        load_engine(engine_folder, threads=1)


def without_what_came_later(golden):
    """As the first exports wrote it: tokens, and logits after the question alone."""
    nothing = {
        name: np.zeros((0, 0), getattr(golden, name).dtype)
        for name in ("step_ids", "step_logits", "late_ids", "late_logits", "features")
    }
    return replace(golden, **nothing)


def test_example_of_an_older_export_is_read_and_proves_logits_and_tokens(
    nano, engine_folder, vouch_for
):
    golden = without_what_came_later(Golden.load(NANO / GOLDEN_FILE))
    arrays = {name: getattr(golden, name) for name in ("frames", "times_s", "tokens", "logits")}
    path = engine_folder / GOLDEN_FILE
    np.savez(path, question=np.array(golden.question), **arrays)
    vouch_for(engine_folder, GOLDEN_FILE)
    assert verify_golden(load_engine(engine_folder, threads=1)) < 1e-4
    tokens = golden.tokens.copy()
    tokens[20] += 1
    with pytest.raises(EngineError, match=r"with token \d+, expected .* along the answer, row 20"):
        examine(nano, replace(golden, tokens=tokens), nano.manifest.golden)


def test_old_manifest_without_tolerances_gives_those_of_float32(engine_folder):
    path = engine_folder / FILE_NAME
    content = json.loads(path.read_text())
    content["golden"] = {"file": GOLDEN_FILE}
    path.write_text(json.dumps(content))
    facts = load_engine(engine_folder, threads=1).manifest.golden
    assert (facts.logit_tolerance, facts.feature_tolerance) == (1e-3, 1e-3)


def test_example_that_is_answered_with_nothing_is_compared_up_to_its_end(nano):
    """The reference ends its answer at once: one step, no cut."""
    golden = Golden.load(NANO / GOLDEN_FILE)
    steps = {"step_ids": golden.step_ids[:1], "step_logits": golden.step_logits[:1]}
    empty = replace(golden, tokens=golden.tokens[:0], **steps)
    assert examine(nano, empty, nano.manifest.golden) < 1e-4


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"frames": np.zeros((4, 8, 8, 3), np.float32)}, "frames of another shape"),
        ({"times_s": np.zeros(3)}, "times_s of another shape"),
        ({"tokens": np.zeros(48, np.float32)}, "tokens of another shape"),
        ({"step_logits": np.zeros((48, 16), np.float32)}, "step_logits of another shape"),
        ({"step_ids": np.full((49, 16), 640)}, "step_ids of another shape"),
        ({"late_ids": np.full((1, 16), -1)}, "late_ids of another shape"),
        ({"features": np.zeros(8, np.float32)}, "features of another shape"),
        ({"colour": np.zeros(8, np.float32)}, "unexpected keyword argument 'colour'"),
    ],
)
def test_example_whose_arrays_do_not_fit_each_other_is_refused(tmp_path, change, message):
    with np.load(NANO / GOLDEN_FILE) as arrays:
        content = {**arrays, **change}
    np.savez(tmp_path / "golden.npz", **content)
    with pytest.raises(EngineError, match=rf"golden\.npz is not a golden example .*{message}"):
        Golden.load(tmp_path / "golden.npz")


def test_example_of_another_vocabulary_is_refused(nano):
    golden = Golden.load(NANO / GOLDEN_FILE)
    longer = replace(golden, logits=np.zeros(600, np.float32))
    with pytest.raises(EngineError, match=r"logits have shape \(640,\), expected \(600,\)"):
        examine(nano, longer, nano.manifest.golden)


@pytest.mark.parametrize(
    ("num_tokens", "num_positions", "positions"),
    [
        (5, 100, [0, 1, 97, 98, 99]),
        (4, 4, [0, 1, 2, 3]),  # no room for a gap
        (1, 10, [9]),
    ],
)
def test_late_text_reaches_the_last_position(num_tokens, num_positions, positions):
    assert late_positions(num_tokens, num_positions).tolist() == positions


def test_probed_windows_leave_their_last_patch_out_every_second_time(nano):
    windows = probe_pooling(nano.manifest.vision)
    assert windows.shape == (36, 4)
    assert windows[:2].tolist() == [[0, 1, 12, 13], [2, 3, 14, -1]]


@pytest.mark.parametrize("content", [b"", b"PK", b"no archive at all"])
def test_file_that_is_no_example_is_refused(tmp_path, content):
    path = tmp_path / "golden.npz"
    path.write_bytes(content)
    with pytest.raises(EngineError, match=r"golden\.npz is not a golden example"):
        Golden.load(path)


def test_example_cut_off_in_the_middle_is_refused(tmp_path):
    path = tmp_path / "golden.npz"
    path.write_bytes((NANO / GOLDEN_FILE).read_bytes()[:-30])
    with pytest.raises(EngineError, match=r"golden\.npz is not a golden example"):
        Golden.load(path)


def test_example_without_question_is_refused(tmp_path):
    np.savez(tmp_path / "golden.npz", frames=np.zeros((1, 2, 2, 3), np.uint8), times_s=np.zeros(1))
    with pytest.raises(EngineError, match=r"not a golden example \('question'\)"):
        Golden.load(tmp_path / "golden.npz")

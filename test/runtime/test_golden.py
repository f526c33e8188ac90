"""The golden example: an engine that computes wrongly is found."""

import json
from dataclasses import replace

import numpy as np
import pytest

from molmo2_ros.errors import EngineError
from molmo2_ros.runtime.engine import NANO, load_engine
from molmo2_ros.runtime.golden import GOLDEN_FILE, Golden, verify_golden
from molmo2_ros.runtime.manifest import FILE_NAME


def test_shipped_engine_reproduces_its_golden_example(nano):
    assert verify_golden(nano) < nano.manifest.golden.logit_tolerance


def test_example_reads_back_equal(tmp_path):
    golden = Golden.load(NANO / GOLDEN_FILE)
    golden.save(tmp_path / "again.npz")
    again = Golden.load(tmp_path / "again.npz")
    assert again.question == golden.question
    for name in ("frames", "times_s", "tokens", "logits"):
        np.testing.assert_array_equal(getattr(again, name), getattr(golden, name))


def test_other_logits_are_found(engine_folder, vouch_for):
    golden = Golden.load(engine_folder / GOLDEN_FILE)
    replace(golden, logits=golden.logits + np.float32(0.1)).save(engine_folder / GOLDEN_FILE)
    vouch_for(engine_folder, GOLDEN_FILE)
    with pytest.raises(EngineError, match="computes wrongly here: the golden example's logits dif"):
        verify_golden(load_engine(engine_folder, threads=1))


def test_other_frames_are_found(engine_folder, vouch_for):
    golden = Golden.load(engine_folder / GOLDEN_FILE)
    replace(golden, frames=255 - golden.frames).save(engine_folder / GOLDEN_FILE)
    vouch_for(engine_folder, GOLDEN_FILE)
    with pytest.raises(EngineError, match="computes wrongly here"):
        verify_golden(load_engine(engine_folder, threads=1))


def test_other_tokens_are_found(engine_folder, vouch_for):
    golden = Golden.load(engine_folder / GOLDEN_FILE)
    tokens = golden.tokens.copy()
    tokens[-1] += 1
    replace(golden, tokens=tokens).save(engine_folder / GOLDEN_FILE)
    vouch_for(engine_folder, GOLDEN_FILE)
    with pytest.raises(EngineError, match="answers its golden example with tokens"):
        verify_golden(load_engine(engine_folder, threads=1))


def test_engine_without_example_says_so(engine_folder):
    path = engine_folder / FILE_NAME
    content = json.loads(path.read_text())
    content["golden"] = None
    path.write_text(json.dumps(content))
    with pytest.raises(EngineError, match="has no golden example; export the checkpoint again"):
        verify_golden(load_engine(engine_folder, threads=1))


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

import json

import pytest

from molmo2_ros.errors import ConfigError
from molmo2_ros.training.footprint import footprint, main


def test_a_row_by_hand():
    row = footprint("4B", "sft", 8)
    # 16 bytes of 4.44e9 weights over 8, and a layer of 4.06e9 / 36 weights in two bytes.
    assert row.state_gb == pytest.approx(8.88 + 0.2256, abs=0.01)
    # Inputs: 16384 x 2560 x 2 x 36 = 3.02; 128 x 729 x 1152 x 2 x 25 = 5.37; inside a layer of the
    # tower 34 x 0.215 = 7.31; logits of 1638 tokens 1.0.
    assert row.activations_gb == pytest.approx(3.02 + 5.37 + 7.31 + 1.0, abs=0.02)
    assert row.total_gb == pytest.approx(row.state_gb + row.activations_gb)


def test_time_falls_with_the_gpus_and_is_near_the_paper_s():
    # 128 H100 for 58.8 hours is what the paper gives for the 4B's fine-tuning.
    hours = footprint("4B", "sft", 128).stage_hours
    assert hours == pytest.approx(footprint("4B", "sft", 1).stage_hours / 128)
    assert 20 < hours < 120


def test_what_is_unknown_is_refused(capsys):
    with pytest.raises(ConfigError, match="expected one of 4B, 8B"):
        footprint("7B", "sft", 1)
    assert main(["--json"]) == 0
    assert len(json.loads(capsys.readouterr().out)["rows"]) == 18

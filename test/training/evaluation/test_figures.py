"""Means and intervals over questions, by hand."""

import numpy as np
import pytest

from molmo2_ros.training.evaluation.figures import ATTRIBUTES, bar, binned, summarise
from molmo2_ros.training.evaluation.questions import Kind
from molmo2_ros.training.evaluation.result import table
from molmo2_ros.training.evaluation.scoring import Judged, Scored
from molmo2_ros.training.metrics import Cases, bootstrap_interval, joint_interval


def asked(example, f1, label="mugs", **known):
    return Scored(
        example=example,
        kind=Kind.POINTING,
        main="pointing_f1",
        label=label,
        question="?",
        expected="",
        said="",
        measures={"pointing_f1": (f1,), "hidden_left_out": (f1, 1.0)},
        **known,
    )


def test_values_of_one_group_are_resampled_together():
    values = [0.0] * 50 + [1.0] * 50
    alone = bootstrap_interval(values)
    together = bootstrap_interval(values, groups=[i // 50 for i in range(100)])
    # The standard error is 0.05: 1.96 of it to either side.
    assert alone == (pytest.approx(0.402, abs=0.02), pytest.approx(0.598, abs=0.02))
    assert together == (0.0, 1.0)  # two groups: both, or one of them twice
    assert bootstrap_interval(values, groups=range(100)) == alone
    assert bootstrap_interval([1.0, 1.0], groups=[0, 0]) == (1.0, 1.0)
    assert np.isnan(bootstrap_interval([])).all()


def test_means_of_the_same_groups_move_together_in_a_resample():
    groups = list(range(40))
    first = Cases([float(i % 2) for i in groups], groups)
    second = Cases([float(i % 2) - 0.1 for i in groups], groups)
    low, high = joint_interval([first, second], lambda means: means[0] - means[1])
    assert (low, high) == (pytest.approx(0.1), pytest.approx(0.1))
    assert np.isnan(joint_interval([first, Cases([], [])], lambda means: means[0])).all()
    # A resample without a case of a small set says nothing and is left out.
    low, high = joint_interval([first, Cases([1.0], [0])], lambda means: means[1])
    assert (low, high) == (1.0, 1.0)


def test_figures_have_all_measures_and_finer_ones_the_main_one_by_attribute_and_label():
    scored = [
        asked("a", 1.0, size=0.01, judged=(Judged(confidence=0.95, is_right=True),)),
        asked("a", 0.0, size=0.0005, speed=0.3),
        asked("b", 1.0, label="jars", size=0.3, visible_fraction=0.95),
    ]
    result = summarise(scored)
    assert result["figures"] == {"pointing_f1": 0.6667, "hidden_left_out": 0.8333}
    assert result["cases"]["hidden_left_out"] == 6
    assert result["finer"] == {
        "calibration_error": 0.05,
        "pointing_f1, size 0 to 0.1 %": 0.0,
        "pointing_f1, size 0.5 to 2 %": 1.0,
        "pointing_f1, size 10 % and more": 1.0,
        "pointing_f1, visible 90 % and more": 1.0,
        "pointing_f1, speed 0.2 and more": 0.0,
        "pointing_f1, mugs": 0.5,
        "pointing_f1, jars": 1.0,
    }
    lines = list(table(result))
    assert lines[1].split() == ["pointing_f1", "0.667", "0.500", "..", "1.000", "3"]
    assert any(line.split()[:2] == ["pointing_f1,", "jars"] for line in lines)


def test_a_bin_holds_its_lower_bound_and_a_bar_its_interval():
    (size, visible, speed) = ATTRIBUTES
    scored = [asked("a", 1.0, size=0.005), asked("b", 0.0, size=0.0199), asked("c", 1.0)]
    ((title, chosen),) = binned(scored, size)
    assert (title, len(chosen)) == ("0.5 to 2 %", 2)
    shown = bar(title, chosen)
    assert (shown.value, shown.low, shown.high, shown.num) == (0.5, 0.0, 1.0, 2)
    assert binned(scored, speed) == binned(scored, visible) == []


def test_a_long_table_is_cut_and_says_so():
    scored = [asked("a", 1.0, label=f"label {i}") for i in range(80)]
    lines = list(table(summarise(scored)))
    assert lines[-1] == "... and 20 more, with --json"

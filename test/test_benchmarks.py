"""What every benchmark prints: a table for people, or one JSON object with figures for programs."""

import json
from pathlib import Path

import pytest

from benchmarks.report import publish, spread

BENCHMARKS = sorted(
    path
    for path in (Path(__file__).parents[1] / "benchmarks").glob("*.py")
    if "__main__" in path.read_text(encoding="utf-8")
)
ROWS = [spread("a long name", [1.0, 2.0, 3.0], "ms"), spread("short", [12345.678] * 2, "ms")]


def show(capsys, as_json):
    publish(
        "example",
        ROWS,
        packages=("numpy", "no-such-package"),
        settings={"runs": 3},
        figures={"speedup": 2.5},
        equality={"tokens equal": True},
        as_json=as_json,
    )
    return capsys.readouterr().out


def test_json_is_one_object_with_figures_and_what_lies_behind_them(capsys):
    report = json.loads(show(capsys, as_json=True))
    assert report["figures"] == {"speedup": 2.5}
    assert report["equality"] == {"tokens equal": True}
    assert report["rows"] == ROWS
    assert set(report["versions"]) == {"python", "numpy"}
    assert {"name", "commit", "date", "machine", "settings"} <= set(report)


def test_table_has_a_line_for_each_row_figure_and_check(capsys):
    lines = show(capsys, as_json=False).splitlines()
    assert lines == [
        "case         median    p90    p99  n  unit",
        "a long name       2    2.8   2.98  3  ms",
        "short         12346  12346  12346  2  ms",
        "tokens equal: True",
        "speedup: 2.5",
    ]


@pytest.mark.parametrize("path", BENCHMARKS, ids=lambda path: path.stem)
def test_every_benchmark_prints_json_when_it_is_told_to(path):
    source = path.read_text(encoding="utf-8")
    assert '"--json", action="store_true"' in source

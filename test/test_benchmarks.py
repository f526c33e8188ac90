"""What every benchmark prints: a table for people, or one JSON object with figures for programs."""

import json
import xml.etree.ElementTree as ElementTree
from pathlib import Path

import numpy as np
import pytest

from benchmarks import (
    bench_confidence,
    bench_depth,
    bench_full_size,
    bench_retrain,
    bench_self_test,
)
from benchmarks.report import publish, share_interval, spread
from molmo2_ros.engines.quantization import Quantization
from molmo2_ros.engines.quantize import quantize_engine
from molmo2_ros.runtime.engine import NANO
from molmo2_ros.training.metrics import ReliabilityBin

# Of benchmarks, with a command of their own.
PARTS = ("fuzz_messages", "random_checkpoint", "soak_camera", "soak_node")
BENCHMARKS = sorted(
    path
    for path in (Path(__file__).parents[1] / "benchmarks").glob("*.py")
    if "__main__" in path.read_text(encoding="utf-8") and path.stem not in PARTS
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


def test_confidence_is_measured_by_kind_and_drawn(capsys, tmp_path):
    plot = tmp_path / "plot.svg"
    few = ["--scenes", "8", "--clips", "3", "--seed", "2"]
    assert bench_confidence.main([*few, "--json", "--plot", str(plot)]) == 0
    report = json.loads(capsys.readouterr().out)
    assert {"confidence_ece", "confidence_ece_raw", "confidence_auroc"} <= set(report["figures"])
    rows = {row["case"]: row for row in report["rows"]}
    kinds = ("point", "point_all", "count", "track")
    assert sum(rows[kind]["points"] for kind in kinds) == rows["all"]["points"]
    frames = [row["points"] for case, row in rows.items() if case.startswith("track, frame")]
    assert sum(frames) == rows["track"]["points"]
    assert report["figures"]["confidence_ece"] == rows["all"]["ece"]
    assert ElementTree.fromstring(plot.read_text()).tag.endswith("svg")


def test_confidence_is_not_measured_on_scenes_for_fitting(capsys):
    with pytest.raises(SystemExit):
        bench_confidence.main(["--seed", "100"])
    assert "seed 100 may have been fitted on, expected less than 100" in capsys.readouterr().err


def test_reliability_diagram_has_a_disc_a_bin_where_it_belongs():
    bins = [
        ReliabilityBin(num=30, foretold=0.25, came=0.5),
        ReliabilityBin(num=90, foretold=0.75, came=1.0),
    ]
    picture = ElementTree.fromstring(bench_confidence.diagram({"a < b": bins, "raw": bins}))
    discs = [
        (float(disc.get("cx")), float(disc.get("cy")))
        for disc in picture.iter("{http://www.w3.org/2000/svg}circle")
        if len(disc)
    ]
    left, top, side = bench_confidence.LEFT, bench_confidence.TOP, bench_confidence.SIDE
    place = [(left + side / 4, top + side / 2), (left + side * 3 / 4, top)]
    assert discs == 2 * place
    words = [text.text for text in picture.iter("{http://www.w3.org/2000/svg}text")]
    assert "a < b: ECE 0.250" in words


@pytest.mark.parametrize(
    ("num", "share", "low", "high"),
    [(10, 0.0, 0.0, 0.278), (10, 1.0, 0.722, 1.0), (100, 0.5, 0.404, 0.596)],
)
def test_interval_of_a_share(num, share, low, high):
    assert share_interval(share, num) == pytest.approx((low, high), abs=1e-3)


def test_depth_is_measured_by_distance_and_by_edge(capsys):
    assert bench_depth.main(["--scenes", "1", "--points", "8", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    rows = {row["case"]: row for row in report["rows"]}
    num_points = rows["1 % noise, 20 % holes"]["n"]
    assert num_points == 8 * len(bench_depth.DISTANCES_M)
    assert sum(row["n"] for case, row in rows.items() if case.startswith("at ")) == num_points
    assert sum(row["n"] for case, row in rows.items() if "edge" in case) == num_points
    assert report["figures"]["depth_median_error"] == rows["1 % noise, 20 % holes"]["median"]
    assert report["figures"]["depth_median_error"] < 0.02


def test_proving_an_engine_is_timed_in_and_around_its_load(capsys):
    assert bench_self_test.main(["--runs", "3", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    figures = report["figures"]
    assert figures["remembered_s"] < figures["self_test_s"] < figures["first_answer_s"]
    assert report["equality"]["largest logit error of the golden example"] < 1e-4
    assert len(report["rows"]) == 6


def test_a_depths_standard_deviation_is_held_against_its_errors():
    # In sigmas: 0.5, 1.5 and 2.5, and one point without metres.
    points = [
        bench_depth.Judged(distance_m=1.0, edge_px=3.0, error=error, sigmas=error / 0.01)
        for error in (0.005, 0.015, 0.025, float("nan"))
    ]
    line = bench_depth.row("case", points)
    assert (line["within_1_sigma"], line["within_2_sigma"]) == (0.333, 0.667)
    assert (line["median"], line["unknown"], line["n"]) == (0.015, 0.25, 4)


def test_spoilt_depth_has_the_noise_and_the_holes_that_it_names():
    true_m = np.full((480, 640), 2.0, np.float32)
    spoilt_m = bench_depth.HEADLINE.spoil(true_m, np.random.default_rng(0))
    known_m = spoilt_m[spoilt_m > 0]
    assert 1 - known_m.size / true_m.size == pytest.approx(0.2, abs=0.02)
    assert known_m.std() == pytest.approx(0.02, rel=0.02)
    assert np.allclose(1000 * known_m, np.round(1000 * known_m), atol=1e-3)


def test_full_size_measures_each_stage_of_an_engine_and_what_a_token_reads(tmp_path):
    quantize_engine(NANO, tmp_path / "int4", Quantization(), gauge=None, threads=1)
    # Six layers of 128 x 704 + 384 x 384 weights and a head, each of 5 bits with its scale; norms.
    weights = 6 * (128 * (128 + 64 + 64 + 128) + 3 * 128 * 384) + 128 * 640
    num_bytes = bench_full_size.matrix_bytes(tmp_path / "int4" / "decoder.onnx")
    assert weights * 5 / 8 <= num_bytes < weights * 5 / 8 + 20_000
    rows, figures = bench_full_size.measure(tmp_path / "int4", 1, 1)
    cases = [row["case"] for row in rows]
    assert cases[:2] == ["load, hashes checked", "vision, one frame"]
    assert [case.split(",")[0] for case in cases[-2:]] == ["pass of 1", "pass of 12"]
    assert 0 < figures["resident_gb"] <= figures["peak_gb"]
    num_past = int(cases[-1].split()[-1])
    token_gb = (num_bytes + 2 * 4 * 6 * 2 * 32 * num_past) / 1e9
    assert figures["token_gb"] == pytest.approx(token_gb, abs=5e-4)
    assert 0 < figures["bandwidth_share"] < 1


TWO_PEOPLE = bench_retrain.MarkedFrame(
    frame=480,
    people=((10, 10, 20, 40), (50, 10, 60, 40)),
    unclear=((80, 10, 90, 40), (15, 10, 30, 40)),
)


# points in pixels of a picture of 100 x 50; hits, points that count
@pytest.mark.parametrize(
    ("points", "hits", "num_points"),
    [
        ([], 0, 0),
        ([(15, 25), (55, 25)], 2, 2),
        ([(15, 25), (16, 30)], 1, 2),  # both on one person
        ([(55, 25), (55, 45)], 1, 2),  # the second is below
        ([(85, 25)], 0, 0),  # on something unclear: neither right nor wrong
        ([(18, 25)], 1, 1),  # on a person before something unclear
        ([(15, 25), (35, 25), (55, 25)], 2, 3),
    ],
)
def test_people_are_hit_by_one_point_each(points, hits, num_points):
    found = bench_retrain.score([(x / 100, y / 50) for x, y in points], TWO_PEOPLE, (100, 50))

    assert (found.hits, found.num_points, found.num_people) == (hits, num_points, 2)
    assert found.f1 == pytest.approx(2 * hits / (num_points + 2))


def test_people_are_marked_on_the_part_that_nothing_was_trained_on():
    marked = bench_retrain.marked_people()

    assert sum(len(one.people) for one in marked.frames) >= 150
    first = min(one.frame for one in marked.frames)
    assert first >= round((1 - bench_retrain.HELD_OUT) * 795)
    for one in marked.frames:
        for left, top, right, bottom in (*one.people, *one.unclear):
            assert 0 <= left < right <= marked.width
            assert 0 <= top < bottom <= marked.height

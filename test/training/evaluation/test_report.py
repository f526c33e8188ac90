"""Plots, and a page of failures that stands alone."""

import base64
import re

import cv2
import numpy as np
import pytest

from molmo2_ros.errors import DataError
from molmo2_ros.training.evaluation.questions import Kind
from molmo2_ros.training.evaluation.report import MOST_OF_EXAMPLE, NUM_FAILURES, Report
from molmo2_ros.training.evaluation.scoring import Judged, Mark, Scored

EVIL = "<script>alert(1)</script>"
GREY = np.full((60, 80, 3), 120, np.uint8)


def asked(number, f1, *, example=None, marks=(), sure=0.5, main="pointing_f1", **known):
    return Scored(
        example=example or f"example {number}",
        kind=Kind.POINTING,
        main=main,
        label="mugs",
        question=f"Question {number}? {EVIL}",
        expected=EVIL,
        said=f"{EVIL} said {number}",
        measures={main: (f1,)},
        judged=(Judged(confidence=sure, is_right=f1 > 0.5),),
        distances=(0.1 * f1,),
        marks=marks,
        **known,
    )


def pictures_of(page):
    found = re.findall(r'src="data:image/jpeg;base64,([^"]+)"', page)
    decoded = [np.frombuffer(base64.b64decode(data), np.uint8) for data in found]
    return [cv2.imdecode(data, cv2.IMREAD_COLOR)[..., ::-1].astype(int) for data in decoded]


def write(tmp_path, *cases):
    report = Report(tmp_path / "report")
    for one, frames, places in cases:
        report.add(one, frames, places)
    files = report.write("nano on rendered scenes")
    page = (tmp_path / "report" / "failures.html").read_text(encoding="utf-8")
    return [path.name for path in files], page


def test_the_page_fetches_nothing_and_escapes_what_others_wrote(tmp_path):
    _, page = write(tmp_path, (asked(0, 0.0, example=EVIL), [GREY], [1.0]))
    assert "<script" not in page
    assert page.count("&lt;script&gt;") == 4  # name, question, expected, said
    assert not re.findall(r'(?:src|href)="(?!data:)', page)
    assert "default-src 'none'" in page


def test_truth_is_a_ring_and_the_answer_a_point(tmp_path):
    marks = (
        Mark(at=1.0, x=0.25, y=0.5, is_truth=True),
        Mark(at=1.0, x=0.75, y=0.5, is_truth=False, name="1"),
    )
    _, page = write(tmp_path, (asked(0, 0.0, marks=marks), [GREY], [1.0]))
    (picture,) = pictures_of(page)
    height, width = 315, 420
    ring = picture[round(0.5 * height), round(0.25 * width) + 13]
    inside = picture[round(0.5 * height), round(0.25 * width)]
    point = picture[round(0.5 * height), round(0.75 * width)]
    assert ring[1] > ring[0] + 60  # green
    assert abs(inside - 120).max() < 12  # the picture is seen through the ring
    assert point[0] > point[1] + 60  # pink


def test_a_clip_is_a_strip_of_the_frames_that_have_a_point(tmp_path):
    frames = [np.full((60, 80, 3), 10 * i, np.uint8) for i in range(20)]
    marks = tuple(Mark(at=0.5 * i, x=0.5, y=0.5, is_truth=True) for i in (3, 4, 17))
    one = asked(0, 0.0, marks=marks)
    _, page = write(tmp_path, (one, frames, [0.5 * i for i in range(20)]))
    (strip,) = pictures_of(page)
    assert strip.shape[1] == 3 * (260 + 4)
    shades = [int(strip[170, 130 + 264 * i].mean()) for i in range(3)]
    assert shades == pytest.approx([30, 40, 170], abs=6)


def test_the_worst_of_each_measure_come_first_and_few_of_one_example(tmp_path):
    cases = [(asked(i, i / 40), [GREY], [1.0]) for i in range(40)]
    cases += [(asked(50 + i, 0.0, example="same", sure=0.9), [GREY], [1.0]) for i in range(5)]
    cases += [(asked(60, 0.9, main="hota"), [GREY], [1.0]), (asked(61, 1.0), [GREY], [1.0])]
    _, page = write(tmp_path, *cases)
    pointing, other = page.split("<h2>hota</h2>")
    shown = re.findall(r"<h3>(.*?)</h3>", pointing)
    assert len(shown) == NUM_FAILURES
    assert shown[:MOST_OF_EXAMPLE] == ["same"] * MOST_OF_EXAMPLE  # of the zeros the surest
    assert shown[MOST_OF_EXAMPLE:] == [f"example {i}" for i in range(6)]
    assert re.findall(r"<h3>(.*?)</h3>", other) == ["example 60"]
    assert "example 61" not in page  # the full score is no failure


def test_plots_are_made_of_what_is_known(tmp_path):
    plain, _ = write(tmp_path, (asked(0, 1.0), [GREY], [1.0]))
    assert plain == ["failures.html", "reliability.png", "distances.png"]  # nothing failed
    known = [
        asked(i, f1, size=0.01 * i, visible_fraction=0.1 * i, speed=0.05 * i)
        for i, f1 in enumerate((0.2, 0.8, 1.0, 0.5))
    ]
    files, _ = write(tmp_path / "more", *((one, [GREY], [1.0]) for one in known))
    assert files == [
        "failures.html",
        "failures.jpg",
        "by_size.png",
        "by_visible.png",
        "by_speed.png",
        "reliability.png",
        "distances.png",
    ]
    for name in files[1:]:
        image = cv2.imread(str(tmp_path / "more" / "report" / name))
        assert image.shape[0] > 300
        assert image.std() > 10  # there is something on it


def test_a_server_without_confidences_gets_no_reliability_plot(tmp_path):
    files, page = write(tmp_path, (asked(0, 0.0, sure=float("nan")), [GREY], [1.0]))
    assert "reliability.png" not in files
    assert "<dt>confidence</dt>" not in page


def test_nothing_to_report_and_no_place_to_write_are_told(tmp_path):
    with pytest.raises(DataError, match="no question was scored"):
        Report(tmp_path).write("x")
    (tmp_path / "file").write_text("")
    report = Report(tmp_path / "file" / "report")
    report.add(asked(0, 0.0), [GREY], [1.0])
    with pytest.raises(DataError, match="cannot write to"):
        report.write("x")

"""Labellers are found, made, refused; detectors and a teacher point at what is there."""

import sys

import cv2
import numpy as np
import pytest

from molmo2_ros.camera.frame import Frame
from molmo2_ros.errors import ConfigError
from molmo2_ros.simulation.source import TableSource
from molmo2_ros.training.logs import detectors, labellers
from molmo2_ros.training.logs.detectors import distinct
from molmo2_ros.training.logs.label_log import LabelSettings
from molmo2_ros.training.logs.labellers import LabelWish, make_labeller, parse_wish
from molmo2_ros.training.logs.teacher import teacher

PLUG_IN = """
from molmo2_ros.training.logs.labellers import MadeLabels, MadePoint

class Corner:
    source = "corner"
    def __init__(self, argument=""):
        self.argument = argument
    def label(self, frames, phrase):
        return MadeLabels(points=(MadePoint(frame=0, x=0.0, y=0.0, confidence=1.0),))

class Impostor(Corner):
    source = "human"

ready = Corner("ready")
"""


@pytest.fixture
def plug_in(tmp_path, monkeypatch):
    (tmp_path / "their_labels.py").write_text(PLUG_IN)
    monkeypatch.syspath_prepend(str(tmp_path))
    yield
    sys.modules.pop("their_labels", None)


@pytest.mark.parametrize(
    ("text", "wish"),
    [
        ("hog:person", ("hog", "", "person")),
        ("haar=frontalface_default:a  face", ("haar", "frontalface_default", "a face")),
        ("teacher=http://gpu:8000:red mug", ("teacher", "http://gpu:8000", "red mug")),
        ("my.labels:make=x=1:dog", ("my.labels:make", "x=1", "dog")),
    ],
)
def test_a_wish_is_read(text, wish):
    assert parse_wish(text) == LabelWish(name=wish[0], argument=wish[1], phrase=wish[2])


@pytest.mark.parametrize("text", ["", "hog", "hog:", ":person", "=x:person"])
def test_a_wish_without_labeller_or_phrase_is_refused(text):
    with pytest.raises(ConfigError, match="expected LABELLER.* hog:person; labellers: haar, hog"):
        parse_wish(text)


def test_a_plug_in_is_found_by_its_place(plug_in):
    made = make_labeller(parse_wish("their_labels:Corner=7:dog"))
    assert (made.source, made.argument) == ("corner", "7")
    assert make_labeller(parse_wish("their_labels:ready:dog")).argument == "ready"


def test_a_plug_in_is_found_by_its_entry_point(plug_in, tmp_path):
    info = tmp_path / "theirs-1.0.dist-info"
    info.mkdir()
    (info / "METADATA").write_text("Metadata-Version: 2.1\nName: theirs\nVersion: 1.0\n")
    (info / "entry_points.txt").write_text("[molmo2_ros.labellers]\ncorner = their_labels:Corner\n")

    assert labellers.known_labellers()["corner"] == "their_labels:Corner"
    assert make_labeller(parse_wish("corner=3:dog")).argument == "3"


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("hoog:person", "no labeller 'hoog'; there are haar, hog, teacher"),
        ("their_labels:Nobody:dog", "at their_labels:Nobody cannot be loaded"),
        ("no_such_module:x:dog", "cannot be loaded: No module named"),
        ("their_labels:Impostor:dog", "calls itself 'human', expected a name of its own"),
    ],
)
def test_labellers_that_are_missing_or_claim_to_be_people_are_refused(plug_in, text, words):
    with pytest.raises(ConfigError, match=words):
        make_labeller(parse_wish(text))


@pytest.mark.parametrize("make", [detectors.hog, detectors.haar])
def test_an_opencv_without_detectors_is_told_with_the_cure(monkeypatch, make):
    monkeypatch.delattr(cv2, "HOGDescriptor", raising=False)
    monkeypatch.delattr(cv2, "CascadeClassifier", raising=False)

    with pytest.raises(ConfigError, match="pip install opencv-contrib-python-headless"):
        make("")


def drawn_person(x, y):
    """A dark figure of 150 pixels on light ground, uint8 [240, 320, 3]."""
    image = np.full((240, 320, 3), 200, np.uint8)
    top, dark = y - 75, (50, 50, 60)
    cv2.circle(image, (x, top + 15), 12, dark, -1)
    cv2.ellipse(image, (x, top + 54), (19, 30), 0, 0, 360, dark, -1)
    for left in (x - 16, x + 3):
        cv2.rectangle(image, (left, top + 75), (left + 13, top + 150), dark, -1)
    return Frame(image=cv2.GaussianBlur(image, (5, 5), 0), stamp_ns=0)


def test_people_are_found_where_this_opencv_has_the_detector_and_else_it_says_so():
    if not hasattr(cv2, "HOGDescriptor"):  # OpenCV 5 without its extra modules
        with pytest.raises(ConfigError, match=f"OpenCV {cv2.__version__} has no HOGDescriptor"):
            make_labeller(parse_wish("hog:person"))
        return
    empty = Frame(image=np.full((240, 320, 3), 200, np.uint8), stamp_ns=0)

    made = make_labeller(parse_wish("hog:person")).label(
        [drawn_person(160, 120), empty, drawn_person(90, 130)], "person"
    )

    assert [point.frame for point in made.points] == [0, 2]
    assert made.points[0].x * 320 == pytest.approx(160, abs=4)
    assert made.points[1].y * 240 == pytest.approx(130, abs=6)
    assert all(point.confidence > 0.5 for point in made.points)


@pytest.mark.parametrize("argument", ["tall", "12", "127", "4001", "-400", "400.5", "9" * 40])
def test_a_height_that_no_picture_is_enlarged_to_is_refused(argument):
    with pytest.raises(ConfigError, match=f"hog was given '{argument}', expected the height"):
        detectors.hog(argument)


def test_people_who_are_small_are_found_where_the_picture_is_enlarged_enough():
    if not hasattr(cv2, "HOGDescriptor"):  # OpenCV 5 without its extra modules
        with pytest.raises(ConfigError, match="has no HOGDescriptor"):
            detectors.hog("800")
        return
    small = cv2.resize(drawn_person(160, 120).image, None, fx=0.5, fy=0.5)
    frame = Frame(image=cv2.copyMakeBorder(small, 0, 280, 0, 320, cv2.BORDER_REPLICATE), stamp_ns=0)

    assert not detectors.hog("").label([frame], "person").points
    (found, *_) = detectors.hog("800").label([frame], "person").points
    assert found.x * frame.width == pytest.approx(80, abs=4)


def test_of_boxes_on_each_other_the_surest_is_kept():
    boxes = np.array([[0, 0, 10, 10], [2, 2, 6, 6], [8, 8, 10, 10], [100, 0, 5, 5]], float)

    assert distinct(boxes, np.array([0.5, 0.9, 0.4, 0.1])) == [1, 2, 3]
    assert distinct(boxes[:0], np.array([])) == []


@pytest.fixture(scope="module")
def table():
    source = TableSource(seed=0, width=320, height=240, rate_hz=5.0)
    frames, truths = [], []
    for number in range(3):
        frames.append(Frame(image=source.read().image, stamp_ns=number * 500_000_000))
        truths.append({thing["name"]: thing for thing in source.truth()})
    return frames, truths


def test_a_teacher_points_at_what_is_asked_for(table):
    frames, truths = table
    made = teacher("nano").label(frames[:1], "red mug")

    assert made.points
    u, v = truths[0]["red mug"]["point_px"]
    point = made.points[0]
    assert np.hypot(point.x * 320 - u, point.y * 240 - v) < 25
    assert 0 <= point.confidence <= 1


def test_a_teacher_follows_things_through_a_clip(table):
    frames, _ = table
    made = teacher("nano").label(frames, "red mug")

    assert {point.frame for point in made.points} <= {0, 1, 2}
    assert len({(point.frame, point.thing) for point in made.points}) == len(made.points)
    assert all(point.thing is not None for point in made.points)


def test_a_teacher_needs_a_model():
    with pytest.raises(ConfigError, match="teacher=ENGINE_FOLDER:PHRASE"):
        teacher("")


@pytest.mark.parametrize(("name", "value"), [("every", 0), ("max_clips", -1), ("min_given", 0)])
def test_label_settings_out_of_range_are_refused(name, value):
    with pytest.raises(ConfigError, match=f"{name} is {value}"):
        LabelSettings(**{name: value})

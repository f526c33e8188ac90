"""Corrections of the live page become examples, and those that were taken back do not."""

import numpy as np
import pytest

from molmo2_ros.camera.frame import Frame
from molmo2_ros.corrections import Review
from molmo2_ros.errors import DataError
from molmo2_ros.training.data.readers import ReadReport, open_reader
from molmo2_ros.web.review_store import ReviewStore

STAMP_NS = 1_700_000_000_250_000_000


@pytest.fixture
def store(tmp_path):
    store = ReviewStore(tmp_path)
    for number in range(3):
        image = np.full((120, 160, 3), 40 * number, np.uint8)
        store.remember(Frame(image=image, stamp_ns=STAMP_NS + number))
    yield store
    store.close()


def say(store, number, query, *points, **changed):
    about = {"id": "web-1", "frame_id": "", "source": "web", "points_px": points, **changed}
    store.write(Review(query=query, stamp_ns=STAMP_NS + number, **about))


def test_each_corrected_picture_is_an_example_of_all_that_was_said_last(store, tmp_path):
    say(store, 0, "mugs", (10.0, 20.0))
    say(store, 0, "mugs", (79.5, 59.5), (0.0, 0.0))
    say(store, 0, "dog")
    say(store, 1, "lemon", (1.0, 1.0))
    say(store, 1, "lemon", retracted=True)

    (example,) = open_reader("web-corrections", tmp_path)
    assert example.media.images == (str(tmp_path / "pictures" / f"{STAMP_NS}.jpg"),)
    mugs, dog = example.annotations
    assert [(p.x, p.y) for thing in mugs.objects for p in thing.points] == [
        (0.5, 0.5), (0.5 / 160, 0.5 / 120),
    ]  # fmt: skip
    assert (mugs.label, mugs.source) == ("mugs", "human")
    assert (dog.label, dog.objects) == ("dog", ())


def test_lines_and_pictures_that_are_damaged_are_told(store, tmp_path):
    say(store, 0, "mugs", (10.0, 20.0))
    say(store, 2, "mugs", (10.0, 20.0))
    (tmp_path / "pictures" / f"{STAMP_NS}.jpg").unlink()
    with (tmp_path / "corrections.jsonl").open("a") as lines:
        lines.write('{"query": "mu')  # a kill in the middle of a line
    report = ReadReport()
    (example,) = open_reader("web-corrections", tmp_path, report=report)
    assert example.name == str(STAMP_NS + 2)
    told = "\n".join(report.lines())
    assert "media not found" in told
    assert "malformed" in told


def test_a_folder_without_corrections_is_refused(tmp_path):
    with pytest.raises(DataError, match="has no corrections.jsonl"):
        list(open_reader("web-corrections", tmp_path))

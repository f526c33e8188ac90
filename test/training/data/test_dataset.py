import errno
import json
import os
import signal
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from molmo2_ros.errors import DataError
from molmo2_ros.training.data.dataset import Dataset, read_example, write_example
from molmo2_ros.training.data.dataset_writer import DatasetWriter, as_parquet
from molmo2_ros.training.data.example import (
    Annotation,
    Example,
    LabelledObject,
    LabelledPoint,
    Media,
    Task,
)

ROOT = Path(__file__).parents[3]
share = st.floats(0, 1)
words = st.text(min_size=1, max_size=30).filter(str.strip)
rates = st.none() | st.floats(0.1, 30)


@st.composite
def examples(draw):
    is_clip = draw(st.booleans())
    count = draw(st.integers(1, 3))
    media = (
        Media(
            frames=tuple(f"frames/{i}.jpg" for i in range(count)),
            times_s=tuple(0.5 * i for i in range(count)),
            subtitles=draw(st.lists(st.tuples(share, share, words), max_size=2).map(tuple)),
        )
        if is_clip
        else Media(images=tuple(f"{i}.png" for i in range(count)))
    )
    places = [{"time_s": 0.5 * i} if is_clip else {"image": i + 1} for i in range(count)]
    objects = draw(
        st.lists(
            st.builds(
                lambda xs, seen: LabelledObject(
                    points=tuple(
                        LabelledPoint(x=x, y=1 - x, visible=seen, **place)
                        for x, place in zip(xs, places, strict=False)
                    ),
                    masks=((0.5, "masks/a.png"),),
                ),
                st.lists(share, max_size=count),
                st.booleans(),
            ),
            max_size=3,
        ).map(tuple)
    )
    with_objects = st.builds(
        Annotation,
        task=st.sampled_from([task for task in Task if task.has_objects]),
        label=words,
        objects=st.just(objects),
        question=st.none() | words,
        fps=rates,
        weight=rates,
        source=words,
        confidence=st.none() | share,
    )
    in_words = st.builds(
        lambda answer, more: Annotation(task=Task.REPLY, answer=answer, choices=(answer, more)),
        words,
        words,
    )
    annotations = draw(st.lists(with_objects | in_words, min_size=1, max_size=3).map(tuple))
    return Example(
        name=draw(words), media=media, annotations=annotations, dialogue=draw(st.booleans())
    )


@given(example=examples())
def test_an_example_is_read_as_it_was_written(example):
    line = write_example(example)
    assert "\n" not in line
    assert read_example(line, "here") == example


def example(name, source="human"):
    return Example(
        name=name,
        media=Media(images=("a.jpg",)),
        annotations=(Annotation(task=Task.POINT, label="mug", source=source),),
    )


def write(folder, *made):
    with DatasetWriter(folder) as writer:
        for each in made:
            writer.add(each)
    return folder


@pytest.fixture(params=["jsonl", "parquet"])
def folder(request, tmp_path):
    folder = write(tmp_path / "set", *(example(f"e{i}") for i in range(5)))
    if request.param == "parquet":
        as_parquet(folder)
    return folder


def test_a_data_set_is_read_by_number_and_in_order(folder):
    dataset = Dataset.open(folder)
    assert len(dataset) == 5
    assert dataset[3] == example("e3")
    assert [each.name for each in dataset] == ["e0", "e1", "e2", "e3", "e4"]
    assert dataset.about.sources == {"human": 5}


def test_a_data_set_kept_as_parquet_is_read_from_there_alone(tmp_path):
    odd = replace(example("e"), name="line\u2028break\x85and another")
    folder = write(tmp_path / "set", odd, example("f"))
    as_parquet(folder)
    (folder / "examples.jsonl").mkdir()  # whoever reads this fails
    assert [each.name for each in Dataset.open(folder)] == [odd.name, "f"]


def test_each_row_is_read_once(tmp_path, monkeypatch):
    folder = write(tmp_path / "set", example("a"), example("b", "hog"), example("c", "hog"))
    places = []

    def counted(line, place):
        places.append(place)
        return read_example(line, place)

    monkeypatch.setattr("molmo2_ros.training.data.dataset.read_example", counted)
    assert len(list(Dataset.open(folder, sources=["hog"]))) == 2
    assert len(places) == len(set(places)) == 3


def test_labels_of_people_and_of_machines_are_not_mixed_unasked(tmp_path):
    folder = write(tmp_path / "set", example("a"), example("b", "hog"), example("c", "hog"))
    with pytest.raises(DataError, match="has labels of hog, human, which are not mixed unless"):
        Dataset.open(folder)
    assert [e.name for e in Dataset.open(folder, sources=["hog"])] == ["b", "c"]
    assert Dataset.open(folder, sources=["hog"]).wanted() == [1, 2]
    assert len(list(Dataset.open(folder, sources=["hog", "human"]))) == 3
    with pytest.raises(DataError, match="no annotation of hog"):
        Dataset.open(folder, sources=["hog"])[0]
    with pytest.raises(DataError, match="has labels of hog, human, expected some of teacher"):
        Dataset.open(folder, sources=["teacher"])


def test_annotations_of_other_sources_are_left_out_of_an_example(tmp_path):
    both = replace(
        example("a"), annotations=example("a").annotations + example("a", "hog").annotations
    )
    dataset = Dataset.open(write(tmp_path / "set", both), sources=["human"])
    assert dataset[0] == example("a")


KILLED = """
import os, signal, sys
from pathlib import Path
from molmo2_ros.training.data.dataset import read_example
from molmo2_ros.training.data.dataset_writer import DatasetWriter
writer = DatasetWriter(Path(sys.argv[1]))
for line in sys.stdin:
    writer.add(read_example(line, "stdin"))
os.write(writer._rows.fileno(), b'{"name": "ha')
os.kill(os.getpid(), signal.SIGKILL)
"""


def test_a_killed_writer_is_gone_on_with_and_nothing_is_lost(tmp_path):
    rows = "\n".join(write_example(example(f"e{i}")) for i in range(3))
    ended = subprocess.run([sys.executable, "-c", KILLED, str(tmp_path)], input=rows, text=True)
    assert ended.returncode == -signal.SIGKILL
    with pytest.raises(DataError, match="no dataset.json"):
        Dataset.open(tmp_path)
    with DatasetWriter(tmp_path) as writer:
        assert len(writer) == 3
        assert "e2" in writer
        assert "ha" not in writer
        writer.add(example("e3"))
    assert [e.name for e in Dataset.open(tmp_path)] == ["e0", "e1", "e2", "e3"]


def test_a_name_is_given_once(tmp_path):
    with DatasetWriter(tmp_path) as writer:
        writer.add(example("a"))
        with pytest.raises(DataError, match="has an example 'a' already"):
            writer.add(example("a"))


def test_a_full_disk_keeps_what_was_made(tmp_path, monkeypatch):
    writer = DatasetWriter(tmp_path)
    writer.add(example("a"))

    class Full:
        """A file on a disk that takes no more."""

        def __init__(self, file):
            self.file = file

        def __getattr__(self, name):
            return getattr(self.file, name)

        def write(self, data):
            self.file.write(data[:5])
            self.file.flush()
            raise OSError(errno.ENOSPC, "No space left on device")

    monkeypatch.setattr(writer, "_rows", Full(writer._rows))
    with pytest.raises(DataError, match="No space left on device; its 1 examples are kept"):
        writer.add(example("b"))
    writer.close()
    assert [e.name for e in Dataset.open(tmp_path)] == ["a"]
    assert (tmp_path / "examples.jsonl").read_text().count("\n") == 1


def test_pictures_lie_beside_the_rows_whatever_an_example_is_called(tmp_path):
    image = np.full((40, 60, 3), (200, 30, 30), np.uint8)
    with DatasetWriter(tmp_path) as writer:
        paths = writer.add_frames("../../etc/pass wd", [image, image])
        others = writer.add_frames("../../etc/pass_wd", [image])
        mask = writer.add_mask("m", image[..., 0] > 0)
        writer.add(example("a"))
    assert not set(paths) & set(others)
    for path in (*paths, *others, mask):
        assert (tmp_path / path).resolve().is_relative_to(tmp_path.resolve())
    read = cv2.imread(str(tmp_path / paths[1]))[..., ::-1]
    assert np.abs(read.astype(int) - image).max() < 6
    assert (
        cv2.imread(str(tmp_path / mask), cv2.IMREAD_UNCHANGED).tolist()
        == np.full((40, 60), 255).tolist()
    )


def test_a_row_that_is_no_utf_8_is_named_by_reader_and_writer(tmp_path):
    folder = write(tmp_path / "set", example("mug"))
    rows = folder / "examples.jsonl"
    rows.write_bytes(rows.read_bytes().replace(b"mug", b"m\xffg"))
    for use in (lambda: Dataset.open(folder)[0], lambda: DatasetWriter(folder)):
        with pytest.raises(DataError, match="examples.jsonl, row 1 is no JSON: .*utf-8"):
            use()


def test_an_empty_data_set_is_refused(tmp_path):
    DatasetWriter(tmp_path).close()
    with pytest.raises(DataError, match="has no example, expected at least one"):
        Dataset.open(tmp_path)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("{", "examples.jsonl, row 2 is no JSON"),
        ('{"name":"x"}', "row 2: key annotations is missing"),
        ('{"name":"x","media":{"images":["a"]},"annotations":[],"extra":1}', "unknown key extra"),
        (
            '{"name":"x","media":{"images":["a"]},"annotations":[{"task":"pointing"}]}',
            "row 2: annotations: task is 'pointing', expected one of point, count, track",
        ),
        (
            '{"name":"x","media":{"images":["a"]},"annotations":[{"task":"point","label":"mug",'
            '"objects":[{"points":[{"x":1.5,"y":0,"image":1}]}]}]}',
            "row 2: point at x 1.5, y 0 is outside the picture",
        ),
    ],
)
def test_a_malformed_row_is_named(tmp_path, line, message):
    folder = write(tmp_path / "set", example("a"))
    with (folder / "examples.jsonl").open("a") as file:
        file.write(line + "\n")
    about = json.loads((folder / "dataset.json").read_text())
    (folder / "dataset.json").write_text(json.dumps({**about, "num_examples": 2}))
    with pytest.raises(DataError, match=message):
        list(Dataset.open(folder))


def test_a_data_set_that_was_cut_off_is_noticed_and_mended_by_a_writer(tmp_path):
    folder = write(tmp_path / "set", example("a"), example("b"))
    rows = folder / "examples.jsonl"
    os.truncate(rows, rows.stat().st_size - 3)
    with pytest.raises(DataError, match=r"has 1 rows, dataset.json says 2: it was cut off"):
        Dataset.open(folder)
    DatasetWriter(folder).close()
    assert [e.name for e in Dataset.open(folder)] == ["a"]


def test_a_newer_format_is_refused(tmp_path):
    folder = write(tmp_path / "set", example("a"))
    about = json.loads((folder / "dataset.json").read_text())
    (folder / "dataset.json").write_text(json.dumps({**about, "format": 2}))
    with pytest.raises(DataError, match="has format 2, expected 1; update molmo2_ros"):
        Dataset.open(folder)


def test_the_example_of_the_documentation_is_one(tmp_path):
    text = (ROOT / "docs" / "dataset_format.md").read_text(encoding="utf-8")
    content = text.split("<!-- example -->")[1].split("```json")[1].split("```")[0]
    example = read_example(json.dumps(json.loads(content)), "dataset_format.md")
    assert [a.task for a in example.annotations] == [Task.TRACK, Task.COUNT, Task.REPLY]
    with DatasetWriter(tmp_path) as writer:
        writer.add(example)
    assert Dataset.open(tmp_path, sources=["human", "hog"])[0] == example

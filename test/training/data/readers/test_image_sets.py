import hashlib

import cv2
import numpy as np
import pyarrow as pa
import pytest

from molmo2_ros.errors import ConfigError
from molmo2_ros.training.data.example import (
    Annotation,
    Example,
    LabelledObject,
    LabelledPoint,
    Media,
    Task,
)

URLS = [f"https://example.org/{n}.jpg" for n in range(6)]


def hashed(url):
    return hashlib.sha256(url.encode()).hexdigest()


@pytest.fixture
def images(tmp_path, touch):
    """The files of the first five addresses, as the authors' downloader names them."""
    touch(*(f"images/{hashed(url)}" + ".jpg" for url in URLS[:5]))
    return [str(tmp_path / "images" / f"{hashed(url)}.jpg") for url in URLS[:5]]


PAIRS = pa.struct([("question", pa.list_(pa.string())), ("answer", pa.list_(pa.string()))])
QA_SCHEMA = pa.schema([("image_urls", pa.list_(pa.string())), ("qa_pairs", PAIRS)])


def qa_row(urls, *pairs):
    questions, answers = ([pair[n] for pair in pairs] for n in (0, 1))
    return {"image_urls": urls, "qa_pairs": {"question": questions, "answer": answers}}


def test_questions_about_a_set_are_branches_that_ask_for_no_points(
    images, write_table, read, skipped
):
    write_table(
        "data/train-0.parquet",
        [
            qa_row(URLS[:2], ("What differs?", "The hat."), ("How many cats are there?", "Two.")),
            qa_row(URLS[:1], ("Who?", "Me.")),
            qa_row(URLS, ("Who?", "Me.")),
            qa_row(URLS[4:], ("Who?", "Me.")),
            qa_row(URLS[:2], ("Who?", "")),
            qa_row(URLS[:2], ("", "Me.")),
            qa_row(URLS[:2]),
        ],
        QA_SCHEMA,
    )
    (example,), report = read("molmo2-multi-image-qa")
    prefix = example.annotations[1].question.removesuffix("How many cats are there?")
    assert prefix in ("No pointing: ", "Do not point. ", "Answer this question without pointing: ")
    assert example == Example(
        name="set 0",
        media=Media(images=tuple(images[:2])),
        annotations=(
            Annotation(
                task=Task.REPLY,
                question="What differs?",
                answer="The hat.",
                style="correction_qa",
            ),
            Annotation(
                task=Task.REPLY,
                question=f"{prefix}How many cats are there?",
                answer="Two.",
                style="correction_qa",
            ),
        ),
    )
    place = "data/train-0.parquet, row"
    assert skipped(report) == [
        (f"{place} 1", "left out by rule", "1 images, expected 2 to 5"),
        (f"{place} 2", "left out by rule", "6 images, expected 2 to 5"),
        (f"{place} 3", "media not found", f"no file for {URLS[5]}"),
        (
            f"{place} 4",
            "malformed",
            "a reply annotation needs words as its answer, and has no objects",
        ),
        (f"{place} 5", "malformed", "an empty question"),
        (f"{place} 6", "malformed", "example 'set 6' has no name or no annotation"),
    ]


POINT_SCHEMA = pa.schema(
    [
        ("image_urls", pa.list_(pa.string())),
        ("image_sha256s", pa.list_(pa.string())),
        ("points", pa.list_(pa.list_(pa.struct([("x", pa.float32()), ("y", pa.float32())])))),
        ("counts", pa.list_(pa.int64())),
        ("labels", pa.list_(pa.string())),
        ("collection_method", pa.list_(pa.string())),
    ]
)


def point_row(urls, labels, points):
    return {
        "image_urls": urls,
        "image_sha256s": [hashed(url) for url in urls],
        "points": [[{"x": x, "y": y} for x, y in of_image] for of_image in points],
        "counts": [len(of_image) for of_image in points],
        "labels": labels,
        "collection_method": ["pointing"] * len(urls),
    }


def test_each_label_of_a_set_is_a_branch_over_all_its_images(images, write_table, read, skipped):
    write_table(
        "parquet/train-0.parquet",
        [
            point_row(
                URLS[:3],
                ["Cat", "dog", "cat"],
                [[(50.0, 25.0)], [], [(-0.5, 100.5), (75.0, 12.5)]],
            ),
            point_row(URLS[:1], ["mug"], [[(50.0, 25.0)]]),
            {**point_row(URLS[:2], ["a", "b"], [[], []]), "labels": ["a"]},
            point_row(URLS, ["a"] * 6, [[]] * 6),
        ],
        POINT_SCHEMA,
    )
    examples, report = read("molmo2-multi-image-point", tasks=("count",))

    def thing(image, x, y):
        return LabelledObject(points=(LabelledPoint(x=x, y=y, image=image),))

    def count(label, style, *objects):
        return Annotation(task=Task.COUNT, label=label, objects=objects, style=style)

    style = "multi_image_point_then_count"
    assert examples == [
        Example(
            name="set 0",
            media=Media(images=tuple(images[:3])),
            annotations=(
                count("Cat", style, thing(1, 0.5, 0.25), thing(3, 0.0, 1.0), thing(3, 0.75, 0.125)),
                count("dog", style),
            ),
        ),
        Example(
            name="set 1",
            media=Media(images=tuple(images[:1])),
            annotations=(count("mug", None, thing(1, 0.5, 0.25)),),
        ),
    ]
    assert skipped(report) == [
        (
            "parquet/train-0.parquet, row 2",
            "malformed",
            "2 addresses, 2 hashes, 1 labels and points of 2 images, expected as many of each",
        ),
        ("parquet/train-0.parquet, row 3", "left out by rule", "6 images, expected 1 to 5"),
    ]


def test_branches_of_sets_point_and_count(images, write_table, read):
    rows = [point_row(URLS[:2], ["a", "a"], [[(1.0, 1.0)], []])] * 60
    write_table("train.parquet", rows, POINT_SCHEMA)
    examples, _ = read("molmo2-multi-image-point")
    found = [(a.task, a.style) for example in examples for a in example.annotations]
    assert set(found) == {
        (Task.POINT, "multi_image_pointing"),
        (Task.COUNT, "multi_image_point_then_count"),
    }
    assert 15 < [task for task, _ in found].count(Task.COUNT) < 45


def png(value):
    return cv2.imencode(".png", np.full((4, 6, 3), value, np.uint8))[1].tobytes()


def document_row(name="d1", num_images=2, **changes):
    row = {
        "id": name,
        "images": [{"bytes": png(10 * n), "path": None} for n in range(num_images)],
        "qa_pairs": {
            "question": ["Which is higher?", "How high?"],
            "explanation": ["Bar 2 is at 7.", ""],
            "answer": ["Bar 2", "7"],
        },
        "metadata": {"num_images": num_images},
    }
    return {**row, **changes}


def test_rendered_documents_are_written_and_explained(tmp_path, write_table, read, skipped):
    write_table(
        "chart/train-0.parquet",
        [
            document_row(),
            document_row("d2", 6),
            document_row("d3", images=[{"bytes": b"no picture", "path": None}]),
            document_row("d4", images=[{"bytes": None, "path": "x.png"}]),
        ],
    )
    write_table("doc/train-0.parquet", [document_row()])
    out = tmp_path / "out"
    examples, report = read("molmo2-syn-multi-image-qa", store=out)
    example = examples[0]

    def reply(question, answer, style):
        return Annotation(
            task=Task.REPLY, question=question, answer=answer, style=style, source="synthetic"
        )

    assert example == Example(
        name="chart d1",
        media=Media(images=example.media.images),
        annotations=(
            reply("Which is higher?", "Bar 2 is at 7. Answer: Bar 2", "cosyn_chart_exp"),
            reply("How high?", "7", "cosyn_chart"),
        ),
    )
    assert [(out / path).read_bytes() for path in example.media.images] == [png(0), png(10)]
    assert examples[1].name == "doc d1"
    place = "chart/train-0.parquet, row"
    assert [(row[0], row[1]) for row in skipped(report)] == [
        (f"{place} 1", "left out by rule"),
        (f"{place} 2", "malformed"),
        (f"{place} 3", "malformed"),
    ]
    assert "10 bytes that are no whole picture" in skipped(report)[1][2]
    terse, _ = read("molmo2-syn-multi-image-qa", store=out, configs=("doc",), explain=False)
    assert terse[0].annotations[0] == reply("Which is higher?", "Bar 2", "cosyn_doc")


def test_documents_need_a_place_and_a_known_kind(tmp_path, read):
    with pytest.raises(ConfigError, match=r"\(store\)"):
        read("molmo2-syn-multi-image-qa")
    with pytest.raises(ConfigError, match="no configuration 'charts', expected of chart, chemical"):
        read("molmo2-syn-multi-image-qa", store=tmp_path / "out", configs=("charts",))

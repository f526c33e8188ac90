import json

import cv2
import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from molmo2_ros.training.data.readers import ReadReport, open_reader


@pytest.fixture
def write_table(tmp_path):
    """Rows as a file of the downloaded data set: Parquet, JSON Lines or JSON by its name."""

    def write(name, rows, schema=None):
        path = tmp_path / name
        path.parent.mkdir(parents=True, exist_ok=True)
        if path.suffix == ".parquet":
            pq.write_table(pa.Table.from_pylist(rows, schema=schema), path)
        elif path.suffix == ".jsonl":
            path.write_text("".join(json.dumps(row) + "\n" for row in rows))
        else:
            path.write_text(json.dumps(rows))
        return path

    return write


@pytest.fixture
def touch(tmp_path):
    """Files that only have to be there: no reader opens a video."""

    def touch(*names):
        for name in names:
            path = tmp_path / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_bytes(b"")

    return touch


@pytest.fixture
def read(tmp_path):
    """All examples of the folder, and the report."""

    def read(kind, **options):
        report = ReadReport()
        examples = list(open_reader(kind, tmp_path, report=report, **options))
        assert report.num_examples == len(examples)
        return examples, report

    return read


@pytest.fixture
def skipped():
    """What a report says of the rows without an example."""

    def skipped(report):
        assert sum(report.counts.values()) == len(report.skipped)
        return [(row.place, row.why.value, row.reason) for row in report.skipped]

    return skipped


@pytest.fixture
def read_mask():
    """The object's pixels of a mask that a reader wrote."""

    def read_mask(path):
        picture = cv2.imread(str(path), cv2.IMREAD_UNCHANGED)
        assert picture.dtype == np.uint8
        assert picture.ndim == 2
        return picture > 127

    return read_mask

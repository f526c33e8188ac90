import json

import pytest

from molmo2_ros.errors import DataError
from molmo2_ros.training.data.readers.fields import Fields
from molmo2_ros.training.data.readers.table import rows, table_files

ROWS = [{"video_id": "a", "count": 1, "big": "x"}, {"video_id": "b", "count": 2, "big": "y"}]


@pytest.mark.parametrize("name", ["data/train-0.parquet", "rows.jsonl", "rows.json"])
def test_rows_come_with_their_file_and_number(tmp_path, write_table, name):
    write_table(name, ROWS)
    found = list(rows(tmp_path, ("video_id", "count")))
    assert [row.place for row in found] == [f"{name}, row 0", f"{name}, row 1"]
    assert [row.text("video_id") for row in found] == ["a", "b"]


def test_only_the_wanted_columns_of_parquet_are_read(tmp_path, write_table):
    write_table("train.parquet", ROWS)
    (row, _) = rows(tmp_path, ("video_id",), optional=("count", "absent"))
    assert row.values == {"video_id": "a", "count": 1}


@pytest.mark.parametrize("name", ["data/train-0.parquet", "rows.jsonl", "rows.json"])
def test_missing_columns_are_named(tmp_path, write_table, name):
    write_table(name, ROWS)
    with pytest.raises(DataError, match=rf"{name} has no column label, exp, expected video_id"):
        list(rows(tmp_path, ("video_id", "label", "exp")))


def test_configurations_and_splits_choose_files(tmp_path, write_table):
    for name in ("track/train-0.parquet", "track/val-0.parquet", "ground/train-0.parquet"):
        write_table(name, ROWS)
    chosen = table_files(tmp_path, config="track", split="train")
    assert [path.relative_to(tmp_path).as_posix() for path in chosen] == ["track/train-0.parquet"]
    assert len(table_files(tmp_path)) == 3
    with pytest.raises(DataError, match=r"no .parquet, .jsonl or .json file of 'track' of 'test'"):
        table_files(tmp_path, config="track", split="test")


def test_a_file_that_is_cut_off_is_named(tmp_path, write_table):
    path = write_table("train.parquet", ROWS)
    path.write_bytes(path.read_bytes()[:-20])
    with pytest.raises(DataError, match=r"train.parquet cannot be read as Parquet after row 0"):
        list(rows(tmp_path, ("video_id",)))
    path.unlink()
    path = write_table("rows.jsonl", ROWS)
    path.write_text(path.read_text()[:-9])
    with pytest.raises(DataError, match=r"rows.jsonl, row 1 is not JSON"):
        list(rows(tmp_path, ("video_id",)))


def test_json_of_another_form_is_refused(tmp_path):
    (tmp_path / "rows.json").write_text(json.dumps({"a": 1}))
    with pytest.raises(DataError, match="holds a dict, expected a list of records"):
        list(rows(tmp_path, ("a",)))
    (tmp_path / "rows.json").write_text(json.dumps([1]))
    with pytest.raises(DataError, match=r"rows.json, row 0 is 1, expected a record"):
        list(rows(tmp_path, ("a",)))


def test_a_folder_without_tables_is_refused(tmp_path):
    with pytest.raises(DataError, match=r"has no .parquet, .jsonl or .json file, expected a table"):
        list(rows(tmp_path, ("a",)))
    with pytest.raises(DataError, match="is no folder"):
        list(rows(tmp_path / "absent", ("a",)))


@pytest.mark.parametrize(
    ("read", "value", "message"),
    [
        (Fields.text, 3, "'v' is 3, expected text"),
        (Fields.text, None, "row 7: no 'v', expected a value"),
        (Fields.number, "3", "expected a number"),
        (Fields.number, True, "expected a number"),
        (Fields.number, float("nan"), "expected a finite number"),
        (Fields.whole, 2.5, "expected a whole number"),
        (Fields.positive, 0, "expected a number above 0"),
        (Fields.flag, 2, "expected true or false"),
        (Fields.items, "ab", "expected a list"),
        (Fields.texts, ["a", 1], "'v' is 1, expected text"),
        (Fields.key, 1.5, "expected an id"),
        (Fields.record, [], "expected a record"),
        (Fields.records, 3, "row 7, v is 3, expected a list of records"),
        (Fields.records, [3], "row 7, v 0 is 3, expected a record"),
        (Fields.records, {"a": [1], "b": []}, "lists differ in length"),
    ],
)
def test_values_of_another_type_are_refused_with_their_place(read, value, message):
    with pytest.raises(DataError, match=message):
        read(Fields("row 7", {"v": value}), "v")


def test_a_record_of_lists_is_a_list_of_records():
    row = Fields("row 7", {"v": {"question": ["a", "b"], "answer": ["c", "d"]}})
    assert [pair.values for pair in row.records("v")] == [
        {"question": "a", "answer": "c"},
        {"question": "b", "answer": "d"},
    ]

"""Bags in every storage, whole and damaged, are read as they were written."""

import shutil

import numpy as np
import pytest

from benchmarks.recorded_bags import START_NS, TOPIC, camera, raw, text, write_bag
from molmo2_ros.bags.bag import Bag
from molmo2_ros.bags.skips import Skips
from molmo2_ros.errors import DataError

STORAGES = [
    (storage, compression)
    for storage in ("mcap", "sqlite3")
    for compression in ("none", "message", "file", "storage")
    if (storage, compression) != ("sqlite3", "storage")
]


def film(num=40):
    """Pictures of 230 KB, five to a chunk, and a text after every tenth."""
    messages = []
    for number, message in enumerate(camera(num, size=(320, 240))):
        messages.append(message)
        if number % 10 == 0:
            messages.append(("/notes", message[1] + 1, *text(f"note {number}")))
    return messages


def read(path, topics=(TOPIC, "/notes"), skips=None, start_ns=None):
    """All messages of a bag, as they were given to write_bag."""
    with Bag(path, skips or Skips()) as bag:
        return [(m.topic, m.log_ns, m.kind, m.data) for m in bag.messages(topics, start_ns)]


def storage_file(bag):
    return next(file for file in bag.iterdir() if file.name != "metadata.yaml")


def cut(file, share):
    content = file.read_bytes()
    file.write_bytes(content[: int(len(content) * share)])


@pytest.mark.parametrize(("storage", "compression"), STORAGES)
def test_every_storage_gives_back_what_was_written(tmp_path, storage, compression):
    messages = film()
    bag = write_bag(tmp_path / "drive", messages, storage, compression)

    skips = Skips()
    assert read(bag, skips=skips) == messages
    assert skips.counts == {}
    with Bag(bag, Skips()) as opened:
        assert opened.span_ns == (messages[0][1], messages[-1][1])
        assert opened.topics == {TOPIC: "sensor_msgs/msg/Image", "/notes": "std_msgs/msg/String"}


@pytest.mark.parametrize(("storage", "compression"), STORAGES)
def test_a_bag_without_metadata_is_read_and_that_is_noted(tmp_path, storage, compression):
    messages = film(5)
    bag = write_bag(tmp_path / "drive", messages, storage, compression)
    (bag / "metadata.yaml").unlink()

    skips = Skips()
    assert read(bag, skips=skips) == messages
    assert skips.counts == {"metadata": 1}


@pytest.mark.parametrize("share", [0.3, 0.6, 0.95])
def test_a_cut_mcap_file_gives_all_messages_of_its_whole_chunks(tmp_path, share):
    messages = film()
    bag = write_bag(tmp_path / "drive", messages)
    cut(storage_file(bag), share)

    skips = Skips()
    found = read(bag, skips=skips)

    assert found == messages[: len(found)]
    assert (share - 0.2) * len(messages) < len(found) < len(messages)
    assert skips.counts == {"end of a file": 1}
    assert "has no end: its last" in skips.texts["end of a file"][0]


def test_messages_of_a_cut_mcap_file_come_in_the_order_of_time(tmp_path):
    messages = film()
    late = messages.pop(3)  # written 20 messages after its time
    bag = write_bag(tmp_path / "drive", [*messages[:23], late, *messages[23:]])
    cut(storage_file(bag), 0.95)

    found = read(bag)

    assert late in found
    assert [m[1] for m in found] == sorted(m[1] for m in found)


def test_a_bag_can_be_read_from_a_time_on(tmp_path):
    messages = film()
    bag = write_bag(tmp_path / "drive", messages)

    assert read(bag, start_ns=messages[12][1]) == messages[12:]


def test_a_cut_sqlite_file_is_told_and_the_other_file_is_read(tmp_path):
    messages = film()
    bag = write_bag(tmp_path / "drive", messages, "sqlite3")
    other = write_bag(tmp_path / "other", messages[:5], "sqlite3")
    cut(storage_file(bag), 0.5)
    shutil.copy(storage_file(other), bag / "drive_1.db3")

    skips = Skips()
    assert read(bag, skips=skips) == messages[:5]
    assert skips.counts["file"] == 1
    assert "drive.db3 cannot be opened" in skips.texts["file"][0]


@pytest.mark.parametrize("storage", ["mcap", "sqlite3"])
def test_a_cut_compressed_file_gives_what_came_before(tmp_path, storage):
    noise = np.random.default_rng(0).integers(0, 256, (30, 240, 320, 3), np.uint8)  # incompressible
    messages = [(TOPIC, START_NS + n, *raw(image, START_NS + n)) for n, image in enumerate(noise)]
    bag = write_bag(tmp_path / "drive", messages, storage, "file")
    cut(storage_file(bag), 0.7)

    skips = Skips()
    if storage == "mcap":
        found = read(bag, skips=skips)
        assert found == messages[: len(found)]
        assert len(found) > 10
    else:
        with pytest.raises(DataError, match=r"nothing of the bag .* can be read: .*breaks off"):
            read(bag, skips=skips)
    assert "breaks off while it is unpacked" in skips.texts["end of a file"][0]


def test_a_file_that_metadata_names_and_that_is_missing_is_told(tmp_path):
    bag = write_bag(tmp_path / "drive", film(5))
    more = write_bag(tmp_path / "more", film(5))
    storage_file(bag).rename(bag / "lost.bak")
    shutil.copy(storage_file(more), bag / "more.mcap")

    skips = Skips()
    assert len(read(bag, skips=skips)) == 6
    assert "drive.mcap is named in metadata.yaml and missing" in skips.texts["file"][0]


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda path: None, "there is no bag"),
        (lambda path: path.mkdir(), "has neither .mcap nor .db3 files"),
        (lambda path: path.write_bytes(b"no bag at all"), "nothing of the bag .* can be read"),
    ],
)
def test_what_is_no_bag_is_refused(tmp_path, make, message):
    make(tmp_path / "drive")

    with pytest.raises(DataError, match=message):
        read(tmp_path / "drive")


def test_an_mcap_file_cut_in_its_header_is_refused(tmp_path):
    bag = write_bag(tmp_path / "drive", film(5))
    storage_file(bag).write_bytes(storage_file(bag).read_bytes()[:12])

    with pytest.raises(DataError, match="cut in its header"):
        read(bag)


def test_a_missing_topic_is_refused_with_those_that_would_do(tmp_path):
    bag = write_bag(tmp_path / "drive", film(5))

    with Bag(bag, Skips()) as opened:
        with pytest.raises(DataError, match=f"no topic /front; .* it has {TOPIC}"):
            opened.require(["/front"], ["sensor_msgs/msg/Image"])
        with pytest.raises(DataError, match=r"/notes .* carries std_msgs/msg/String, expected"):
            opened.require(["/notes"], ["sensor_msgs/msg/Image"])


def test_an_empty_bag_has_no_span(tmp_path):
    bag = write_bag(tmp_path / "drive", [])

    with Bag(bag, Skips()) as opened, pytest.raises(DataError, match="has no message"):
        _ = opened.span_ns


def test_the_start_is_the_first_stamp(tmp_path):
    bag = write_bag(tmp_path / "drive", camera(3))

    with Bag(bag, Skips()) as opened:
        assert opened.span_ns[0] == START_NS + 5_000_000

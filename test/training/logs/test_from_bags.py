"""From bags to data sets by the command: labels by source, hard clips first, Ray, kills."""

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from benchmarks.recorded_bags import NS, START_NS, TOPIC, camera, stamp, text, write_bag
from molmo2_ros.cli.main import main
from molmo2_ros.errors import ConfigError, DataError
from molmo2_ros.training.data.dataset import Dataset
from molmo2_ros.training.data.example import Task
from molmo2_ros.training.logs.from_bags import BagJob, _handed_out, by_ray, from_bags
from molmo2_ros.training.logs.labellers import LabelWish
from molmo2_ros.training.logs.spoken import LogTopics

ROOT = Path(__file__).parents[3]
SQUARE = '''
"""Points at the brightest place: the square of the film."""
import os, signal, time
from pathlib import Path
import cv2
import numpy as np
from molmo2_ros.errors import AnswerError, ServerError
from molmo2_ros.training.logs.labellers import MadeLabels, MadePoint

class Square:
    source = "bright"
    def __init__(self, argument=""):
        self.argument = argument
    def label(self, frames, phrase):
        if self.argument.startswith("kill="):
            marker = Path(self.argument[5:])
            if not marker.exists():
                marker.touch()
                os.kill(os.getpid(), signal.SIGKILL)
        if self.argument.startswith("away=") and Path(self.argument[5:]).exists():
            raise ServerError("no answer from http://gpu:8000", may_pass=True)
        if self.argument.startswith("span="):
            for rest_s in (1.0, 0.0):  # long enough that another one would come in between
                with open(self.argument[5:], "a") as file:
                    print(os.getpid(), file=file)
                time.sleep(rest_s)
        if self.argument == "die":
            os.kill(os.getpid(), signal.SIGKILL)
        if self.argument == "refuse":
            raise ServerError("refuses the request", status=400)
        if self.argument == "fail":
            raise AnswerError("this clip is beyond me")
        points = []
        for index, frame in enumerate(frames):
            grey = cv2.GaussianBlur(cv2.cvtColor(frame.image, cv2.COLOR_RGB2GRAY), (25, 25), 0)
            v, u = np.unravel_index(grey.argmax(), grey.shape)
            points.append(MadePoint(frame=index, x=u / frame.width, y=v / frame.height,
                                    confidence=0.8))
        return MadeLabels(points=tuple(points), none=phrase == "nothing")
'''


@pytest.fixture(autouse=True)
def labeller(tmp_path, monkeypatch):
    """A labeller of the film's square, for this process and those of Ray."""
    folder = tmp_path / "plug_in"
    folder.mkdir()
    (folder / "square_labels.py").write_text(SQUARE)
    monkeypatch.syspath_prepend(str(folder))
    monkeypatch.setenv("PYTHONPATH", f"{folder}{os.pathsep}{ROOT}")
    yield
    sys.modules.pop("square_labels", None)


def correction(stamp_ns):
    said = {"query": "red mug", "stamp": stamp(stamp_ns), "frame_id": "camera", "visible": True,
            "u": 80, "v": 60}  # fmt: skip
    return ("/recorder/corrections", stamp_ns + NS, *text(said))


def drive(path, *extra, num=100, **options):
    messages = [*camera(num, fps=10.0, **options), *extra]
    return write_bag(path, sorted(messages, key=lambda message: message[1]))


def run(*arguments):
    return main(["data", "from-bag", *map(str, arguments), "--fps", "5", "--clip", "2"])


def test_a_bag_becomes_a_training_and_a_held_out_set(tmp_path, capsys):
    bag = drive(tmp_path / "drive", correction(START_NS + 3 * NS), shift_px=1)
    out = tmp_path / "out"

    code = run(bag, out, "--topic", TOPIC, "--near-duplicate", 0, "--label",
               "square_labels:Square:bright square")  # fmt: skip

    assert code == 0, capsys.readouterr()
    assert "drive /camera/image_raw: 5 clips with" in capsys.readouterr().out
    with pytest.raises(DataError, match="labels of bright, human, which are not mixed unless"):
        Dataset.open(out / "train")
    people = Dataset.open(out / "train", sources=["human"])
    (said,) = list(people)
    assert said.media.images[0].endswith("1700000003000000000.jpg")
    point = said.annotations[0].objects[0].points[0]
    assert (said.annotations[0].label, point.x, point.y) == ("red mug", 0.5, 0.5)
    machine = Dataset.open(out / "train", sources=["bright"])
    examples = list(machine)
    assert len(examples) == 4
    annotation = examples[0].annotations[0]
    assert (annotation.task, annotation.label) == (Task.TRACK, "bright square")
    assert (annotation.source, annotation.confidence) == ("bright", 0.8)
    assert len(annotation.objects[0].points) == len(examples[0].media.frames) == 10
    assert annotation.objects[0].points[3].time_s == pytest.approx(0.6)
    assert len(Dataset.open(out / "held_out")) == 1
    for split in ("train", "held_out"):
        for example in Dataset.open(out / split, sources=["human", "bright"]):
            for name in (*example.media.frames, *example.media.images):
                assert (out / split / name).is_file()


def test_single_pictures_are_read_in_tiles_or_as_a_node_reads_its_newest_frame(tmp_path):
    bag = drive(tmp_path / "drive", correction(START_NS + 3 * NS), num=50, shift_px=1)
    arguments = ["data", "from-bag", str(bag), str(tmp_path / "out"), "--topic", TOPIC]
    arguments += ["--fps", "2", "--clip", "0.4", "--near-duplicate", "0"]
    arguments += ["--label", "square_labels:Square:it"]
    sources = ["human", "bright"]

    assert main(arguments) == 0
    stills = list(Dataset.open(tmp_path / "out/train", sources=sources))
    assert main([*arguments, "--as-frames"]) == 0
    frames = list(Dataset.open(tmp_path / "out/train", sources=sources))

    assert {example.annotations[0].source for example in frames} == set(sources)
    assert [e.media.images for e in stills] == [e.media.frames for e in frames]
    assert {e.media.times_s for e in frames} == {(0.0,)}
    places = [
        [
            (point.x, point.y, point.time_s, point.image)
            for example in examples
            for thing in example.annotations[0].objects
            for point in thing.points
        ]
        for examples in (stills, frames)
    ]
    assert [(x, y) for x, y, *_ in places[0]] == [(x, y) for x, y, *_ in places[1]] != []
    assert {place[2:] for place in places[0]} == {(None, 1)}
    assert {place[2:] for place in places[1]} == {(0.0, None)}


def test_the_hardest_clips_come_first_and_are_labelled_first(tmp_path):
    bag = drive(tmp_path / "drive", correction(START_NS + 5 * NS))

    run(bag, tmp_path / "out", "--topic", TOPIC, "--max-clips", 1, "--label",
        "square_labels:Square:it")  # fmt: skip

    examples = list(Dataset.open(tmp_path / "out" / "train", sources=["human", "bright"]))
    assert len(examples) == 2  # of the one clip that an operator corrected
    assert all(f"/{START_NS + 4 * NS}_" in example.name for example in examples)
    lines = (tmp_path / "out" / "train" / "clips.jsonl").read_text().splitlines()
    hardness = [json.loads(line)["hardness"] for line in lines]
    assert len(hardness) == 4
    assert hardness == sorted(hardness, reverse=True)
    assert hardness[0] == 1.0


def test_labels_of_every_third_picture_are_carried_by_flow_and_say_so(tmp_path):
    bag = drive(tmp_path / "drive", shift_px=1)

    run(bag, tmp_path / "out", "--topic", TOPIC, "--every", 3, "--near-duplicate", 0, "--label",
        "square_labels:Square:it")  # fmt: skip

    (example, *_) = Dataset.open(tmp_path / "out" / "train")
    annotation = example.annotations[0]
    assert annotation.source == "bright+flow"
    assert len(annotation.objects[0].points) > len(example.media.frames) / 2
    assert annotation.confidence < 0.8001


def test_a_second_labeller_adds_to_what_the_first_made_and_nothing_is_done_twice(tmp_path):
    bag = drive(tmp_path / "drive")
    out = tmp_path / "out"
    run(bag, out, "--topic", TOPIC, "--label", "square_labels:Square:one")
    before = {p: p.stat().st_mtime_ns for p in out.rglob("*.jpg")}

    run(bag, out, "--topic", TOPIC, "--label", "square_labels:Square:two")

    assert {p: p.stat().st_mtime_ns for p in out.rglob("*.jpg")} == before
    (example, *_) = Dataset.open(out / "train")
    assert [annotation.label for annotation in example.annotations] == ["one", "two"]


@pytest.mark.parametrize("how", ["fail", "refuse"])
def test_clips_that_a_labeller_cannot_label_are_counted_and_no_examples(tmp_path, capsys, how):
    bag = drive(tmp_path / "drive")

    code = run(bag, tmp_path / "out", "--topic", TOPIC, "--label", f"square_labels:Square={how}:x")

    assert code == 0
    assert "5 clips failed" in capsys.readouterr().out
    with pytest.raises(DataError, match="has no example"):
        Dataset.open(tmp_path / "out" / "train")


def test_a_labeller_that_is_away_is_told_and_asked_about_the_same_clips_again(tmp_path, capsys):
    bag, away = drive(tmp_path / "drive"), tmp_path / "away"
    wish = f"square_labels:Square=away={away}:it"
    assert run(bag, tmp_path / "whole", "--topic", TOPIC, "--label", wish) == 0
    away.touch()

    assert run(bag, tmp_path / "out", "--topic", TOPIC, "--label", wish) == 1
    told = capsys.readouterr().out
    assert "5 clips with" in told
    assert "error: ServerError: no answer from http://gpu:8000" in told
    away.unlink()
    assert run(bag, tmp_path / "out", "--topic", TOPIC, "--label", wish) == 0

    assert everything(tmp_path / "out") == everything(tmp_path / "whole")


def test_a_damaged_file_of_a_log_is_told_with_the_cure(tmp_path, capsys):
    bag = drive(tmp_path / "drive")
    run(bag, tmp_path / "out", "--topic", TOPIC)
    (file,) = (tmp_path / "out").glob("logs/*/clips.jsonl")
    lines = file.read_bytes().splitlines(keepends=True)
    file.write_bytes(b"".join([lines[0], b"\0" * 20 + b"\n", *lines[2:]]))  # as a power cut leaves

    assert run(bag, tmp_path / "out", "--topic", TOPIC) == 2
    assert "clips.jsonl is damaged in line 2" in capsys.readouterr().err
    file.unlink()
    assert run(bag, tmp_path / "out", "--topic", TOPIC) == 0
    assert file.read_bytes() == b"".join(lines)


def test_one_bad_bag_costs_no_other_and_all_bad_ones_are_an_error(tmp_path, capsys):
    good = drive(tmp_path / "good")
    bad = drive(tmp_path / "bad", topic="/other")

    assert run(good, bad, tmp_path / "out", "--topic", TOPIC) == 1
    told = capsys.readouterr().out
    assert "good /camera/image_raw: 5 clips" in told
    assert f"error: DataError: the bag {bad} has no topic {TOPIC}" in told
    report = json.loads((tmp_path / "out" / "report.json").read_text())
    assert [bool(entry["error"]) for entry in report] == [False, True]

    assert run(bad, tmp_path / "out2", "--topic", TOPIC) == 2
    assert "has no topic" in capsys.readouterr().err


def test_the_same_bag_twice_is_refused(tmp_path):
    job = BagJob(bag=tmp_path / "a", topics=LogTopics(image=TOPIC), out=tmp_path / "out")

    with pytest.raises(DataError, match="is given twice"):
        list(from_bags([job, job]))
    with pytest.raises(ConfigError, match="workers is 0"):
        list(from_bags([job], workers=0))


def everything(out):
    """Digests of all files of a folder, without what names the folder itself."""
    return {
        str(p.relative_to(out)): hashlib.sha256(p.read_bytes()).hexdigest()
        for p in sorted(out.rglob("*"))
        if p.is_file() and p.name not in ("report.json", "dataset.json")
    }


@pytest.fixture
def three_bags(tmp_path):
    return [drive(tmp_path / f"drive_{n}", first=7 * n, num=60) for n in range(3)]


def test_ray_makes_the_same_as_one_core_though_a_worker_is_killed(tmp_path, three_bags, capfd):
    marker = tmp_path / "killed"
    wish = f"square_labels:Square=kill={marker}:it"
    marker.touch()
    assert run(*three_bags, tmp_path / "one", "--topic", TOPIC, "--label", wish) == 0
    marker.unlink()

    code = run(*three_bags, tmp_path / "two", "--topic", TOPIC, "--label", wish, "--workers", 2)

    assert code == 0, capfd.readouterr()
    assert marker.exists(), "no worker was killed"
    assert everything(tmp_path / "two") == everything(tmp_path / "one")


def test_a_bag_whose_worker_dies_each_time_costs_no_other(tmp_path, three_bags):
    jobs = [
        BagJob(
            bag=bag,
            topics=LogTopics(image=TOPIC),
            out=tmp_path / "out",
            wishes=(LabelWish(name="square_labels:Square", argument=how, phrase="it"),),
        )
        for bag, how in zip(three_bags, ("", "die", ""), strict=True)
    ]

    outcomes = {outcome.bag: outcome for outcome in from_bags(jobs, workers=2)}

    assert len(outcomes) == 3
    assert [bool(outcomes[str(bag)].error) for bag in three_bags] == [False, True, False]
    died = outcomes[str(three_bags[1])]
    assert died.report is None
    assert died.error.startswith("its worker died 4 times")
    assert all(outcomes[str(bag)].labels["labelled"] for bag in three_bags[::2])


def test_no_more_bags_run_at_once_than_workers_though_ray_has_more_cores(tmp_path, three_bags):
    import ray

    spans = tmp_path / "spans"
    wish = LabelWish(name="square_labels:Square", argument=f"span={spans}", phrase="it")
    topics, out = LogTopics(image=TOPIC), tmp_path / "out"
    jobs = [BagJob(bag=bag, topics=topics, out=out, wishes=(wish,)) for bag in three_bags]
    ray.init(num_cpus=3, include_dashboard=False, log_to_driver=False)
    try:
        outcomes = list(by_ray(jobs, 1))
    finally:
        ray.shutdown()

    assert [outcome.error for outcome in outcomes] == [""] * 3
    pids = [line.split()[0] for line in spans.read_text().splitlines()]
    turns = [pid for pid, before in zip(pids, [None, *pids], strict=False) if pid != before]
    assert len(turns) == len(set(turns)), "two processes labelled in turn"


@pytest.mark.parametrize(
    ("num_jobs", "workers", "cores", "expected"),
    [
        (20, 2, 2.0, 4),  # two run, two wait where the cores are
        (20, 4, 2.0, 8),  # the cores bound what runs
        (20, 2, 64.0, 2),  # only this number bounds what runs
        (3, 2, 2.0, 3),
        (0, 2, 2.0, 1),
    ],
)
def test_ray_has_the_next_bags_at_hand_where_its_cores_bound_what_runs(
    num_jobs, workers, cores, expected
):
    assert _handed_out(num_jobs, workers, cores) == expected


def test_a_killed_command_goes_on_without_doing_a_bag_again(tmp_path, three_bags):
    command = [
        sys.executable, "-m", "molmo2_ros.cli.main", "data", "from-bag", *map(str, three_bags),
        str(tmp_path / "out"), "--topic", TOPIC, "--fps", "5", "--clip", "2", "--label",
        "square_labels:Square:it",
    ]  # fmt: skip
    process = subprocess.Popen(command, cwd=ROOT, stdout=subprocess.DEVNULL)
    logs = tmp_path / "out" / "logs"
    while process.poll() is None and len(list(logs.glob("*/labels-*.jsonl"))) < 2:
        time.sleep(0.002)
    process.send_signal(signal.SIGKILL)
    process.wait()
    assert not (tmp_path / "out" / "train" / "examples.jsonl").exists()
    done = {p: p.stat().st_mtime_ns for p in (tmp_path / "out").rglob("*.jpg")}

    assert subprocess.run(command, cwd=ROOT, stdout=subprocess.DEVNULL, check=True)

    kept = {p: p.stat().st_mtime_ns for p in done}
    assert sum(kept[p] != done[p] for p in done) <= 10  # at most the clip in whose middle it was
    run(*three_bags, tmp_path / "whole", "--topic", TOPIC, "--label", "square_labels:Square:it")
    assert everything(tmp_path / "out") == everything(tmp_path / "whole")

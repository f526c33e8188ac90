"""Logs become clips: which pictures, in which set, what is left out, and what a kill costs."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import cv2
import numpy as np
import pytest

from benchmarks.recorded_bags import (
    NS,
    START_NS,
    TOPIC,
    TYPES,
    camera,
    jpeg,
    raw,
    scene,
    square,
    stamp,
    text,
    write_bag,
)
from molmo2_ros.camera.encodings import IMAGE_ENCODINGS
from molmo2_ros.errors import ConfigError, DataError
from molmo2_ros.training.logs.label_log import read_clips
from molmo2_ros.training.logs.sample_bag import sample_bag
from molmo2_ros.training.logs.sampling import ClipSettings, Split, difference
from molmo2_ros.training.logs.spoken import LogTopics

ROOT = Path(__file__).parents[3]
ALL_TRAIN = ClipSettings(fps=5.0, clip_s=2.0, held_out=0.0)


def make_clips(tmp_path, messages, settings=ALL_TRAIN, topic=TOPIC):
    """The report and the clips in the order of time."""
    bag = write_bag(tmp_path / "drive", messages)
    report = sample_bag(bag, LogTopics(image=topic), tmp_path / "out", settings)
    clips = read_clips(tmp_path / "out" / "logs" / report.key)
    return report, sorted(clips, key=lambda clip: clip.name.rsplit("_", 1)[1])


def picture(tmp_path, clip, index):
    return cv2.imread(str(tmp_path / "out" / clip.split / clip.frames[index]))[:, :, ::-1]


@pytest.mark.parametrize("make", [raw, jpeg])
def test_pictures_are_kept_at_the_wanted_rate_and_cut_into_clips(tmp_path, make):
    report, clips = make_clips(tmp_path, camera(60, fps=10.0, make=make))

    assert (report.num_images, report.num_kept, report.skips["counts"]) == (60, 30, {})
    assert [len(clip.frames) for clip in clips] == [10, 10, 10]
    assert clips[1].times_s == pytest.approx([0.2 * n for n in range(10)])
    assert clips[1].stamps_ns[0] == START_NS + 2 * NS
    error = np.abs(picture(tmp_path, clips[1], 3).astype(int) - scene(26))
    assert error.mean() < 4


def test_a_recorded_jpeg_is_kept_byte_for_byte(tmp_path):
    _, clips = make_clips(tmp_path, camera(10, make=jpeg))

    stored = (tmp_path / "out" / "train" / clips[0].frames[1]).read_bytes()
    assert stored in jpeg(scene(2), START_NS + 200_000_000)[1]


def swapped(image, stamp_ns):
    """As image_transport's oldest publishers store a picture, which say so in its format."""
    kind, data = jpeg(image[..., ::-1], stamp_ns)
    message = TYPES.deserialize_cdr(data, kind)
    message.format = "rgb8; jpeg compressed rgb8"
    return kind, bytes(TYPES.serialize_cdr(message, kind))


def test_a_recorded_jpeg_with_its_channels_swapped_is_kept_in_its_true_colours(tmp_path):
    _, clips = make_clips(tmp_path, camera(10, make=swapped))

    error = np.abs(picture(tmp_path, clips[0], 1).astype(int) - scene(2))
    assert error.mean() < 5
    wrong = np.abs(picture(tmp_path, clips[0], 1)[..., ::-1].astype(int) - scene(2))
    assert wrong.mean() > 10


def test_sets_are_cut_by_time_with_a_gap_between(tmp_path):
    settings = ClipSettings(fps=5.0, clip_s=2.0, held_out=0.4, border_gap_s=1.0)

    _, clips = make_clips(tmp_path, camera(100, fps=10.0), settings)

    sets = {split: [s for c in clips if c.split == split for s in c.stamps_ns] for split in
            ("train", "held_out")}  # fmt: skip
    last, first = max(sets["train"]), min(sets["held_out"])
    assert (last - START_NS) / NS == pytest.approx(5.8, abs=0.11)
    assert (first - START_NS) / NS == pytest.approx(7.0, abs=0.21)
    for clip in clips:
        folder = tmp_path / "out" / clip.split
        assert all((folder / name).is_file() for name in clip.frames)


def test_with_nothing_held_out_or_all_there_is_no_gap():
    span = (0, 100 * NS)

    nothing = Split.of(span, ClipSettings(held_out=0.0))
    everything = Split.of(span, ClipSettings(held_out=1.0))

    assert {nothing.at(t * NS) for t in range(101)} == {"train"}
    assert {everything.at(t * NS) for t in range(101)} == {"held_out"}


def test_pictures_in_which_nothing_changes_are_dropped(tmp_path):
    rng = np.random.default_rng(1)
    still = [np.clip(scene(0) + rng.normal(0, 4, (120, 160, 3)), 0, 255) for _ in range(40)]
    messages = [
        (TOPIC, START_NS + n * NS // 10, *raw(image.astype(np.uint8), START_NS + n * NS // 10))
        for n, image in enumerate(still)
    ]

    report, clips = make_clips(tmp_path, messages)

    assert report.num_kept == 1
    assert report.num_duplicates == 19
    assert len(clips) == 1


def test_a_small_thing_that_moves_is_a_change_and_noise_is_none():
    rng = np.random.default_rng(0)
    still = rng.integers(60, 120, (48, 64), np.uint8)
    noisy = np.clip(still + rng.normal(0, 1, still.shape), 0, 255).astype(np.uint8)
    moved = still.copy()
    moved[10:15, 10:15] = 220  # a hundredth of the picture

    assert difference(still, noisy) < ClipSettings().near_duplicate
    assert difference(still, moved) > 5 * ClipSettings().near_duplicate


def test_another_size_begins_another_clip_and_is_told(tmp_path):
    messages = [*camera(10), *camera(10, size=(320, 240), start_ns=START_NS + NS)]

    report, clips = make_clips(tmp_path, messages)

    assert [len(clip.frames) for clip in clips] == [5, 5]
    assert report.skips["counts"] == {"other size or camera": 1}
    told = report.skips["texts"]["other size or camera"][0]
    assert f"{TOPIC} at 1700000001.005000000 s is 320x240 of 'camera' after 160x120" in told


def test_stamps_that_run_backwards_a_little_are_left_out_and_named(tmp_path):
    messages = list(camera(20))
    kind, data = raw(scene(7), START_NS + 650_000_000)
    messages.insert(9, (TOPIC, messages[8][1] + 1, kind, data))

    report, clips = make_clips(tmp_path, messages)

    assert report.skips["counts"] == {"stamp that runs backwards": 1}
    told = report.skips["texts"]["stamp that runs backwards"][0]
    assert "at 1700000000.805000001 s is stamped 1700000000650000000 ns, not after" in told
    assert sum(len(clip.frames) for clip in clips) == 10


def test_a_clock_that_began_anew_begins_a_clip(tmp_path):
    again = [
        (topic, log_ns + 100 * NS, kind, data) for topic, log_ns, kind, data in camera(10, first=3)
    ]

    report, clips = make_clips(tmp_path, [*camera(20), *again])

    assert [len(clip.frames) for clip in clips] == [10, 5]
    assert {clip.stamps_ns[0] for clip in clips} == {START_NS}
    assert report.skips["counts"] == {"clock that began anew": 1}


def test_a_hole_without_pictures_ends_a_clip(tmp_path):
    settings = ClipSettings(fps=5.0, clip_s=60.0, held_out=0.0)

    _, clips = make_clips(
        tmp_path, [*camera(10), *camera(10, start_ns=START_NS + 5 * NS, first=4)], settings
    )

    assert [len(clip.frames) for clip in clips] == [5, 5]


def test_messages_that_cannot_be_decoded_are_named_and_the_rest_is_kept(tmp_path):
    messages = list(camera(20))
    kind, whole = messages[4][2:]
    messages[4] = (TOPIC, messages[4][1], kind, whole[:-3000])  # a due one
    messages[8] = (TOPIC, messages[8][1], kind, whole[:6])
    messages[12] = (TOPIC, messages[12][1], *raw(scene(12), START_NS + 12 * NS // 10,
                    encoding="yuv444"))  # fmt: skip

    report, _ = make_clips(tmp_path, messages)

    assert report.skips["counts"] == {"undecodable picture": 3}
    first, second, third = report.skips["texts"]["undecodable picture"]
    assert "1700000000.405000000 s is no sensor_msgs/msg/Image" in first
    assert "has 6 bytes, expected a header" in second
    assert "unknown image encoding 'yuv444'" in third
    assert report.num_images == 20
    assert report.num_kept == 10  # the next picture takes the place of each


@pytest.mark.parametrize("encoding", IMAGE_ENCODINGS)
def test_every_encoding_of_cameras_is_read(tmp_path, encoding):
    bytes_a_pixel = {"rgb": 3, "bgr": 3, "rgba": 4, "bgra": 4}.get(encoding.rstrip("0123456789"), 1)
    wide = 2 if encoding.endswith("16") or encoding.startswith(("uyvy", "yuv", "yuyv")) else 1
    rows = 36 if encoding.startswith("nv") else 24
    data = np.full((rows, 32 * bytes_a_pixel * wide), 120, np.uint8)

    _, clips = make_clips(
        tmp_path, [(TOPIC, START_NS, *raw(data, START_NS, encoding=encoding, size=(32, 24)))]
    )

    assert picture(tmp_path, clips[0], 0).shape == (24, 32, 3)


def answer(stamps_ns, points, *, confidence=0.9, track_id=1, degenerate=False):
    """The JSON of ~/answer about one thing; points are (u, v) on each stamp."""
    return {
        "partial": False, "refused": False, "degenerate": degenerate, "truncated": False,
        "problems": [], "query": {"kind": "track", "words": "the square"},
        "image": {"width": 160, "height": 120}, "clip_stamps": [stamp(s) for s in stamps_ns],
        "points": [{"confidence": confidence} for _ in points],
        "tracks": [{"track_id": track_id, "points": [
            {"stamp": stamp(s), "u": u, "v": v, "confidence": confidence}
            for s, (u, v) in zip(stamps_ns, points, strict=True)]}],
    }  # fmt: skip


def centre(step):
    left, top, side = square(step)
    return left + side / 2, top + side / 2


def with_answers(clip_answers, num=80):
    """A film of 2-second clips, each with the answers that are given for it."""
    messages = list(camera(num, fps=10.0, shift_px=1))
    for second, said in clip_answers.items():
        stamps_ns = [START_NS + second * NS + n * NS // 5 for n in (1, 4, 7)]
        for number, build in enumerate(said):
            log_ns = stamps_ns[-1] + 50_000_000 + number
            messages.append(("/grounding/answer", log_ns, *text(build(stamps_ns, second))))
    return sorted(messages, key=lambda message: message[1])


def good(stamps_ns, second):
    places = [(20 + round((s - START_NS) / NS * 10) - 10 + 2, 52) for s in stamps_ns]
    return answer(stamps_ns, places)


def test_clips_are_harder_where_the_model_was_unsure_lost_ids_or_disagreed_with_flow(tmp_path):
    def unsure(stamps_ns, second):
        return {**good(stamps_ns, second), "points": [{"confidence": 0.2}] * 3}

    def jumping(stamps_ns, second):
        (a, b, c) = [(p["u"], p["v"]) for p in good(stamps_ns, second)["tracks"][0]["points"]]
        return answer(stamps_ns, [a, (b[0] + 60, b[1] + 30), c])

    def other_id(stamps_ns, second):
        return answer(stamps_ns, [(30, 50)] * 3, track_id=2)

    settings = ClipSettings(fps=5.0, clip_s=2.0, held_out=0.0, near_duplicate=0.0)
    _, clips = make_clips(
        tmp_path,
        with_answers({0: [good], 2: [unsure], 4: [jumping], 6: [good, other_id]}),
        settings,
    )

    by_time = sorted(clips, key=lambda clip: clip.stamps_ns[0])
    easy, unsure_one, jumping_one, lost_one = by_time
    assert easy.hardness < 0.3
    assert easy.reasons["disagreement"] < 0.2
    assert unsure_one.reasons["unsure"] == pytest.approx(0.8)
    assert jumping_one.reasons["disagreement"] > 0.8
    assert lost_one.reasons["lost"] == 1.0
    assert all(clip.hardness > easy.hardness for clip in by_time[1:])
    folder = next((tmp_path / "out" / "logs").iterdir())
    hardest_first = [clip.hardness for clip in read_clips(folder)]
    assert hardest_first == sorted(hardest_first, reverse=True)


def test_recorded_text_that_is_no_answer_is_named(tmp_path):
    messages = [*camera(5), ("/grounding/answer", START_NS + NS, *text("{no json"))]

    report, _ = make_clips(tmp_path, messages)

    assert report.skips["counts"] == {"text message": 1}
    assert (
        "/grounding/answer at 1700000001.000000000 s is no answer"
        in (report.skips["texts"]["text message"][0])
    )


def correction(stamp_ns, u, v, words="red mug", visible=True):
    return text({"query": words, "stamp": stamp(stamp_ns), "frame_id": "camera",
                 "visible": visible, "u": u, "v": v})  # fmt: skip


def test_a_picture_that_an_operator_corrected_is_kept_with_what_he_said(tmp_path):
    between = START_NS + 310_000_000  # nearest to the picture at 0.3 s, which is not due
    messages = [
        *camera(20),
        ("/recorder/corrections", START_NS + 3 * NS, *correction(between, 40, 60)),
        ("/recorder/corrections", START_NS + 3 * NS + 1, *correction(between, 999, 60)),
        ("/recorder/corrections", START_NS + 3 * NS + 2, *correction(START_NS + 9 * NS, 4, 6)),
        ("/recorder/corrections", START_NS + 3 * NS + 3,
         *correction(START_NS + NS, 0, 0, "dog", visible=False)),
    ]  # fmt: skip

    report, clips = make_clips(tmp_path, messages)

    clip = clips[0]
    assert START_NS + 300_000_000 in clip.stamps_ns
    index = clip.stamps_ns.index(START_NS + 300_000_000)
    later = clip.stamps_ns.index(START_NS + NS)
    assert clip.corrections == ((index, "red mug", 0.25, 0.5), (later, "dog", None, None))
    assert clip.hardness == 1.0
    assert report.skips["counts"] == {
        "correction without a picture": 1, "label outside the picture": 1,
    }  # fmt: skip
    assert (
        "at 999, 60 of a picture of 160x120"
        in (report.skips["texts"]["label outside the picture"][0])
    )


def test_other_settings_on_the_same_folder_are_refused(tmp_path):
    bag = write_bag(tmp_path / "drive", camera(10))
    sample_bag(bag, LogTopics(image=TOPIC), tmp_path / "out", ALL_TRAIN)

    with pytest.raises(ConfigError, match=r"begun with other settings \(fps 5.0 there, 2.0 now\)"):
        sample_bag(
            bag, LogTopics(image=TOPIC), tmp_path / "out", ClipSettings(clip_s=2.0, held_out=0.0)
        )


@pytest.mark.parametrize(
    ("name", "value"), [("fps", 0.0), ("fps", 30.0), ("clip_s", 0.0), ("held_out", 1.5),
                        ("near_duplicate", -1.0), ("jpeg_quality", 0)]
)  # fmt: skip
def test_settings_out_of_range_are_refused(name, value):
    with pytest.raises(ConfigError, match=f"{name} is {value}"):
        ClipSettings(**{name: value})


RUN = """
import resource, sys
from pathlib import Path
from molmo2_ros.training.logs.sample_bag import sample_bag
from molmo2_ros.training.logs.sampling import ClipSettings
from molmo2_ros.training.logs.spoken import LogTopics
from molmo2_ros.errors import DataError
bag, out, limit = Path(sys.argv[1]), Path(sys.argv[2]), int(sys.argv[3])
if limit:
    resource.setrlimit(resource.RLIMIT_FSIZE, (limit, resource.RLIM_INFINITY))
try:
    sample_bag(bag, LogTopics(image="/camera/image_raw"), out,
               ClipSettings(fps=5.0, clip_s=1.0, held_out=0.2))
except DataError as error:
    sys.exit(str(error))
"""


def start(bag, out, limit=0):
    """Sample in a process of its own, whose files may have so many bytes."""
    return subprocess.Popen(
        [sys.executable, "-c", RUN, str(bag), str(out), str(limit)],
        cwd=ROOT, stderr=subprocess.PIPE, text=True,
    )  # fmt: skip


def everything_below(folder):
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file()
    }


def differing(made, expected):
    """Names of what is lost, too many or not alike: pytest takes minutes to tell bytes apart."""
    return [n for n in sorted(set(made) | set(expected)) if made.get(n) != expected.get(n)]


@pytest.fixture(scope="module")
def long_bag(tmp_path_factory):
    """A minute with a broken message, a stamp that runs backwards and another size."""
    messages = list(camera(600, fps=10.0))
    messages[100] = (TOPIC, messages[100][1], messages[100][2], messages[100][3][:50])
    messages[203] = (TOPIC, messages[203][1], *raw(scene(203), START_NS + 20 * NS))
    messages[405:505] = camera(100, start_ns=START_NS + 81 * NS // 2, first=405, size=(80, 60))
    return write_bag(tmp_path_factory.mktemp("bag") / "drive", messages)


@pytest.fixture(scope="module")
def made_at_once(long_bag, tmp_path_factory):
    """What a run that nobody disturbs makes of it."""
    out = tmp_path_factory.mktemp("at_once")
    process = start(long_bag, out)
    assert process.wait(60) == 0, process.stderr.read()
    return everything_below(out)


def test_a_run_that_is_killed_goes_on_and_ends_as_if_it_had_not_been(
    long_bag, made_at_once, tmp_path
):
    num_clips_at_kill = []
    for wanted in (3, 20, 40):
        process = start(long_bag, tmp_path)
        lines = 0
        while process.poll() is None and lines < wanted:
            found = list(tmp_path.glob("logs/*/clips.jsonl"))
            lines = found[0].read_bytes().count(b"\n") if found else 0
            time.sleep(0.001)
        process.send_signal(signal.SIGKILL)
        process.wait()
        num_clips_at_kill.append(lines)
    file = next(tmp_path.glob("logs/*/clips.jsonl"))
    with file.open("ab") as torn:
        torn.write(b'{"clip": {"na')  # as if killed in the middle of a line

    process = start(long_bag, tmp_path)
    assert process.wait(60) == 0, process.stderr.read()

    assert num_clips_at_kill[0] < num_clips_at_kill[-1] < 60
    assert differing(everything_below(tmp_path), made_at_once) == []
    report = json.loads(file.read_text().splitlines()[-1])["report"]
    assert report["skips"]["counts"] == {
        "undecodable picture": 1, "stamp that runs backwards": 1, "other size or camera": 2,
    }  # fmt: skip


def test_a_run_goes_on_behind_every_clip_as_if_it_had_not_ended(tmp_path):
    """Each kind of thing that ends a clip, is left out or is noted; many messages at one time."""
    messages = [
        *camera(40),
        *camera(30, first=10),  # the clock begins anew
        *camera(30, start_ns=START_NS + 9 * NS, first=3),  # after a hole
        *camera(20, start_ns=START_NS + 12 * NS, size=(80, 60)),
    ]
    times_ns = [START_NS + number // 3 * 300_000_000 for number in range(len(messages))]
    messages = [(t, at_ns, *rest) for at_ns, (t, _, *rest) in zip(times_ns, messages, strict=True)]
    messages[24] = (*messages[24][:3], messages[24][3][:50])
    messages += [
        ("/recorder/corrections", times_ns[-1] + number,
         *correction(START_NS + number * NS + 400_000_000, 40 if number % 2 else 999, 60))
        for number in range(12)
    ]  # fmt: skip
    bag, whole = write_bag(tmp_path / "drive", messages), tmp_path / "whole"
    settings = ClipSettings(fps=5.0, clip_s=1.0, held_out=0.3, border_gap_s=0.5)
    report = sample_bag(bag, LogTopics(image=TOPIC), whole, settings)
    assert len(report.skips["counts"]) == 6
    expected = everything_below(whole)
    (file,) = whole.glob("logs/*/clips.jsonl")
    lines = file.read_bytes().splitlines(keepends=True)

    for num_lines in range(len(lines)):
        again = tmp_path / f"again_{num_lines}"
        shutil.copytree(whole, again)
        (again / file.relative_to(whole)).write_bytes(b"".join(lines[:num_lines]))
        sample_bag(bag, LogTopics(image=TOPIC), again, settings)
        assert differing(everything_below(again), expected) == [], f"from {num_lines} lines on"


def test_a_full_disk_is_told_keeps_what_was_made_and_the_next_run_goes_on(
    long_bag, made_at_once, tmp_path
):
    process = start(long_bag, tmp_path, limit=20_000)  # of the file that grows: clips.jsonl
    _, error = process.communicate(timeout=60)

    assert process.returncode == 1
    assert "cannot be written (File too large); what was made before is kept" in error
    assert len(list(tmp_path.glob("train/frames/*/*.jpg"))) > 5

    assert start(long_bag, tmp_path).wait(60) == 0
    assert differing(everything_below(tmp_path), made_at_once) == []


def test_a_missing_topic_names_those_that_are_there(tmp_path):
    bag = write_bag(tmp_path / "drive", camera(3))

    with pytest.raises(DataError, match=f"has no topic /front; .*{TOPIC}"):
        sample_bag(bag, LogTopics(image="/front"), tmp_path / "out", ALL_TRAIN)
    assert os.listdir(tmp_path / "out" / "logs")  # the head only, which costs nothing

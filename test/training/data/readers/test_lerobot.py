import json

import cv2
import numpy as np
import pyarrow as pa
import pytest

from molmo2_ros.errors import ConfigError, DataError
from molmo2_ros.training.data.example import Annotation, Example, Media, Task

TOP, WRIST = "observation.images.top", "observation.images.wrist"
DATA_V2 = "data/chunk-{episode_chunk:03d}/episode_{episode_index:06d}.parquet"
VIDEO_V2 = "videos/chunk-{episode_chunk:03d}/{video_key}/episode_{episode_index:06d}.mp4"
DATA_V3 = "data/chunk-{chunk_index:03d}/file-{file_index:03d}.parquet"
VIDEO_V3 = "videos/{video_key}/chunk-{chunk_index:03d}/file-{file_index:03d}.mp4"


def write_info(tmp_path, version="v2.1", cameras=((TOP, "video"), (WRIST, "video")), **changes):
    is_v3 = version.startswith("v3")
    info = {
        "codebase_version": version,
        "robot_type": "so100",
        "fps": 10,
        "chunks_size": 2,
        "data_path": DATA_V3 if is_v3 else DATA_V2,
        "video_path": VIDEO_V3 if is_v3 else VIDEO_V2,
        "features": {
            **{name: {"dtype": dtype, "shape": [480, 640, 3]} for name, dtype in cameras},
            "observation.state": {"dtype": "float32", "shape": [6]},
            "action": {"dtype": "float32", "shape": [6]},
        },
        **changes,
    }
    (tmp_path / "meta").mkdir(exist_ok=True)
    (tmp_path / "meta" / "info.json").write_text(json.dumps(info))


def episode(index, *tasks):
    return {"episode_index": index, "tasks": list(tasks), "length": 30}


def reply(words, question="What is the robot doing?"):
    return Annotation(task=Task.REPLY, question=question, answer=words)


def test_episodes_of_version_2_are_files_of_their_own(tmp_path, write_table, touch, read):
    write_info(tmp_path)
    write_table(
        "meta/episodes.jsonl",
        [episode(0, "Put the cube in the bowl."), episode(2, "Open the drawer.", "Close it.")],
    )
    write_table("meta/episodes_stats.jsonl", [{"episode_index": 0, "stats": {}}])
    files = {
        (index, camera): f"videos/chunk-00{index // 2}/{camera}/episode_00000{index}.mp4"
        for index in (0, 2)
        for camera in (TOP, WRIST)
    }
    touch(*files.values())
    examples, report = read("lerobot")
    words = {0: "Put the cube in the bowl.", 2: "Open the drawer.; Close it."}
    assert examples == [
        Example(
            name=f"episode {index} {camera}",
            media=Media(video=str(tmp_path / file)),
            annotations=(reply(words[index]),),
        )
        for (index, camera), file in files.items()
    ]
    assert not report.skipped


def v3_episode(index, from_s, to_s, *tasks, file_index=1):
    place = {
        f"videos/{TOP}/chunk_index": 0,
        f"videos/{TOP}/file_index": file_index,
        f"videos/{TOP}/from_timestamp": from_s,
        f"videos/{TOP}/to_timestamp": to_s,
    }
    return {**episode(index, *tasks), "data/chunk_index": 0, "data/file_index": 0, **place}


def test_episodes_of_version_3_are_parts_of_shared_files(
    tmp_path, write_table, touch, read, skipped
):
    write_info(tmp_path, "v3.0", ((TOP, "video"),))
    touch(f"videos/{TOP}/chunk-000/file-001.mp4")
    write_table(
        "meta/episodes/chunk-000/file-000.parquet",
        [
            v3_episode(0, 0.0, 3.0, "Push the T."),
            v3_episode(1, 3.0, 6.5, "Push the T."),
            v3_episode(2, 6.5, 6.5, "Push the T."),
            v3_episode(3, 0.0, 3.0, "Push the T.", file_index=2),
            v3_episode(4, 0.0, 3.0, ""),
        ],
    )
    examples, report = read("lerobot", answer="caption")
    path = str(tmp_path / f"videos/{TOP}/chunk-000/file-001.mp4")
    caption = Annotation(task=Task.CAPTION, answer="Push the T.", style="video_short_caption")
    assert examples == [
        Example(
            name=f"episode {index} {TOP}",
            media=Media(video=path, start_s=start_s, end_s=end_s),
            annotations=(caption,),
        )
        for index, start_s, end_s in ((0, 0.0, 3.0), (1, 3.0, 6.5))
    ]
    place = "chunk-000/file-000.parquet, row"
    assert skipped(report) == [
        (f"{place} 2, {TOP}", "malformed", "clip from 6.5 to 6.5 s, expected a later end"),
        (
            f"{place} 3",
            "media not found",
            f"no file videos/{TOP}/chunk-000/file-002.mp4",
        ),
        (f"{place} 4", "left out by rule", "episode 4 has no task in words"),
    ]


def png(value):
    return cv2.imencode(".png", np.full((4, 6, 3), value, np.uint8))[1].tobytes()


def test_pictures_inside_the_table_become_frames(tmp_path, write_table, read):
    write_info(tmp_path, cameras=((TOP, "image"),), video_path=None)
    write_table("meta/episodes.jsonl", [episode(1, "Wave.")])
    rows = [
        {
            TOP: {"bytes": png(n), "path": f"frame-{n}.png"},
            "observation.state": [0.0] * 6,
            "timestamp": n / 10,
            "episode_index": index,
        }
        for index, n in ((0, 0), (1, 3), (1, 4), (1, 5))
    ]
    schema = pa.schema(
        [
            (TOP, pa.struct([("bytes", pa.binary()), ("path", pa.string())])),
            ("observation.state", pa.list_(pa.float32())),
            ("timestamp", pa.float64()),
            ("episode_index", pa.int64()),
        ]
    )
    write_table("data/chunk-000/episode_000001.parquet", rows, schema)
    out = tmp_path / "out"
    (example,), _ = read("lerobot", store=out)
    assert example.media.times_s == pytest.approx((0.0, 0.1, 0.2))
    assert [(out / path).read_bytes() for path in example.media.frames] == [png(3), png(4), png(5)]
    assert example.annotations == (reply("Wave."),)
    with pytest.raises(ConfigError, match=r"\(store\)"):
        read("lerobot")


def test_episodes_and_cameras_are_chosen(tmp_path, write_table, touch, read):
    write_info(tmp_path)
    write_table("meta/episodes.jsonl", [episode(index, "Wave.") for index in range(4)])
    touch(*(f"videos/chunk-00{i // 2}/{WRIST}/episode_00000{i}.mp4" for i in range(4)))
    question = "What is it up to?"
    examples, report = read("lerobot", episodes=(1, 3), cameras=(WRIST,), question=question)
    assert [example.name for example in examples] == [f"episode {i} {WRIST}" for i in (1, 3)]
    assert examples[0].annotations == (reply("Wave.", question),)
    assert not report.skipped
    with pytest.raises(ConfigError, match="no episode 9 in"):
        read("lerobot", episodes=(1, 9), cameras=(WRIST,))
    with pytest.raises(ConfigError, match=f"no camera 'top', expected of {TOP}, {WRIST}"):
        read("lerobot", cameras=("top",))
    with pytest.raises(ConfigError, match="answer is 'title', expected reply or caption"):
        read("lerobot", answer="title")


@pytest.mark.parametrize(
    ("version", "changes", "message"),
    [
        ("v1.6", {}, r"of version v1.6, expected v2.x or v3.x"),
        ("v2.1", {"cameras": ()}, "names no camera"),
        ("v2.1", {"fps": 0}, "'fps' is 0.0, expected a number above 0"),
        ("v2.1", {"features": []}, r"meta/info.json: 'features' is \[\], expected a record"),
        ("v2.1", {}, "meta/episodes.jsonl is missing"),
        ("v3.0", {}, "meta/episodes is no folder"),
    ],
)
def test_folders_that_are_no_data_set_are_refused(tmp_path, read, version, changes, message):
    write_info(tmp_path, version, **changes)
    with pytest.raises(DataError, match=message):
        read("lerobot")


def test_paths_and_rows_that_say_nothing_are_reported(tmp_path, write_table, touch, read, skipped):
    write_info(tmp_path, cameras=((TOP, "video"),), video_path="videos/{camera}.mp4")
    write_table("meta/episodes.jsonl", [episode(0, "Wave."), {"episode_index": "x", "tasks": []}])
    with pytest.raises(DataError, match="(?s)'videos/{camera}.mp4' of meta/info.json has an unk"):
        read("lerobot")
    write_info(tmp_path, cameras=((TOP, "video"),))
    touch(f"videos/chunk-000/{TOP}/episode_000000.mp4")
    examples, report = read("lerobot")
    assert len(examples) == 1
    assert skipped(report) == [
        ("episodes.jsonl, row 1", "malformed", "'episode_index' is 'x', expected a number")
    ]


def test_a_missing_info_file_is_refused(tmp_path, read):
    with pytest.raises(DataError, match=r"meta/info.json cannot be read as JSON"):
        read("lerobot")

"""Messages that nobody should send: strategies of hypothesis for every topic that the nodes hear.

    python benchmarks/fuzz_messages.py KIND COUNT SEED > file     # what benchmarks/fuzz.py reads

Half of what is drawn is nearly right, so that it comes past the first check. Written as CDR, as it
would come over DDS, each with its length before it.
"""

from __future__ import annotations

import itertools
import json
import struct
import sys
from array import array
from pathlib import Path
from typing import Any, BinaryIO

sys.path[:0] = [str(Path(__file__).parents[1])]

import cv2  # noqa: E402
import numpy as np  # noqa: E402
from builtin_interfaces.msg import Time  # noqa: E402
from geometry_msgs.msg import Point, PointStamped  # noqa: E402
from hypothesis import HealthCheck, Phase, given, seed, settings  # noqa: E402
from hypothesis import strategies as st  # noqa: E402
from rclpy.serialization import serialize_message  # noqa: E402
from sensor_msgs.msg import CameraInfo, CompressedImage, Image, PointCloud2, PointField  # noqa: E402
from std_msgs.msg import Header, String  # noqa: E402

WIDTH, HEIGHT = 320, 240  # of the true camera's pictures
FRAME_ID = "table_optical"
BATCH = 500  # hypothesis keeps what it has drawn: a new run for each so many

int32 = st.integers(-(2**31), 2**31 - 1)
uint32 = st.integers(0, 2**32 - 1)
floats = st.one_of(
    st.floats(allow_nan=True, allow_infinity=True),
    st.sampled_from([0.0, -1.0, 1e-320, 1e308, float("nan"), float("inf"), float("-inf")]),
    st.floats(0.0, 400.0),
)
words = st.one_of(
    st.text(max_size=60),
    st.sampled_from(
        [
            "the red mug",
            "mugs",
            "lemon",
            "",
            " ",
            "\x00",
            "<im_patch>" * 3,
            "x" * 3000,
            "\U0001f34b",
        ]
    ),
)
times = st.one_of(
    st.builds(Time, sec=st.integers(0, 2_000_000_000), nanosec=st.integers(0, 999_999_999)),
    st.builds(Time, sec=int32, nanosec=uint32),
)
headers = st.builds(
    Header, stamp=times, frame_id=st.one_of(st.just(FRAME_ID), st.text(max_size=20))
)
sizes = st.one_of(st.integers(0, 48), st.integers(1, 48), uint32)
ENCODINGS = [
    "rgb8",
    "bgr8",
    "rgba8",
    "bgra8",
    "mono8",
    "mono16",
    "bayer_rggb8",
    "bayer_bggr8",
    "bayer_gbrg8",
    "bayer_grbg8",
    "bayer_rggb16",
    "yuv422",
    "uyvy",
    "yuv422_yuy2",
    "yuyv",
    "nv12",
    "nv21",
    "nv24",
    "16UC1",
    "32FC1",
    "8UC1",
    "8UC3",
    "64FC1",
    "16SC2",
]


def as_bytes(data: bytes) -> array[int]:
    """The fast way into a uint8[] field."""
    return array("B", data)


WHOLE = {"rgb8": 3, "bgr8": 3, "rgba8": 4, "mono8": 1, "mono16": 2, "bayer_rggb8": 1, "yuv422": 2}


@st.composite
def whole_images(draw: st.DrawFn) -> Image:
    """Images of odd shapes that nothing is wrong with."""
    encoding = draw(st.sampled_from(sorted(WHOLE)))
    height, width = draw(st.integers(1, 24)) * 2, draw(st.integers(1, 24)) * 2
    step = width * WHOLE[encoding] + draw(st.sampled_from([0, 0, 0, 3]))
    pattern = draw(st.binary(min_size=1, max_size=64))
    return Image(
        header=draw(headers),
        height=height,
        width=width,
        encoding=encoding,
        step=step,
        data=as_bytes((pattern * (step * height))[: step * height]),
    )


@st.composite
def images(draw: st.DrawFn, encodings: Any = None) -> Image:
    """Images whose fields may contradict each other."""
    encoding = draw(
        st.one_of(st.sampled_from(ENCODINGS), st.text(max_size=12))
        if encodings is None
        else encodings
    )
    height, width = draw(sizes), draw(sizes)
    num_bytes = draw(st.sampled_from([1, 2, 3, 4, 8]))
    step = draw(st.one_of(st.just(min(width * num_bytes, 2**32 - 1)), sizes))
    right = min(step * height, 20_000)
    length = draw(st.one_of(st.just(right), st.integers(0, 20_000)))
    pattern = draw(st.binary(min_size=1, max_size=64))
    return Image(
        header=draw(headers),
        height=height,
        width=width,
        encoding=encoding,
        is_bigendian=draw(st.sampled_from([0, 1, 255])),
        step=step,
        data=as_bytes((pattern * (length // len(pattern) + 1))[:length]),
    )


def _pictures() -> list[bytes]:
    """A small picture in the forms that OpenCV writes."""
    pixels = np.random.default_rng(0).integers(0, 255, (24, 32, 3), np.uint8)
    grey16 = pixels[:, :, 0].astype(np.uint16) * 200
    written = [cv2.imencode(kind, pixels)[1] for kind in (".jpg", ".png", ".webp", ".bmp", ".tiff")]
    return [one.tobytes() for one in (*written, cv2.imencode(".png", grey16)[1])]


PICTURES = _pictures()


@st.composite
def compressed_images(draw: st.DrawFn) -> CompressedImage:
    """Pictures with some bytes altered, cut or repeated, and bytes that are none."""
    data = bytearray(draw(st.sampled_from(PICTURES)))
    for _ in range(draw(st.integers(0, 6))):
        data[draw(st.integers(0, len(data) - 1))] = draw(st.integers(0, 255))
    cut = draw(st.one_of(st.none(), st.integers(0, len(data))))
    data = data[:cut] + draw(st.one_of(st.just(b""), st.binary(max_size=40)))
    kinds = st.sampled_from(
        ["jpeg", "png", "rgb8; jpeg compressed bgr8", "rgb8; png compressed rgb8", "h264", ""]
        + ["16UC1; compressedDepth png"]
    )
    return CompressedImage(
        header=draw(headers),
        format=draw(st.one_of(kinds, kinds, st.text(max_size=12))),
        data=as_bytes(bytes(data)),
    )


@st.composite
def depths(draw: st.DrawFn) -> Image:
    """Depth, most of it of the camera's shape."""
    if draw(st.booleans()):
        return draw(images(st.sampled_from(["16UC1", "32FC1", "mono16", "rgb8"])))
    scale = draw(st.sampled_from([1, 2, 5, 10]))
    encoding, num_bytes = draw(st.sampled_from([("16UC1", 2), ("32FC1", 4)]))
    height, width = HEIGHT // scale, WIDTH // scale
    step = width * num_bytes + draw(st.sampled_from([0, 0, 0, 1, 8]))
    pattern = draw(st.binary(min_size=1, max_size=64))
    length = step * height - draw(st.sampled_from([0, 0, 0, 1, step]))
    return Image(
        header=Header(stamp=draw(times), frame_id=FRAME_ID),
        height=height,
        width=width,
        encoding=encoding,
        is_bigendian=draw(st.sampled_from([0, 0, 1])),
        step=step,
        data=as_bytes((pattern * (length // len(pattern) + 1))[:length]),
    )


focals = st.one_of(st.floats(1.0, 600.0), floats)
camera_infos = st.builds(
    lambda header, width, height, model, d, fx, fy, cx, cy, rest: CameraInfo(
        header=header,
        width=width,
        height=height,
        distortion_model=model,
        d=array("d", d),
        k=np.array([fx, rest, cx, 0.0, fy, cy, 0.0, 0.0, 1.0]),
    ),
    headers,
    st.one_of(st.just(WIDTH), st.just(WIDTH), sizes),
    st.one_of(st.just(HEIGHT), st.just(HEIGHT), sizes),
    st.one_of(
        st.sampled_from(["plumb_bob", "rational_polynomial", "equidistant", ""]),
        st.text(max_size=12),
    ),
    st.one_of(
        st.lists(st.floats(-1.0, 1.0), min_size=4, max_size=8),
        st.lists(floats, max_size=20),
    ),
    focals,
    focals,
    focals,
    focals,
    floats,
)

numbers = st.one_of(
    st.sampled_from(
        ["0", "-1", "2", "0.5", "1e400", "1e18", "nan", "inf", "-inf", "1e-320", "9" * 60, "\u0663"]
    ),
    floats.map(str),
    st.text(max_size=6),
)
names = st.sampled_from(["a", "b", "red_mug", "all", "", "x" * 80, "\u00fc"])
options = st.one_of(
    numbers.map(lambda n: f"{n} hz"),
    numbers.map(lambda n: f"{n} fps"),
    numbers.map(lambda n: f"priority {n}"),
    numbers.map(lambda n: f"for {n} s"),
    st.tuples(numbers, numbers, numbers).map(lambda n: f"from {n[0]} {n[1]} at {n[2]}"),
    st.tuples(numbers, numbers).map(lambda n: f"from {n[0]} {n[1]} on 1700000000.000000000"),
    st.sampled_from(["clip", "crops", "frames", "style x", "style video_short_answer"]),
    st.text(max_size=10),
)
questions = st.builds(
    lambda name, kind, given, said: f"{name}{kind}{given}: {said}" if kind else f"{name}{said}",
    st.one_of(st.just(""), names.map(lambda name: f"{name}=")),
    st.sampled_from(["point", "track", "count", "ask", "caption", "", "POINT", "remove"]),
    st.one_of(
        st.just(""), st.lists(options, max_size=4).map(lambda given: f"[{', '.join(given)}]")
    ),
    words,
)
commands = st.one_of(
    st.builds(
        lambda verb, name: f"{verb}: {name}", st.sampled_from(["remove", "pause", "resume"]), names
    ),
    st.builds(lambda old, new: f"rename: {old} to {new}", names, names),
    st.builds(lambda name, rate: f"rate: {name} {rate} hz", names, numbers),
    names.map(lambda name: f"rate: {name} free"),
)
right_questions = st.builds(
    lambda name, kind, term, thing: f"{name}{kind}{term}: {thing}",
    st.sampled_from(["", "a=", "b=", "red_mug="]),
    st.sampled_from(["point", "track", "count"]),
    st.sampled_from(["", "", "[2 hz]", "[priority 3]", "[for 1 s]", "[0.5 hz, for 3 s]"]),
    st.sampled_from(["the red mug", "mugs", "the lemon", "bowls", "the blue book"]),
)
texts = st.one_of(right_questions, right_questions, questions, commands, words).map(
    lambda text: String(data=text)
)

# Pieces of JSON as text, since what is odd about a text is lost in a value.
scalars = st.one_of(
    st.sampled_from(
        ["null", "true", "NaN", "Infinity", "-1", "1e999", "9" * 400, '"\\ud800"', '"\\u0000"']
    ),
    floats.map(json.dumps),
    st.integers().map(json.dumps),
    st.text(max_size=12).map(json.dumps),
    st.sampled_from(["[" * 20_000, '{"a":' * 20_000]),
)
anything = st.recursive(
    scalars,
    lambda inner: st.one_of(
        st.lists(inner, max_size=3).map(lambda parts: f"[{','.join(parts)}]"),
        st.dictionaries(st.text(max_size=6).map(json.dumps), inner, max_size=3).map(
            lambda parts: "{" + ",".join(f"{key}:{value}" for key, value in parts.items()) + "}"
        ),
    ),
    max_leaves=6,
)


def near(fields: dict[str, Any]) -> st.SearchStrategy[str]:
    """JSON objects with the right fields, some of them missing or of another kind."""
    each = {
        key: st.one_of(right, right, right, right, right, st.none(), scalars)
        for key, right in fields.items()
    }
    return st.fixed_dictionaries(each).map(
        lambda found: (
            "{"
            + ",".join(
                f"{json.dumps(key)}:{value}" for key, value in found.items() if value is not None
            )
            + "}"
        )
    )


quoted = words.map(json.dumps)
stamps = st.one_of(
    st.just('{"sec": 0, "nanosec": 0}'), near({"sec": int32.map(str), "nanosec": uint32.map(str)})
)
frame_ids = st.sampled_from([json.dumps(FRAME_ID), '""'])
pixels = st.one_of(st.floats(0.0, 320.0), floats).map(json.dumps)
places = st.lists(near({"u": pixels, "v": pixels}), max_size=3).map(
    lambda found: f"[{','.join(found)}]"
)
corrections = st.one_of(
    near(
        {
            "query": quoted,
            "stamp": stamps,
            "frame_id": frame_ids,
            "u": pixels,
            "v": pixels,
            "visible": st.sampled_from(["true", "false"]),
        }
    ),
    near({"query": quoted, "u": pixels, "v": pixels}),
    anything,
    st.text(max_size=40),
).map(lambda text: String(data=text))
reviews = st.one_of(
    near(
        {
            "id": quoted,
            "query": quoted,
            "stamp": stamps,
            "frame_id": frame_ids,
            "points": places,
            "source": quoted,
            "retracted": st.sampled_from(["true", "false"]),
        }
    ),
    near({"keep": near({"stamp": stamps, "frame_id": frame_ids})}),
    anything,
    st.text(max_size=40),
).map(lambda text: String(data=text))
correction_points = st.builds(
    lambda header, x, y, z: PointStamped(header=header, point=Point(x=x, y=y, z=z)),
    headers,
    floats,
    floats,
    st.one_of(st.sampled_from([0.0, -1.0]), floats),
)
answers = st.one_of(
    near(
        {
            "query": near({"id": st.just("1"), "kind": quoted, "words": quoted, "name": quoted}),
            "stamp": stamps,
            "frame_id": frame_ids,
            "partial": st.sampled_from(["true", "false"]),
            "text": quoted,
            "points": places,
            "problems": anything,
            "queries": anything,
            "review_id": anything,
        }
    ),
    anything,
    st.text(max_size=40),
).map(lambda text: String(data=text))
clouds = st.builds(
    lambda header, width, height, data, fields: PointCloud2(
        header=header,
        width=width,
        height=height,
        fields=[PointField(name=name, offset=0, datatype=7, count=1) for name in fields],
        point_step=48,
        data=as_bytes(data),
    ),
    headers,
    st.one_of(st.integers(0, 3), uint32),
    st.one_of(st.just(1), st.integers(0, 3), uint32),
    st.one_of(st.integers(0, 3).map(lambda rows: bytes(48 * rows)), st.binary(max_size=200)),
    st.lists(st.sampled_from(["x", "u", "t", "track_id"]), max_size=3),
)

STRATEGIES = {
    "image": (Image, st.one_of(whole_images(), images())),
    "compressed": (CompressedImage, compressed_images()),
    "depth": (Image, depths()),
    "camera_info": (CameraInfo, camera_infos),
    "query": (String, texts),
    "ask": (String, texts),
    "correction_json": (String, corrections),
    "correction": (PointStamped, correction_points),
    "review": (String, reviews),
    "answer": (String, answers),
    "points": (PointCloud2, clouds),
}


def batch(kind: str, count: int, number: int) -> list[Any]:
    """`count` messages of a kind at most, always the same for a number."""
    drawn: list[Any] = []

    @seed(number)
    @settings(
        max_examples=count,
        phases=[Phase.generate],
        database=None,
        deadline=None,
        suppress_health_check=list(HealthCheck),
    )
    @given(STRATEGIES[kind][1])
    def draw(message: Any) -> None:
        drawn.append(message)

    draw()
    return drawn[:count]


def write(kind: str, count: int, first_seed: int, out: BinaryIO) -> None:
    """Draw `count` messages of a kind and write each with its length before it."""
    for number in itertools.count(first_seed * 1_000_003):
        if count <= 0:
            return
        drawn = batch(kind, min(count, BATCH), number)
        for message in drawn:
            data = bytes(serialize_message(message))
            out.write(struct.pack("<I", len(data)) + data)
        out.flush()
        count -= len(drawn)


if __name__ == "__main__":
    write(sys.argv[1], int(sys.argv[2]), int(sys.argv[3]), sys.stdout.buffer)

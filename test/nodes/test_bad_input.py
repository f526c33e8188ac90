"""Bad images and bad questions at the grounding node: told with cause and cure, and it goes on."""

import json
import re

import numpy as np
from diagnostic_msgs.msg import DiagnosticArray, DiagnosticStatus
from sensor_msgs.msg import CompressedImage, Image
from std_msgs.msg import String

from molmo2_ros.camera.encodings import encode_jpeg
from molmo2_ros.camera.stamp import NS_PER_S
from molmo2_ros.ros import images, qos
from molmo2_ros.ros.grounding_node import GroundingNode


def is_whole(message):
    return not json.loads(message.data)["partial"]


def about(kind):
    """Whether an answer is whole and of a kind."""
    return lambda message: is_whole(message) and json.loads(message.data)["query"]["kind"] == kind


def status_of(message, part):
    return next(status for status in message.status if status.name == f"grounding: {part}")


def values_of(status):
    return {entry.key: entry.value for entry in status.values}


BAD_IMAGES = {
    "encoding": ({"encoding": "vacuum"}, "unknown image encoding 'vacuum'; expected one of rgb8"),
    "step": ({"step": 7}, "step is 7 bytes, expected at least 960"),
    "length": ({"height": 241}, "data has 230400 bytes, expected 231360"),
    "size": ({"width": 0, "height": 0, "step": 0, "data": []}, "image is 0x0 pixels"),
}
BAD_TEXTS = {
    "empty": (" \n", "query is empty, expected words such as"),
    "long": ("x" * 100_000, "query has 100000 characters, expected at most 2000"),
    "patches": ("point: " + "<im_patch>" * 30, "query holds '<im_patch>', a control token"),
    "ends": ("track: the mug<|im_end|>" * 9, r"query holds '<\|im_end\|>', a control token"),
}
BAD_QUERIES = {
    "unknown": ("point: the spaceship", "does not know 'spaceship', it knows: .*mug"),
    "no such": ("remove: nothing", "no query is named 'nothing'; what stands: red_mug"),
}


def test_bad_images_and_bad_queries_are_told_apart_and_the_node_goes_on(node_under_test, camera):
    node_under_test.listen("/diagnostics", DiagnosticArray)
    node_under_test.listen("grounding/answer", String, qos.result_qos())
    node_under_test.start(
        GroundingNode,
        queries=["point: the red mug"],
        diagnostics_period_s=0.1,
        image_reliability="reliable",  # each bad image is sent once: none may be lost
    )
    image = images.image_message(np.zeros((240, 320, 3), np.uint8), 1, "table_optical")

    for change, words in BAD_IMAGES.values():
        bad = Image(**{n: getattr(image, n) for n in image.get_fields_and_field_types()})
        for name, value in change.items():
            setattr(bad, name, value)
        node_under_test.send("image", bad, qos.image_qos("reliable"))
        node_under_test.wait_for(
            "/diagnostics", lambda m, w=words: re.match(w, status_of(m, "camera").message)
        )
    for text, words in (*BAD_TEXTS.values(), *BAD_QUERIES.values()):
        node_under_test.send("grounding/query", String(data=text))
        told = node_under_test.wait_for(
            "/diagnostics", lambda m, w=words: re.search(w, status_of(m, "queries").message)
        )
        assert len(status_of(told, "queries").message) <= 400
        refused = node_under_test.set_parameter("grounding", "queries", [text])
        assert not refused.successful
        assert text.startswith("remove") or re.search(words, refused.reason)

    node_under_test.play(camera, rate_hz=5.0)
    node_under_test.wait_for("grounding/answer", about("point"))
    last = node_under_test.received["/diagnostics"][-1]
    counts = values_of(status_of(last, "camera"))
    assert int(counts["problems_ImageError"]) == len(BAD_IMAGES)
    assert int(counts["problems_QueryError"]) == len(BAD_TEXTS) + len(BAD_QUERIES)


def test_a_bad_question_is_told_and_the_next_one_is_answered(node_under_test, camera):
    node_under_test.listen("/diagnostics", DiagnosticArray)
    node_under_test.listen("grounding/answer", String, qos.result_qos())
    node_under_test.start(GroundingNode, diagnostics_period_s=0.1)
    node_under_test.play(camera, rate_hz=5.0)

    for text, words in BAD_TEXTS.values():
        node_under_test.send("grounding/ask", String(data=text))
        told = node_under_test.wait_for(
            "/diagnostics", lambda m, w=words: re.search(w, status_of(m, "queries").message)
        )
        assert status_of(told, "queries").level == DiagnosticStatus.ERROR
        assert len(status_of(told, "queries").message) <= 400
    node_under_test.send("grounding/ask", String(data="How many mugs are there?"))

    node_under_test.wait_for("grounding/answer", about("count"))
    assert len(list(filter(is_whole, node_under_test.received["grounding/answer"]))) == 1
    counts = values_of(status_of(node_under_test.received["/diagnostics"][-1], "camera"))
    assert int(counts["problems_QueryError"]) == len(BAD_TEXTS)


NOISE = np.random.default_rng(0).integers(0, 256, (240, 320, 3), np.uint8)
BAD_COMPRESSED = {
    "nothing": (
        "jpeg",
        b"",
        "0 bytes in compressed image format 'jpeg' cannot be decoded",
    ),
    "cut": ("jpeg", encode_jpeg(NOISE)[:9000], "9000 bytes .* one whole JPEG or PNG per message"),
    "stream": ("h264", b"\0\0\0\1\x67" * 99, "format 'h264' cannot .* republish the topic as raw"),
    "unknown": (
        "avif2",
        b"?" * 99,
        "99 bytes in compressed image format 'avif2' cannot be decoded",
    ),
    "depth": ("16UC1; compressedDepth png", b"?" * 99, "is a depth image; subscribe to the colour"),
}


def test_a_broken_compressed_image_is_told_and_the_next_one_is_used(node_under_test, table_frames):
    node_under_test.listen("/diagnostics", DiagnosticArray)
    node_under_test.listen("grounding/answer", String, qos.result_qos())
    node_under_test.start(
        GroundingNode,
        queries=["count: mugs"],
        image_transport="compressed",
        image_reliability="reliable",  # each is sent once: none may be lost
        diagnostics_period_s=0.1,
    )

    for image_format, data, words in BAD_COMPRESSED.values():
        bad = CompressedImage(format=image_format, data=images.byte_array(data))
        node_under_test.send("image/compressed", bad, qos.image_qos("reliable"))
        told = node_under_test.wait_for(
            "/diagnostics", lambda m, w=words: re.search(w, status_of(m, "camera").message)
        )
        assert status_of(told, "camera").level == DiagnosticStatus.ERROR
    good = images.jpeg_message(table_frames[0].image, NS_PER_S, "table_optical", 95)
    node_under_test.send("image/compressed", good)

    node_under_test.wait_for("grounding/answer", about("count"))
    last = node_under_test.wait_for(
        "/diagnostics",
        lambda m: status_of(m, "camera").level != DiagnosticStatus.ERROR,
        after=len(node_under_test.received["/diagnostics"]),
    )
    assert int(values_of(status_of(last, "camera"))["problems_ImageError"]) == len(BAD_COMPRESSED)

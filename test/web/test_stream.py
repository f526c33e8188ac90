"""The WebSocket: each viewer at its own pace, and none at the others' cost."""

import contextlib
import json
import time

import cv2
import numpy as np
import pytest
from websockets.exceptions import ConnectionClosed

from molmo2_ros.web.outbox import MAX_UNDRAWN


def scene_of(message):
    """Head and picture of a binary message."""
    length = int.from_bytes(message[:4], "big")
    return json.loads(message[4 : 4 + length]), message[4 + length :]


def scenes(viewer, seconds, *, draws=True):
    """Scenes that come within some seconds."""
    found = []
    end = time.monotonic() + seconds
    while (left := end - time.monotonic()) > 0:
        try:
            message = viewer.recv(timeout=left)
        except TimeoutError:
            break
        if isinstance(message, bytes):
            head, _ = scene_of(message)
            found.append(head)
            if draws:
                viewer.send(json.dumps({"type": "drawn", "number": head["number"]}))
    return found


def first_scene(viewer):
    while not isinstance(message := viewer.recv(timeout=60), bytes):
        pass
    return scene_of(message)


def is_ended(viewer):
    """Whether the server closes the connection, after what it had sent before."""
    try:
        for _ in range(200):
            viewer.recv(timeout=20)
    except ConnectionClosed:
        return True
    return False


def test_a_scene_holds_a_picture_and_the_points_of_just_that_picture(page):
    query = page.stand("point: the red mug")
    page.until(lambda: page.marks(query["id"])[1], "target")
    with page.viewer() as viewer:
        viewer.send(json.dumps({"type": "watch", "cameras": ["table"]}))
        head, jpeg = first_scene(viewer)
    stamp_ns = head["stamp"]["sec"] * 10**9 + head["stamp"]["nanosec"]
    shown = page.playback.shown[stamp_ns].frame.image
    picture = cv2.imdecode(np.frombuffer(jpeg, np.uint8), cv2.IMREAD_COLOR)[:, :, ::-1]
    assert picture.shape == (head["height"], head["width"], 3)
    assert np.abs(picture.astype(int) - shown).mean() < 4
    (point,) = [point for point in head["points"] if point["query_id"] == query["id"]]
    assert page.lies_on("red mug", point["u"], point["v"], stamp_ns)
    assert 0.2 < point["xyz"][2] < 2.0


def test_nothing_is_encoded_while_nobody_looks(page):
    page.until(lambda: page.hub.num_scenes > 5, "pictures")
    with page.viewer(pictures=False, acknowledge=False) as viewer:
        while '"type":"scene"' not in viewer.recv(timeout=60):
            pass
    assert page.hub.num_encoded == 0
    with page.viewer() as viewer:
        viewer.send(json.dumps({"type": "watch"}))
        first_scene(viewer)
    page.until(lambda: not page.hub.viewers, "end of the viewer")
    num_encoded, num_scenes = page.hub.num_encoded, page.hub.num_scenes
    page.until(lambda: page.hub.num_scenes > num_scenes + 3, "more pictures")
    assert page.hub.num_encoded == num_encoded


def test_each_picture_is_encoded_once_for_all(page):
    with page.viewer() as one, page.viewer() as two, page.viewer() as three:
        for viewer in (one, two, three):
            viewer.send(json.dumps({"type": "watch"}))
        seen = [scenes(viewer, 0.7) for viewer in (one, two, three) * 2]
    assert min(map(len, seen)) > 1
    numbers = {head["number"] for found in seen for head in found}
    assert page.hub.num_encoded <= len(numbers) + 3  # and those on their way at the end


def test_a_viewer_that_stalls_gets_the_newest_later_and_costs_nobody_anything(page):
    with page.viewer() as stalled, page.viewer() as lively:
        for viewer in (stalled, lively):
            viewer.send(json.dumps({"type": "watch"}))
        seen = scenes(lively, 3.0)
        assert len(seen) > 12  # of 24
        outbox = page.hub.viewers[min(page.hub.viewers)]
        assert outbox.num_sent == MAX_UNDRAWN
        assert len(outbox) < 10
        late = scenes(stalled, 2.0)
    # Two old ones that were on their way, and then none of those between.
    assert late[MAX_UNDRAWN]["number"] >= seen[-1]["number"]


def test_more_viewers_than_places_are_told_so(start):
    page = start(viewers=2)
    with page.viewer() as one, page.viewer() as two:
        one.recv(), two.recv()
        with (
            page.viewer() as third,
            pytest.raises(ConnectionClosed, match="all 2 places are taken"),
        ):
            third.recv(timeout=20)
    page.until(lambda: not page.hub.viewers, "free places")
    with page.viewer() as again:
        assert json.loads(again.recv(timeout=20))["type"] == "hello"


@pytest.mark.parametrize(
    "message",
    [
        "", "[]", "{", '{"type":"eval"}', '{"type":"watch","cameras":"table"}',
        '{"type":"drawn","number":-1}', '{"type":"watch","folder":"/"}', b"\x00\x01",
        '{"type":"drawn","number":' + "1" * 5000 + "}",
    ],
)  # fmt: skip
def test_what_is_no_message_ends_the_connection(page, message):
    with page.viewer() as viewer:
        viewer.send(message)
        assert is_ended(viewer)
    assert page.request("GET", "/api/state").status == 200


def test_a_flood_of_messages_ends_the_connection(page):
    with page.viewer() as viewer:
        with contextlib.suppress(ConnectionClosed):
            for number in range(1000):
                viewer.send(json.dumps({"type": "drawn", "number": number}))
        assert is_ended(viewer)


def test_a_new_viewer_is_told_what_stands_and_what_was_answered(page):
    page.stand("mugs=count: mugs")
    page.until(lambda: page.hub.answers, "answer")
    with page.viewer() as viewer:
        told = [json.loads(viewer.recv(timeout=20)) for _ in range(4)]
    kinds = [message["type"] for message in told]
    assert kinds[:3] == ["hello", "queries", "answer"]
    assert told[1]["queries"][0]["name"] == "mugs"
    assert told[2]["query"]["words"] == "mugs"


def test_parts_of_an_answer_come_while_it_is_written(page):
    page.stand("mugs=count: mugs")
    with page.viewer() as viewer:
        partial = whole = None
        while not (partial and whole):
            message = json.loads(viewer.recv(timeout=60))
            if message["type"] == "answer":
                partial = partial or (message if message["partial"] else None)
                whole = whole or (None if message["partial"] else message)
    assert len(partial["points"]) <= len(whole["points"])

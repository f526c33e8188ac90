"""What programs can ask: each operation on a live camera and the shipped model."""

import cv2
import numpy as np
import pytest

from molmo2_ros.prompt.query import MAX_CHARACTERS

STAMP = {"sec": 1, "nanosec": 5}


def entry_of(page, name):
    queries = page.request("GET", "/api/state").content["queries"]["molmo2"]["queries"]
    return next((entry for entry in queries if entry["name"] == name), None)


def stamp_json(scene):
    return {"sec": scene.stamp_ns // 10**9, "nanosec": scene.stamp_ns % 10**9}


def test_the_state_tells_cameras_nodes_and_skills(page):
    state = page.request("GET", "/api/state").content
    assert state["nodes"] == ["molmo2"]
    assert (state["cameras"][0]["name"], state["cameras"][0]["width"]) == ("table", 320)
    page.until(lambda: page.request("GET", "/api/state").content["status"], "status")
    assert "seed" in page.request("GET", "/api/state").content["queries"]["molmo2"]["skills"]


def test_the_newest_picture_is_the_one_of_its_stamp(page):
    reply = page.send("GET", "/api/picture?camera=table")
    seconds, nanoseconds = reply.headers["X-Stamp"].split(".")
    shown = page.playback.shown[int(seconds) * 10**9 + int(nanoseconds)].frame.image
    picture = cv2.imdecode(np.frombuffer(reply.content, np.uint8), cv2.IMREAD_COLOR)[:, :, ::-1]
    assert np.abs(picture.astype(int) - shown).mean() < 4


def test_a_question_is_answered_about_its_frame(page):
    told = page.request("POST", "/api/ask", {"text": "Point to the lemon"}).content
    answer = told["answer"]
    assert (answer["query"]["name"], answer["query"]["id"]) == (told["name"], 0)
    stamp_ns = answer["stamp"]["sec"] * 10**9 + answer["stamp"]["nanosec"]
    (point,) = answer["points"]
    assert page.lies_on("lemon", point["x"] * 320 - 0.5, point["y"] * 240 - 0.5, stamp_ns)


def test_a_question_that_is_not_waited_for_is_answered_on_the_stream(page):
    with page.viewer() as viewer:
        told = page.request("POST", "/api/ask", {"text": "count: mugs", "wait_s": 0}).content
        assert told["answer"] is None
        while f'"name":"{told["name"]}"' not in (text := viewer.recv(timeout=60)):
            pass
        assert '"count":' in text


def test_a_query_stands_changes_and_goes(page):
    assert page.stand("cup=track[1 hz]: the red mug")["wanted_rate_hz"] == 1.0
    change = {"name": "mug_1", "paused": True, "rate_hz": 2.5}
    changed = page.request("PATCH", "/api/queries/cup", change).content
    entry = changed["query"]
    assert (changed["name"], entry["paused"], entry["wanted_rate_hz"]) == ("mug_1", True, 2.5)
    assert entry["id"] == 1
    assert page.request("PATCH", "/api/queries/cup", change).status == 404
    freed = page.request("PATCH", "/api/queries/mug_1", {"rate_hz": 0, "paused": False}).content
    assert (freed["query"]["wanted_rate_hz"], freed["query"]["paused"]) == (None, False)
    assert page.request("DELETE", "/api/queries/mug_1").status == 204
    page.until(lambda: entry_of(page, "mug_1") is None, "end of the query")


def test_a_paused_query_is_asked_no_more_until_it_is_resumed(page):
    page.stand("mugs=count: mugs")
    page.until(lambda: entry_of(page, "mugs")["counts"]["answered"] > 1, "answers")
    page.request("PATCH", "/api/queries/mugs", {"paused": True})
    page.stand("lemon=point: the lemon")
    page.until(lambda: entry_of(page, "lemon")["counts"]["answered"] > 2, "other answers")
    asked = entry_of(page, "mugs")["counts"]["asked"]
    before = entry_of(page, "lemon")["counts"]["answered"]
    page.until(lambda: entry_of(page, "lemon")["counts"]["answered"] > before + 2, "more")
    assert entry_of(page, "mugs")["counts"]["asked"] == asked == 0  # counted anew once it waits
    page.request("PATCH", "/api/queries/mugs", {"paused": False})
    page.until(lambda: entry_of(page, "mugs")["counts"]["answered"] > 0, "answers again")


def test_what_is_clicked_is_tracked_on_as_the_clip_slides(page):
    scene = page.hub.scenes["table"]
    lemon = next(t for t in page.playback.shown[scene.stamp_ns].truth if t.name == "lemon")
    u, v = lemon.point_px
    click = {"camera": "table", "stamp": stamp_json(scene), "u": u, "v": v, "words": "the lemon"}
    query = page.request("POST", "/api/track", click).content["query"]
    assert (query["name"], query["kind"], query["label"]) == ("here_1", "track", "lemon")

    oldest_ns = scene.stamp_ns
    page.until(
        lambda: (
            page.hub.scenes["table"].stamp_ns > oldest_ns + 6 * 10**9 and page.marks(query["id"])[1]
        ),
        "a target after the clicked frame has left the clip",
    )
    scene, (mark, *_) = page.marks(query["id"])
    assert page.lies_on("lemon", mark.u, mark.v, scene.stamp_ns)
    assert entry_of(page, "here_1")["refused"] is None


def test_a_click_beside_a_target_means_the_same_thing(page):
    query = page.stand("point: the red mug")
    page.until(lambda: page.marks(query["id"])[1], "target")
    scene, (mark, *_) = page.marks(query["id"])
    click = {"camera": "table", "stamp": stamp_json(scene), "u": mark.u + 5, "v": mark.v}
    assert page.request("POST", "/api/track", click).content["query"]["label"] == "red mug"


def test_corrections_are_written_listed_and_taken_back(page):
    scene = page.hub.scenes["table"]
    about = {"camera": "table", "stamp": stamp_json(scene), "query": "the red mug"}
    places = [{"u": 10.5, "v": 20}, {"u": 30, "v": 40}]
    first = page.request("POST", "/api/corrections", {**about, "points": places}).content["id"]
    second = page.request("POST", "/api/corrections", {**about, "points": []}).content["id"]
    listed = page.request("GET", "/api/corrections").content["corrections"]
    assert [(c["id"], c["query"], len(c["points"])) for c in listed] == [
        (first, "red mug", 2), (second, "red mug", 0),
    ]  # fmt: skip
    page.until(
        lambda: all(
            c["state"] == "recorded"
            for c in page.request("GET", "/api/corrections").content["corrections"]
        ),
        "word that both are written",
    )
    assert page.request("DELETE", f"/api/corrections/{second}").status == 204
    assert page.request("DELETE", f"/api/corrections/{second}").status == 404
    assert page.request("DELETE", f"/api/corrections/{first}").status == 204

    places = [(c["visible"], c["u"], c["v"], c.get("retracted", False)) for c in page.corrections()]
    both = [(False, None, None, False), (True, 10.5, 20.0, False), (True, 30.0, 40.0, False)]
    assert places == [*both, (False, None, None, False), *both, (False, None, None, True)]
    assert (page.folder / "pictures" / f"{scene.stamp_ns}.jpg").is_file()


def test_a_picture_that_is_forgotten_cannot_be_corrected(page):
    about = {"camera": "table", "stamp": STAMP, "query": "mug", "points": []}
    refused = page.request("POST", "/api/corrections", about)
    assert refused.status == 409
    assert "not remembered any more" in refused.content["detail"]
    assert page.request("GET", "/api/corrections").content["corrections"] == []


@pytest.mark.parametrize(
    ("method", "path", "content", "status", "words"),
    [
        ("POST", "/api/ask", {"text": "point: the elephant"}, 422, "does not know 'elephant'"),
        ("POST", "/api/ask", {"text": "Is it day?"}, 422, "cannot do 'ask'"),
        ("POST", "/api/ask", {"text": "point[2 hz]: mug"}, 422, "is asked once and has a rate"),
        ("POST", "/api/ask", {"text": "point: <im_end> mug"}, 422, "control token"),
        ("POST", "/api/ask", {"text": "x" * (MAX_CHARACTERS + 1)}, 422, "2000"),
        ("POST", "/api/ask", {"text": "count: mugs", "node": "nobody"}, 404, "no node 'nobody'"),
        ("POST", "/api/ask", {"text": "count: mugs", "path": "/etc"}, 422, "Extra inputs"),
        ("POST", "/api/queries", {"text": "remove: all"}, 422, "this is a command"),
        ("POST", "/api/queries", {"text": "point: the \u0007 mug"}, 422, "control character"),
        ("PATCH", "/api/queries/none", {"paused": True}, 404, "no query is named 'none'"),
        ("PATCH", "/api/queries/a%20b", {"paused": True}, 422, "pattern"),
        ("DELETE", "/api/queries/none", None, 404, "what stands: none"),
        ("DELETE", "/api/corrections/web-1", None, 404, "no correction 'web-1' stands"),
        (
            "POST", "/api/track", {"camera": "table", "stamp": STAMP, "u": 900, "v": 1}, 422,
            "outside the picture of 320x240",
        ),
        (
            "POST", "/api/track", {"camera": "other", "stamp": STAMP, "u": 9, "v": 1}, 404,
            "no camera 'other' shows anything; there are: table",
        ),
        ("POST", "/api/keep", {"camera": "table", "stamp": {"sec": -1, "nanosec": 0}}, 422, "sec"),
        ("GET", "/api/picture?camera=..%2F..%2Fetc%2Fpasswd", None, 404, "no camera"),
    ],
)  # fmt: skip
def test_what_cannot_be_done_is_refused_in_words(page, method, path, content, status, words):
    refused = page.request(method, path, content)
    assert refused.status == status, refused.content
    assert words in str(refused.content["detail"])


def test_a_name_that_is_taken_and_one_query_too_many_are_refused(page):
    for number in range(16):
        page.stand(f"q{number}=point[0.01 hz]: the lemon")
    full = page.request("POST", "/api/queries", {"text": "one_more=point: the lemon"})
    assert full.status == 422
    assert "17 standing queries, expected at most 16" in full.content["detail"]
    taken = page.request("PATCH", "/api/queries/q1", {"name": "q2"})
    assert "a query is named 'q2' already" in taken.content["detail"]


def test_the_interface_describes_itself_without_anything_from_elsewhere(page):
    schema = page.request("GET", "/api/openapi.json").content
    assert {
        "/api/ask",
        "/api/queries",
        "/api/queries/{name}",
        "/api/track",
        "/api/corrections",
    } <= (set(schema["paths"]))
    for operations in schema["paths"].values():
        assert all(operation["summary"] for operation in operations.values())
    assert page.request("GET", "/docs").status == 404

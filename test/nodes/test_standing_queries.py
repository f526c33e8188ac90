"""Standing queries over real DDS: how long they stand, and how they share an engine."""

import json
import time
from functools import partial

import pytest
from diagnostic_msgs.msg import DiagnosticArray
from sensor_msgs.msg import PointCloud2
from std_msgs.msg import String

from molmo2_ros.ros import images, qos
from molmo2_ros.ros.clouds import rows_of
from molmo2_ros.ros.grounding_node import GroundingNode


def standing(message):
    """The entries of ~/queries by name."""
    return {entry["name"]: entry for entry in json.loads(message.data)["queries"]}


def query_id(message):
    return json.loads(message.data)["query"]["id"]


def is_about(wanted_id, message):
    return query_id(message) == wanted_id


def is_whole(message):
    return not json.loads(message.data)["partial"]


def clip_s(message):
    """Seconds from the first to the last frame that an answer is about."""
    stamps = json.loads(message.data)["clip_stamps"]
    stamps_s = [stamp["sec"] + stamp["nanosec"] / 1e9 for stamp in stamps]
    return stamps_s[-1] - stamps_s[0]


def answer_values(message):
    """What /diagnostics says of the answers."""
    status = next(s for s in message.status if s.name == "grounding: answers")
    return {entry.key: entry.value for entry in status.values}


def counted(name, least):
    """Whether /diagnostics has counted so many."""
    return lambda message: int(answer_values(message).get(name, 0)) >= least


@pytest.fixture
def grounding(node_under_test):
    """Listens to what the node says of its queries, and starts it."""
    node_under_test.listen("grounding/queries", String, qos.state_qos())
    node_under_test.listen("grounding/answer", String, qos.result_qos())
    node_under_test.listen("/diagnostics", DiagnosticArray)

    def start(queries, **parameters):
        node_under_test.start(
            GroundingNode, queries=queries, diagnostics_period_s=0.1, **parameters
        )
        return node_under_test

    return start


def test_a_query_for_some_seconds_leaves_by_itself(grounding, camera):
    node = grounding(["count: mugs"])
    node.listen("grounding/points", PointCloud2, qos.result_qos())
    node.play(camera, rate_hz=10.0)
    node.wait_for("grounding/answer")
    sent_s = time.monotonic()
    node.send("grounding/query", String(data="mug=point[for 3 s, 5 hz, priority 2]: the red mug"))

    told = node.wait_for("grounding/queries", lambda m: "mug" in standing(m))
    entry = standing(told)["mug"]
    assert 0 < entry["time_left_s"] <= 3.0
    assert (entry["wanted_rate_hz"], entry["priority"]) == (5.0, 2)
    after = node.received["grounding/queries"].index(told)
    node.wait_for("grounding/queries", lambda m: "mug" not in standing(m), after=after)
    assert time.monotonic() - sent_s >= 3.0
    gone_ns = node.node.get_clock().now().nanoseconds

    # What was on its way has come when the other query is answered again.
    num_before = len(node.received["grounding/answer"])
    node.wait_for("grounding/answer", is_whole, after=num_before)
    num_before = len(node.received["grounding/answer"])
    for _ in range(3):
        node.wait_for("grounding/answer", after=len(node.received["grounding/answer"]))
    ids = {query_id(m) for m in node.received["grounding/answer"][num_before:]}
    assert ids == {standing(told)["mugs"]["id"]}
    node.wait_for("/diagnostics", counted("expired", 1))
    # Its targets went with it.
    later = [m for m in node.received["grounding/points"] if images.stamp_ns_of(m) > gone_ns]
    assert later
    assert not any(entry["id"] in rows_of(m)["query_id"] for m in later)


@pytest.mark.parametrize(
    ("first", "then"),
    [
        ("thing=track: the lemon", "remove: thing"),
        ("thing=track: the lemon", "thing=track: the red mug"),
    ],
    ids=["removed", "replaced"],
)
def test_an_answer_ends_unpublished_when_its_query_goes(grounding, camera, first, then):
    node = grounding([""])
    node.play(camera, rate_hz=30.0)
    num_asked = 0

    def was_cancelled():
        """Take a query away while the engine answers without a pause."""
        nonlocal num_asked
        for text in (first, then):
            node.send("grounding/query", String(data=text))
            if not text.startswith("remove"):
                num_asked += 1
                node.wait_for("grounding/answer", partial(is_about, num_asked))
        return any(map(counted("cancelled", 1), node.received["/diagnostics"][-1:]))

    node.until(was_cancelled, "cancelled answer")

    # Only one stood at a time: nothing came of a query once there was something of the next, and
    # no answer that was ended on the way.
    answers = [json.loads(message.data) for message in node.received["grounding/answer"]]
    assert not any("cancelled before its end" in answer["problems"] for answer in answers)
    ids = [answer["query"]["id"] for answer in answers]
    assert ids == sorted(ids)
    assert set(ids) == set(range(1, num_asked + 1))
    node.send("grounding/query", String(data="remove: all"))
    quiet = node.wait_for(
        "/diagnostics",
        lambda m: (
            int(answer_values(m)["asked"])
            == sum(int(answer_values(m)[name]) for name in ("answered", "late", "cancelled"))
        ),
        after=len(node.received["/diagnostics"]),
    )
    assert int(answer_values(quiet)["cancelled"]) >= 1


def test_a_busy_engine_answers_the_more_important_query_more_often(grounding, camera):
    # Tracks at different rates are answers about different clips: one after the other.
    low = [f"low_{tenths}=track[0.{tenths} fps]: the lemon" for tenths in range(2, 7)]
    node = grounding([*low, "high=track[0.7 fps, priority 6]: the lemon"])

    node.play(camera, rate_hz=30.0)

    def num_asked(message):
        return {name: entry["counts"]["asked"] for name, entry in standing(message).items()}

    # Answers about the first frames are soon given; busy is the engine with a full window.
    node.wait_for("grounding/answer", lambda m: clip_s(m) >= 3.0)
    heard = len(node.received["grounding/queries"])
    before = num_asked(node.wait_for("grounding/queries", after=heard))

    def num_since(message):
        return {name: num - before[name] for name, num in num_asked(message).items()}

    told = node.wait_for(
        "grounding/queries", lambda m: min(num_since(m).values()) >= 2, after=heard
    )
    num = num_since(told)
    high = num.pop("high")
    assert len(num) == 5
    assert high >= 2 * max(num.values()), num


def test_an_answer_past_its_deadline_is_cut_and_published(grounding, camera):
    node = grounding(["track: the lemon", "count: mugs"], answer_deadline_s=0.001)
    node.play(camera, rate_hz=10.0)

    cut = json.loads(node.wait_for("grounding/answer", is_whole).data)
    assert cut["truncated"]
    assert "past answer_deadline_s = 0.001" in cut["problems"]
    node.send("grounding/ask", String(data="point: the red mug"))
    free = node.wait_for("grounding/answer", lambda m: query_id(m) == 0 and is_whole(m))
    assert json.loads(free.data)["truncated"]
    node.wait_for("/diagnostics", counted("late", 2))
    node.wait_for(
        "grounding/queries",
        lambda m: all(entry["counts"]["late"] for entry in standing(m).values()),
    )

    # The deadline is live.
    assert node.set_parameter("grounding", "answer_deadline_s", 0.0).successful
    node.wait_for("grounding/answer", lambda m: is_whole(m) and not json.loads(m.data)["truncated"])


def test_queries_on_the_same_frames_are_asked_together(grounding, camera):
    node = grounding(["point: the red mug", "count: mugs"])
    node.play(camera, rate_hz=30.0)

    def stamps():
        """Of the frames that each query was answered about."""
        answers = [json.loads(m.data) for m in node.received["grounding/answer"] if is_whole(m)]
        return [
            [tuple(a["stamp"].values()) for a in answers if a["query"]["kind"] == kind]
            for kind in ("point", "count")
        ]

    node.until(lambda: min(map(len, stamps())) >= 4, "four answers to each query")

    of_points, of_counts = stamps()
    assert of_points[:4] == of_counts[:4]


def test_free_questions_take_turns_with_standing_ones(grounding, camera):
    node = grounding(["count: mugs"])
    node.wait_for("grounding/queries")
    for _ in range(8):  # they wait for the first frame
        node.send("grounding/ask", String(data="track: the lemon"))
    # Faster than answers, as a standing query waits for a new clip.
    node.play(camera, rate_hz=100.0)

    def whole_ids():
        return [query_id(m) for m in node.received["grounding/answer"] if is_whole(m)]

    node.until(lambda: whole_ids().count(0) == 8, "answer to each of the questions")

    ids = whole_ids()
    first, last = ids.index(0), len(ids) - 1 - ids[::-1].index(0)
    assert last - first - 7 >= 2, f"standing ones among the free ones: {ids}"


def test_a_question_that_is_asked_once_has_no_rate(grounding, camera):
    node = grounding([""])
    node.wait_for("grounding/queries")
    node.send("grounding/ask", String(data="point[2 hz]: the red mug"))
    node.wait_for(
        "/diagnostics",
        lambda m: any("is asked once and has a rate" in status.message for status in m.status),
    )


def test_a_query_finds_its_frames_encoded_and_the_others_are_not(grounding, camera):
    node = grounding(["mug=point[1 hz]: the red mug"])
    node.play(camera, rate_hz=10.0)

    def num_frames_encoded():
        return [
            json.loads(message.data)["timing"]["num_frames_encoded"]
            for message in node.received["grounding/answer"]
            if is_whole(message)
        ]

    node.until(lambda: num_frames_encoded().count(0) >= 4, "answer that found its frame encoded")
    last = node.wait_for("/diagnostics", after=len(node.received["/diagnostics"]))
    values = answer_values(last)
    assert int(values["frames_encoded_ahead"]) >= 4
    assert float(values["frames_found_encoded_share"]) > 0
    assert int(values["frames_encoded"]) < 0.5 * len(camera.stamps_ns)

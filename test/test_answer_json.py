"""~/answer and ~/queries are JSON that any language reads."""

import json

import numpy as np

from molmo2_ros.answer_json import QueryState, answer_payload, payload_json, queries_payload
from molmo2_ros.answers.answer import Answer, AnsweredPoint, Timing
from molmo2_ros.camera.frame import Frame
from molmo2_ros.prompt.query import parse_query
from molmo2_ros.scheduler import Counts
from molmo2_ros.standing import StandingQueries
from molmo2_ros.tracking.target import Target

STAMPS_NS = (1_700_000_000_500_000_001, 1_700_000_001_000_000_002)


def answer(**changes):
    fields = {
        "query": parse_query("track: the red mug"),
        "text": '<tracks coords="0.5 1 512 402">red mug</tracks>',
        "stamps_ns": STAMPS_NS,
        "points": (AnsweredPoint(object_id=1, time_s=0.5, x=0.512, y=0.402),),
        "label": "red mug",
        "is_track": True,
        "timing": Timing(
            decode_s=0.12345, num_answer_tokens=15, num_passes=2, num_drafted=20, num_accepted=14
        ),
    }
    return Answer(**{**fields, **changes})


def row(stamp_ns, track_id, **changes):
    fields = {
        "query_id": 3,
        "query_name": "red_mug",
        "label": "red mug",
        "track_id": track_id,
        "stamp_ns": stamp_ns,
        "u": 163.337,
        "v": 96.0,
        "point_m": (0.01, 0.02, 0.7),
        "age_s": 0.0,
        "quality": 1.0,
        "confidence": float("nan"),
        "measured": True,
        "z_std_m": 0.0123,
    }
    return Target(**{**fields, **changes})


FRAME = Frame(image=np.zeros((240, 320, 3), np.uint8), stamp_ns=0, frame_id="camera")


def parsed(answer, rows=()):
    def refuse(constant):
        raise AssertionError(f"{constant} is no JSON")

    told = answer_payload(answer, rows, 3, FRAME)
    return json.loads(payload_json(told), parse_constant=refuse)


def test_an_answer_keeps_its_stamps_to_the_nanosecond_and_has_no_nan():
    without_depth = row(STAMPS_NS[0], 5, point_m=None, z_std_m=float("nan"))
    told = parsed(answer(), [row(STAMPS_NS[1], 5), without_depth])

    assert told["stamp"] == {"sec": 1_700_000_001, "nanosec": 2}
    assert told["clip_stamps"][0] == {"sec": 1_700_000_000, "nanosec": 500_000_001}
    assert told["points"][0]["confidence"] is None
    (track,) = told["tracks"]
    # Oldest first, whatever the order of the rows.
    assert [point["stamp"]["sec"] for point in track["points"]] == [1_700_000_000, 1_700_000_001]
    assert [point["xyz"] for point in track["points"]] == [None, [0.01, 0.02, 0.7]]
    assert [point["z_std"] for point in track["points"]] == [None, 0.0123]
    assert track["points"][0]["u"] == 163.34
    assert told["timing"]["decode_s"] == 0.1235
    reading = [told["timing"][f"num_{name}"] for name in ("passes", "drafted", "accepted")]
    assert reading == [2, 20, 14]
    assert told["degenerate"] is False


def test_words_of_any_language_and_model_markup_survive():
    told = parsed(answer(query=parse_query("ask: Wo ist die Tür?"), text='<points "ß\n'))

    assert told["query"]["words"] == "Wo ist die Tür?"
    assert told["text"] == '<points "ß\n'


def test_queries_tell_their_terms_and_how_they_fare():
    standing = StandingQueries(max_queries=4)
    standing.add(parse_query("point[priority 3, for 30 s]: the red mug"), 100.0)
    standing.add(parse_query("count[2 hz]: mugs"), 100.0)
    counts = Counts(num_asked=9, num_answered=6, num_late=2, num_cancelled=1, num_missed=4)

    payload = queries_payload(
        standing.all(112.5),
        {1: QueryState(rate_hz=4.2345, counts=counts, refused="no skill")},
        112.5,
        default_rate_hz=5.0,
        is_active=True,
        engine="nano",
        skills=("point",),
    )
    told = json.loads(payload_json(payload))

    assert told["queries"] == [
        {
            "id": 1,
            "name": "red_mug",
            "kind": "point",
            "words": "the red mug",
            "detail": "frames",
            "span": "newest",
            "label": "red mug",
            "given_by": "topic",
            "paused": False,
            "priority": 3,
            "time_left_s": 17.5,
            "wanted_rate_hz": 5.0,
            "rate_hz": 4.23,
            "counts": {"asked": 9, "answered": 6, "late": 2, "cancelled": 1, "missed": 4},
            "refused": "no skill",
        },
        {
            "id": 2,
            "name": "mugs",
            "kind": "count",
            "words": "mugs",
            "detail": "frames",
            "span": "newest",
            "label": "mugs",
            "given_by": "topic",
            "paused": False,
            "priority": 1,
            "time_left_s": None,
            "wanted_rate_hz": 2.0,
            "rate_hz": 0.0,
            "counts": {"asked": 0, "answered": 0, "late": 0, "cancelled": 0, "missed": 0},
            "refused": None,
        },
    ]
    assert (told["active"], told["engine"], told["skills"]) == (True, "nano", ["point"])

"""Last answers moved on to the next clip."""

import cv2
import numpy as np
import pytest

from molmo2_ros.answers.answer import read_answer
from molmo2_ros.camera.frame import Frame
from molmo2_ros.prompt.query import parse_query
from molmo2_ros.prompt.tokenizer import PromptTokenizer
from molmo2_ros.runtime.engine import NANO
from molmo2_ros.tracking.foresight import Foresight, carried

TOKENIZER = PromptTokenizer(NANO)
QUERY = parse_query("track: the red mug")
TEXT = '<tracks coords="0.0 1 300 400">red mug</tracks>'


def picture(shift_px, width=320, height=240):
    """Blobs of noise, moved to the right."""
    rng = np.random.default_rng(0)
    noise = rng.integers(0, 255, (height, width + 64, 3), dtype=np.uint8)
    blurred = cv2.GaussianBlur(noise, (0, 0), 2.5)
    return cv2.normalize(blurred[:, 64 - shift_px : 64 - shift_px + width], None, 0, 255, 32)


def frame(time_s, shift_px=0, frame_id="camera", **size):
    image = np.ascontiguousarray(picture(shift_px, **size))
    return Frame(image=image, stamp_ns=round(time_s * 1e9), frame_id=frame_id)


def drafted(foresight, *frames, stamps=("0.0",), query=QUERY):
    return TOKENIZER.decode(foresight.draft(query, frames, stamps).draft([]).tokens)


@pytest.fixture
def foresight():
    return Foresight(TOKENIZER, max_questions=2)


def learn(foresight, *frames, text=TEXT, query=QUERY):
    foresight.learn(read_answer(query, text, frames), frames, TOKENIZER.encode_text(text))


def test_places_move_with_the_picture():
    # 16 of 320 pixels to the right.
    moved = carried({7: (0.3, 0.4)}, frame(0), frame(0.1, 16))
    assert moved[7] == pytest.approx((0.35, 0.4), abs=0.004)


def test_places_that_leave_the_picture_are_left_out():
    moved = carried({1: (0.98, 0.4), 2: (0.3, 0.4)}, frame(0), frame(0.1, 16))
    assert list(moved) == [2]


def test_places_stay_where_the_camera_changed_its_format():
    places = {1: (0.3, 0.4)}
    assert carried(places, frame(0), frame(0.1, width=160, height=120)) == places


def test_the_next_answer_is_the_last_one_moved_on(foresight):
    old, new = frame(0), frame(0.1, 16)
    learn(foresight, old)
    assert drafted(foresight, old, new, stamps=("0.0", "0.1")) == (
        '<tracks coords="0.0 1 300 400;0.1 1 350 400">red mug</tracks>'
    )


def test_questions_and_cameras_are_kept_apart(foresight):
    learn(foresight, frame(0))
    blank = '<tracks coords="0.0 1 500 500">'
    assert drafted(foresight, frame(0)) == TEXT
    assert drafted(foresight, frame(0, frame_id="other")).startswith(blank)
    assert drafted(foresight, frame(0), query=parse_query("track: the lemon")).startswith(blank)


def test_points_of_the_newest_frame_and_of_the_clip_are_kept_apart(foresight):
    newest, clip = (parse_query(f"mug={kind}: the mug") for kind in ("point", "point[clip]"))
    text = '<points coords="0.0 1 300 400">mug</points>'
    learn(foresight, frame(0), text=text, query=newest)
    assert drafted(foresight, frame(0), query=newest) == text
    assert drafted(foresight, frame(0), query=clip) != text


def test_the_question_asked_longest_ago_is_forgotten(foresight):
    first = frame(0)
    learn(foresight, first)
    for words in ("the lemon", "the cone"):
        learn(foresight, first, query=parse_query(f"track: {words}"))
    assert drafted(foresight, first) != TEXT


def test_questions_in_words_are_foreseen_to_be_answered_as_last_time(foresight):
    query = parse_query("ask: Is it open?")
    assert foresight.draft(query, [frame(0)], ["0.0"]) is None
    learn(foresight, frame(0), text="The drawer is open.", query=query)
    assert drafted(foresight, frame(0.5), query=query) == "The drawer is open."

"""What a server is sent: clips and images in JSON, and JPEGs that are made once."""

import base64
import json

import cv2
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from molmo2_ros.camera.clip import stamp_text
from molmo2_ros.camera.frame import Frame
from molmo2_ros.errors import ImageError
from molmo2_ros.prompt.query import Detail
from molmo2_ros.prompt.resize import resize_bilinear
from molmo2_ros.remote.messages import Ask, ClipForm, chat_body, ticks
from molmo2_ros.remote.pictures import PictureCache

CLIP = Ask(question="Track it.", pictures=[b"AAAA", b"BBBB"], times_s=[0.0, 0.5], max_tokens=9)


def test_a_clip_goes_as_jpegs_with_their_times():
    body = json.loads(chat_body(CLIP, model="m", form=ClipForm.TIMED))
    assert body["messages"] == [
        {
            "role": "user",
            "content": [
                {"type": "video_url", "video_url": {"url": "data:video/jpeg;base64,AAAA,BBBB"}},
                {"type": "text", "text": "Track it."},
            ],
        }
    ]
    assert body["media_io_kwargs"] == {
        "video": {
            "num_frames": -1,
            "fps": 10,
            "frames_indices": [0, 5],
            "total_num_frames": 6,
            "duration": 0.6,
            "do_sample_frames": False,
        }
    }
    assert (body["model"], body["temperature"], body["max_tokens"]) == ("m", 0.0, 9)
    assert body["stream"]
    assert body["stream_options"] == {"include_usage": True}


def test_images_go_one_by_one_and_a_nameless_model_is_not_named():
    ask = Ask(question="Which?", pictures=[b"AAAA", b"BBBB"], times_s=None, max_tokens=9)
    body = json.loads(chat_body(ask, model="", form=ClipForm.TIMED, is_stream=False))
    urls = [part["image_url"]["url"] for part in body["messages"][0]["content"][:2]]
    assert urls == ["data:image/jpeg;base64,AAAA", "data:image/jpeg;base64,BBBB"]
    assert not {"model", "media_io_kwargs", "stream_options", "logprobs"} & body.keys()


@given(st.text(max_size=60))
def test_any_words_come_through_and_are_no_place_of_a_picture(words):
    for question in (words, f'{words}"<pictures>"', "<pictures>"):
        ask = Ask(question=question, pictures=[b"AAAA"], times_s=None, max_tokens=9)
        body = json.loads(chat_body(ask, model="<pictures>", form=ClipForm.STILL))
        image, text = body["messages"][0]["content"]
        assert image["image_url"]["url"] == "data:image/jpeg;base64,AAAA"
        assert text["text"] == question
        assert body["model"] == "<pictures>"


@given(st.lists(st.floats(0, 1000), min_size=1, max_size=20))
def test_times_are_those_that_the_prompt_prints(times_s):
    assert [stamp_text(tick / 10) for tick in ticks(times_s)] == [stamp_text(t) for t in times_s]


def decoded(picture):
    data = np.frombuffer(base64.b64decode(picture), np.uint8)
    return cv2.cvtColor(cv2.imdecode(data, cv2.IMREAD_COLOR), cv2.COLOR_BGR2RGB)


def smooth_frame():
    y, x = np.mgrid[0:240, 0:320]
    image = np.stack([x * 255 // 320, y * 255 // 240, 255 - x * 255 // 320], -1).astype(np.uint8)
    return Frame(image=image, stamp_ns=0)


def test_a_frame_goes_as_the_square_that_the_model_reads():
    frame = smooth_frame()
    picture = decoded(PictureCache(quality=95, frame_size=168).picture(frame, Detail.FRAMES))
    wanted = resize_bilinear(frame.image, 168, 168)
    assert picture.shape == (168, 168, 3)
    assert np.abs(picture.astype(int) - wanted).max() <= 6  # JPEG's own loss; red stays red


@pytest.mark.parametrize(
    ("size", "detail"), [(168, Detail.CROPS), (0, Detail.FRAMES), (378, Detail.FRAMES)]
)
def test_still_images_go_whole_and_frames_too_where_no_square_is_smaller(size, detail):
    picture = decoded(PictureCache(quality=95, frame_size=size).picture(smooth_frame(), detail))
    assert picture.shape == (240, 320, 3)


def test_each_frame_is_encoded_once_and_the_oldest_goes_first():
    first, second = smooth_frame(), smooth_frame()
    cache = PictureCache(quality=90, frame_size=0, max_bytes=1 << 20)
    assert cache.picture(first, Detail.FRAMES) is cache.picture(first, Detail.FRAMES)
    assert (cache.num_encoded, cache.num_hits) == (1, 1)
    small = PictureCache(quality=90, frame_size=0, max_bytes=10_000)
    small.picture(first, Detail.FRAMES)
    small.picture(second, Detail.FRAMES)
    assert (first, Detail.FRAMES) not in small


def test_quality_trades_bytes():
    sizes = [
        len(PictureCache(quality=quality, frame_size=0).picture(smooth_frame(), Detail.CROPS))
        for quality in (30, 95)
    ]
    assert sizes[0] < sizes[1]


def test_a_picture_that_no_jpeg_can_hold_is_refused():
    frame = Frame(image=np.zeros((1, 70_000, 3), np.uint8), stamp_ns=0)
    with pytest.raises(ImageError, match="70000 x 1 pixels cannot be made a JPEG"):
        PictureCache(quality=90, frame_size=0).picture(frame, Detail.CROPS)

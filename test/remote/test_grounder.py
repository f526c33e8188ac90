"""The model on a server, asked as the one here: same answers, and what goes wrong is told."""

import json
import re
import threading
import time

import pytest

from molmo2_ros.camera.clip import Clip, ClipBuffer
from molmo2_ros.errors import ConfigError, QueryError, ServerError
from molmo2_ros.prompt.query import Detail, parse_query
from molmo2_ros.prompt.subtitles import Subtitle

RED_MUG = parse_query("point: the red mug")
LEMON = parse_query("track: the lemon")
SAID = [Subtitle(start_s=0.0, end_s=1.0, text="Now take the mug.")]


@pytest.mark.parametrize(
    "question", ["point: the red mug", "count: mugs", "track: the lemon", "track: the red mug"]
)
def test_the_same_model_answers_alike_here_and_there(server, remote, local, clip, question):
    query = parse_query(question)
    there, here = (grounder.answer(clip, query) for grounder in (remote(server.url), local))
    assert there.text == here.text
    assert there.stamps_ns == here.stamps_ns
    # The same scores but for JPEG's loss; the server has no curve to make probabilities of them.
    assert [p.score for p in there.points] == pytest.approx([p.score for p in here.points], abs=0.1)
    assert [p.confidence for p in there.points] == [p.score for p in there.points]
    assert there.timing.num_prompt_tokens == here.timing.num_prompt_tokens
    assert there.timing.num_answer_tokens == here.timing.num_answer_tokens
    assert (there.problems, there.truncated, there.partial) == ((), False, False)


def test_without_probabilities_there_is_no_confidence(server, remote, clip):
    server.manners.gives_logprobs = False
    answer = remote(server.url).answer(clip, RED_MUG)
    assert answer.points
    assert [(point.score, point.confidence) for point in answer.points] == [(None, None)]


def test_points_come_while_the_server_still_writes(server, remote, clip):
    server.manners.token_wait_s = 0.005
    seen = []

    def on_partial(answer):
        seen.append((len(answer.points), answer.partial, time.monotonic()))

    answer = remote(server.url).answer(clip, LEMON, on_partial=on_partial)
    assert [number for number, _, _ in seen] == [1, 2, 3, 4]
    assert all(partial for _, partial, _ in seen)
    assert time.monotonic() - seen[0][2] > 0.05
    assert len(answer.points) == 4
    assert 0 < answer.timing.prefill_s < answer.timing.prefill_s + answer.timing.decode_s


def test_questions_go_together_but_not_too_many_at_once(server, remote, clip):
    server.manners.wait_s = 0.2
    queries = [parse_query(f"q{n}=count: mugs") for n in range(6)]
    finals, inside, most = [], 0, 0
    lock = threading.Lock()
    answer_here = server.answer

    def counted(*arguments):
        nonlocal inside, most
        with lock:
            inside += 1
            most = max(most, inside)
        try:
            time.sleep(0.05)
            return answer_here(*arguments)
        finally:
            with lock:
                inside -= 1

    server.answer = counted
    try:
        answers = remote(server.url, max_requests=3).answer_all(
            clip, queries, on_final=finals.append
        )
    finally:
        del server.answer
    assert [answer.query for answer in answers] == queries
    assert sorted(answer.query.name for answer in finals) == [q.name for q in queries]
    assert 1 < most <= 3


def test_each_frame_is_made_a_jpeg_once(server, remote, clip):
    grounder = remote(server.url)
    assert grounder.encode_ahead(clip.frames[0], Detail.FRAMES)
    assert not grounder.encode_ahead(clip.frames[0], Detail.FRAMES)
    grounder.answer_all(clip, [LEMON, parse_query("track: the red mug")])
    grounder.answer(clip, RED_MUG)
    facts = grounder.facts()
    assert facts["frames_encoded"] == 4
    assert facts["requests"] == 5 + 3
    assert facts["bytes_sent"] > 4 * 3 * 1000
    assert facts["bytes_received"] > 1000


def test_a_cancelled_answer_keeps_its_points_and_the_server_is_told(server, remote, clip):
    server.manners.token_wait_s = 0.01
    seen = []
    answer = remote(server.url).answer(
        clip, LEMON, on_partial=seen.append, cancel=lambda _: len(seen) > 0
    )
    assert len(answer.points) >= 1
    assert answer.truncated
    assert answer.problems == ("cancelled before its end",)
    deadline = time.monotonic() + 5.0
    while not server.num_broken_off and time.monotonic() < deadline:
        time.sleep(0.01)
    assert server.num_broken_off == 1


def test_a_question_that_nobody_needs_is_not_sent(server, remote, clip):
    grounder = remote(server.url)
    grounder.answer(clip, RED_MUG)
    server.num_requests = 0
    server.manners.wait_s = 5.0
    started = time.monotonic()
    answer = grounder.answer(clip, RED_MUG, cancel=lambda _: True)
    assert answer.problems == ("cancelled before its end",)
    assert time.monotonic() - started < 1.0


@pytest.mark.parametrize("heeds", [True, False])
def test_the_token_limit_holds_whether_or_not_the_server_heeds_it(server, remote, clip, heeds):
    server.manners.heeds_limit = heeds
    answer = remote(server.url).answer(clip, LEMON, max_new_tokens=30)
    assert answer.truncated
    assert 1 <= len(answer.points) <= 2
    assert answer.timing.num_answer_tokens <= 31


def test_an_answer_that_loses_the_thread_is_ended_flagged_and_counted(server, remote, clip):
    row = "".join(f" {n} {100 + 10 * n} 500" for n in range(1, 80))
    pieces = re.findall(r" ?\S+", f'<points coords="0.0{row}">mugs</points>')
    events = [{"choices": [{"delta": {"content": piece}}]} for piece in pieces]
    server.manners.instead = "".join(f"data: {json.dumps(e)}\n\n" for e in events).encode()
    grounder = remote(server.url)
    answer = grounder.answer(clip, parse_query("point: all mugs"))
    assert answer.degenerate
    assert len(answer.points) < 40
    assert "stopped, as the model had lost the thread before its end" in answer.problems
    assert grounder.facts()["answers_degenerate"] == 1


def test_a_server_that_closes_in_mid_answer_is_a_clear_error_and_not_asked_again(
    server, remote, clip
):
    server.manners.cut_after = 10
    grounder = remote(server.url, patience_s=5.0)
    grounder.server.connect()
    server.num_requests = 0
    with pytest.raises(ServerError, match="closed the connection in mid-answer.*ask again"):
        grounder.answer(clip, LEMON)
    assert server.num_requests == 1
    server.manners.cut_after = None
    assert grounder.answer(clip, LEMON).points
    assert grounder.server.trouble == ""


def test_the_other_questions_are_answered_where_one_breaks_off(server, remote, clip):
    server.manners.cut_after = 30  # the point has 23 tokens, the track 50
    finals = []
    with pytest.raises(ServerError, match="in mid-answer"):
        remote(server.url).answer_all(clip, [RED_MUG, LEMON], on_final=finals.append)
    assert [answer.query for answer in finals] == [RED_MUG]


@pytest.mark.parametrize(
    ("manners", "trouble"),
    [
        ({"wait_s": 30.0}, "no first word of an answer from http.* in 0.3 s; it is stuck"),
        ({"stall_after": 8}, "no further word of an answer from http.* in 0.3 s"),
    ],
)
def test_a_server_that_is_too_slow_is_told_in_time(server, remote, clip, manners, trouble):
    grounder = remote(
        server.url, first_token_timeout_s=0.3, token_timeout_s=0.3, connect_timeout_s=0.2
    )
    grounder.server.connect()
    for name, value in manners.items():
        setattr(server.manners, name, value)
    started = time.monotonic()
    with pytest.raises(ServerError, match=trouble):
        grounder.answer(clip, LEMON)
    assert time.monotonic() - started < 3.0


@pytest.mark.parametrize(
    ("sent", "trouble"),
    [
        (b"<html>Bad gateway</html>\n", "sent '<html>Bad gateway</html>', expected a stream"),
        (b"data: {oops\n\n", "sent '{oops', expected an event of JSON"),
        (b'data: {"error": {"message": "out of memory"}}\n\n', "with an error: out of memory"),
        (b"data: [DONE]\n\n", "ended the answer before its end"),
        (b"", "ended the answer before its end"),
        (b"x" * (3 << 20), "a line of more than 1048576 bytes"),
    ],
)
def test_a_stream_that_is_none_is_a_clear_error(server, remote, clip, sent, trouble):
    grounder = remote(server.url)
    grounder.server.connect()
    server.manners.instead = sent
    with pytest.raises(ServerError, match=trouble):
        grounder.answer(clip, LEMON)
    assert trouble.split(" ")[-1] in grounder.server.trouble
    assert grounder.server.facts is None  # before the next question it is looked at anew


def test_a_busy_server_is_given_the_time_that_it_asks_for(server, remote, clip):
    busy = (429, {"Retry-After": "1"}, '{"error": {"message": "queue is full"}}')
    server.manners.refusals = [busy]
    grounder = remote(server.url, patience_s=5.0)
    started = time.monotonic()
    assert grounder.answer(clip, RED_MUG).points
    assert 1.0 <= time.monotonic() - started < 3.0
    assert grounder.facts()["requests_retried"] == 1
    assert grounder.facts()["requests_failed"] == 0


def test_without_patience_a_busy_server_is_left_alone(server, remote, clip):
    server.manners.refusals = [(503, {"Retry-After": "7"}, "draining")]
    grounder = remote(server.url)
    with pytest.raises(ServerError, match=r"too much to do \(503: draining, asks to wait 7 s\)"):
        grounder.answer(clip, RED_MUG)
    assert 6.0 < grounder.pause_s <= 7.0
    num_requests = server.num_requests
    with pytest.raises(ServerError, match="asks to wait 7 s"):
        grounder.answer(clip, RED_MUG)
    assert server.num_requests == num_requests  # not even tried


def test_a_server_that_is_away_is_looked_for_once_a_second_and_found_again(server, remote, clip):
    server.manners.refuses = "connection"
    grounder = remote(server.url)
    pauses = []
    for _ in range(4):
        with pytest.raises(ServerError, match="check that the server runs"):
            grounder.answer(clip, RED_MUG)
        pauses.append(grounder.pause_s)
        grounder.server._ask_again_s = 0.0  # as if the pause were over
    assert pauses[0] < 0.61 < pauses[1]
    assert max(pauses) <= 1.2  # a fifth more or less than one second
    assert "check that the server runs" in grounder.server.trouble
    server.manners.refuses = ""
    assert grounder.answer(clip, RED_MUG).points
    assert (grounder.server.trouble, grounder.pause_s) == ("", 0.0)


def test_a_server_that_is_busy_is_asked_less_and_less(server, remote, clip):
    grounder = remote(server.url)
    pauses = []
    for _ in range(4):
        server.manners.refusals = [(503, {}, "draining")]
        with pytest.raises(ServerError, match="too much to do"):
            grounder.answer(clip, RED_MUG)
        pauses.append(grounder.pause_s)
        grounder.server._ask_again_s = 0.0  # as if the pause were over
    assert pauses[0] < pauses[1] < pauses[2] < pauses[3]
    assert pauses[3] > 3.0


def test_patience_waits_for_a_server_that_comes_back(server, remote, clip):
    server.manners.refuses = "connection"
    timer = threading.Timer(0.3, setattr, (server.manners, "refuses", ""))
    timer.start()
    grounder = remote(server.url, patience_s=10.0)
    assert grounder.answer(clip, RED_MUG).points
    assert grounder.facts()["requests_retried"] >= 1
    timer.join()


def test_a_refusal_is_told_in_the_servers_words(server, remote, clip):
    said = '{"error": {"message": "prompt of 9000 tokens is too long"}}'
    server.manners.refusals = [(400, {}, said)]
    with pytest.raises(ServerError, match=r"refuses .*\(400: prompt of 9000 tokens is too long\)"):
        remote(server.url, patience_s=5.0).answer(clip, RED_MUG)


def test_several_images_are_numbered(server, remote, clip):
    query = parse_query("point: the red mug")
    grounder = remote(server.url)
    answer = grounder.answer_images(clip.frames[:2], query, max_new_tokens=40)
    assert answer.stamps_ns == clip.stamps_ns[:2]
    assert "media_io_kwargs" not in server.seen[-1]


def test_what_no_chat_message_can_hold_is_refused(server, remote, clip):
    grounder = remote(server.url)
    with pytest.raises(QueryError, match="cannot do 'subtitles'"):
        grounder.answer(clip, parse_query("ask: What is said?"), subtitles=SAID)
    with pytest.raises(ConfigError, match="a server, which is not told the grammar"):
        grounder.constrained = True
    grounder.constrained = False
    assert not grounder.constrained


def test_a_live_camera_is_sampled_as_the_released_models_are(remote, clip):
    buffer = ClipBuffer(10.0, 100)
    for frame in clip:
        buffer.push(frame)
    grounder = remote("http://127.0.0.1:1/v1")
    assert grounder.clip_for(buffer, RED_MUG).stamps_ns == clip.stamps_ns[-1:]
    assert grounder.clip_for(buffer, LEMON).stamps_ns == clip.stamps_ns
    assert grounder.sampling(LEMON).fps == 10.0


def test_a_clip_keeps_the_times_of_its_frames(server, remote, clip):
    late = Clip(clip.frames[1:])
    remote(server.url).answer(late, LEMON)
    assert server.seen[-1]["media_io_kwargs"]["video"]["frames_indices"] == [0, 5, 10]

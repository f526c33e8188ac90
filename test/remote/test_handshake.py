"""What is found out about a server before the first question, and told when it reads otherwise."""

import pytest

from molmo2_ros.errors import QueryError, ServerError
from molmo2_ros.prompt.query import parse_query
from molmo2_ros.remote.handshake import NUM_FRAMES
from molmo2_ros.remote.messages import ClipForm

RED_MUG = parse_query("point: the red mug")
LEMON = parse_query("track: the lemon")


def test_a_server_that_keeps_frames_and_times_has_no_trouble(server, remote):
    facts = remote(server.url).server.connect()
    assert (facts.form, facts.clip_trouble, facts.warning) == (ClipForm.TIMED, "", "")
    assert facts.model == facts.name == "molmo2-nano"
    assert facts.tokens_per_frame == 43  # 36 of the picture, 2 round it, 5 of its time
    assert facts.max_tokens == 4096
    assert server.num_requests == 5


def test_it_is_shaken_hands_with_once(server, remote, clip):
    grounder = remote(server.url)
    for _ in range(2):
        grounder.answer(clip, RED_MUG)
    assert server.num_requests == 5 + 2


@pytest.mark.parametrize(
    ("manners", "trouble"),
    [
        ({"heeds_times": False}, "numbers frames in its own way"),
        ({"max_frames": 32}, f"reads 32 of {NUM_FRAMES} frames"),
        ({"max_frames": 1}, "reads one of two frames"),
        ({"trusts_kwargs": False}, "cannot be sent .* times: .*400.*--trust-request-mm-kwargs"),
        ({"takes_video": False}, "cannot be sent .*: .*422: no video here"),
    ],
)
def test_a_server_that_reads_clips_otherwise_is_found_out(server, remote, clip, manners, trouble):
    for name, value in manners.items():
        setattr(server.manners, name, value)
    grounder = remote(server.url)
    # What one frame can answer is answered, clips are not asked about.
    grounder.answer(clip, RED_MUG)
    with pytest.raises(QueryError, match=f"several frames.*{trouble}.*ask about the newest frame"):
        grounder.answer(clip, LEMON)
    with pytest.raises(QueryError, match=trouble):
        grounder.check(parse_query("count[clip]: mugs"))
    grounder.check(parse_query("ask[crops]: Is the drawer open?"))


def test_a_server_that_takes_no_video_gets_the_newest_frame_as_an_image(server, remote, clip):
    server.manners.takes_video = False
    answer = remote(server.url).answer(clip, RED_MUG)
    assert answer.stamps_ns == clip.stamps_ns[-1:]
    assert "media_io_kwargs" not in server.seen[-1]


def test_a_server_that_does_not_count_is_trusted_with_a_warning(server, remote, clip):
    server.manners.counts = False
    grounder = remote(server.url)
    assert grounder.answer(clip, LEMON).points
    assert "would not be noticed" in grounder.server.warning


def test_frames_that_are_left_out_later_are_noticed_by_the_count_of_an_answer(server, remote, clip):
    server.manners.max_frames_streamed = 2
    with pytest.raises(ServerError, match="read .* tokens for 4 frames of 43 each: some were left"):
        remote(server.url).answer(clip, LEMON)


@pytest.mark.parametrize(
    ("wanted", "offered", "trouble"),
    [
        ("", ("a", "b"), "offers a, b; name one"),
        ("c", ("a", "b"), "offers a, b, not c; name one of these"),
    ],
)
def test_a_model_has_to_be_named_where_several_are_offered(
    server, remote, wanted, offered, trouble
):
    server.manners.models = offered
    with pytest.raises(ServerError, match=trouble):
        remote(server.url, model=wanted).server.connect()
    assert remote(server.url, model="b").server.connect().model == "b"


def test_a_server_that_lists_no_model_is_asked_without_a_name(server, remote, clip):
    server.manners.models = ()
    grounder = remote(server.url)
    grounder.answer(clip, RED_MUG)
    assert "model" not in server.seen[-1]
    assert grounder.model.name == "model at 127.0.0.1"


def test_another_path_is_told(server, remote):
    with pytest.raises(ServerError, match="404.*URL ends in /v1|expected"):
        remote(server.url.replace("/v1", "/other")).server.connect()

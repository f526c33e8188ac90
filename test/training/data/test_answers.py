"""Answers as trained, by hand, and read back by the reader of the runtime."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from molmo2_ros.answers.text import parse_answer
from molmo2_ros.errors import DataError
from molmo2_ros.training.data.answers import coordinate, grid, write_turn
from molmo2_ros.training.data.example import (
    Annotation,
    LabelledObject,
    LabelledPoint,
    Media,
    Task,
)

TIMES = (0.0, 0.5, 1.0, 1.5)
CLIP = Media(frames=("0", "1", "2", "3"), times_s=TIMES)
IMAGE = Media(images=("a.jpg",))
IMAGES = Media(images=("a.jpg", "b.jpg", "c.jpg"))


def in_time(*points):
    """An object: time, x, y; or time alone where it is hidden."""
    return LabelledObject(
        points=tuple(
            LabelledPoint(time_s=p[0], x=p[1], y=p[2])
            if len(p) == 3
            else LabelledPoint(time_s=p[0], visible=False)
            for p in points
        )
    )


def in_image(*points):
    return LabelledObject(points=tuple(LabelledPoint(image=i, x=x, y=y) for i, x, y in points))


def written(media, task, *objects, times_s=TIMES, label="Red mug", **fields):
    annotation = Annotation(task=task, label=label, objects=objects, **fields)
    return write_turn(annotation, media, times_s if media.is_clip else ())


LATE = in_time((0.5, 0.1, 0.2), (1.0, 0.2, 0.2))
EARLY = in_time((0.0, 0.9, 0.5), (0.5, 0.8, 0.5), (1.0,), (1.5, 1.0, 0.0))


@pytest.mark.parametrize(
    ("media", "task", "objects", "question", "answer", "style"),
    [
        # One image: by x, then y; the label in lower case.
        (
            IMAGE,
            Task.POINT,
            [in_image((1, 0.5, 0.5)), in_image((1, 0.1234, 0.9))],
            "Point to red mug.",
            '<points coords="1 1 123 900 2 500 500">red mug</points>',
            "pointing",
        ),
        (
            IMAGE,
            Task.COUNT,
            [in_image((1, 0.5, 0.5))],
            "How many red mug are there?",
            'Counting the <points coords="1 1 500 500">red mug</points> shows a total of 1.',
            "point_count",
        ),
        (IMAGE, Task.POINT, [], "Point to red mug.", "There are none.", "pointing"),
        # Several images: ids run on; which images are meant.
        (
            IMAGES,
            Task.POINT,
            [in_image((3, 0.154, 0.709)), in_image((1, 0.555, 0.169)), in_image((3, 0.1, 0.1))],
            "Point to red mug in image_1, image_3.",
            '<points coords="1 1 555 169;3 2 100 100 3 154 709">red mug</points>',
            "multi_image_pointing",
        ),
        # A clip: each object where it is seen first.
        (
            CLIP,
            Task.POINT,
            [LATE, EARLY],
            "Point to Red mug.",
            '<points coords="0.0 1 900 500;0.5 2 100 200">Red mug</points>',
            "video_point",
        ),
        # A track: ids at first sight, no point where it is hidden, 1000 at the far edge.
        (
            CLIP,
            Task.TRACK,
            [LATE, EARLY],
            "Track Red mug.",
            '<tracks coords="0.0 1 900 500;0.5 1 800 500 2 100 200;1.0 2 200 200;1.5 1 1000 000">'
            "Red mug</tracks>",
            "video_point_track_per_frame",
        ),
        (CLIP, Task.TRACK, [], "Track Red mug.", "There are none.", "video_point_track_per_frame"),
        # All hidden: nothing is written; nothing annotated at any time shown: said so.
        (CLIP, Task.TRACK, [in_time((0.5,))], "Track Red mug.", "", "video_point_track_per_frame"),
        (
            CLIP,
            Task.TRACK,
            [in_time((0.75, 0.1, 0.1))],
            "Track Red mug.",
            "No tracks available.",
            "video_point_track_per_frame",
        ),
        # From a given point: the answer lists what comes after it.
        (
            CLIP,
            Task.TRACK_FROM_POINT,
            [EARLY],
            "video_single_point_track_per_frame: Track "
            '<points coords="0.0 1 900 500">Red mug</points> in 2 FPS.',
            '<tracks coords="0.5 1 800 500;1.5 1 1000 000">Red mug</tracks>',
            "video_single_point_track_per_frame",
        ),
        (
            CLIP,
            Task.ENDS,
            [EARLY],
            "video_point_ground_start_end: For each 'Red mug' in this video, point to where it is "
            "seen first and last.",
            '<tracks coords="0.0 1 900 500;1.5 1 1000 000">Red mug</tracks>',
            "video_point_ground_start_end",
        ),
    ],
)
def test_answers_are_those_of_the_released_mixture(media, task, objects, question, answer, style):
    turn = written(media, task, *objects)
    assert (turn.question, turn.answer, turn.style) == (question, answer, style)
    assert turn.weight == 0.2


def test_a_track_at_a_named_rate_has_the_frames_of_its_grid():
    dense = tuple(i / 6 for i in range(13))  # 6 fps
    thing = in_time(*((t, 0.5, 0.5) for t in dense))
    turn = written(Media(video="v.mp4"), Task.TRACK, thing, times_s=dense, fps=1.0, label="the dog")
    assert turn.question == "Track the dog at 1 FPS."
    assert turn.answer == (
        '<tracks coords="0.0 1 500 500;1.0 1 500 500;2.0 1 500 500">the dog</tracks>'
    )
    assert grid(dense, 2.0) == pytest.approx([0.0, 0.5, 1.0, 1.5, 2.0])


def test_words_and_choices():
    reply = Annotation(
        task=Task.REPLY,
        question="What colour?",
        answer="red",
        choices=("blue", "red"),
        style="video_multiple_choice",
    )
    turn = write_turn(reply, CLIP, TIMES)
    assert turn.question == (
        "What colour?\nOnly return the correct answer option.\nA. blue\nB. red"
    )
    assert (turn.answer, turn.weight) == ("B. red", None)
    short = Annotation(task=Task.REPLY, question="Why?", answer="So.", style="video_short_answer")
    assert write_turn(short, CLIP, TIMES).question == "video_short_answer: Why?"
    caption = Annotation(task=Task.CAPTION, answer="A mug.", style="video_short_caption")
    turn = write_turn(caption, CLIP, TIMES)
    assert (turn.question, turn.weight) == ("Describe this video briefly.", 0.1)
    assert write_turn(Annotation(task=Task.CAPTION, answer="x"), IMAGE, ()).question == (
        "Describe this image in detail."
    )


def test_the_data_set_s_own_question_and_weight_go_before_ours():
    turn = written(CLIP, Task.COUNT, EARLY, question="How often does it come?", weight=0.7)
    assert turn.question == "How often does it come?"
    assert turn.weight == 0.7


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: written(IMAGE, Task.TRACK), "a track annotation of still images"),
        (lambda: written(CLIP, Task.TRACK_FROM_POINT), "of 0 objects, expected one: Red mug"),
        (
            lambda: written(CLIP, Task.TRACK_FROM_POINT, in_time((0.5,))),
            "whose object is never seen: Red mug",
        ),
        (
            lambda: write_turn(Annotation(task=Task.REPLY, answer="x"), IMAGE, ()),
            "a reply without its question",
        ),
    ],
)
def test_what_cannot_be_asked_is_refused(make, message):
    with pytest.raises(DataError, match=message):
        make()


def test_coordinates_are_rounded_half_to_even():
    assert [coordinate(v) for v in (0.0, 0.0005, 0.0015, 0.25, 1.0)] == [
        "000",
        "000",
        "002",
        "250",
        "1000",
    ]


def test_wordings_vary_and_speak_of_videos_where_it_is_one():
    annotation = Annotation(task=Task.COUNT, label="mugs")
    asked = {
        media.is_clip: {
            write_turn(annotation, media, TIMES, np.random.default_rng(i)).question
            for i in range(60)
        }
        for media in (IMAGE, CLIP)
    }
    assert len(asked[True]) > 6
    assert any("image" in question for question in asked[False])
    assert not any("image" in question for question in asked[True])


places = st.floats(0, 1)


@given(
    things=st.lists(
        st.dictionaries(st.sampled_from(TIMES), st.tuples(places, places), min_size=1), max_size=6
    ),
    task=st.sampled_from([Task.TRACK, Task.POINT, Task.COUNT]),
    seed=st.integers(0, 99),
)
def test_what_is_written_is_read_back(things, task, seed):
    objects = tuple(
        in_time(*((t, *things[i][t]) for t in sorted(things[i]))) for i in range(len(things))
    )
    annotation = Annotation(task=task, label="mug", objects=objects)
    turn = write_turn(annotation, CLIP, TIMES, np.random.default_rng(seed))
    parsed = parse_answer(turn.answer)
    assert not parsed.problems
    expected = sum(len(thing) if task is Task.TRACK else 1 for thing in things)
    assert len(parsed.points) == expected
    assert {round(1000 * p.x) for p in parsed.points} <= {
        round(1000 * x) for thing in things for x, _ in thing.values()
    }
    if task is Task.COUNT and things:
        assert parsed.stated_count == len(things)
    assert (turn.answer == "There are none.") == (not things)


def test_hints_of_pre_training_name_style_and_length():
    media = Media(images=("a.jpg",))
    caption = Annotation(task=Task.CAPTION, answer="x" * 300)
    asked = [
        write_turn(caption, media, (), np.random.default_rng(seed), hints=True).question
        for seed in range(400)
    ]
    assert write_turn(caption, media, (), hints=True).question == "long_caption 20:"
    untold = asked.count("long_caption:")
    assert 20 <= untold <= 60  # a tenth
    told = [int(text.split()[1].rstrip(":")) for text in asked if text != "long_caption:"]
    assert np.mean(told) == pytest.approx((300 - 7) / 15, abs=0.4)
    assert np.std(told) == pytest.approx(25 / 15, rel=0.25)
    point = Annotation(task=Task.POINT, label="Red mug")
    assert write_turn(point, media, (), hints=True).question == "pointing: red mug"
    reply = Annotation(task=Task.REPLY, question="Why?", answer="So.")
    assert write_turn(reply, Media(), (), hints=True).question == "text_sft: Why?"
    assert write_turn(reply, media, (), hints=True).question == "user_qa 0: Why?"
    choice = Annotation(task=Task.REPLY, question="Which?", answer="b", choices=("a", "b"))
    told = write_turn(choice, media, (), hints=True).question
    assert told.startswith("multiple_choice 0: Which?\n")
    assert told.endswith("A. a\nB. b")
    assert write_turn(caption, media, ()).question == "Describe this image in detail."

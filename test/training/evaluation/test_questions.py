"""In which words an example is asked, and what is not asked at all."""

import dataclasses

import pytest

from molmo2_ros.errors import DataError, QueryError
from molmo2_ros.training.data.example import (
    Annotation,
    Example,
    LabelledObject,
    LabelledPoint,
    Media,
    Task,
)
from molmo2_ros.training.evaluation.questions import Kind, ask_for

CLIP, STILL = Media(frames=("a", "b", "c"), times_s=(0.0, 0.5, 1.0)), Media(images=("a",))
TIMES_S = (0.0, 0.5, 1.0)
MUG = LabelledObject(
    points=tuple(LabelledPoint(x=0.25, y=0.5, time_s=t) for t in TIMES_S),
)
IN_IMAGE = LabelledObject(points=(LabelledPoint(x=0.25, y=0.5, image=1),))


def ask(grounder, media, *, dialogue=False, number=0, **annotation):
    known = tuple([Annotation(**annotation)] * (number + 1))
    example = Example(name="e", media=media, annotations=known, dialogue=dialogue)
    return ask_for(grounder, example, number, TIMES_S if media.is_clip else ())


@pytest.mark.parametrize(
    ("media", "annotation", "kind", "text"),
    [
        (STILL, {"task": Task.POINT, "objects": (IN_IMAGE,)}, "pointing", "Point to the mug."),
        (
            STILL,
            {"task": Task.COUNT, "objects": (IN_IMAGE,)},
            "counting",
            "How many mug are there?",
        ),
        (CLIP, {"task": Task.POINT}, "video pointing", "Point to the mug."),
        (CLIP, {"task": Task.TRACK}, "tracking", "Track the mug."),
        (CLIP, {"task": Task.TRACK, "fps": 1.0}, "tracking", "Track the mug at 1 FPS"),
        (
            CLIP,
            {"task": Task.TRACK_FROM_POINT, "objects": (MUG,)},
            "tracking",
            'video_single_point_track_per_frame: Track <points coords="0.0 1 250 500">mug</points> '
            "in 2 FPS.",
        ),
        (
            CLIP,
            {"task": Task.COUNT, "question": 'How many "mug" are there in the video?'},
            "counting",
            'How many "mug" are there in the video?',
        ),
    ],
)
def test_objects_are_asked_for_as_the_package_asks_or_in_the_set_s_own_words(
    able, media, annotation, kind, text
):
    asked = ask(able, media, label="mug", **annotation)
    assert (asked.kind.value, asked.text) == (kind, text)


@pytest.mark.parametrize(
    ("annotation", "kind", "text"),
    [
        (
            {"question": "What is it?", "answer": "a mug", "choices": ("a mug", "a jar")},
            Kind.CHOICE,
            "What is it?\nOnly return the correct answer option.\nA. a mug\nB. a jar",
        ),
        (
            {"question": "What is it?", "answer": "a mug", "style": "video_short_answer"},
            Kind.SHORT_ANSWER,
            "video_short_answer: What is it?",
        ),
        (
            {"question": "How many goals?", "answer": "4", "style": "video_count"},
            Kind.COUNTING,
            "How many goals?",
        ),
    ],
)
def test_words_are_asked_as_they_stand_with_their_style_and_options(able, annotation, kind, text):
    asked = ask(able, CLIP, task=Task.REPLY, **annotation)
    assert (asked.kind, asked.text) == (kind, text)


def test_an_answer_of_points_may_be_as_long_as_points_are_in_whatever_words_it_is_asked(able):
    own = ask(able, CLIP, task=Task.COUNT, label="mug", question="How many?")
    assert own.max_new_tokens == 2048
    assert ask(able, CLIP, task=Task.COUNT, label="mug").max_new_tokens is None  # the kind's own


def test_an_engine_that_cannot_be_asked_in_words_is_asked_in_the_package_s(nano):
    asked = ask(nano, STILL, task=Task.COUNT, label="lemons", objects=(IN_IMAGE,), question="Hm?")
    assert asked.text == "How many lemons are there?"


@pytest.mark.parametrize(
    ("media", "annotation", "message"),
    [
        (CLIP, {"task": Task.CAPTION, "answer": "A mug."}, "a caption: no measure without a judge"),
        (
            CLIP,
            {"task": Task.REPLY, "question": "Why?", "answer": "one two three four five six"},
            "a longer reply: no measure",
        ),
        (CLIP, {"task": Task.ENDS, "label": "mug"}, "first and last sights: no measure"),
        (
            CLIP,
            {"task": Task.TRACK, "label": "mug", "objects": (LabelledObject(points=()),)},
            "a track question without a point or a mask to hold answers to",
        ),
        (
            CLIP,
            {
                "task": Task.TRACK_FROM_POINT,
                "label": "mug",
                "objects": (LabelledObject(points=(LabelledPoint(time_s=0.25),)),),
            },
            "of an object that no shown frame has",
        ),
        (
            CLIP,
            {
                "task": Task.TRACK_FROM_POINT,
                "label": "mug",
                "objects": (LabelledObject(points=(LabelledPoint(time_s=1.0),)),),
            },
            "a track from a point on the last frame",
        ),
        (
            CLIP,
            {"task": Task.TRACK_FROM_POINT, "label": "mug", "objects": (MUG, MUG)},
            "of other than one object",
        ),
    ],
)
def test_what_cannot_be_scored_is_not_asked(able, media, annotation, message):
    with pytest.raises(DataError, match=message):
        ask(able, media, **annotation)


def test_later_turns_in_words_are_not_asked_alone_but_points_are(able):
    words = {"task": Task.REPLY, "question": "And now?", "answer": "no"}
    assert ask(able, CLIP, dialogue=True, **words).kind is Kind.SHORT_ANSWER
    with pytest.raises(DataError, match="a later turn of a conversation"):
        ask(able, CLIP, dialogue=True, number=1, **words)
    assert ask(able, CLIP, dialogue=True, number=1, task=Task.POINT, label="mug").text


def test_subtitles_are_read_with_questions_in_words_alone(able):
    said = dataclasses.replace(CLIP, subtitles=((0.0, 1.0, "Take the mug."),))
    words = {"task": Task.REPLY, "question": "What?", "answer": "a mug"}
    declared = able.model
    able.model = dataclasses.replace(
        declared, skills=tuple(skill for skill in declared.skills if skill != "subtitles")
    )
    try:
        assert ask(able, said, task=Task.TRACK, label="mug").text == "Track the mug."
        with pytest.raises(QueryError, match="cannot do 'subtitles'"):
            ask(able, said, **words)
    finally:
        able.model = declared


def test_an_engine_that_reads_no_clips_or_words_says_so(nano):
    with pytest.raises(QueryError, match="cannot do 'clip'"):
        ask(nano, CLIP, task=Task.POINT, label="lemon")
    with pytest.raises(QueryError, match="cannot do 'ask'"):
        ask(nano, STILL, task=Task.REPLY, question="What?", answer="a mug")
    with pytest.raises(QueryError, match="does not know 'giraffe'"):
        ask(nano, STILL, task=Task.POINT, label="giraffe", objects=(IN_IMAGE,))
    two = dataclasses.replace(STILL, images=("a", "b"))
    with pytest.raises(QueryError, match="cannot do 'crops'"):
        ask(nano, two, task=Task.POINT, label="lemon")

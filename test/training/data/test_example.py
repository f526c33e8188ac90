import pytest
from hypothesis import given
from hypothesis import strategies as st

from molmo2_ros.errors import DataError
from molmo2_ros.training.data.example import (
    Annotation,
    Example,
    LabelledObject,
    LabelledPoint,
    Media,
    Task,
)

CLIP = Media(frames=("a.jpg", "b.jpg"), times_s=(0.0, 0.5))
MUG = LabelledObject(points=(LabelledPoint(x=0.2, y=0.4, time_s=0.0),))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"subtitles": ((0.0, 1.0, "hm"),)}, "subtitles and no clip"),
        ({"images": ("a.jpg",), "subtitles": ((0.0, 1.0, "hm"),)}, "subtitles and no clip"),
        ({"video": "a.mp4", "images": ("a.jpg",)}, "media has video and images"),
        ({"frames": ("a.jpg", "b.jpg"), "times_s": (0.0,)}, "has 2 frames and 1 times"),
        ({"frames": ("a.jpg", "b.jpg"), "times_s": (0.5, 0.5)}, "0.5 and 0.5 s do not rise"),
        ({"video": "a.mp4", "start_s": 3.0, "end_s": 3.0}, "clip from 3.0 to 3.0 s"),
    ],
)
def test_media_that_contradict_themselves_are_refused(fields, message):
    with pytest.raises(DataError, match=message):
        Media(**fields)


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"x": 1.01, "y": 0.5, "time_s": 0.0}, r"x 1\.01, y 0\.5 is outside the picture"),
        ({"x": 0.1, "y": float("nan"), "time_s": 0.0}, "is outside the picture"),
        ({"x": 0.1, "y": 0.1}, "has time None and image None, expected one"),
        ({"x": 0.1, "y": 0.1, "time_s": 0.0, "image": 1}, "has time 0.0 and image 1"),
        ({"x": 0.1, "y": 0.1, "image": 0}, "point in image 0"),
        ({"x": 0.1, "y": 0.1, "time_s": -0.5}, "point at -0.5 s"),
        ({"x": 0.1, "y": 0.1, "time_s": 0, "visible_fraction": 1.1}, "visible_fraction is 1.1"),
    ],
)
def test_points_that_lie_nowhere_are_refused(fields, message):
    with pytest.raises(DataError, match=message):
        LabelledPoint(**fields)


@given(x=st.floats(), y=st.floats())
def test_a_visible_point_lies_in_the_picture_and_a_hidden_one_may_lie_anywhere(x, y):
    LabelledPoint(x=x, y=y, time_s=0.0, visible=False)
    if 0 <= x <= 1 and 0 <= y <= 1:
        assert LabelledPoint(x=x, y=y, time_s=0.0).x == x
    else:
        with pytest.raises(DataError, match="outside the picture"):
            LabelledPoint(x=x, y=y, time_s=0.0)


def test_an_object_has_one_point_at_a_time():
    point = LabelledPoint(x=0.2, y=0.4, time_s=0.5)
    with pytest.raises(DataError, match="points at 0.5 and 0.5 do not rise"):
        LabelledObject(points=(point, point))


@pytest.mark.parametrize(
    ("fields", "message"),
    [
        ({"task": Task.POINT}, "a point annotation without a label"),
        ({"task": Task.TRACK, "label": "mug", "answer": "yes"}, "has an answer in words"),
        ({"task": Task.REPLY}, "a reply annotation needs words"),
        ({"task": Task.CAPTION, "answer": "A mug.", "objects": (MUG,)}, "has no objects"),
        ({"task": Task.REPLY, "answer": "red", "choices": ("blue",)}, "is none of the choices"),
        ({"task": Task.TRACK, "label": "mug", "fps": 0.0}, "fps is 0.0"),
        ({"task": Task.TRACK, "label": "mug", "weight": float("inf")}, "weight is inf"),
        ({"task": Task.TRACK, "label": "mug", "confidence": 1.5}, "confidence is 1.5"),
        ({"task": Task.TRACK, "label": "mug", "source": ""}, "source is empty"),
        ({"task": Task.TRACK, "label": "m" * 20_001}, "label of 20001 characters"),
        ({"task": Task.TRACK, "label": "mug", "objects": (MUG,) * 1001}, "1001 objects"),
    ],
)
def test_annotations_that_fit_no_task_are_refused(fields, message):
    with pytest.raises(DataError, match=message):
        Annotation(**fields)


def test_points_belong_to_the_kind_of_media():
    nothing = Annotation(task=Task.POINT, label="mug")
    in_time = Annotation(task=Task.POINT, label="mug", objects=(MUG,))
    in_image = LabelledObject(points=(LabelledPoint(x=0.2, y=0.4, image=2),))
    stills = Media(images=("a.jpg",))
    assert Example(name="1", media=CLIP, annotations=(in_time, nothing)).media.is_clip
    with pytest.raises(DataError, match="example 1: a point without an image's number"):
        Example(name="1", media=stills, annotations=(in_time,))
    with pytest.raises(DataError, match="example 1: a point in image 2 of 1"):
        Example(
            name="1",
            media=stills,
            annotations=(Annotation(task=Task.POINT, label="mug", objects=(in_image,)),),
        )
    with pytest.raises(DataError, match="no name or no annotation"):
        Example(name="1", media=CLIP, annotations=())


@pytest.mark.parametrize("task", [task for task in Task if task is not Task.REPLY])
def test_words_alone_have_replies_and_nothing_that_is_looked_at(task):
    reply = Annotation(task=Task.REPLY, question="Why?", answer="So.")
    example = Example(name="1", annotations=(reply,))
    assert example.media.is_empty
    assert not example.media.is_clip
    if task.has_objects:
        about = Annotation(task=task, label="mug")
    else:
        about = Annotation(task=task, answer="A mug.")
    with pytest.raises(DataError, match=f"a {task.value} annotation and no media"):
        Example(name="1", annotations=(reply, about))

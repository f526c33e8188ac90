"""An example is shown as it is trained, whoever looks: the trainer or a person."""

import cv2
import numpy as np
import pytest

from molmo2_ros.errors import DataError
from molmo2_ros.prompt.tokenizer import PromptTokenizer
from molmo2_ros.runtime.engine import NANO
from molmo2_ros.runtime.manifest import Manifest
from molmo2_ros.training.data.example import (
    Annotation,
    Example,
    LabelledObject,
    LabelledPoint,
    Media,
    Task,
)
from molmo2_ros.training.data.shown import show
from molmo2_ros.training.recipe.messages import TreeWriter

MUG = LabelledObject(points=(LabelledPoint(x=0.5, y=0.5, time_s=0.5),))
COUNT = Annotation(task=Task.COUNT, label="red mug", objects=(MUG,))


@pytest.fixture(scope="module")
def writer():
    return TreeWriter(PromptTokenizer(NANO), Manifest.load(NANO, verify=False).vision)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """Eleven pictures, each brighter than the one before."""
    folder = tmp_path_factory.mktemp("pictures")
    for number in range(11):
        cv2.imwrite(str(folder / f"{number}.png"), np.full((48, 64, 3), 20 * number, np.uint8))
    return folder


def clip_of(times_s, *annotations, **more):
    frames = tuple(f"{number}.png" for number in range(len(times_s)))
    media = Media(frames=frames, times_s=tuple(times_s), **more)
    return Example(name="clip", media=media, annotations=annotations)


A_SECOND = [i / 10 for i in range(11)]


@pytest.mark.parametrize(
    ("annotation", "max_frames", "times_s"),
    [
        (COUNT, 128, [0, 0.5, 1]),
        # Of 10 fps the rates 10 and 2 are multiples of the answer's 2; 10 takes eleven frames.
        (Annotation(task=Task.TRACK, label="mug", objects=(MUG,)), 128, A_SECOND),
        (Annotation(task=Task.TRACK, label="mug", objects=(MUG,)), 10, [0, 0.5, 1]),
        # ... 10, 5 and 1 are multiples of 1.
        (Annotation(task=Task.TRACK, label="mug", objects=(MUG,), fps=1), 6, A_SECOND[::2]),
        (Annotation(task=Task.TRACK_FROM_POINT, label="mug", objects=(MUG,)), 128, A_SECOND),
    ],
)
def test_tracks_are_shown_densely_all_else_twice_a_second(
    folder, writer, annotation, max_frames, times_s
):
    shown = show(
        folder, clip_of(A_SECOND, annotation), writer, max_frames=max_frames, max_tokens=4096
    )
    assert shown.times_s == pytest.approx(times_s)
    assert [round(p.mean() / 20) for p in shown.pictures] == [round(t * 10) for t in times_s]
    assert shown.tree.num_crops == len(times_s)


def test_a_conversation_is_one_branch_other_annotations_have_their_own(folder, writer):
    asked = (COUNT, Annotation(task=Task.REPLY, question="Why?", answer="So."))
    apart = Example(name="e", media=clip_of([0.0], COUNT).media, annotations=asked)
    talk = Example(name="e", media=apart.media, annotations=asked, dialogue=True)
    trees = [show(folder, e, writer, max_frames=8, max_tokens=4096).tree for e in (apart, talk)]
    assert [int(tree.branch.max()) for tree in trees] == [2, 1]


def test_subtitles_are_read_and_still_images_cut_into_as_many_tiles_as_allowed(folder, writer):
    spoken = clip_of([0.0, 0.5], COUNT, subtitles=((0.0, 0.4, "mind the mug"),))
    tree = show(folder, spoken, writer, max_frames=8, max_tokens=4096).tree
    assert "mind the mug" in writer.tokenizer.decode(list(tree.ids), keep_control=True)

    cv2.imwrite(str(folder / "large.png"), np.zeros((500, 700, 3), np.uint8))
    still = Annotation(task=Task.POINT, label="mug")
    image = Example(name="i", media=Media(images=("large.png",)), annotations=(still,))
    one, four = (
        show(folder, image, writer, max_frames=8, max_tokens=4096, max_tiles=num).tree.num_crops
        for num in (1, 4)
    )
    assert one < four


def test_without_chance_the_first_wording_is_asked_with_it_any(folder, writer):
    example = clip_of([0.0, 0.5], COUNT)
    words = {
        show(
            folder, example, writer, max_frames=8, max_tokens=4096, rng=np.random.default_rng(seed)
        ).written[0].question
        for seed in range(20)
    }  # fmt: skip
    plain = show(folder, example, writer, max_frames=8, max_tokens=4096)
    assert plain.written[0].question == "How many red mug are there?"
    assert len(words) > 3
    assert plain.written[0].answer.endswith("shows a total of 1.")


@pytest.mark.parametrize(
    ("annotation", "times_s", "shown_s"),
    [
        (COUNT, [0, 0.56, 0.62], [0, 0.56]),
        (
            Annotation(task=Task.TRACK, label="mug"),
            [0, 0.1, 0.17, 0.24, 0.4, 0.5, 0.6],
            [0, 0.1, 0.17, 0.4, 0.5, 0.6],
        ),
    ],
)
def test_of_frames_that_print_the_same_stamp_one_is_shown(
    folder, writer, annotation, times_s, shown_s
):
    stutter = clip_of(times_s, annotation)
    assert show(folder, stutter, writer, max_frames=8, max_tokens=4096).times_s == shown_s


def test_a_question_that_does_not_fit_is_named(folder, writer):
    with pytest.raises(DataError, match="example clip takes .* tokens .* expected at most 20"):
        show(folder, clip_of([0.0], COUNT), writer, max_frames=8, max_tokens=20)


def test_a_conversation_without_pictures_is_bos_and_its_turns(folder, writer):
    turns = tuple(Annotation(task=Task.REPLY, question=q, answer="So.") for q in ("Why?", "How?"))
    talk = Example(name="talk", annotations=turns, dialogue=True)
    shown = show(folder, talk, writer, max_frames=8, max_tokens=4096)
    assert (shown.pictures, shown.times_s, shown.tree.num_crops) == ([], [], 0)
    assert [each.style for each in shown.written] == ["text_sft"] * 2
    text = writer.tokenizer.decode([int(i) for i in shown.tree.ids], keep_control=True)
    bos = writer.tokenizer.decode([writer.tokenizer.ids.bos], keep_control=True)
    assert text == bos + "\n".join(
        f"<|im_start|>user\n{q}<|im_end|>\n<|im_start|>assistant\nSo.<|im_end|>"
        for q in ("Why?", "How?")
    )

"""Rendered scenes in the example format, with the questions and answers of the nano's training."""

import pytest

from molmo2_ros.cli.main import main
from molmo2_ros.errors import ConfigError
from molmo2_ros.training.data import from_scenes as module
from molmo2_ros.training.data.answers import write_turn
from molmo2_ros.training.data.dataset import Dataset
from molmo2_ros.training.data.from_scenes import CLIP_FRAMES, from_scenes


@pytest.fixture(scope="module")
def made(tmp_path_factory):
    """A small data set, and the questions of its examples as the scenes' own code wrote them."""
    out = tmp_path_factory.mktemp("scenes") / "data"
    asked = []

    def heard(questions, sightings, times_s):
        asked.append(list(questions))
        return written(asked[-1], sightings, times_s)

    written = module._annotations
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(module, "_annotations", heard)
        num = from_scenes(out, stills=6, clips=2, seed=3)
    return out, num, [questions for questions in asked if questions]


def test_examples_ask_and_answer_what_the_nano_was_trained_on(made):
    out, num, asked = made
    examples = list(Dataset.open(out))

    assert num == len(examples) == len(asked) == 8
    for example, questions in zip(examples, asked, strict=True):
        turns = [write_turn(a, example.media, example.media.times_s) for a in example.annotations]
        assert [(t.question, t.answer) for t in turns] == [(q.text, q.answer) for q in questions]
    assert {len(e.media.frames) for e in examples} == {1, CLIP_FRAMES}
    assert {a.source for e in examples for a in e.annotations} == {"synthetic"}


def test_what_is_there_is_not_rendered_again_and_the_rest_is_the_same(made, tmp_path):
    out, *_ = made
    broken_off = tmp_path / "data"

    from_scenes(broken_off, stills=3, clips=0, seed=3)
    first = (broken_off / "examples.jsonl").read_bytes()
    assert from_scenes(broken_off, stills=6, clips=2, seed=3) == 8

    whole = (out / "examples.jsonl").read_bytes()
    assert (broken_off / "examples.jsonl").read_bytes() == whole
    assert whole.startswith(first)
    picture = next(iter(Dataset.open(out))).media.frames[0]
    assert (broken_off / picture).read_bytes() == (out / picture).read_bytes()


def test_scenes_that_are_measured_on_are_never_trained_on(tmp_path):
    with pytest.raises(ConfigError, match="seed of scenes is 89, expected 0 to 88"):
        from_scenes(tmp_path, stills=1, clips=0, seed=89)
    with pytest.raises(ConfigError, match="50001 stills of one seed, expected 0 to 50000"):
        from_scenes(tmp_path, stills=50_001, clips=0)


def test_the_command_says_what_it_made(tmp_path, capsys):
    out = tmp_path / "scenes"

    assert main(["data", "from-scenes", str(out), "--stills", "1", "--clips", "0"]) == 0
    assert capsys.readouterr().out == f"{out}: 1 examples\n"

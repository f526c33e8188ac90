from pathlib import Path

import pytest

from molmo2_ros.errors import ConfigError
from molmo2_ros.training.nano.config import StageConfig, load_config
from molmo2_ros.training.nano.schedule import learning_rate

NANO = Path(__file__).parents[3] / "training" / "configs" / "nano.yaml"


def write(tmp_path, text):
    path = tmp_path / "config.yaml"
    path.write_text(text)
    return path


def test_the_shipped_configuration_loads_and_ends_with_clips():
    config = load_config(NANO)
    names = [stage.name for stage in config.stages]
    assert names == ["vision", "stills", "clips"]
    assert set(config.stages[-1].clips) == set(config.stages[-1].clip_shares)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("sead: 1", r"unknown key sead, known are seed, processes"),
        ("model: {image_sise: 3}", r"model: unknown key image_sise"),
        ("seed: one", "seed is 'one', expected int"),
        ("seed: true", "seed is True, expected int"),
        ("stages: 3", "stages is 3, expected tuple"),
        ("stages: [{name: x, steps: 1}]", r"stages: key lr is missing"),
        ("stages: [{name: x, steps: 1, lr: 1, clips: {a: 3}}]", "clips is 'a', expected int"),
        ("- 1", r"holds \[1\], expected an object"),
        ("a: [", "cannot read the training configuration"),
    ],
)
def test_bad_configurations_name_the_place_and_what_was_expected(tmp_path, text, message):
    with pytest.raises(ConfigError, match=message):
        load_config(write(tmp_path, text))


def test_a_missing_configuration_is_named(tmp_path):
    with pytest.raises(ConfigError, match=r"cannot read .*nowhere\.yaml"):
        load_config(tmp_path / "nowhere.yaml")


def test_learning_rate_warms_up_stays_and_falls():
    stage = StageConfig(
        name="s", steps=100, lr=1.0, warmup_steps=10, constant_share=0.5, final_share=0.1
    )
    assert learning_rate(stage, 0) == pytest.approx(0.1)
    assert learning_rate(stage, 9) == learning_rate(stage, 49) == 1.0
    assert learning_rate(stage, 75) == pytest.approx(0.1 + 0.9 * 0.5)  # halfway down the cosine
    assert learning_rate(stage, 100) == pytest.approx(0.1)


def test_linear_decay_is_linear():
    stage = StageConfig(
        name="s",
        steps=10,
        lr=2.0,
        warmup_steps=1,
        constant_share=0.0,
        final_share=0.0,
        decay="linear",
    )
    assert [round(learning_rate(stage, s), 6) for s in (0, 5, 10)] == [2.0, 1.0, 0.0]

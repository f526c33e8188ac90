"""Parameter snapshots: whole and valid, or refused with the reason."""

from dataclasses import dataclass

import pytest

from molmo2_ros.errors import ConfigError
from molmo2_ros.ros.settings import setting, settings_of, snapshot_from


@dataclass(frozen=True, slots=True, kw_only=True)
class Kettle:
    """A node that boils water."""

    temperature: float = setting(90.0, "How hot.", unit="C", minimum=20.0, maximum=100.0, live=True)
    num_cups: int = setting(2, "For how many.", minimum=1, maximum=8)
    tea: str = setting("green", "Which tea.", choices=("green", "black"))
    is_covered: bool = setting(False, "Lid on.")
    notes: tuple[str, ...] = setting((), "Free words.", live=True)


def test_snapshot_keeps_the_start_where_nothing_is_said():
    start = snapshot_from(Kettle, {"num_cups": 5})

    after = snapshot_from(Kettle, {"tea": "black", "notes": ["no sugar"]}, start=start)

    assert after == Kettle(num_cups=5, tea="black", notes=("no sugar",))


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ({"temperatur": 50.0}, "'temperatur' is unknown to Kettle, expected one of is_covered"),
        ({"temperature": 101.0}, r"temperature is 101.0, expected 20 to 100 C"),
        ({"temperature": float("nan")}, "temperature is nan, expected 20 to 100 C"),
        ({"temperature": 90}, r"expected a double, written with a point \(5.0\)"),
        ({"num_cups": True}, "num_cups is True, expected a integer"),
        ({"num_cups": 0}, "num_cups is 0, expected 1 to 8"),
        ({"tea": "mint"}, "tea is 'mint', expected `green` or `black`"),
        ({"is_covered": 1}, "is_covered is 1, expected a bool"),
        ({"notes": "no sugar"}, "notes is 'no sugar', expected a list of strings"),
        ({"notes": ["a", 1]}, "expected a list of strings"),
        ({"tea": "x" * 10_000}, r"tea is 'x{70,80}\.\.\., expected"),
    ],
)
def test_a_wrong_value_is_refused_with_what_was_expected(values, words):
    with pytest.raises(ConfigError, match=words):
        snapshot_from(Kettle, values)


def test_settings_tell_type_and_range_as_ros_names_them():
    settings = settings_of(Kettle)

    assert [about.type_name for about in settings.values()] == [
        "double",
        "integer",
        "string",
        "bool",
        "string array",
    ]
    assert settings["temperature"].range_text == "20 to 100"
    assert settings["tea"].range_text == "`green` or `black`"
    assert settings["temperature"].live
    assert not settings["tea"].live

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from molmo2_ros.camera.stamp import stamp_decimal, stamp_from_json, stamp_json


@given(stamp_ns=st.integers(-(2**31) * 10**9, 2**31 * 10**9 - 1))
def test_a_stamp_is_read_as_it_was_written(stamp_ns):
    written = stamp_json(stamp_ns)
    assert 0 <= written["nanosec"] < 1_000_000_000  # as builtin_interfaces/Time
    assert stamp_from_json(json.loads(json.dumps(written))) == stamp_ns


@pytest.mark.parametrize(
    ("stamp", "error"),
    [({"sec": 1}, KeyError), ([1, 2], TypeError), ({"sec": "x", "nanosec": 0}, ValueError)],
)
def test_what_is_no_stamp_is_refused(stamp, error):
    with pytest.raises(error, match="nanosec|indices|'x'"):
        stamp_from_json(stamp)


@pytest.mark.parametrize(
    ("stamp_ns", "text"),
    [
        (0, "0.000000000"),
        (5_000_000_250, "5.000000250"),
        (1_700_000_000_999_999_999, "1700000000.999999999"),
    ],
)
def test_a_stamp_in_seconds_keeps_all_nine_digits(stamp_ns, text):
    assert stamp_decimal(stamp_ns) == text

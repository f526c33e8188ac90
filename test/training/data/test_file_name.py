"""Names of files: one for each name, none that leads elsewhere."""

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from molmo2_ros.training.data.file_name import safe_name

names = st.text(st.characters(exclude_categories=["Cs"]), max_size=150)


@given(name=names)
@example(name="..")
@example(name="../../etc/passwd")
@example(name="")
@example(name="a" * 150)
def test_a_file_s_name_is_one_part_of_a_path_and_not_hidden(name):
    made = safe_name(name)
    assert made == safe_name(name)
    assert made
    assert not made.startswith(".")
    assert not set(made) & set("/\\\0 ")
    assert len(made.encode()) <= 111


@given(one=names, other=names)
@example(one="a b", other="a_b")
@example(one=".a", other="a")
@example(one="a" * 100, other="a" * 101)
def test_two_names_have_two_files(one, other):
    assert (safe_name(one) == safe_name(other)) == (one == other)


@pytest.mark.parametrize("name", ["yard-0001", "a.b_c", "7"])
def test_a_plain_name_stays(name):
    assert safe_name(name) == name

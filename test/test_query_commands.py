"""What is written to ~/query: questions, and what becomes of those that stand."""

import contextlib

import pytest
from hypothesis import given
from hypothesis import strategies as st

from molmo2_ros.errors import QueryError
from molmo2_ros.query_commands import apply_text, is_command
from molmo2_ros.standing import StandingQueries


@pytest.fixture
def standing():
    queries = StandingQueries(max_queries=4)
    for text in ("mug=point: the red mug", "mugs=count: mugs"):
        apply(queries, text)
    return queries


def apply(queries, text, now_s=0.0):
    return apply_text(queries, text, now_s, lambda query: None)


def told(queries):
    return [
        (entry.id, entry.query.name, entry.paused, entry.query.terms.rate_hz)
        for entry in queries.all(0.0)
    ]


def test_a_query_is_paused_and_resumed(standing):
    assert apply(standing, "pause: mug") == []
    assert told(standing) == [(1, "mug", True, None), (2, "mugs", False, None)]
    apply(standing, "Pause: all")
    apply(standing, "resume: mugs")
    assert told(standing) == [(1, "mug", True, None), (2, "mugs", False, None)]
    apply(standing, "mug=point: the red mug")  # asked again
    assert told(standing)[0] == (1, "mug", False, None)


def test_no_query_gets_the_name_that_stands_for_all(standing):
    apply(standing, "point: all")
    assert [name for _, name, _, _ in told(standing)] == ["mug", "mugs", "point"]
    with pytest.raises(QueryError, match="query name is 'all', expected a letter .* not `all`"):
        apply(standing, "all=point: the red mug")
    for command in ("rate: all 2 hz", "rename: all to every"):
        with pytest.raises(QueryError, match="no query is named 'all'; what stands: mug, mugs, p"):
            apply(standing, command)


def test_a_query_keeps_its_id_under_another_name_and_rate(standing):
    apply(standing, "rename: mug to cup")
    apply(standing, "rate: cup 2.5 hz")
    assert told(standing)[0] == (1, "cup", False, 2.5)
    apply(standing, "rate: cup free")
    assert told(standing)[0] == (1, "cup", False, None)
    assert [entry.query.name for entry in apply(standing, "remove: cup")] == ["cup"]


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("pause: cup", "no query is named 'cup'; what stands: mug, mugs"),
        ("rename: mug to mugs", "a query is named 'mugs' already"),
        ("rename: mug to 2 cups", "expected rename: NAME to NEW"),
        ("rename: mug to 2cups", "query name is '2cups', expected a letter"),
        ("rename: mug to all", "and not `all`"),
        ("rename: all to cup", "no query is named 'all'"),
        ("rate: mug 99 hz", "rate of a standing query is 99.0 hz"),
        ("rate: mug nan hz", "rate of a standing query is nan hz"),
        ("rate: mug often", "expected rate: NAME 2 hz, or rate: NAME free"),
        ("rate: mug x hz", "holds 'x', expected a number"),
        ("remove:", "no query is named ''"),
    ],
)
def test_what_cannot_be_done_changes_nothing(standing, text, words):
    before = told(standing)
    with pytest.raises(QueryError, match=words):
        apply(standing, text)
    assert told(standing) == before
    assert is_command(text)


def test_a_question_that_the_model_cannot_answer_does_not_stand(standing):
    def check(query):
        raise QueryError(f"cannot: {query.words}")

    with pytest.raises(QueryError, match="cannot: the dog"):
        apply_text(standing, "point: the dog", 0.0, check)
    assert len(told(standing)) == 2


@given(st.text(max_size=60))
def test_any_text_is_applied_or_refused(text):
    queries = StandingQueries(max_queries=2)
    apply(queries, "mug=point: the red mug")
    for start in ("", "rename: mug to ", "rate: mug ", "pause: ", "rename: "):
        with contextlib.suppress(QueryError):
            apply(queries, start + text)
    assert len(queries.all(0.0)) <= 2

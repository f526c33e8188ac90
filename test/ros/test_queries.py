"""Standing queries: ids, names, who gave them, and how many there may be."""

import pytest

from molmo2_ros.errors import QueryError
from molmo2_ros.prompt.query import parse_query
from molmo2_ros.ros.queries import StandingQueries, parse_standing


def names(standing):
    return [entry.query.name for entry in standing]


def test_the_parameter_replaces_its_own_queries_and_leaves_those_of_the_topic():
    standing = StandingQueries(max_queries=4)
    standing.replace_parameter(parse_standing(["point: the red mug", "count: mugs"]))
    standing.add(parse_query("track: the lemon"))

    gone = standing.replace_parameter(parse_standing(["count: mugs", "point: the plate"]))

    assert names(gone) == ["red_mug"]
    assert names(standing.all()) == ["mugs", "lemon", "plate"]
    # What stayed kept its id, what is new got a new one.
    assert [entry.id for entry in standing.all()] == [2, 3, 4]


def test_a_changed_question_of_the_same_name_gets_a_new_id():
    standing = StandingQueries(max_queries=4)
    standing.add(parse_query("cup=point: the red cup"))

    gone = standing.add(parse_query("cup=track: the red cup"))

    assert [entry.id for entry in gone] == [1]
    assert [(entry.id, entry.query.kind.value) for entry in standing.all()] == [(2, "track")]


def test_asking_the_same_again_changes_nothing():
    standing = StandingQueries(max_queries=1)
    standing.add(parse_query("point: the red mug"))

    assert standing.add(parse_query("point: the red mug")) == []
    assert [entry.id for entry in standing.all()] == [1]


def test_one_too_many_is_refused_and_nothing_changes():
    standing = StandingQueries(max_queries=1)
    standing.add(parse_query("point: the red mug"))

    with pytest.raises(QueryError, match="2 standing queries, expected at most 1; remove one"):
        standing.add(parse_query("count: mugs"))

    assert names(standing.all()) == ["red_mug"]


def test_one_is_removed_by_name_and_all_by_all():
    standing = StandingQueries(max_queries=4)
    standing.replace_parameter(parse_standing(["count: mugs", "point: the lemon"]))

    assert names(standing.remove("mugs")) == ["mugs"]
    with pytest.raises(QueryError, match="no query is named 'mugs'; what stands: lemon"):
        standing.remove("mugs")
    assert names(standing.remove("all")) == ["lemon"]
    assert standing.all() == ()


def test_one_empty_string_stands_for_none_and_two_names_must_differ():
    assert parse_standing([""]) == []
    with pytest.raises(QueryError, match="query is empty"):
        parse_standing(["", "count: mugs"])
    with pytest.raises(QueryError, match=r"two queries are named 'red_mug' \(point and track\)"):
        parse_standing(["point: the red mug", "track: the red mug"])

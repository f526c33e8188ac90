"""Standing queries: ids, names, who gave them, and how many there may be."""

import pytest

from molmo2_ros.errors import QueryError
from molmo2_ros.prompt.query import parse_query
from molmo2_ros.standing import StandingQueries, parse_standing


def names(standing):
    return [entry.query.name for entry in standing]


def test_the_parameter_replaces_its_own_queries_and_leaves_those_of_the_topic():
    standing = StandingQueries(max_queries=4)
    standing.replace_parameter(parse_standing(["point: the red mug", "count: mugs"]), 0.0)
    standing.add(parse_query("track: the lemon"), 0.0)

    gone = standing.replace_parameter(parse_standing(["count: mugs", "point: the plate"]), 0.0)

    assert names(gone) == ["red_mug"]
    assert names(standing.all(0.0)) == ["mugs", "lemon", "plate"]
    # What stayed kept its id, what is new got a new one.
    assert [entry.id for entry in standing.all(0.0)] == [2, 3, 4]


def test_a_changed_question_of_the_same_name_gets_a_new_id():
    standing = StandingQueries(max_queries=4)
    standing.add(parse_query("cup=point: the red cup"), 0.0)

    gone = standing.add(parse_query("cup=track: the red cup"), 0.0)

    assert [entry.id for entry in gone] == [1]
    assert [(entry.id, entry.query.kind.value) for entry in standing.all(0.0)] == [(2, "track")]


def test_asking_the_same_again_changes_nothing():
    standing = StandingQueries(max_queries=1)
    standing.add(parse_query("point: the red mug"), 0.0)

    assert standing.add(parse_query("point: the red mug"), 0.0) == []
    assert [entry.id for entry in standing.all(0.0)] == [1]


def test_one_too_many_is_refused_and_nothing_changes():
    standing = StandingQueries(max_queries=1)
    standing.add(parse_query("point: the red mug"), 0.0)

    with pytest.raises(QueryError, match="2 standing queries, expected at most 1; remove one"):
        standing.add(parse_query("count: mugs"), 0.0)

    assert names(standing.all(0.0)) == ["red_mug"]


def test_one_is_removed_by_name_and_all_by_all():
    standing = StandingQueries(max_queries=4)
    standing.replace_parameter(parse_standing(["count: mugs", "point: the lemon"]), 0.0)

    assert names(standing.remove("mugs")) == ["mugs"]
    with pytest.raises(QueryError, match="no query is named 'mugs'; what stands: lemon"):
        standing.remove("mugs")
    assert names(standing.remove("all")) == ["lemon"]
    assert standing.all(0.0) == ()


def test_one_empty_string_stands_for_none_and_two_names_must_differ():
    assert parse_standing([""]) == []
    with pytest.raises(QueryError, match="query is empty"):
        parse_standing(["", "count: mugs"])
    assert len(parse_standing(["point: the red mug", "the red mug", "count: mugs"])) == 2
    with pytest.raises(QueryError, match=r"two queries are named 'red_mug' \(point and track\)"):
        parse_standing(["point: the red mug", "track: the red mug"])


def test_a_query_for_some_seconds_leaves_by_itself():
    standing = StandingQueries(max_queries=1)
    standing.add(parse_query("mug=point[for 30 s]: the red mug"), 100.0)
    assert standing.next_expiry_s == 130.0
    (entry,) = standing.all(129.0)
    assert (entry.time_left_s(129.0), entry.stands(129.9), entry.stands(130.0)) == (1, True, False)
    assert standing.expire(129.9) == []

    assert standing.all(130.0) == ()
    # One whose time is over takes no place, and is no more the same when it is asked again.
    gone = standing.add(parse_query("lemon=point: the lemon"), 130.0)
    assert names(gone) == ["mug"]
    assert [entry.id for entry in standing.all(130.0)] == [2]
    assert standing.expire(999.0) == []
    assert standing.next_expiry_s is None
    standing.add(parse_query("lemon=point[for 30 s]: the lemon"), 200.0)
    assert names(standing.add(parse_query("lemon=point[for 30 s]: the lemon"), 230.0)) == ["lemon"]
    assert [entry.id for entry in standing.all(230.0)] == [3]


def test_those_whose_time_is_over_are_taken_away_and_told():
    standing = StandingQueries(max_queries=3)
    queries = ["a=point[for 1 s]: the mug", "b=point[for 2 s]: the mug", "c=point: the mug"]
    standing.replace_parameter(parse_standing(queries), 0.0)

    assert names(standing.expire(1.5)) == ["a"]
    assert standing.next_expiry_s == 2.0
    assert names(standing.all(1.5)) == ["b", "c"]


def test_new_terms_leave_the_id_and_begin_the_time_anew():
    standing = StandingQueries(max_queries=1)
    standing.replace_parameter(parse_standing(["mug=point[for 30 s]: the red mug"]), 0.0)

    assert standing.add(parse_query("mug=point[for 30 s, 2 hz]: the red mug"), 20.0) == []
    (entry,) = standing.all(20.0)
    assert (entry.id, entry.query.terms.rate_hz, entry.expires_s) == (1, 2.0, 50.0)
    assert entry.given_by == "parameter"
    assert standing.add(parse_query("mug=point: the red mug"), 40.0) == []
    assert standing.all(1000.0)[0].expires_s is None
    # Other words are another question.
    assert [entry.id for entry in standing.add(parse_query("mug=point: the mug"), 50.0)] == [1]

"""Which question is next, in simulated time."""

import pytest

from molmo2_ros.scheduler import Scheduler


def ask_for(scheduler, until_s, answer_s):
    """Let a model that takes `answer_s` for each answer work; the order of the questions."""
    now_s, order = 0.0, []
    while now_s < until_s:
        key = scheduler.next(now_s)
        if key is None:
            now_s += scheduler.wait_s(now_s)
            continue
        now_s += answer_s
        scheduler.answered(key, now_s)
        order.append((round(now_s, 6), key))
    return order


def test_nothing_stands_at_first():
    scheduler = Scheduler()
    assert scheduler.next(0.0) is None
    assert scheduler.wait_s(0.0) is None


def test_a_new_question_is_due_at_once():
    scheduler = Scheduler()
    scheduler.set_rates({1: 2.0})
    assert scheduler.wait_s(0.0) == 0
    assert scheduler.next(0.0) == 1


def test_a_fast_model_keeps_the_wished_rate():
    scheduler = Scheduler()
    scheduler.set_rates({1: 2.0})
    order = ask_for(scheduler, 5.0, answer_s=0.1)
    gaps = [later - earlier for (earlier, _), (later, _) in zip(order, order[1:], strict=False)]
    # The first gap is longer by the time that the first answer took.
    assert gaps == pytest.approx([0.6] + [0.5] * (len(gaps) - 1))
    assert scheduler.rates_hz == {1: pytest.approx(2.0, rel=0.02)}


def test_a_busy_model_serves_all_in_turn():
    scheduler = Scheduler()
    scheduler.set_rates({"a": 10.0, "b": 10.0, "c": 10.0})
    keys = [key for _, key in ask_for(scheduler, 6.0, answer_s=1.0)]
    assert keys == ["a", "b", "c", "a", "b", "c"]


def test_a_rarely_asked_question_is_not_starved_by_a_frequent_one():
    scheduler = Scheduler()
    scheduler.set_rates({"often": 10.0, "rarely": 0.5})
    keys = [key for _, key in ask_for(scheduler, 20.0, answer_s=0.5)]
    assert 9 <= keys.count("rarely") <= 10
    assert keys.count("often") >= 28


def test_no_backlog_grows_while_the_model_is_away():
    scheduler = Scheduler()
    scheduler.set_rates({1: 10.0})
    scheduler.answered(1, 100.0)
    scheduler.answered(1, 200.0)
    # A hundred seconds were missed; one answer is due now, and then one each 0.1 s.
    assert scheduler.next(200.0) == 1
    scheduler.answered(1, 200.05)
    assert scheduler.next(200.05) is None
    assert scheduler.wait_s(200.05) == pytest.approx(0.05)


def test_a_question_that_stands_on_keeps_its_place():
    scheduler = Scheduler()
    scheduler.set_rates({1: 1.0})
    scheduler.answered(1, 10.0)
    scheduler.set_rates({1: 1.0, 2: 1.0})
    assert scheduler.next(10.5) == 2
    scheduler.answered(2, 10.6)
    assert scheduler.next(10.9) is None
    assert scheduler.next(11.0) == 1


def test_a_changed_rate_counts_from_the_last_answer():
    scheduler = Scheduler()
    scheduler.set_rates({1: 0.1})
    scheduler.answered(1, 10.0)
    assert scheduler.wait_s(10.0) == pytest.approx(10.0)
    scheduler.set_rates({1: 2.0})
    assert scheduler.wait_s(10.0) == pytest.approx(0.5)


def test_a_question_that_was_dropped_is_not_asked_and_its_late_answer_ignored():
    scheduler = Scheduler()
    scheduler.set_rates({1: 1.0, 2: 1.0})
    scheduler.set_rates({2: 1.0})
    scheduler.answered(1, 5.0)
    assert scheduler.next(5.0) == 2
    assert set(scheduler.rates_hz) == {2}


@pytest.mark.parametrize("rate", [0.0, -1.0, float("nan")])
def test_a_rate_that_is_not_above_zero_is_refused(rate):
    with pytest.raises(ValueError, match="expected above 0"):
        Scheduler().set_rates({1: rate})

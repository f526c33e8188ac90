"""Which questions are next and which answers end, in simulated time."""

from collections import Counter
from itertools import pairwise

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from molmo2_ros.scheduler import Counts, Demand, Outcome, Scheduler

TINY_S = 1e-9


class Model:
    """Answers what a scheduler chooses, one batch after the other, in simulated time.

    Args:
        demands: what stands.
        answer_s: seconds that an answer takes, of all questions or of each.
        frame_s: seconds between two frames of every camera.
    """

    def __init__(self, demands, answer_s, frame_s=0.001):
        self.scheduler = Scheduler()
        self.demands = demands
        self.now_s = 0.0
        self.asked = []  # (time, the questions asked together)
        self._answer_s = answer_s
        self._frame_s = frame_s
        self.scheduler.set_demands(demands, 0.0)
        self._pass_s(0.0)

    def run(self, until_s):
        """Work until a time; the questions asked, in order."""
        while self.now_s < until_s:
            keys = self.scheduler.next(self.now_s)
            if not keys:
                wait_s = self.scheduler.wait_s(self.now_s)
                self._pass_s(self._frame_s if wait_s is None else max(wait_s, TINY_S))
                continue
            self.asked.append((self.now_s, keys))
            self.scheduler.asked(keys, self._newest_ns, self.now_s)
            self._pass_s(max(self._answer_of(key) for key in keys))
            for key in keys:
                self.scheduler.ended(key, Outcome.ANSWERED, self.now_s)
        return [key for _, keys in self.asked for key in keys]

    def times_s(self, key):
        """When a question was asked."""
        return [at_s for at_s, keys in self.asked if key in keys]

    def _answer_of(self, key):
        return self._answer_s[key] if isinstance(self._answer_s, dict) else self._answer_s

    def _pass_s(self, seconds):
        self.now_s += seconds
        self._newest_ns = int(self.now_s / self._frame_s) * round(self._frame_s * 1e9)
        for camera in {demand.camera for demand in self.demands.values()}:
            self.scheduler.frame_arrived(camera, self._newest_ns, self.now_s)


def apart(**demands):
    """Questions that read different frames, by name."""
    return {name: Demand(reads=name, **fields) for name, fields in demands.items()}


def with_frame(demands, now_s=0.0):
    """A scheduler whose camera has one frame."""
    scheduler = Scheduler()
    scheduler.set_demands(demands, now_s)
    scheduler.frame_arrived("", 1, now_s)
    return scheduler


def test_nothing_stands_at_first():
    scheduler = Scheduler()
    assert scheduler.next(0.0) == ()
    assert scheduler.wait_s(0.0) is None
    assert scheduler.upcoming(0.0) == ()
    assert scheduler.total == Counts()


def test_a_new_question_is_due_at_once_and_waits_for_a_frame():
    scheduler = Scheduler()
    scheduler.set_demands({1: Demand(rate_hz=2.0)}, 5.0)
    assert scheduler.next(5.0) == ()
    assert scheduler.wait_s(5.0) is None
    scheduler.frame_arrived("", 7, 5.1)
    assert scheduler.next(5.1) == (1,)
    assert scheduler.wait_s(5.1) == 0


def test_a_question_is_asked_once_about_a_frame():
    scheduler = with_frame({1: Demand()})
    scheduler.asked([1], 1, 0.0)
    assert scheduler.next(0.0) == (), "it is being answered"
    scheduler.ended(1, Outcome.ANSWERED, 0.5)
    assert scheduler.next(0.5) == ()
    scheduler.frame_arrived("", 2, 0.6)
    assert scheduler.next(0.6) == (1,)


def test_a_frame_that_was_asked_about_before_it_was_told_of_is_not_news():
    scheduler = with_frame({1: Demand()})
    scheduler.asked([1], 2, 0.0)  # the clip had a newer frame already
    scheduler.ended(1, Outcome.ANSWERED, 0.5)
    assert scheduler.next(0.5) == ()
    scheduler.frame_arrived("", 2, 0.6)
    assert scheduler.next(0.6) == ()


def test_a_fast_model_keeps_the_wished_rate():
    model = Model(apart(a={"rate_hz": 2.0}), answer_s=0.1)
    model.run(5.0)
    assert model.times_s("a") == pytest.approx([0.5 * index for index in range(10)])
    assert model.scheduler.rates_hz(model.now_s) == {"a": pytest.approx(2.0, rel=0.01)}
    assert model.scheduler.counts["a"] == Counts(num_asked=10, num_answered=10)


def test_a_busy_model_serves_all_in_turn():
    model = Model(apart(a={}, b={}, c={}), answer_s=1.0)
    assert model.run(6.0) == ["a", "b", "c", "a", "b", "c"]


def test_a_busy_model_shares_its_time_by_priority():
    model = Model(apart(a={"priority": 3}, b={}, c={}, d={}), answer_s=1.0)
    num = Counter(model.run(600.0))
    assert num["a"] == pytest.approx(300, rel=0.15)
    assert [num[key] for key in "bcd"] == pytest.approx([100] * 3, rel=0.15)


def test_a_rarely_asked_question_gets_what_it_wishes_from_a_busy_model():
    model = Model(apart(often={"rate_hz": 10.0}, rarely={"rate_hz": 0.5}), answer_s=0.5)
    num = Counter(model.run(20.0))
    assert num["rarely"] == 10
    assert num["often"] == 30


def test_priority_costs_a_fast_model_nobody_a_rate():
    demands = apart(high={"rate_hz": 4.0, "priority": 10}, low={"rate_hz": 1.0})
    num = Counter(Model(demands, answer_s=0.1).run(10.0))
    assert num == {"high": 40, "low": 10}


def test_no_backlog_grows_while_the_model_is_away():
    scheduler = with_frame({1: Demand(rate_hz=10.0)})
    scheduler.asked([1], 1, 0.0)
    scheduler.ended(1, Outcome.ANSWERED, 100.02)
    scheduler.frame_arrived("", 2, 100.02)
    # A hundred seconds were missed; one answer is due now, and then one each 0.1 s.
    assert scheduler.next(100.02) == (1,)
    scheduler.asked([1], 2, 100.02)
    scheduler.ended(1, Outcome.ANSWERED, 100.03)
    scheduler.frame_arrived("", 3, 100.03)
    assert scheduler.next(100.03) == ()
    assert scheduler.wait_s(100.03) == pytest.approx(0.07)
    assert scheduler.counts[1] == Counts(num_asked=2, num_answered=2, num_missed=999)


def test_questions_on_the_same_frames_are_asked_together():
    together = {"a": Demand(reads="newest"), "b": Demand(reads="newest")}
    others = {"c": Demand(reads="clip"), "d": Demand(reads="newest", camera="left")}
    model = Model({**together, **others}, answer_s=1.0)
    model.run(3.0)
    assert [keys for _, keys in model.asked] == [("a", "b"), ("c",), ("d",)]


def test_a_question_joins_others_up_to_half_its_period_early_and_keeps_its_rate():
    demands = {
        "a": Demand(reads=1, rate_hz=3.0),
        "b": Demand(reads=1, rate_hz=2.0),
    }
    model = Model(demands, answer_s=0.01)
    model.run(1.9)
    # b is due at 0.5, 1.0 and 1.5; a is asked at thirds of a second.
    assert model.times_s("b") == pytest.approx([0, 1 / 3, 1, 4 / 3], abs=2e-3)
    assert model.times_s("a") == pytest.approx([index / 3 for index in range(6)], abs=2e-3)


def test_a_question_that_stands_on_keeps_its_place():
    scheduler = with_frame(apart(a={"rate_hz": 1.0}))
    scheduler.asked(["a"], 1, 0.0)
    scheduler.ended("a", Outcome.ANSWERED, 0.1)
    scheduler.set_demands(apart(a={"rate_hz": 1.0}, b={"rate_hz": 1.0}), 0.5)
    scheduler.frame_arrived("", 2, 0.5)
    assert scheduler.next(0.5) == ("b",)
    scheduler.asked(["b"], 2, 0.5)
    scheduler.ended("b", Outcome.ANSWERED, 0.6)
    assert scheduler.next(0.9) == ()
    assert scheduler.next(1.0) == ("a",)


def test_a_changed_rate_counts_from_the_last_question():
    scheduler = with_frame({1: Demand(rate_hz=0.1)})
    scheduler.asked([1], 1, 10.0)
    scheduler.ended(1, Outcome.ANSWERED, 10.5)
    scheduler.frame_arrived("", 2, 10.5)
    assert scheduler.wait_s(10.5) == pytest.approx(9.5)
    scheduler.set_demands({1: Demand(rate_hz=2.0)}, 10.5)
    assert scheduler.wait_s(10.5) == pytest.approx(0)
    scheduler.set_demands({1: Demand(rate_hz=1.0)}, 10.5)
    assert scheduler.wait_s(10.5) == pytest.approx(0.5)


def test_a_question_leaves_by_itself_when_its_time_is_over():
    scheduler = with_frame({1: Demand(expires_s=30.0)})
    assert scheduler.next(29.9) == (1,)
    assert scheduler.next(30.0) == ()
    assert 1 not in scheduler
    assert scheduler.num_expired == 1
    # Who still names it cannot bring it back, and it is counted once.
    scheduler.set_demands({1: Demand(expires_s=30.0)}, 31.0)
    assert scheduler.next(31.0) == ()
    assert scheduler.num_expired == 1


def test_a_question_asked_for_longer_stays():
    scheduler = with_frame({1: Demand(expires_s=30.0)})
    scheduler.set_demands({1: Demand(expires_s=60.0)}, 30.5)
    assert scheduler.next(59.0) == (1,)
    assert scheduler.num_expired == 0


def test_a_question_taken_away_after_its_time_counts_as_expired_and_before_as_not():
    scheduler = with_frame({1: Demand(expires_s=30.0), 2: Demand(expires_s=60.0)})
    scheduler.set_demands({}, 31.0)
    assert scheduler.num_expired == 1


@pytest.mark.parametrize(
    ("change", "now_s", "reason"),
    [
        (lambda s: None, 0.9, None),
        (lambda s: s.set_demands({}, 0.5), 0.5, Outcome.CANCELLED),
        (lambda s: None, 2.0, Outcome.CANCELLED),  # its time is over
        (lambda s: setattr(s, "deadline_s", 0.8), 0.9, Outcome.LATE),
        (lambda s: setattr(s, "deadline_s", 0.8), 0.8, None),
        # removed and asked again meanwhile: another question
        (lambda s: (s.set_demands({}, 0.5), s.set_demands({1: Demand()}, 0.6)), 0.7, "gone"),
    ],
    ids=["wanted", "removed", "expired", "late", "in time", "asked anew"],
)
def test_an_answer_ends_when_nobody_needs_it_or_its_deadline_came(change, now_s, reason):
    scheduler = with_frame({1: Demand(expires_s=2.0)})
    scheduler.asked([1], 1, 0.0)
    change(scheduler)
    expected = Outcome.CANCELLED if reason == "gone" else reason
    assert scheduler.why_stop(1, now_s) is expected
    outcome = expected or Outcome.ANSWERED
    scheduler.ended(1, outcome, now_s)
    total = scheduler.total
    assert total.num_asked == 1
    assert (total.num_answered, total.num_late, total.num_cancelled) == tuple(
        int(outcome is other) for other in (Outcome.ANSWERED, Outcome.LATE, Outcome.CANCELLED)
    )


def test_an_answer_to_a_question_that_stands_no_more_counts_as_cancelled():
    scheduler = with_frame({1: Demand()})
    scheduler.asked([1], 1, 0.0)
    scheduler.set_demands({}, 0.5)
    scheduler.set_demands({1: Demand()}, 0.6)
    assert scheduler.next(0.6) == (), "the engine still answers the old one"
    scheduler.ended(1, Outcome.ANSWERED, 0.7)
    assert scheduler.total == Counts(num_asked=1, num_cancelled=1)
    assert scheduler.counts == {1: Counts()}
    assert scheduler.next(0.7) == (1,)


def test_frames_that_no_answer_was_about_are_counted_by_camera():
    scheduler = Scheduler()
    for stamp_ns in range(5):  # nobody asks yet
        scheduler.frame_arrived("left", stamp_ns, 0.0)
    scheduler.set_demands({1: Demand(camera="left"), 2: Demand(camera="right")}, 0.0)
    for stamp_ns in range(10, 14):
        scheduler.frame_arrived("left", stamp_ns, 0.0)
    scheduler.frame_arrived("right", 10, 0.0)
    scheduler.frame_arrived("right", 10, 0.0)  # the same again
    for key, stamp_ns in ((1, 13), (2, 10)):
        scheduler.asked([key], stamp_ns, 0.0)
        scheduler.ended(key, Outcome.ANSWERED, 0.0)
    assert scheduler.num_frames_skipped == {"left": 3, "right": 0}


def test_a_measured_rate_fades_when_answers_cease():
    model = Model(apart(a={"rate_hz": 4.0}), answer_s=0.01)
    model.run(5.0)
    rates = [model.scheduler.rates_hz(5.0 + later_s)["a"] for later_s in (0.0, 1.0, 9.0)]
    assert rates[0] == pytest.approx(4.0, rel=0.1)
    assert rates[1] < 1.0
    assert rates[2] < 0.12


@pytest.mark.parametrize(
    ("due_s", "num_frames"),
    # The newest frame came at 0.4, the next ones are expected at 0.5 and 0.6.
    [(0.45, 0), (0.49, 0), (0.505, 0), (0.52, 1), (0.59, 1), (0.65, 2), (1.05, 6)],
)
def test_it_is_foreseen_how_many_frames_come_before_a_question_is_due(due_s, num_frames):
    scheduler = Scheduler()
    for index in range(5):
        scheduler.frame_arrived("", index * 100_000_000, index / 10)
    scheduler.set_demands({1: Demand(rate_hz=1.0)}, due_s - 1)
    scheduler.asked([1], 300_000_000, due_s - 1)
    scheduler.ended(1, Outcome.ANSWERED, 0.4)
    scheduler.frame_arrived("", 400_000_000, 0.4)
    (coming,) = scheduler.upcoming(0.41)
    assert (coming.key, coming.num_frames) == (1, num_frames)
    assert coming.period_s == pytest.approx(0.1)


def test_a_question_that_has_seen_the_newest_frame_is_foreseen_on_the_next():
    scheduler = Scheduler()
    for index in range(3):
        scheduler.frame_arrived("", index * 100_000_000, index / 10)
    scheduler.set_demands({1: Demand()}, 0.2)
    scheduler.asked([1], 200_000_000, 0.2)
    scheduler.ended(1, Outcome.ANSWERED, 0.21)
    (coming,) = scheduler.upcoming(0.22)
    assert coming.num_frames == 1


def test_of_questions_on_the_same_frames_the_soonest_is_foreseen():
    scheduler = Scheduler()
    demands = {
        "late": Demand(reads=1, rate_hz=1.0),
        "soon": Demand(reads=1, rate_hz=2.0),
        "first": Demand(reads=2, rate_hz=4.0),
    }
    scheduler.set_demands(demands, 0.0)
    assert scheduler.upcoming(0.0) == (), "nothing is known of the camera"
    for index in range(2):
        scheduler.frame_arrived("", index * 100_000_000, index / 10)
    scheduler.asked(demands, 100_000_000, 0.1)
    for key in demands:
        scheduler.ended(key, Outcome.ANSWERED, 0.11)
    assert [coming.key for coming in scheduler.upcoming(0.12)] == ["first", "soon"]


@pytest.mark.parametrize("rate_hz", [0.0, -1.0, float("nan")])
def test_a_rate_that_is_not_above_zero_is_refused(rate_hz):
    with pytest.raises(ValueError, match="expected above 0"):
        Demand(rate_hz=rate_hz)


@pytest.mark.parametrize("priority", [0, -1.0, float("nan")])
def test_a_priority_that_is_not_above_zero_is_refused(priority):
    with pytest.raises(ValueError, match="expected above 0"):
        Demand(priority=priority)


RATES = st.one_of(st.none(), st.floats(0.1, 20.0))
DEMANDS = st.builds(
    Demand,
    camera=st.sampled_from(["left", "right"]),
    reads=st.integers(0, 4),
    rate_hz=RATES,
    priority=st.integers(1, 10),
)


@given(
    demands=st.lists(DEMANDS, min_size=1, max_size=6).map(lambda ds: dict(enumerate(ds))),
    answers_s=st.lists(st.floats(0.05, 1.0), min_size=6, max_size=6),
)
def test_nobody_starves(demands, answers_s):
    model = Model(demands, answer_s=dict(enumerate(answers_s)), frame_s=0.02)
    until_s = 40.0
    model.run(until_s)
    weight = sum(demand.priority for demand in demands.values())
    for key, demand in demands.items():
        share = weight / demand.priority
        most_s = 2 * max(answers_s) * (len(demands) + 1 + share) + 0.02
        most_s += 1.5 * demand.period_s  # one that joined others early waits longer for the next
        times_s = [0.0, *model.times_s(key), until_s]
        assert max(after - before for before, after in pairwise(times_s)) <= most_s


@given(
    rates_hz=st.lists(st.floats(0.2, 10.0), min_size=1, max_size=5),
    priorities=st.lists(st.integers(1, 10), min_size=5, max_size=5),
)
def test_a_model_that_is_fast_enough_gives_each_question_its_rate(rates_hz, priorities):
    demands = {
        index: Demand(reads=index, rate_hz=rate_hz, priority=priority)
        for index, (rate_hz, priority) in enumerate(zip(rates_hz, priorities, strict=False))
    }
    weight = sum(demand.priority for demand in demands.values())
    least = min(demand.priority for demand in demands.values())
    answer_s = 1 / max(rates_hz) / (2 * (len(demands) + 1 + weight / least) + 1)
    model = Model(demands, answer_s=answer_s, frame_s=answer_s / 4)
    until_s = 20 / max(rates_hz)
    model.run(until_s)
    for key, demand in demands.items():
        late_s = [at_s - index * demand.period_s for index, at_s in enumerate(model.times_s(key))]
        assert len(late_s) >= int(until_s * demand.rate_hz)
        assert min(late_s) >= -1e-6
        assert max(late_s) <= len(demands) * (answer_s + answer_s / 4)
        assert model.scheduler.counts[key].num_missed == 0


@given(
    demands=st.lists(DEMANDS, min_size=1, max_size=5).map(lambda ds: dict(enumerate(ds))),
    answers_s=st.lists(st.floats(0.01, 5.0), min_size=5, max_size=5),
)
def test_no_question_is_asked_more_often_than_wished_however_long_it_had_to_wait(
    demands, answers_s
):
    model = Model(demands, answer_s=dict(enumerate(answers_s)), frame_s=0.02)
    model.run(30.0)
    for key, demand in demands.items():
        if demand.rate_hz is None:
            continue
        times_s = model.times_s(key)
        for first, start_s in enumerate(times_s):
            for last in range(first, len(times_s)):
                most = (times_s[last] - start_s) * demand.rate_hz + 2.5
                assert last - first + 1 <= most + 1e-6
        counts = model.scheduler.counts[key]
        num_due = counts.num_asked + counts.num_missed
        last_s = times_s[-1] if times_s else 0.0
        assert last_s * demand.rate_hz - 1 <= num_due <= last_s * demand.rate_hz + 2


@given(
    priorities=st.lists(st.integers(1, 10), min_size=2, max_size=6),
    answer_s=st.floats(0.1, 1.0),
)
def test_a_busy_model_answers_the_more_important_no_less(priorities, answer_s):
    demands = {
        index: Demand(reads=index, priority=priority) for index, priority in enumerate(priorities)
    }
    num = Counter(Model(demands, answer_s=answer_s).run(300 * answer_s))
    for more, more_priority in enumerate(priorities):
        for less, less_priority in enumerate(priorities):
            if more_priority >= less_priority:
                assert num[more] >= num[less] - 2
            if more_priority >= 4 * less_priority:
                assert num[more] >= 2 * num[less] - 1


class Changes(RuleBasedStateMachine):
    """Questions come, change, go and come again while a model answers."""

    def __init__(self):
        super().__init__()
        self.scheduler = Scheduler()
        self.now_s = 0.0
        self.demands = {}
        self.answering = {}  # the demand that each question had when it was asked
        self.replaced = set()  # of those being answered
        self.stamps_ns = Counter()
        self.asked_ns = {}

    @rule(seconds=st.floats(0.0, 3.0))
    def time_passes(self, seconds):
        self.now_s += seconds

    @rule(camera=st.sampled_from(["left", "right"]), step_ns=st.integers(0, 10**9))
    def frame_comes(self, camera, step_ns):
        self.stamps_ns[camera] += step_ns
        self.scheduler.frame_arrived(camera, self.stamps_ns[camera], self.now_s)

    @rule(key=st.integers(0, 3), demand=DEMANDS, lasts_s=st.one_of(st.none(), st.floats(0.1, 5.0)))
    def question_comes_or_changes(self, key, demand, lasts_s):
        expires_s = None if lasts_s is None else self.now_s + lasts_s
        self.demands = {
            **self.standing(),
            key: Demand(
                camera=demand.camera,
                reads=demand.reads,
                rate_hz=demand.rate_hz,
                priority=demand.priority,
                expires_s=expires_s,
            ),
        }
        if key not in self.scheduler:
            self.asked_ns.pop(key, None)
        self.scheduler.set_demands(self.demands, self.now_s)

    @rule(key=st.integers(0, 3))
    def question_goes(self, key):
        self.demands.pop(key, None)
        self.replaced |= {key} & set(self.answering)
        self.scheduler.set_demands(self.demands, self.now_s)

    @precondition(lambda self: not self.answering)
    @rule()
    def model_asks(self):
        keys = self.scheduler.next(self.now_s)
        assert len(keys) == len(set(keys))
        assert set(keys) <= set(self.standing())
        assert len({(self.demands[key].camera, self.demands[key].reads) for key in keys}) <= 1
        if not keys:
            assert self.scheduler.wait_s(self.now_s) != 0
            return
        stamp_ns = self.stamps_ns[self.demands[keys[0]].camera]
        self.scheduler.asked(keys, stamp_ns, self.now_s)
        self.answering = {key: self.demands[key] for key in keys}
        self.replaced = set()

    @precondition(lambda self: self.answering)
    @rule(outcome=st.sampled_from(Outcome))
    def model_answers(self, outcome):
        for key in self.answering:
            is_wanted = key in self.standing() and key not in self.replaced
            if not is_wanted:
                assert self.scheduler.why_stop(key, self.now_s) is Outcome.CANCELLED
            self.scheduler.ended(key, outcome, self.now_s)
        self.answering = {}

    def standing(self):
        return {key: d for key, d in self.demands.items() if not d.is_over(self.now_s)}

    @invariant()
    def every_question_ends_once(self):
        total = self.scheduler.total
        num_ended = total.num_answered + total.num_late + total.num_cancelled
        assert total.num_asked == num_ended + len(self.answering)

    @invariant()
    def exactly_what_stands_is_counted(self):
        self.scheduler.wait_s(self.now_s)
        assert set(self.scheduler.counts) == set(self.standing())
        assert set(self.scheduler.rates_hz(self.now_s)) == set(self.standing())

    @invariant()
    def only_what_stands_is_foreseen(self):
        upcoming = self.scheduler.upcoming(self.now_s)
        assert {coming.key for coming in upcoming} <= set(self.standing())
        assert all(coming.num_frames >= 0 and coming.period_s > 0 for coming in upcoming)


Changes.TestCase.settings = settings(stateful_step_count=40, max_examples=60, deadline=None)
test_questions_come_and_go_in_any_order = Changes.TestCase

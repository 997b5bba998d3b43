"""The timer of the performance benchmark, with a clock that the test moves."""

import gc

import pytest

from performance.table import Patience, times
from performance.timing import LEAST_ROUNDS, clock_for, interleave


class Hands:
    """A clock, and callables that move it."""

    def __init__(self):
        self.now, self.calls = 0.0, []

    def clock(self):
        return self.now

    def taking(self, name, seconds):
        seconds = iter(seconds)

        def run():
            self.calls.append(name)
            self.now += next(seconds)

        return run


def test_medians_and_minima_are_those_of_the_timed_rounds():
    hands = Hands()
    runs = {
        "fast": hands.taking("fast", [100, 1, 2, 9, 3, 2]),  # the first warms up
        "slow": hands.taking("slow", [500, 10, 20, 90, 30, 20]),
    }
    found = interleave(runs, rounds=5, clock=hands.clock)
    assert found["fast"].seconds == (1, 2, 9, 3, 2)
    assert (found["fast"].median, found["fast"].minimum) == (2, 1)
    assert found["slow"].median == 10 * found["fast"].median


def test_callables_take_turns_and_each_is_first_in_its_turn():
    hands = Hands()
    runs = {name: hands.taking(name, [1] * 4) for name in "abc"}
    interleave(runs, rounds=4, clock=hands.clock, warm_up=0)
    assert "".join(hands.calls) == "abc" + "bca" + "cab" + "abc"


def test_a_disturbance_of_one_round_leaves_the_ratio_alone():
    hands = Hands()
    load = [1, 1, 7, 1, 1]
    runs = {
        "one": hands.taking("one", [0, *load]),
        "three": hands.taking("three", [0, *(3 * x for x in load)]),
    }
    found = interleave(runs, rounds=5, clock=hands.clock)
    assert found["three"].median / found["one"].median == 3


@pytest.mark.parametrize(("budget", "rounds"), [(0, LEAST_ROUNDS), (45, 5), (1000, 9)])
def test_the_budget_ends_the_rounds_but_not_before_the_least(budget, rounds):
    hands = Hands()
    runs = {"run": hands.taking("run", [10] * 9)}
    found = interleave(runs, rounds=9, clock=hands.clock, warm_up=0, budget=budget)
    assert len(found["run"].seconds) == rounds


def test_garbage_is_not_collected_while_the_clock_runs():
    assert gc.isenabled()
    seen = []
    interleave({"run": lambda: seen.append(gc.isenabled())}, 3, Hands().clock, warm_up=0)
    assert seen == [False] * 3
    assert gc.isenabled()


def test_several_threads_are_timed_on_the_wall():
    assert clock_for(1)[0] == "cpu"
    assert clock_for(2)[0] == "wall"


def test_a_row_is_of_one_call_of_what_is_called_more_than_once():
    ticks = iter(range(1000))
    patience = Patience(lambda: float(next(ticks)), 3, 1e9)
    runs = {"once": lambda: None, "four times": lambda: None}
    group = times("section", "case", runs, patience, warm_up=0, calls={"four times": 4})
    assert [row.median for row in group.rows.values()] == [1.0, 0.25]
    assert [row.ratio for row in group.rows.values()] == [1.0, 0.25]

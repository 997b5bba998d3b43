"""The search tells a gain from noise, stays in its budget, and chooses nothing by luck."""

import random
from statistics import NormalDist

import pytest

from spikediff.errors import UserError
from spikediff.systems.sdm.scale_search import Budget, Gain, GuidanceCurve, search_scale

GRID = [0.98, 0.99, 1.01, 1.02]


def noisy(truth, shared, own, salt=0):
    """A distance: a truth, noise that all scales share on the same seeds, and a scale's own."""

    def measure(scale, repeat):
        common = NormalDist(0, shared).inv_cdf(random.Random(f"{salt} {repeat}").random())
        mine = NormalDist(0, own).inv_cdf(random.Random(f"{salt} {repeat} {scale}").random())
        return 100 + truth(scale) + common + mine

    return measure


def counted(measure):
    calls = []

    def call(scale, repeat):
        calls.append((scale, repeat))
        return measure(scale, repeat)

    return call, calls


def test_a_real_gain_is_found_under_noise_that_pairs_share():
    found = search_scale(noisy(lambda k: 100 * abs(k - 0.99), 20.0, 0.05), GRID, 4)
    assert found.verdict == "confirmed gain"
    assert found.recommended == found.curve.best == 0.99
    assert found.curve.gain(0.99).mean == pytest.approx(1.0, abs=0.1)
    assert found.curve.content()[1]["std"] > 5, "unpaired, the noise would hide the gain"


def test_higher_is_better_where_it_is():
    measure = noisy(lambda k: -100 * abs(k - 1.01), 5.0, 0.05)
    found = search_scale(measure, GRID, 3, lower_is_better=False)
    assert found.recommended == 1.01
    assert found.curve.gain(1.01).mean > 0 > found.curve.gain(0.98).mean


def test_without_a_gain_nothing_is_recommended():
    worse = search_scale(noisy(lambda k: 1000 * abs(k - 1), 1.0, 0.01), GRID, 3)
    assert (worse.verdict, worse.recommended, worse.confirmation) == ("no gain", 1.0, None)


def test_fresh_seeds_halve_at_least_how_often_luck_is_taken_for_a_gain():
    """No scale matters here, so every gain that is claimed is false."""
    found = [search_scale(noisy(lambda k: 0, 1, 1, salt), GRID, 3) for salt in range(400)]
    chosen = sum(f.curve.gain(f.curve.best).exceeds_noise for f in found)
    claimed = sum(f.verdict == "confirmed gain" for f in found)
    assert chosen > 60, "the best of four looks real too often"
    assert claimed < chosen / 4
    assert claimed < 30
    assert all(f.recommended == 1.0 for f in found if f.verdict != "confirmed gain")


def test_the_confirmation_sees_seeds_that_the_search_did_not():
    measure, calls = counted(noisy(lambda k: 100 * abs(k - 0.99), 1.0, 0.01))
    found = search_scale(measure, GRID, 3)
    searched, fresh = calls[:15], calls[15:]
    assert {repeat for _, repeat in searched} == {0, 1, 2}
    assert fresh == [(k, r) for r in (3, 4, 5) for k in (1.0, 0.99)]
    assert found.confirmation.repeats == 3


def test_nothing_is_confirmed_where_there_is_nothing_to_confirm():
    measure, calls = counted(noisy(lambda k: 0, 1, 1, salt=3))
    found = search_scale(measure, GRID, 3)
    assert found.verdict in ("within noise", "no gain")
    assert len(calls) == 15


@pytest.mark.parametrize(
    ("measurements", "verdict", "repeats"),
    [
        (9, "not measured", None),  # one repeat of five scales, and four of the next
        (10, "not confirmed", 2),
        (14, "not confirmed", 2),
        (15, "not confirmed", 3),
        (20, "not confirmed", 3),
        (21, "confirmed gain", 3),
    ],
)
def test_a_budget_leaves_complete_repeats(measurements, verdict, repeats):
    measure, calls = counted(noisy(lambda k: 100 * abs(k - 0.99), 1.0, 0.01))
    found = search_scale(measure, GRID, 3, budget=Budget(measurements=measurements))
    assert found.verdict == verdict
    assert found.within_budget == (measurements == 21)
    assert len(calls) <= measurements
    assert repeats == (None if found.curve is None else found.curve.repeats)
    assert (found.recommended == 0.99) == (verdict == "confirmed gain")


def test_no_measurement_begins_after_the_time(monkeypatch):
    now = [0.0]
    monkeypatch.setattr("spikediff.systems.sdm.scale_search.time.monotonic", lambda: now[0])

    def measure(scale, repeat):
        now[0] += 1.0
        return scale + repeat

    calls_in_time = search_scale(measure, GRID, 3, budget=Budget(seconds=10.5))
    assert now[0] == 11.0
    assert calls_in_time.curve.repeats == 2


def test_the_grid_is_measured_once_and_with_1():
    measure, calls = counted(lambda k, r: float(r))
    search_scale(measure, [0.9, 1.0, 0.9], 2)
    assert calls == [(1.0, 0), (0.9, 0), (1.0, 1), (0.9, 1)]


def test_equal_numbers_are_no_gain():
    assert not Gain.of([0.0, 0.0]).exceeds_noise
    assert search_scale(lambda k, r: 1.0, GRID, 2).verdict == "no gain"


def test_two_standard_errors_by_hand():
    """Differences 1, 2, 3: mean 2, standard error 1 / sqrt(3)."""
    curve = GuidanceCurve({1.0: (5.0, 6.0, 9.0), 0.9: (4.0, 4.0, 6.0)}, lower_is_better=True)
    gain = curve.gain(0.9)
    assert (gain.mean, gain.standard_error) == (2.0, pytest.approx(3**-0.5))
    assert gain.exceeds_noise
    assert not Gain(1.0, 0.5).exceeds_noise


@pytest.mark.parametrize(
    ("arguments", "word"), [((GRID, 1), "give no error bars"), (([1.0], 3), "other than 1")]
)
def test_what_shows_nothing_is_refused(arguments, word):
    with pytest.raises(UserError, match=word):
        search_scale(lambda k, r: 0.0, *arguments)

"""Fitted exponents of known laws."""

import math

import pytest

from performance.exponent import fit_power_law
from performance.growth_page import page
from performance.growth_plot import plot_growth
from performance.growth_section import AXES, FORMS, Curve, curve_of_json

X = [1, 2, 4, 8, 16]


@pytest.mark.parametrize("exponent", [0.0, 0.5, 1.0, 2.0, -1.0])
def test_a_power_law_is_found_exactly(exponent):
    law = fit_power_law(X, [3.0 * x**exponent for x in X])
    assert law.exponent == pytest.approx(exponent, abs=1e-12)
    assert law.last == pytest.approx(exponent, abs=1e-12)
    assert law.factor == pytest.approx(3.0)
    assert law.error == pytest.approx(0.0, abs=1e-7)


def test_a_fixed_cost_lowers_the_exponent_and_shows_as_an_error():
    law = fit_power_law(X, [5.0 + x for x in X])
    assert 0.2 < law.exponent < 0.8
    assert law.error > 0.03
    assert law.exponent < law.last < 1


def test_noise_up_and_down_cancels():
    noise = [1.1, 1 / 1.1, 1.0, 1 / 1.1, 1.1]  # symmetric over the logarithm of X
    law = fit_power_law(X, [x**2 * n for x, n in zip(X, noise, strict=True)])
    assert law.exponent == pytest.approx(2.0)
    assert law.error > 0


def test_two_points_leave_no_error():
    law = fit_power_law([1, 2], [1.0, 2.0])
    assert law.exponent == pytest.approx(1.0)
    assert math.isnan(law.error)


@pytest.mark.slow
def test_the_picture_is_drawn_for_one_form_or_both(tmp_path):
    curves = [
        Curve(axis, form, x, tuple(0.01 * v for v in x), tuple(x), fit_power_law(x, x))
        for axis, x in AXES.items()
        for form in (FORMS if axis == "T" else FORMS[:1])
    ]
    png = plot_growth(curves, tmp_path / "new" / "growth.png")
    assert png.read_bytes()[:4] == b"\x89PNG"


def test_a_curve_bends_where_its_exponent_changes_most():
    fixed = tuple(5.0 + max(0, x - 2) ** 2 for x in X)
    curve = Curve("T", "SDDPM", tuple(X), fixed, tuple(X), fit_power_law(X, fixed))
    assert curve.bend() == 4
    assert curve_of_json(curve.to_dict()) == curve
    straight = tuple(3.0 * x**0.9 for x in X)
    law = fit_power_law(X, straight)
    assert Curve("T", "SDDPM", tuple(X), straight, tuple(X), law).bend() is None
    told = page({"machine": {"cpu": "some"}, "growth": [curve.to_dict()]})
    assert "| SDDPM | 5.000 s<br>0.0 MiB | 5.000 s" in told
    assert "on cpu some:" in told
    assert told.count("| 4 |") == 2


def test_two_points_have_no_bend_and_survive_json():
    law = fit_power_law([1, 2], [1.0, 1.0])
    curve = Curve("threads", "SDDPM", (1, 2), (1.0, 1.0), (8, 8), law)
    assert curve.bend() is None
    stored = curve.to_dict()
    assert stored["law"]["error"] is None
    assert math.isnan(curve_of_json(stored).law.error)

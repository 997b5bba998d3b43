"""The checks of numbers and names, and the words of their messages."""

import math

import numpy as np
import pytest
import torch

from spikediff.errors import UserError, check_known, check_number

ONE = np.float32(1.0)


@pytest.mark.parametrize(
    ("value", "within"),
    [
        (0.0, {"least": 0, "most": 1}),
        (1, {"least": 0, "most": 1}),
        (ONE, {"above": 0, "most": 1}),
        (-3.5, {"below": 0}),
        (np.int64(7), {"least": 1, "whole": True}),
        (torch.tensor(7), {"least": 1, "most": 2**64 - 1, "whole": True}),
    ],
)
def test_numbers_within_a_range_pass(value, within):
    check_number("x", value, **within)


@pytest.mark.parametrize(
    ("value", "within", "words"),
    [
        (None, {}, "x = None must be a finite number"),
        ("1", {}, "x = '1' must be a finite number"),
        (True, {}, "x = True must be a finite number"),
        (math.nan, {"least": 0}, "x = nan must be a finite number"),
        (10**400, {}, "must be a finite number"),
        (torch.ones(2), {}, "must be a finite number"),
        (1.0, {"whole": True}, "x = 1.0 must be a whole number"),
        (True, {"whole": True}, "x = True must be a whole number"),
        (torch.ones(2), {"whole": True}, "must be a whole number"),
        (-1, {"least": 0}, "x = -1 must not be negative"),
        (0, {"above": 0}, "x = 0 must be positive"),
        (1, {"least": 2}, "x = 1 must be at least 2"),
        (1, {"above": 1}, "x = 1 must be above 1"),
        (5, {"most": 3}, "x = 5 must be at most 3"),
        (0, {"below": 0}, "x = 0 must be below 0"),
        (0, {"above": 0, "most": 1}, "x = 0 must lie in (0, 1]"),
        (1, {"least": 0, "below": 1}, "x = 1 must lie in [0, 1)"),
        (9, {"least": 1, "most": 8, "whole": True}, "x = 9 must lie between 1 and 8"),
    ],
)
def test_others_are_refused_in_words(value, within, words):
    with pytest.raises(UserError) as refused:
        check_number("x", value, **within)
    assert words in str(refused.value)


@pytest.mark.parametrize("name", ["c", None, 3, ["a"], torch.ones(2)])
def test_names_that_are_not_known_are_refused(name):
    check_known("letter", "a", ("a", "b"))
    with pytest.raises(UserError, match="letters: unknown letter"):
        check_known("letter", name, ("a", "b"), "letters: ")

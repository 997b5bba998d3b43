"""Laws of the Inception score."""

import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from spikediff.errors import UserError
from spikediff.evaluation.class_scores import inception_score


@given(st.integers(2, 20), st.integers(1, 10))
def test_uniform_is_one_and_sure_and_balanced_is_the_number_of_classes(K, splits):
    uniform = inception_score(torch.full((splits * 3, K), 1 / K), splits)
    assert uniform.mean == pytest.approx(1)
    assert uniform.std == pytest.approx(0, abs=1e-9)
    balanced = inception_score(torch.eye(K).repeat(splits, 1), splits)  # every part has every class
    assert balanced.mean == pytest.approx(K)
    assert balanced.std == pytest.approx(0, abs=1e-6)


def test_one_class_alone_is_one():
    assert inception_score(torch.eye(5)[[2] * 20]).mean == pytest.approx(1)


def test_between_bounds_and_blind_to_the_order_of_classes():
    p = torch.randn(200, 7, generator=torch.Generator().manual_seed(0)).softmax(1)
    score = inception_score(p)
    assert 1 < score.mean < 7
    assert inception_score(p.flip(1)).mean == pytest.approx(score.mean)


def test_hand_computed():
    p = torch.tensor([[1.0, 0.0], [0.5, 0.5]])
    # marginal 3/4, 1/4: divergences log(4/3) and (log(2/3) + log 2) / 2
    expected = math.exp((math.log(4 / 3) + 0.5 * math.log(2 / 3) + 0.5 * math.log(2)) / 2)
    assert inception_score(p, splits=1).mean == pytest.approx(expected)


def test_rows_are_normalised_after_rounding():
    p = torch.randn(200, 7, generator=torch.Generator().manual_seed(0)).softmax(1)
    assert inception_score(p * 1.0005).mean == pytest.approx(inception_score(p).mean, rel=1e-6)
    assert inception_score(p.half()).mean == pytest.approx(inception_score(p).mean, rel=1e-3)


def test_parts_are_taken_in_order_and_their_spread_is_told():
    parts = torch.cat([torch.full((10, 4), 0.25), torch.eye(4)[torch.arange(12) % 4]])[:20]
    score = inception_score(parts, splits=2)  # 1 and a bit under 4
    second = inception_score(parts[10:], splits=1).mean
    assert score.mean == pytest.approx((1 + second) / 2)
    assert score.std == pytest.approx((second - 1) / 2)


@pytest.mark.parametrize(
    "bad",
    [torch.randn(20, 4), torch.rand(20, 4), torch.full((20, 4), math.nan), torch.eye(4) * 0.9],
)
def test_what_is_no_probability_is_refused(bad):
    with pytest.raises(UserError, match="softmax"):
        inception_score(bad, splits=2)


@pytest.mark.parametrize("bad", [torch.full((4,), 0.25), torch.eye(4).long()])
def test_what_is_no_table_of_probabilities_is_refused(bad):
    with pytest.raises(UserError, match=r"pass probabilities \[N, K\]"):
        inception_score(bad, splits=2)


def test_more_parts_than_images_are_refused():
    with pytest.raises(UserError, match="splits = 10 of 4 images"):
        inception_score(torch.eye(4))

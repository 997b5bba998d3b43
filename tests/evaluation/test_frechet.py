"""Laws of the Frechet distance, its closed forms, and moments taken in parts."""

import math
import warnings

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from goldens import Golden
from spikediff.errors import UserError
from spikediff.evaluation.frechet import Moments, RunningMoments, TooFewSamples, frechet_distance


def gaussian(seed, count=400, dimensions=6):
    generator = torch.Generator().manual_seed(seed)
    mixing = torch.randn(dimensions, dimensions, generator=generator, dtype=torch.float64)
    noise = torch.randn(count, dimensions, generator=generator, dtype=torch.float64)
    return noise @ mixing + torch.randn(dimensions, generator=generator, dtype=torch.float64)


def spd(seed, dimensions, rank=None):
    generator = torch.Generator().manual_seed(seed)
    root = torch.randn(dimensions, rank or dimensions, generator=generator, dtype=torch.float64)
    return root @ root.T


def moments(covariance, mean=None):
    return Moments(
        None, torch.zeros(len(covariance)).double() if mean is None else mean, covariance
    )


def test_zero_on_itself_and_symmetric():
    a, b = gaussian(0), gaussian(1)
    assert frechet_distance(a, a) == pytest.approx(0, abs=1e-10)
    assert frechet_distance(a, b) == pytest.approx(frechet_distance(b, a), rel=1e-10)
    assert frechet_distance(a, b) > 1


@given(st.floats(-5, 5), st.floats(0.01, 5), st.floats(-5, 5), st.floats(0.01, 5))
@settings(max_examples=50)
def test_closed_form_in_one_dimension(mean_a, std_a, mean_b, std_b):
    a, b = (
        moments(torch.tensor([[s * s]]).double(), torch.tensor([m]).double())
        for m, s in ((mean_a, std_a), (mean_b, std_b))
    )
    expected = (mean_a - mean_b) ** 2 + (std_a - std_b) ** 2
    assert frechet_distance(a, b) == pytest.approx(expected, abs=1e-5)  # tensor() is float32


def test_closed_form_of_commuting_covariances():
    axes, _ = torch.linalg.qr(spd(2, 5))
    p, q = torch.tensor([4.0, 1, 0.25, 9, 0]).double(), torch.tensor([1.0, 1, 4, 0, 16]).double()
    distance = frechet_distance(*(moments(axes @ v.diag() @ axes.T) for v in (p, q)))
    assert distance == pytest.approx(float((p.sqrt() - q.sqrt()).square().sum()), abs=1e-6)


@pytest.mark.parametrize("seed", range(5))
def test_agrees_with_the_general_matrix_root(seed):
    from scipy.linalg import sqrtm

    A, B = spd(seed, 8), spd(seed + 100, 8)
    root = sqrtm((A @ B).numpy()).real
    expected = float(A.trace() + B.trace()) - 2 * root.trace()
    assert frechet_distance(moments(A), moments(B)) == pytest.approx(expected, rel=1e-9)


def test_invariant_under_rotation_and_quadratic_in_shift_and_scale():
    a, b = gaussian(0), gaussian(1)
    rotation, _ = torch.linalg.qr(spd(3, 6))
    assert frechet_distance(a @ rotation, b @ rotation) == pytest.approx(frechet_distance(a, b))
    assert frechet_distance(3 * a, 3 * b) == pytest.approx(9 * frechet_distance(a, b))
    shift = torch.arange(6).double()
    assert frechet_distance(a, a + shift) == pytest.approx(float(shift @ shift))


def test_singular_covariances_have_a_distance():
    A = spd(0, 30, rank=5)
    assert frechet_distance(moments(A), moments(A)) == pytest.approx(0, abs=1e-4)
    assert frechet_distance(moments(A), moments(0 * A)) == pytest.approx(float(A.trace()))


def test_a_matrix_with_negative_variances_is_refused():
    with pytest.raises(UserError, match="negative eigenvalue"):
        frechet_distance(
            moments(torch.diag(torch.tensor([1.0, -0.1])).double()), moments(spd(0, 2))
        )
    rounding = torch.diag(torch.tensor([1.0, -1e-9])).double()
    assert frechet_distance(moments(rounding), moments(rounding)) == pytest.approx(0, abs=1e-8)


@given(st.lists(st.integers(1, 50), min_size=1, max_size=6))
@settings(max_examples=30)
def test_parts_give_what_the_whole_gives(sizes):
    features = gaussian(5, count=max(sum(sizes), 2)) + 1e4  # a far mean shows unstable sums
    running = RunningMoments()
    for part in features.split(sizes) if sum(sizes) > 1 else [features]:
        running.add(part)
    whole = running.moments()
    assert whole.count == len(features)
    torch.testing.assert_close(whole.mean, features.mean(0), rtol=1e-14, atol=0)
    torch.testing.assert_close(whole.covariance, features.T.cov(), rtol=1e-9, atol=1e-9)


def test_too_few_images_are_told_of():
    few, many = gaussian(0, count=6), gaussian(0, count=7)  # N images span N - 1 dimensions
    with pytest.warns(TooFewSamples, match=r"6 images for 6 dimensions.*use more than 6 images"):
        frechet_distance(few, many)
    with pytest.warns(TooFewSamples):
        frechet_distance(many, few)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        frechet_distance(many, many)
        frechet_distance(many, Moments(None, torch.zeros(6).double(), torch.eye(6).double()))


@pytest.mark.parametrize("bad", [math.nan, math.inf])
def test_values_that_are_no_numbers_are_refused(bad):
    features = gaussian(0)
    features[3, 2] = bad
    with pytest.raises(UserError, match="1 of 400 feature vectors"):
        frechet_distance(gaussian(1), features)


def test_other_wrong_input_is_refused():
    with pytest.raises(UserError, match="6 dimensions, the other 5"):
        frechet_distance(gaussian(0), gaussian(0, dimensions=5))
    with pytest.raises(UserError, match="at least 2"):
        frechet_distance(gaussian(0, count=1), gaussian(0))
    with pytest.raises(UserError, match="floating point"):
        frechet_distance(torch.zeros(3, 2, dtype=torch.int64), gaussian(0))
    with pytest.raises(UserError, match="not symmetric"):
        moments(torch.tensor([[1.0, 1.0], [0.0, 1.0]]).double())
    with pytest.raises(UserError, match="float64"):
        Moments(9, torch.zeros(2), torch.eye(2))
    with pytest.raises(UserError, match="contains NaN or infinity"):
        moments(torch.full((2, 2), math.nan).double())
    running = RunningMoments()
    running.add(gaussian(0, count=1))
    with pytest.raises(UserError, match="add at least 2"):
        running.moments()


def test_golden_distances_from_stored_features():
    golden = Golden("C6_fad")
    reference = moments(golden["clean_stats/sigma"], golden["clean_stats/mu"])
    distance = frechet_distance(golden["subset/features_eval"], reference)
    assert distance == pytest.approx(golden.facts["values"]["clean"], abs=1e-5)

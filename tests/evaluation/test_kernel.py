"""Laws of the kernel distance, and the double sum it stands for."""

import pytest
import torch

from spikediff.errors import UserError
from spikediff.evaluation.kernel import kernel_distance, unbiased_mmd2


def noise(seed, count, dimensions=4, shift=0.0):
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(count, dimensions, generator=generator, dtype=torch.float64) + shift


def double_sum(x, y):
    """Gretton et al. 2012, eq. 3, term by term."""

    def k(u, v):
        return (float(u @ v) / len(u) + 1) ** 3

    def within(z):
        pairs = [k(z[i], z[j]) for i in range(len(z)) for j in range(len(z)) if i != j]
        return sum(pairs) / len(pairs)

    between = [k(u, v) for u in x for v in y]
    return within(x) + within(y) - 2 * sum(between) / len(between)


def test_equals_the_double_sum():
    x, y = noise(0, 9), noise(1, 7, shift=0.5)
    assert unbiased_mmd2(x, y) == pytest.approx(double_sum(x, y), rel=1e-12)
    x = noise(2, 7)
    whole = kernel_distance(x, y, subsets=3, subset_size=None)
    assert whole.mean == pytest.approx(double_sum(x, y), rel=1e-12)
    assert whole.std == pytest.approx(0, abs=1e-12)  # whole sets, in another order


def test_unbiased_where_both_sets_have_one_distribution():
    values = torch.tensor(
        [unbiased_mmd2(noise(2 * s, 30), noise(2 * s + 1, 30)) for s in range(400)]
    )
    error = float(values.std()) / len(values) ** 0.5
    assert abs(float(values.mean())) < 3 * error
    assert float(values.min()) < 0 < float(values.max())


def test_expectation_does_not_depend_on_the_number_of_images():
    a, b = noise(0, 2000), noise(1, 2000, shift=0.3)
    small, large = (kernel_distance(a, b, 100, size).mean for size in (20, 500))
    spread = kernel_distance(a, b, 100, 20).std / 100**0.5
    assert abs(small - large) < 3 * spread
    assert large > 0.1


def test_subsets_are_a_function_of_the_seed():
    a, b = noise(0, 300), noise(1, 200, shift=0.2)
    assert kernel_distance(a, b, 5, 50, seed=3) == kernel_distance(a, b, 5, 50, seed=3)
    assert kernel_distance(a, b, 5, 50, seed=3) != kernel_distance(a, b, 5, 50, seed=4)


def test_the_global_generator_is_left_alone():
    state = torch.random.get_rng_state()
    kernel_distance(noise(0, 9), noise(1, 9), 2, 5)
    assert torch.equal(state, torch.random.get_rng_state())


def test_wrong_input_is_refused():
    a, b = noise(0, 300), noise(1, 200)
    with pytest.raises(UserError, match="subset_size = 1000, but the sets have 300 and 200"):
        kernel_distance(a, b)
    with pytest.raises(UserError, match="at least 2"):
        kernel_distance(a, b, subset_size=1)
    with pytest.raises(UserError, match="at least one"):
        kernel_distance(a, b, subsets=0, subset_size=10)
    with pytest.raises(UserError, match="NaN"):
        kernel_distance(a * torch.nan, b, subset_size=10)
    with pytest.raises(UserError, match="1 images are too few; pass at least 2"):
        kernel_distance(a[:1], b, subset_size=10)
    with pytest.raises(UserError, match="4 dimensions, the other 3"):
        kernel_distance(a, b[:, :3], subset_size=10)

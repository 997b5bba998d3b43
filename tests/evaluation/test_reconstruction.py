"""Laws of the mean squared error and of structural similarity."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from spikediff.data import load_images
from spikediff.errors import UserError
from spikediff.evaluation.reconstruction import mse, ssim


def noise(seed, *shape):
    return torch.rand(*shape, generator=torch.Generator().manual_seed(seed))


@pytest.fixture(scope="module")
def digits():
    return load_images("digits", "test", image_size=16).stack()[:50]


def test_mse_of_a_known_difference_and_of_bytes():
    x = noise(0, 3, 2, 4, 5)
    assert mse(x, x) == 0
    assert mse(x, x + 0.5) == pytest.approx(0.25, rel=1e-6)
    low, high = (torch.full((1, 1, 2, 2), v, dtype=torch.uint8) for v in (3, 250))
    assert mse(low, high) == 247**2  # unsigned bytes do not wrap round


@given(st.floats(0, 1), st.floats(0, 1), st.sampled_from([1.0, 2.0, 255.0]))
@settings(max_examples=30)
def test_ssim_of_two_constants(a, b, data_range):
    x, y = (torch.full((1, 1, 12, 13), v, dtype=torch.float64) for v in (a, b))
    C1 = (0.01 * data_range) ** 2
    expected = (2 * a * b + C1) / (a * a + b * b + C1)
    assert ssim(x, y, data_range) == pytest.approx(expected, abs=1e-8)


def test_ssim_of_one_window_by_hand():
    x, y = noise(0, 1, 1, 11, 11).double(), noise(1, 1, 1, 11, 11).double()
    i = torch.arange(-5, 6).double()
    w = torch.exp(-(i[:, None] ** 2 + i**2) / (2 * 1.5**2))
    w = w / w.sum()
    mean_x, mean_y = (w * x).sum(), (w * y).sum()
    var_x, var_y = (w * (x - mean_x) ** 2).sum(), (w * (y - mean_y) ** 2).sum()
    cov = (w * (x - mean_x) * (y - mean_y)).sum()
    C1, C2 = 1e-4, 9e-4
    expected = (2 * mean_x * mean_y + C1) * (2 * cov + C2)
    expected /= (mean_x**2 + mean_y**2 + C1) * (var_x + var_y + C2)
    assert ssim(x, y, 1.0) == pytest.approx(float(expected), rel=1e-10)


def test_ssim_is_one_on_itself_symmetric_and_falls_with_noise(digits):
    assert ssim(digits, digits, 255) == pytest.approx(1)
    x = digits.double() / 255
    little, much = (x + s * noise(2, *x.shape) for s in (0.1, 0.5))
    assert ssim(x, little, 1.0) == pytest.approx(ssim(little, x, 1.0), rel=1e-12)
    assert 1 > ssim(x, little, 1.0) > ssim(x, much, 1.0) > ssim(x, 1 - x, 1.0)


def test_ssim_is_the_same_in_bytes_and_in_shares_of_their_range(digits):
    other = digits.flip(0)
    assert ssim(digits, other, 255) == pytest.approx(ssim(digits / 255, other / 255, 1.0), rel=1e-5)


def test_ssim_is_the_mean_over_images_and_channels():
    x, y = noise(0, 300, 2, 12, 12), noise(1, 300, 2, 12, 12)
    single = [
        ssim(x[[n], [c]][:, None], y[[n], [c]][:, None], 1.0) for n in range(300) for c in range(2)
    ]
    assert ssim(x, y, 1.0) == pytest.approx(sum(single) / 600, rel=1e-9)


def test_ssim_tells_an_inverted_structure():
    x = noise(0, 1, 1, 16, 16)
    assert ssim(x, 1 - x, 1.0) < 0


def test_wrong_input_is_refused():
    x = noise(0, 1, 1, 12, 12)
    with pytest.raises(UserError, match="10x12 are smaller than its window of 11"):
        ssim(x[:, :, :10], x[:, :, :10], 1.0)
    with pytest.raises(UserError, match="data_range = 0"):
        ssim(x, x, 0)
    with pytest.raises(UserError, match="NaN"):
        ssim(x, x * torch.nan, 1.0)
    with pytest.raises(UserError, match="two equal"):
        mse(x, x[:, :, :5])
    with pytest.raises(TypeError, match="data_range"):
        ssim(x, x)  # no default: a wrong range changes the result and nothing tells


def test_windows_may_hang_over_the_edge():
    """By hand at the corner: what lies outside counts as zeros, in every moment."""
    generator = torch.Generator().manual_seed(0)
    a, b = torch.rand(2, 1, 1, 13, 13, generator=generator, dtype=torch.float64)
    offsets = torch.arange(11, dtype=torch.float64) - 5
    line = torch.exp(-(offsets**2) / (2 * 1.5**2))
    window = torch.outer(line, line) / line.sum() ** 2
    total, padded = 0.0, [torch.nn.functional.pad(x[0, 0], [5] * 4) for x in (a, b)]
    for i in range(13):
        for j in range(13):
            x, y = (p[i : i + 11, j : j + 11] for p in padded)
            m_x, m_y = (window * x).sum(), (window * y).sum()
            var = (window * x * x).sum() - m_x**2 + (window * y * y).sum() - m_y**2
            cov = (window * x * y).sum() - m_x * m_y
            c1, c2 = 1e-4, 9e-4
            total += (2 * m_x * m_y + c1) * (2 * cov + c2) / ((m_x**2 + m_y**2 + c1) * (var + c2))
    assert ssim(a, b, 1.0, overhang=True) == pytest.approx(total.item() / 169, abs=1e-12)
    assert ssim(a, a, 1.0, overhang=True) == pytest.approx(1.0)

import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn import functional

from spikediff.energy.synapses import fan_out, fan_out_1d

GEOMETRY = {
    "size": st.integers(3, 9),
    "kernel": st.integers(1, 4),
    "stride": st.integers(1, 3),
    "padding": st.integers(0, 2),
    "dilation": st.integers(1, 2),
}


@settings(max_examples=60)
@given(transposed=st.booleans(), **GEOMETRY)
def test_it_is_the_gradient_of_a_convolution_with_ones(
    size, kernel, stride, padding, dilation, transposed
):
    # d(sum of outputs) / d(input) with a kernel of ones: the outputs that an input reaches.
    x = torch.zeros(1, 1, size, requires_grad=True)
    weight = torch.ones(1, 1, kernel)
    convolve = functional.conv_transpose1d if transposed else functional.conv1d
    try:
        out = convolve(x, weight, stride=stride, padding=padding, dilation=dilation)
    except RuntimeError:  # no output fits
        return
    if out.numel() == 0:
        return
    out.sum().backward()
    reached = fan_out_1d(size, out.shape[2], kernel, stride, padding, dilation, transposed)
    assert list(reached) == x.grad.flatten().tolist()


def test_axes_multiply():
    both = fan_out((4, 5), (2, 5), (3, 1), (2, 1), (1, 0), (1, 1))
    x = torch.zeros(1, 1, 4, 5, requires_grad=True)
    functional.conv2d(x, torch.ones(1, 1, 3, 1), stride=(2, 1), padding=(1, 0)).sum().backward()
    assert both.tolist() == x.grad[0, 0].tolist()


def test_the_padding_makes_the_difference():
    inner = fan_out((4, 4), (4, 4), (3, 3), (1, 1), (1, 1), (1, 1)).sum()
    assert inner == 100  # (2 + 3 + 3 + 2) ** 2

"""Quantised activations and their neurons, and norms and attention of a window's mean."""

import pytest
import torch
from diffusers.models.attention_processor import Attention
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from spikediff.errors import UserError
from spikediff.layers.norm import norm_affine, scale_outputs
from spikediff.systems.converted.convert import AUTHORS_CLIP, best_clip
from spikediff.systems.converted.layers import (
    ConvertedIF,
    QuantisedReLU,
    SharedGroupNorm,
    TimeMeanAttention,
    quantise_activation,
)

CLIPS = st.floats(0.1, 10.0)


def test_values_and_straight_through_gradients_by_hand():
    # s = 3, L = 3: steps of 1. Below, inside (rounded down, up), above.
    x = torch.tensor([-1.0, 0.4, 1.6, 5.0], requires_grad=True)
    clip = torch.tensor(3.0, requires_grad=True)
    out = quantise_activation(x, clip, 3)
    assert out.tolist() == [0.0, 0.0, 2.0, 3.0]
    out.backward(torch.tensor([1.0, 10.0, 100.0, 1000.0]))
    assert torch.allclose(x.grad, torch.tensor([0.0, 10.0, 100.0, 0.0]))
    # dQ/ds: 0 below, (Q - x) / s inside, 1 above.
    assert clip.grad.item() == pytest.approx(10 * -0.4 / 3 + 100 * 0.4 / 3 + 1000, rel=1e-6)


def test_without_levels_it_is_a_clipped_relu():
    x = torch.linspace(-1, 5, 50)
    assert torch.allclose(QuantisedReLU(bits=None, clip=2.0)(x), x.clamp(0, 2))


@given(st.lists(st.floats(-3, 12), min_size=1), CLIPS, st.integers(1, 5))
def test_a_constant_current_is_rounded_exactly(currents, clip, bits):
    steps = 2**bits - 1
    x = torch.tensor(currents, dtype=torch.float64)
    scaled = x / clip * steps
    x = x[(scaled - scaled.floor() - 0.5).abs() > 1e-6]  # a tie may go either way
    quantised = quantise_activation(x, torch.tensor(clip, dtype=torch.float64), steps)
    for signed in (True, False):
        neuron = ConvertedIF(signed, clip).double()
        spikes = neuron(x.expand(steps, -1))
        mean = spikes.mean(0) * neuron.clip.item()
        assert torch.allclose(mean, quantised, atol=1e-6)


def test_a_signed_neuron_takes_back_what_came_too_early():
    # s = 2: threshold 2, start 1. u = 2.5 -> spike, 0.5; -1.5 -> back, 0.5; 0.5, none.
    current = torch.tensor([1.5, -2.0, 0.0])
    assert ConvertedIF(signed=True, clip=2.0)(current).tolist() == [1.0, -1.0, 0.0]
    assert ConvertedIF(signed=False, clip=2.0)(current).tolist() == [1.0, 0.0, 0.0]


def test_the_negative_threshold_is_in_units_of_the_current():
    # After a spike the membrane rests at 0 exactly; 1e-3 below is enough, 0.9e-3 is not.
    for clip in (0.5, 4.0):
        neuron = ConvertedIF(signed=True, clip=clip).double()
        for below, expected in ((1.1e-3, -1.0), (0.9e-3, 0.0)):
            current = torch.tensor([clip / 2, -below], dtype=torch.float64)
            assert neuron(current)[1].item() == expected


@given(st.lists(st.floats(-3, 3), min_size=1, max_size=12), CLIPS)
def test_no_more_spikes_are_taken_back_than_were_sent(currents, clip):
    spikes = ConvertedIF(signed=True, clip=clip)(torch.tensor(currents)[:, None])
    assert (spikes.cumsum(0) >= 0).all()


def test_step_by_step_is_the_window():
    current = torch.randn(7, 20, generator=torch.Generator().manual_seed(0))
    neuron, state, spikes = ConvertedIF(clip=0.7), None, []
    for step in current:
        spike, state = neuron.step(step, state)
        spikes.append(spike)
    assert torch.equal(torch.stack(spikes), neuron(current))


def test_the_gradient_reaches_the_threshold():
    neuron = ConvertedIF(clip=1.5)
    neuron(torch.rand(4, 10)).sum().backward()
    assert neuron.clip.grad.abs().item() > 0


def test_the_best_clip_is_the_best():
    x = torch.randn(5000, generator=torch.Generator().manual_seed(0))
    best = best_clip(x, levels=3)

    def error(clip):
        return (quantise_activation(x, clip, 3) - x.relu()).square().mean().item()

    assert all(error(best) <= error(best * factor) for factor in (0.8, 0.9, 1.1, 1.25))
    assert best < 0.8 * x.max().item()  # with few levels the rare large values are given up


def test_the_clip_of_a_silent_layer_and_of_real_values():
    assert best_clip(-torch.rand(9), levels=3) == AUTHORS_CLIP
    assert best_clip(torch.tensor([-3.0, 0.25, 2.5]), levels=None) == 2.5


def test_wrong_constants_are_refused():
    with pytest.raises(UserError, match="bits = 0 must be at least 1"):
        QuantisedReLU(bits=0)
    with pytest.raises(UserError, match="positive"):
        ConvertedIF(clip=0.0)


STEPS, BATCH = 5, 3


def group_norm():
    norm = nn.GroupNorm(2, 6)
    nn.init.normal_(norm.weight)
    nn.init.normal_(norm.bias)
    return norm


def window(channels=6):
    return torch.randn(STEPS * BATCH, channels, 4, 4, generator=torch.Generator().manual_seed(0))


def mean(x):
    return x.unflatten(0, (STEPS, BATCH)).mean(0)


def test_the_mean_of_the_norm_is_the_norm_of_the_mean():
    norm, x = group_norm(), window()
    shared = SharedGroupNorm(norm, STEPS)
    torch.testing.assert_close(mean(shared(x)), norm(mean(x)), atol=1e-5, rtol=0)
    assert (mean(norm(x)) - norm(mean(x))).abs().max() > 0.1  # a norm at every step is not


def test_of_one_step_it_is_the_group_norm_gradients_too():
    norm, x = group_norm(), window().requires_grad_()
    shared, y = SharedGroupNorm(norm, 1), window().requires_grad_()
    weights = torch.randn(x.shape)
    (norm(x) * weights).sum().backward()
    (shared(y) * weights).sum().backward()
    torch.testing.assert_close(shared(y), norm(x), atol=1e-5, rtol=0)
    torch.testing.assert_close(y.grad, x.grad, atol=1e-4, rtol=0)


def test_images_of_a_batch_do_not_mix():
    shared, x = SharedGroupNorm(group_norm(), STEPS), window()
    alone = shared(x.unflatten(0, (STEPS, BATCH))[:, 1])
    torch.testing.assert_close(shared(x).unflatten(0, (STEPS, BATCH))[:, 1], alone)


def test_the_mean_of_attention_is_the_attention_of_the_mean():
    torch.manual_seed(0)
    attention = Attention(
        6, heads=2, dim_head=3, norm_num_groups=2, residual_connection=True, bias=True,
        rescale_output_factor=1.5, _from_deprecated_attn_block=True,
    ).eval()  # fmt: skip
    x = window()
    with torch.no_grad():
        out = TimeMeanAttention(attention, STEPS)(x)
        torch.testing.assert_close(mean(out), attention(mean(x)), atol=1e-5, rtol=0)
    spread = out.unflatten(0, (STEPS, BATCH)).var(0).mean()
    assert spread > 0.1  # what varies over the window goes on


def test_batch_norm_folds_into_all_that_is_added_before_it():
    torch.manual_seed(0)
    conv, projection, norm = nn.Conv2d(3, 4, 3), nn.Linear(5, 4), nn.BatchNorm2d(4)
    for _ in range(20):
        norm(3 * torch.randn(8, 4, 2, 2) + 1)
    nn.init.normal_(norm.weight)
    nn.init.normal_(norm.bias)
    norm.eval()
    x, embedding = torch.randn(2, 3, 6, 6), torch.randn(2, 5)

    def current():
        return conv(x) + projection(embedding)[:, :, None, None]

    before = norm(current())
    gain, offset = norm_affine(norm)
    scale_outputs(conv, gain, offset)
    scale_outputs(projection, gain)
    torch.testing.assert_close(current(), before, atol=1e-5, rtol=0)

"""Norms and attention that do not tell the window's mean from the ordinary network's value."""

import torch
from diffusers.models.attention_processor import Attention
from torch import nn

from spikediff.systems.converted.network import SharedGroupNorm
from spikediff.systems.converted.quantised import TimeMeanAttention
from spikediff.systems.converted.replace_modules import fold_batch_norm, scale_outputs

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
    shared = SharedGroupNorm.of(norm, STEPS)
    torch.testing.assert_close(mean(shared(x)), norm(mean(x)), atol=1e-5, rtol=0)
    assert (mean(norm(x)) - norm(mean(x))).abs().max() > 0.1  # a norm at every step is not


def test_of_one_step_it_is_the_group_norm_gradients_too():
    norm, x = group_norm(), window().requires_grad_()
    shared, y = SharedGroupNorm.of(norm, 1), window().requires_grad_()
    weights = torch.randn(x.shape)
    (norm(x) * weights).sum().backward()
    (shared(y) * weights).sum().backward()
    torch.testing.assert_close(shared(y), norm(x), atol=1e-5, rtol=0)
    torch.testing.assert_close(y.grad, x.grad, atol=1e-4, rtol=0)


def test_images_of_a_batch_do_not_mix():
    shared, x = SharedGroupNorm.of(group_norm(), STEPS), window()
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
    scale_outputs(projection, fold_batch_norm(conv, norm))
    torch.testing.assert_close(current(), before, atol=1e-5, rtol=0)

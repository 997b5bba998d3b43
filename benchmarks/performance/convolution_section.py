"""One 3x3 convolution of spikes, at several firing rates: dense and by events."""

from collections.abc import Callable
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from performance import ours
from performance.agreement import check_shape, difference
from performance.settings import Settings
from performance.table import Group, available, times

RATES = (0.02, 0.05, 0.10, 0.20, 0.30, 0.50)
SHAPE = (64, 128, 16, 16)  # [T*B, C, H, W], 128 channels out: 4.8 GFLOP dense
QUICK_SHAPE = (8, 64, 8, 8)


def dense(spikes: Tensor, weight: Tensor, bias: Tensor, layout: torch.memory_format) -> Any:
    """Return torch's convolution, input and weights laid out before."""
    x, w = (tensor.contiguous(memory_format=layout) for tensor in (spikes, weight))

    @torch.no_grad()
    def run() -> Tensor:
        return nn.functional.conv2d(x, w, bias, padding=1)

    return run


def measure(settings: Settings) -> list[Group]:
    """Measure independent random spikes; those of trained networks are in the whole network."""
    shape = QUICK_SHAPE if settings.quick else SHAPE
    generator = torch.Generator().manual_seed(0)
    channels = shape[1]
    weight = torch.randn(channels, channels, 3, 3, generator=generator) / (9 * channels) ** 0.5
    bias = torch.randn(channels, generator=generator)
    return [
        _compare(
            (torch.rand(shape, generator=generator) < rate).float(), rate, weight, bias, settings
        )
        for rate in RATES
    ]


def _compare(
    spikes: Tensor, rate: float, weight: Tensor, bias: Tensor, settings: Settings
) -> Group:
    makers: dict[str, Callable[[], Any]] = {
        "dense NCHW": partial(dense, spikes, weight, bias, torch.contiguous_format),
        "dense channels_last": partial(dense, spikes, weight, bias, torch.channels_last),
        "ours event-driven": partial(ours.event_driven_conv, spikes, weight, bias, 1, 1),
    }
    runs, missing = available(makers)
    want = nn.functional.conv2d(spikes.double(), weight.double(), bias.double(), padding=1)
    errors = {}
    for name, run in runs.items():
        got = run()
        check_shape(name, got, want)
        errors[name] = difference(got.double(), want)
    name = f"3x3, {rate:.0%} of independent spikes {list(spikes.shape)}"
    return times(
        "convolution", name, runs, settings.patience(15, 20), missing, {"error_float32": errors}
    )

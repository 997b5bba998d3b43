"""A convolution of spikes, dense and by events: at several rates, and as trained nets fire."""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from performance import ours, sources
from performance.agreement import check_shape, difference
from performance.missing import Missing
from performance.recorded_spikes import spikes_seen
from performance.settings import Settings
from performance.table import Group, available, times
from spikediff.events import quantise

RATES = (0.02, 0.05, 0.10, 0.20, 0.30, 0.50)
SHAPE = (64, 128, 16, 16)  # [T*B, C, H, W], 128 channels out: 4.8 GFLOP dense
STEPS = 4  # T
QUICK_SHAPE = (8, 64, 8, 8)
GEOMETRIES = 4  # of a trained network: those with most of its operations


def measure(settings: Settings) -> Iterator[Group]:
    """Measure independent random spikes, and those of the trained run."""
    shape = QUICK_SHAPE if settings.quick else SHAPE
    generator = torch.Generator().manual_seed(0)
    channels = shape[1]
    weight = torch.randn(channels, channels, 3, 3, generator=generator) / (9 * channels) ** 0.5
    conv = nn.Conv2d(channels, channels, 3, padding=1)
    conv.load_state_dict({"weight": weight, "bias": torch.randn(channels, generator=generator)})
    for rate in RATES:
        spikes = (torch.rand(shape, generator=generator) < rate).float()
        name = f"3x3, {rate:.0%} of independent spikes {list(shape)}"
        yield _compare(name, conv, spikes, settings, {})
    yield from _as_trained(settings)


def _as_trained(settings: Settings) -> Iterator[Group]:
    if settings.sddpm is None:
        print("\nconvolution: trained spikes -- give --sddpm RUN")
        return
    try:
        source = sources.trained(settings.sddpm, settings.batches[0])
    except Missing as reason:
        print(f"\nconvolution: trained spikes -- {reason}")
        return
    for seen in spikes_seen(source, GEOMETRIES):
        stride = "" if seen.conv.stride == (1, 1) else f", stride {seen.conv.stride[0]}"
        name = f"{seen.layer} {list(seen.spikes.shape)} -> {seen.conv.out_channels}{stride}"
        yield _compare(name, seen.conv, seen.spikes, settings, {"weights": source.weights})


def dense(conv: nn.Conv2d, spikes: Tensor, layout: torch.memory_format) -> Any:
    """Return torch's convolution, input and weights laid out before."""
    x, weight = (t.detach().contiguous(memory_format=layout) for t in (spikes, conv.weight))

    @torch.no_grad()
    def run() -> Tensor:
        return nn.functional.conv2d(x, weight, conv.bias, conv.stride, conv.padding)

    return run


def dense_int8(conv: nn.Conv2d, spikes: Tensor) -> Any:
    """Return oneDNN's convolution of bytes, by weights of 8 bits and into float32."""
    if not hasattr(torch.ops.onednn, "qconv_pointwise"):
        raise Missing("this build of torch has no quantised convolutions of oneDNN")
    whole, scales = quantise(conv.weight, 8)
    x = spikes.to(torch.uint8).contiguous(memory_format=torch.channels_last)
    geometry = (conv.stride, conv.padding, conv.dilation, conv.groups)
    weight = torch.ops.onednn.qconv_prepack(whole, scales, 1.0, 0, *geometry, list(x.shape))
    zeros, bias = torch.zeros(len(scales), dtype=torch.int32), conv.bias.detach()
    arguments = (x, 1.0, 0, weight, scales, zeros, bias, *geometry, 1.0, 0, torch.float32)
    return partial(torch.ops.onednn.qconv_pointwise, *arguments, "none", [], "")


@torch.no_grad()
def _compare(
    name: str, conv: nn.Conv2d, spikes: Tensor, settings: Settings, facts: dict[str, Any]
) -> Group:
    weight, bias, stride, padding = conv.weight, conv.bias, conv.stride, conv.padding
    makers: dict[str, Callable[[], Any]] = {
        "dense NCHW": partial(dense, conv, spikes, torch.contiguous_format),
        "dense channels_last": partial(dense, conv, spikes, torch.channels_last),
        "dense int8": partial(dense_int8, conv, spikes),
        "ours event-driven": partial(ours.event_driven_conv, spikes, conv, STEPS),
        "ours int16": partial(ours.event_driven_conv, spikes, conv, STEPS, "int16"),
        "ours int8": partial(ours.event_driven_conv, spikes, conv, STEPS, "int8"),
    }
    runs, missing = available(makers)
    want = nn.functional.conv2d(spikes.double(), weight.double(), bias.double(), stride, padding)
    errors = {}
    for key, run in runs.items():
        got = run()
        check_shape(key, got, want)
        errors[key] = difference(got.double(), want)
    window = spikes.unflatten(0, (STEPS, -1)).ne(0)
    facts = facts | {
        "firing_rate": window.float().mean().item(),
        "fires_in_window": window.any(0).float().mean().item(),
        "error_float32": errors,
    }
    return times("convolution", name, runs, settings.patience(15, 20), missing, facts)

"""Tensors for the public functions of the C kernels: suitable ones, and ones that are not.

As a script it runs a library of the kernels over many of both: `python unsuitable.py LIBRARY SEED
CASES`. Each call gives what torch gives, or a `UserError`; a library with sanitizers ends the
process where a byte is touched that it should not be.
"""

import random
import sys
from pathlib import Path

import torch
from torch.nn.functional import conv2d

from spikediff.errors import UserError
from spikediff.events import PackedSpikes, compile_for_inference, pack, quantise, spike_conv2d
from spikediff.events.training import weight_gradient
from spikediff.events.weights import event_weights
from spikediff.neurons import Dynamics
from spikediff.neurons.kernels import native
from spikediff.neurons.surrogate import ATan, Rectangular, Sigmoid, Triangular
from spikediff.systems.integer import DeployedIntegerUNet
from spikediff.systems.integer.convolution import change_conv2d, count_conv2d, event_conv2d

TYPES = [torch.float32] * 12 + [
    *(torch.float16, torch.bfloat16, torch.float64, torch.int64, torch.int8),
    *(torch.bool, torch.complex64),
]


def size(draw, usual=(1, 2, 3, 5, 8), odd=(0, 1, 33, 64, 65, 130)):
    return draw.choice(usual if draw.random() < 0.9 else odd)


def spoilt(draw, x):
    """Return a tensor, or a view, a type or a shape of it that a kernel may not expect."""
    kind = draw.choice(["", "", "", "strides", "view", "type", "meta", "sparse", "less", "neg"])
    if kind == "strides" and x.dim() > 1:
        return x.transpose(-1, -2).contiguous().transpose(-1, -2)
    if kind == "view":
        wide = torch.zeros(*x.shape, 2, dtype=x.dtype)
        wide[..., 0] = x
        return wide[..., 0]
    if kind == "type":
        return x.to(draw.choice(TYPES))
    if kind == "meta":
        return x.to("meta")
    if kind == "sparse":
        return x.to_sparse()
    if kind == "less" and x.dim() and x.shape[0] > 1:
        return x[:-1]
    if kind == "neg" and x.dtype == torch.float32:
        return torch.complex(x, -x).conj().imag  # x as a view whose sign is turned when it is read
    return x


def convolution(draw):
    """One call of `spike_conv2d`, compared with torch's convolution."""
    shape = [size(draw) for _ in range(5)]
    spikes = (torch.rand(shape) < 0.4).float()
    channels = shape[2] if draw.random() < 0.8 else size(draw)
    taps = [draw.choice([1, 2, 3, 3, 3, 0, 5, 33]) for _ in range(2)]
    weight = spoilt(draw, torch.randn(size(draw), channels, *taps))
    bias = spoilt(draw, torch.randn(size(draw, (weight.shape[0],))))
    bias = bias if draw.random() < 0.7 else None
    stride, padding = draw.choice([1, 1, 2, 3, 0, -1]), draw.choice([0, 1, 1, 2, 7, -1])
    x = spoilt(draw, spikes)
    if draw.random() < 0.5:
        packed = pack(x)
        words, segments, *more = packed.words, packed.segments, packed.activity
        words = draw.choice([words, words, ~words, words[..., ::2], words[:, ::2], words.float()])
        segments = draw.choice([segments, segments, (3, 61), (0,), (1.5,), (200,), ()])
        x = PackedSpikes(words, segments, *more)
        spikes = x.dense()
        x.activity_by_image()
    got = spike_conv2d(x, weight, bias, stride, padding)
    spikes = spikes if isinstance(x, PackedSpikes) else x.float()
    want = conv2d(spikes.flatten(0, 1), weight.resolve_neg(), bias, stride, padding)
    torch.testing.assert_close(got.flatten(0, 1), want, rtol=1e-4, atol=1e-4)


def gradient(draw):
    """One call of `weight_gradient`, compared with autograd."""
    spikes = (torch.rand([max(1, size(draw)) for _ in range(5)]) < 0.4).float()
    weight = torch.randn(max(1, size(draw)), spikes.shape[2], 3, 3, requires_grad=True)
    out = conv2d(spikes.flatten(0, 1), weight, padding=1)
    grad = torch.randn_like(out)
    out.backward(grad)
    got = weight_gradient(
        pack(spikes), spoilt(draw, grad), spoilt(draw, weight.detach()), [1, 1], [1, 1], [1, 1]
    )
    rounding = 1e-3 + 1e-7 * spikes.numel()  # of float32 sums of so many terms, in another order
    torch.testing.assert_close(got, weight.grad, rtol=1e-3, atol=rounding)


def weights(draw):
    """`event_weights` of any precision, and `quantise`."""
    weight = spoilt(draw, torch.randn([size(draw) for _ in range(4)]))
    quantise(weight, draw.choice([8, 16, 4, 32]), draw.choice([0, 1]))
    event_weights(
        weight,
        draw.choice([(weight.shape[1],), (1, weight.shape[1] - 1), (200,)]),
        draw.choice(["float32", "int16", "int8", "int4"]),
    )


def neuron(draw):
    """The kernels of a neuron, forward and backward."""
    steps = draw.choice([1, 2, 4, 7, 128, 129, 0])
    current = 2 * torch.randn(steps, size(draw), size(draw))
    if draw.random() < 0.3 and current.numel():
        current.view(-1)[0] = draw.choice([torch.nan, torch.inf, 1e38])
    dynamics = Dynamics(
        v_reset=draw.choice([0.0, None, -1.0]),
        surrogate=draw.choice([ATan(), Sigmoid(), Rectangular(), Triangular()]),
        strict_threshold=draw.random() < 0.5,
        detach_reset=draw.random() < 0.5,
    )
    first = draw.choice([None, torch.randn(current.shape[1:]), torch.randn(3)])
    x, decay = spoilt(draw, current), draw.choice([1.0, 0.5, torch.tensor(0.3)])
    native.forward(x, decay, dynamics, first)
    native.backward(x, spoilt(draw, torch.randn(current.shape)), decay, dynamics, True)
    words = torch.empty(steps, current.shape[1], draw.choice([1, 2, 3]), dtype=torch.int64)
    native.forward_packed(x, spoilt(draw, words), decay, dynamics)


def spoilt_here(draw, x):
    """The same, of tensors that lie on the CPU."""
    given = spoilt(draw, x)
    return given if given.device.type == "cpu" and not given.is_sparse else x


def counts(draw):
    """The convolutions of counts, compared with plain torch; as operators they choose by device."""
    shape = [size(draw) for _ in range(4)]
    before, now = (
        torch.randint(0, draw.choice([2, 5, 128, 256]), shape, dtype=torch.uint8) for _ in range(2)
    )
    taps = draw.choice([1, 3, 3, 5, 0])
    channels = shape[1] if draw.random() < 0.9 else size(draw)
    weight = torch.randint(-128, 128, (size(draw), channels, taps, taps), dtype=torch.int8)
    geometry = (
        spoilt_here(draw, weight),
        draw.choice([1, 1, 2, 3, 0]),
        draw.choice([0, 1, 1, 2, -1]),
    )
    sums = count_conv2d(spoilt_here(draw, before), *geometry)
    now = spoilt_here(draw, now)  # all of them may have lost their last image
    got = change_conv2d(now, spoilt_here(draw, before), spoilt_here(draw, sums), *geometry)
    want = conv2d(now.double(), geometry[0].double(), None, *geometry[1:])
    assert torch.equal(got.double(), want)
    assert torch.equal(event_conv2d(now, *geometry), got)


def integer_network(draw):
    """The compiled deployment form of a network of random numbers, compared with plain torch."""
    patch, widths = draw.choice([1, 2, 3]), draw.choice([(3,), (5, 17), (16, 33), (50, 4, 100)])
    form = DeployedIntegerUNet(
        4 * patch * draw.choice([1, 2, 3]), draw.choice([1, 2, 3]), patch, widths,
        draw.choice([1, 2]), draw.choice([1, 3]), draw.choice([1, 20]), draw.choice([0, 2]), 5,
        draw.choice([8, 6, 4]),
    )  # fmt: skip
    for name, x in form.named_parameters():
        most = 3 if name.endswith(("shift", "exponent")) else 7 if "weight" in name else 300
        lowest = 0 if name.endswith("shift") else -most
        x.data = torch.randint(lowest, most + 1, x.shape, dtype=x.dtype)
    images, size = draw.choice([1, 2, 3, 5]), [4 * patch * draw.choice([1, 2, 3]) for _ in "HW"]
    delta = compile_for_inference(form.with_execution("delta"))
    torch.set_num_threads(draw.choice([1, 2]))
    state = None
    for timestep in (4, 3):
        x = spoilt_here(draw, torch.randn(images, form.config.in_channels, *size))
        out = delta(x, timestep, state=state)
        state = out.state
        assert torch.equal(compile_for_inference(form)(x, timestep).sample, out.sample)
    assert torch.equal(form(x, timestep).sample, out.sample)


KINDS = [convolution, convolution, gradient, weights, neuron, counts, integer_network]


def run_cases(seed, cases):
    """Run so many cases; return how many were refused."""
    draw, refused = random.Random(seed), 0
    torch.manual_seed(seed)
    for case in range(cases):
        kind = KINDS[case % len(KINDS)]
        try:
            kind(draw)
        except UserError as error:
            refused += str(error).isprintable()
        except Exception as error:
            raise AssertionError(f"seed {seed}, case {case}, {kind.__name__}: {error!r}") from error
    return refused


if __name__ == "__main__":
    from spikediff.native import library

    opened = library.open_library(Path(sys.argv[1]))
    assert opened is not None
    library._load = lambda: ("sanitized", opened)
    refused = run_cases(int(sys.argv[2]), int(sys.argv[3]))
    print(f"{sys.argv[3]} cases, {refused} refused")

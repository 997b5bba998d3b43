r"""Build a NIR graph from nodes and signals; a signal is a sum of nodes' outputs.

NIR sums the inputs of a node. An addition therefore becomes two edges, and a convolution of a
concatenation becomes one convolution per part: `Conv(a, b) = Conv_a(a) + Conv_b(b)`. Norms, scaling
and the timestep are folded into convolutions.

NIR's leaky neuron is $\tau \dot v = (v_{leak} - v) + r I$; it fires at $v > v_{threshold}$, and
then $v = v_{reset}$. A step of Euler's method of length dt gives

    u[n] = v_leak + (1 - dt/tau) (v[n-1] - v_leak) + (dt/tau) r I[n]

which is our `charge` with `decay = 1 - dt/tau`. Each neuron is mapped separately, with r = 1:

- `decay_input`: our gain is `1 - decay = dt/tau`, which is r = 1.
- no `decay_input`: our gain is 1. The membrane is measured in units of `1/(1 - decay)`, so its
  threshold is multiplied by `1 - decay`. Weights and spikes do not change.
- a rest potential: the membrane is measured relative to it, so `v_leak = v_reset = 0`, the only
  value that some readers support.
- `u >= threshold`: NIR compares by `>`, so the threshold becomes the next smaller number in the
  membrane's precision, and both comparisons agree for every number.

IF has no time constant. Its unit of time is the spiking step (dt = 1), with r = 1.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import reduce
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from spikediff.layers import TemporalScaling, ThresholdNorm
from spikediff.layers.conv import Convolution
from spikediff.layers.norm import norm_affine
from spikediff.neurons import IntegrateAndFire, NeuronLayer

SECONDS_PER_STEP = 1e-4  # length of a leaky neuron's step in snnTorch and SpikingJelly


@dataclass(frozen=True)
class Signal:
    """The sum of some nodes' outputs at a spiking step."""

    sources: tuple[str, ...]  # names of the nodes
    shape: tuple[int, ...]  # [C, H, W]

    def __add__(self, other: "Signal") -> "Signal":
        return Signal(self.sources + other.sources, self.shape)


Parts = Sequence[Signal]  # a concatenation along the channels


@dataclass(frozen=True)
class Kernel:
    """One convolution."""

    weight: Tensor  # [C_out, C_in, k, k]
    bias: Tensor  # [C_out]
    stride: int  # along height and width
    padding: int  # zeros around the image

    def out_shape(self, shape: tuple[int, ...]) -> tuple[int, ...]:
        """Return the shape [C_out, H', W'] of the result for an input [C_in, H, W]."""
        size = self.weight.shape[-1]
        sides = ((side + 2 * self.padding - size) // self.stride + 1 for side in shape[1:])
        return (self.weight.shape[0], *sides)

    def split(self, widths: Sequence[int]) -> list["Kernel"]:
        """Return a kernel for each part of the result, with `widths` channels."""
        weights = torch.split(self.weight, list(widths))
        biases = torch.split(self.bias, list(widths))
        return [replace(self, weight=w, bias=b) for w, b in zip(weights, biases, strict=True)]

    def split_inputs(self, widths: Sequence[int]) -> list["Kernel"]:
        """Return a kernel for each part of the input; only the first has the bias."""
        weights = torch.split(self.weight, list(widths), dim=1)
        nothing = torch.zeros_like(self.bias)
        first = replace(self, weight=weights[0])
        return [first, *(replace(self, weight=w, bias=nothing) for w in weights[1:])]


class GraphBuilder:
    """Collects the nodes and edges of a network, for spiking steps of length dt in NIR's time.

    Attributes:
        host: Tensors that the host needs, by name.
        first: Name of the convolution of the real-valued input; the host computes it if
            `first_on_host` is true.
    """

    def __init__(self, nir: Any, dt: float, first_on_host: bool) -> None:
        self.dt = dt
        self.host: dict[str, Tensor] = {}
        self.first = ""
        self._nir = nir
        self._first_on_host = first_on_host
        self._nodes: dict[str, Any] = {}
        self._edges: list[tuple[str, str]] = []
        self._dtype = torch.float32

    def first_conv(self, name: str, kernel: Kernel, shape: tuple[int, ...]) -> Parts:
        """Return the current of the convolution of the real-valued input [C, H, W]."""
        self.first = name
        if not self._first_on_host:
            return self.conv(name, kernel, self._input(shape))
        self._dtype = kernel.weight.dtype
        self.host |= {f"{name}.weight": kernel.weight, f"{name}.bias": kernel.bias}
        return self._input(kernel.out_shape(shape))

    def _input(self, shape: tuple[int, ...]) -> Parts:
        self._nodes["input"] = self._nir.Input({"input": np.array(shape)})
        return [Signal(("input",), shape)]

    def conv(
        self, name: str, kernel: Kernel, parts: Parts, widths: Sequence[int] | None = None
    ) -> Parts:
        """Return the current of a convolution of parts, split into parts of `widths` channels.

        By default the current is one part. Several nodes of the same name are numbered.
        """
        widths = widths or [len(kernel.bias)]
        rows = [kernel] if len(widths) == 1 else kernel.split(widths)
        places = _numbered(name, len(widths), "to")
        return [self._conv_to(place, row, parts) for place, row in zip(places, rows, strict=True)]

    def _conv_to(self, name: str, kernel: Kernel, parts: Parts) -> Signal:
        """Return the current as one signal, the sum over the parts."""
        self._dtype = kernel.weight.dtype
        places = _numbered(name, len(parts), "from")
        kernels = kernel.split_inputs([part.shape[0] for part in parts])
        terms = [
            self._add(place, self._conv_node(term, part), part, term.out_shape(part.shape))
            for place, term, part in zip(places, kernels, parts, strict=True)
        ]
        return reduce(Signal.__add__, terms)

    def _conv_node(self, kernel: Kernel, part: Signal) -> Any:
        return self._nir.Conv2d(
            input_shape=part.shape[1:],
            weight=kernel.weight.numpy(force=True),
            stride=(kernel.stride, kernel.stride),
            padding=(kernel.padding, kernel.padding),
            dilation=(1, 1),
            groups=1,
            bias=kernel.bias.numpy(force=True),
        )

    def fire(self, name: str, neuron: nn.Module, parts: Parts) -> Parts:
        """Return the spikes of a neuron layer, one node per part; other modules pass the parts."""
        if not isinstance(neuron, NeuronLayer):
            return parts
        return [
            self._add(place, neuron_node(self._nir, neuron, part.shape, self.dt, self._dtype), part)
            for place, part in zip(_numbered(name, len(parts), "part"), parts, strict=True)
        ]

    def finish(self, parts: Parts, metadata: Mapping[str, Any]) -> Any:
        """Return the graph whose output is a signal of one part."""
        (signal,) = parts
        if len(signal.sources) > 1:  # some readers pass several edges on as a tuple
            pool = {"kernel_size": (1, 1), "stride": (1, 1), "padding": (0, 0)}
            identity = self._nir.AvgPool2d(**{key: np.array(pair) for key, pair in pool.items()})
            signal = self._add("sum", identity, signal)
        self._add("output", self._nir.Output({"output": np.array(signal.shape)}), signal)
        return self._nir.NIRGraph(self._nodes, self._edges, metadata=dict(metadata))

    def _add(
        self, name: str, node: Any, signal: Signal, shape: tuple[int, ...] | None = None
    ) -> Signal:
        """Add a node after a signal; return its output, whose shape may differ."""
        self._nodes[name] = node
        self._edges += [(source, name) for source in signal.sources]
        return Signal((name,), shape or signal.shape)


def _numbered(name: str, count: int, word: str) -> list[str]:
    """Return names for this number of nodes; a single node gets the name itself."""
    return [name] if count == 1 else [f"{name}.{word}{number}" for number in range(count)]


def fold(
    conv: Convolution,
    norm: nn.Module | None = None,
    scaling: nn.Module | None = None,
    bias: Tensor | None = None,
) -> Kernel:
    r"""Return $BN(p\,\mathrm{Conv}(x)) + b$ as one convolution, computed in float64.

    Args:
        conv: The convolution, of images.
        norm: The norm after it, in evaluation mode.
        scaling: Factor between the two, the same at every spiking step.
        bias: b [C_out], added after the norm.

    Example:
        >>> conv, norm = nn.Conv2d(1, 1, 1, bias=False), nn.BatchNorm2d(1, eps=0.0)
        >>> norm.running_mean += 3.0
        >>> fold(conv, norm, bias=torch.ones(1)).bias.item()
        -2.0
    """
    assert isinstance(conv, nn.Conv2d)  # unsupported_layers.py has refused those of signals
    assert isinstance(conv.padding, tuple)  # never "same" in this library
    weight = conv.weight.detach().double()
    offset = torch.zeros(len(weight)).double() if conv.bias is None else conv.bias.detach().double()
    if isinstance(scaling, TemporalScaling):
        factor = scaling.p.detach().double().flatten()[0]
        weight, offset = factor * weight, factor * offset
    if isinstance(norm, nn.BatchNorm2d | ThresholdNorm):
        gain, shift = norm_affine(norm)
        weight, offset = gain.view(-1, 1, 1, 1) * weight, gain * offset + shift
    if bias is not None:
        offset = offset + bias.detach().double()
    dtype = conv.weight.dtype
    return Kernel(weight.to(dtype), offset.to(dtype), conv.stride[0], conv.padding[0])


def neuron_node(
    nir: Any, neuron: NeuronLayer, shape: tuple[int, ...], dt: float, dtype: torch.dtype
) -> Any:
    """Return `nir.IF` or `nir.LIF` for a neuron layer that `neuron_problem` accepts.

    Its parameters are float64 arrays of `shape`, [C, H, W]; `dtype` is the membrane's precision.

    Example:
        >>> from types import SimpleNamespace
        >>> from spikediff import LIF
        >>> words = SimpleNamespace(LIF=lambda **parameters: parameters)
        >>> node = neuron_node(words, LIF(decay=0.75), (1,), 1.0, torch.float32)
        >>> node["tau"].item(), node["r"].item(), node["v_threshold"].item() < 1.0
        (4.0, 1.0, True)
    """
    leak = 1.0 - _decay(neuron)
    threshold = _threshold(neuron, dtype)
    zeros, ones = np.zeros(shape), np.ones(shape)
    if leak == 0.0:
        return nir.IF(r=ones / dt, v_threshold=ones * threshold, v_reset=zeros)
    if not neuron.dynamics.decay_input:
        threshold = threshold * leak
    return nir.LIF(
        tau=ones * (dt / leak), r=ones, v_leak=zeros, v_threshold=ones * threshold, v_reset=zeros
    )


def _threshold(neuron: NeuronLayer, dtype: torch.dtype) -> float:
    """Return the threshold, relative to rest, that the membrane must exceed."""
    dynamics = neuron.dynamics
    threshold = torch.tensor(dynamics.v_threshold - dynamics.v_rest, dtype=dtype)
    if not dynamics.strict_threshold:
        threshold = torch.nextafter(threshold, torch.zeros_like(threshold))
    return float(threshold)


def default_dt(neuron: NeuronLayer) -> float:
    """Return the length of a spiking step in NIR's unit of time: 1 without a leak, else 1e-4."""
    return 1.0 if _decay(neuron) == 1.0 else SECONDS_PER_STEP


def _decay(neuron: NeuronLayer) -> float:
    assert isinstance(neuron, IntegrateAndFire)
    return float(torch.as_tensor(neuron.decay).detach())


def neuron_problem(neuron: NeuronLayer) -> tuple[str, str] | None:
    """Return why NIR cannot express a neuron, and what to do; None if it can."""
    if not isinstance(neuron, IntegrateAndFire):
        return f"NIR has no {type(neuron).__name__}", "train with neuron if or lif"
    dynamics = neuron.dynamics
    if dynamics.v_negative is not None:
        remedy = "convert with --spikes unsigned, or train with neuron lif"
        return "NIR has no negative spikes", remedy
    if dynamics.v_reset is None:
        return "NIR supports the hard reset only", "train with neuron_options v_reset: 0.0"
    if dynamics.v_init not in (None, dynamics.v_rest):
        return "NIR has no first membrane other than 0", "train without neuron_options v_init"
    if _decay(neuron) == 1.0 and dynamics.decay_input:
        return "its input never reaches the membrane", "give it a time constant"
    return None

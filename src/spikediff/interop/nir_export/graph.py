"""Growing a NIR graph: nodes, and signals that are sums of what nodes emit.

NIR adds up what arrives at a node. So an addition is two edges, and a convolution of a
concatenation is a convolution of each part: `Conv(a, b) = Conv_a(a) + Conv_b(b)`.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import reduce
from typing import Any

import torch
from torch import Tensor, nn

from spikediff.interop.nir_export.kernels import Kernel
from spikediff.interop.nir_export.neuron_nodes import neuron_node
from spikediff.neurons import NeuronLayer


@dataclass(frozen=True)
class Signal:
    """The sum of what some nodes emit at a spiking step.

    Attributes:
        sources: Their names.
        shape: [C, H, W].
    """

    sources: tuple[str, ...]
    shape: tuple[int, ...]

    def __add__(self, other: "Signal") -> "Signal":
        """Return the sum of the two."""
        return Signal(self.sources + other.sources, self.shape)


Parts = Sequence[Signal]  # a concatenation along the channels


class GraphBuilder:
    """Collect the nodes and edges of a network.

    Args:
        nir: The package.
        dt: Length of a spiking step in NIR's unit of time.
        first_on_host: Whether the first convolution, of real numbers, is left to the host.

    Attributes:
        host: Tensors that the host needs, by name.
        first: Name of the convolution that sees the real-valued input.
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
        """Return the current of the convolution that sees the network's real-valued input.

        Args:
            name: The node's name.
            kernel: The convolution.
            shape: [C, H, W] of the input.
        """
        self.first = name
        if not self._first_on_host:
            return self.conv(name, kernel, self._input(shape))
        self._dtype = kernel.weight.dtype
        self.host |= {f"{name}.weight": kernel.weight, f"{name}.bias": kernel.bias}
        return self._input(kernel.out_shape(shape))

    def conv(
        self, name: str, kernel: Kernel, parts: Parts, widths: Sequence[int] | None = None
    ) -> Parts:
        """Return the current of a convolution of a concatenation.

        Args:
            name: The node's name; with a number for each, where there are several.
            kernel: The convolution.
            parts: What it sees.
            widths: Channels of the parts that the current is cut into; one part by default.
        """
        widths = widths or [len(kernel.bias)]
        rows = [kernel] if len(widths) == 1 else kernel.split(widths)
        places = _numbered(name, len(widths), "to")
        return [self._conv_to(place, row, parts) for place, row in zip(places, rows, strict=True)]

    def _conv_to(self, name: str, kernel: Kernel, parts: Parts) -> Signal:
        """Return the current as one signal: the sum over the parts."""
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
        """Return the spikes of a neuron layer, a population for every part; or what enters."""
        if not isinstance(neuron, NeuronLayer):
            return parts
        return [
            self._add(place, neuron_node(self._nir, neuron, part.shape, self.dt, self._dtype), part)
            for place, part in zip(_numbered(name, len(parts), "part"), parts, strict=True)
        ]

    def finish(self, parts: Parts, metadata: Mapping[str, Any]) -> Any:
        """Return the graph whose output is this signal, of one part."""
        (signal,) = parts
        if len(signal.sources) > 1:  # some readers hand several edges on as a tuple
            identity = self._nir.AvgPool2d(kernel_size=_pair(1), stride=_pair(1), padding=_pair(0))
            signal = self._add("sum", identity, signal)
        self._add("output", self._nir.Output({"output": _array(signal.shape)}), signal)
        return self._nir.NIRGraph(self._nodes, self._edges, metadata=dict(metadata))

    def _input(self, shape: tuple[int, ...]) -> Parts:
        self._nodes["input"] = self._nir.Input({"input": _array(shape)})
        return [Signal(("input",), shape)]

    def _add(
        self, name: str, node: Any, signal: Signal, shape: tuple[int, ...] | None = None
    ) -> Signal:
        """Add a node behind a signal; its own signal has another shape, or the same."""
        self._nodes[name] = node
        self._edges += [(source, name) for source in signal.sources]
        return Signal((name,), shape or signal.shape)


def _numbered(name: str, count: int, word: str) -> list[str]:
    """Return names for so many nodes; the name itself for one."""
    return [name] if count == 1 else [f"{name}.{word}{number}" for number in range(count)]


def _pair(value: int) -> Any:
    return _array((value, value))


def _array(shape: tuple[int, ...]) -> Any:
    return torch.tensor(shape).numpy()

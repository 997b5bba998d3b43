"""Counts of synaptic operations beside those of SpikingJelly and NeuroBench, on the same networks.

The peers live in an environment of their own, because their requirements do not fit the library's:

    python -m venv peers
    peers/bin/pip install torch==2.13.0 loguru tqdm pyyaml
    peers/bin/pip install --no-deps spikingjelly==2.0.0
    peers/bin/pip install neurobench==2.3.0
    peers/bin/pip install --no-deps .
    peers/bin/python benchmarks/energy_crosscheck.py benchmarks/energy_crosscheck.json

The result that is committed beside this script was made by it. Where tools disagree, `reading` says
why.
"""

import json
import sys
from collections.abc import Callable
from importlib.metadata import version
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from spikediff.energy import EnergyMeter
from spikediff.layers import fold_time, over_time
from spikediff.neurons import IF

T, B = 4, 2


class TwoLayers(nn.Module):
    """Spikes -> 3x3 convolution -> IF -> strided 3x3 convolution -> IF -> linear."""

    def __init__(self) -> None:
        super().__init__()
        self.conv1 = nn.Conv2d(2, 8, 3, padding=1, bias=False)
        self.neuron1 = IF()
        self.conv2 = nn.Conv2d(8, 8, 3, stride=2, padding=1, bias=False)
        self.neuron2 = IF()
        self.read = nn.Linear(8 * 16, 10, bias=False)
        with torch.no_grad():  # so that about a fifth of the neurons fire
            self.conv1.weight.abs_().mul_(2)
            self.conv2.weight.abs_().mul_(2)

    def forward(self, x: Tensor) -> Tensor:
        """[T, B, 2, 8, 8] -> [T, B, 10]."""
        x = self.neuron1(over_time(self.conv1, x))
        x = self.neuron2(over_time(self.conv2, x))
        return self.read(x.flatten(2))


class Folded(nn.Module):
    """One layer that sees [T*B, ...]."""

    def __init__(self, layer: nn.Module) -> None:
        super().__init__()
        self.layer = layer

    def forward(self, x: Tensor) -> Tensor:
        """[T, B, ...] -> [T*B, ...]."""
        return self.layer(fold_time(x))


def spikes(*shape: int, rate: float = 0.2) -> Tensor:
    """Return random spikes of 0 and 1."""
    return (torch.rand(shape) < rate).float()


def cases() -> dict[str, tuple[nn.Module, Tensor, str]]:
    """Return the networks, their inputs, and how to read the row."""
    torch.manual_seed(0)
    conv = Folded(nn.Conv2d(3, 8, 3, padding=1, bias=False))
    binary = spikes(T, B, 3, 8, 8)
    one_real = binary.clone()
    one_real[0, 0, 0, 0, 0] = 0.3141
    image = torch.randn(B, 3, 8, 8).expand(T, B, 3, 8, 8)
    signs = torch.where(spikes(T, B, 3, 8, 8, rate=0.5) > 0, 1.0, -1.0)
    agree = "all agree"
    return {
        "padded 3x3, binary spikes": (conv, binary, agree),
        "strided 3x3, binary spikes": (
            Folded(nn.Conv2d(3, 8, 3, stride=2, padding=1, bias=False)),
            binary,
            agree,
        ),
        "linear, binary spikes": (Folded(nn.Linear(64, 16, bias=False)), spikes(T, B, 64), agree),
        "two layers of IF neurons": (TwoLayers(), spikes(T, B, 2, 8, 8), agree),
        "ternary spikes": (conv, binary * signs, "SpikingJelly knows only 0 and 1"),
        "spikes scaled by 0.5": (conv, 0.5 * binary, "the scale folds into the weights; ours only"),
        "integer spikes 0 to 3": (
            conv,
            torch.randint(0, 4, (T, B, 3, 8, 8)).float(),
            "a spike of size n is n accumulates; ours only",
        ),
        "one real value among spikes": (
            conv,
            one_real,
            "real-valued for all; NeuroBench skips zeros, SpikingJelly leaves it out",
        ),
        "T copies of an image": (
            conv,
            image,
            "ours, with T known to be 4, bills the image once; NeuroBench T times, borders exactly",
        ),
    }


def ours(model: nn.Module, x: Tensor) -> dict[str, int]:
    """Count with the library: MACs with and without the padding's zeros, and ACs."""
    with EnergyMeter(model, spiking_steps=T) as meter, torch.no_grad():
        model(x)
    report = meter.report("strict")
    inner = meter.report("strict", padding=False)
    return {"macs": report.macs, "macs_without_padding": inner.macs, "acs": report.acs}


def spikingjelly(model: nn.Module, x: Tensor) -> dict[str, int]:
    """Count with SpikingJelly: synaptic operations of binary inputs."""
    from spikingjelly.activation_based.op_counter import DispatchCounterMode, SynOpCounter

    counter = SynOpCounter()
    with DispatchCounterMode([counter]), torch.no_grad():
        model(x)
    return {"acs": int(counter.get_total())}


def neurobench(model: nn.Module, x: Tensor) -> dict[str, int]:
    """Count with NeuroBench: effective operations, those whose input is not zero."""
    from neurobench.benchmarks import Benchmark
    from neurobench.metrics.workload import SynapticOperations
    from neurobench.models import TorchModel
    from torch.utils.data import DataLoader, TensorDataset

    wrapped = TorchModel(model)
    wrapped.add_activation_module(IF)
    window = DataLoader(TensorDataset(x, torch.zeros(len(x))), batch_size=len(x))
    benchmark = Benchmark(wrapped, window, [], [], [[], [SynapticOperations]])
    with torch.no_grad():
        found = benchmark.run(quiet=True, verbose=False)["SynapticOperations"]
    # NeuroBench divides by the length of the data, here the T steps of one window.
    whole = {name: round(value * len(x)) for name, value in found.items()}
    return {"macs": whole["Effective_MACs"], "acs": whole["Effective_ACs"]}


TOOLS: dict[str, Callable[[nn.Module, Tensor], dict[str, int]]] = {
    "spikediff": ours,
    "spikingjelly": spikingjelly,
    "neurobench": neurobench,
}


def main() -> None:
    """Count every case with every tool; write the JSON and print it."""
    rows: list[dict[str, Any]] = []
    for name, (model, x, reading) in cases().items():
        counts = {tool: count(model, x) for tool, count in TOOLS.items()}
        rows.append({"network": name, **counts, "reading": reading})
        print(name, counts)
    versions = {tool: version(tool) for tool in ("torch", "spikingjelly", "neurobench")}
    result = json.dumps({"versions": versions, "cases": rows}, indent=1) + "\n"
    if len(sys.argv) > 1:
        Path(sys.argv[1]).write_text(result)


if __name__ == "__main__":
    main()

"""A network as a chip has it: populations of neurons, and synapses between them."""

from collections.abc import Mapping, Sequence
from typing import Protocol

import torch
from torch import Tensor, nn

from spikediff.coding import mean
from spikediff.errors import UserError
from spikediff.models.merged.populations import Population, TimestepCurrents
from spikediff.neurons import Memory, NeuronLayer, NeuronState

Timestep = Tensor | float | int


class SynapticGraph(nn.Module):
    """Run populations one after the other, each once in a spiking step.

    Args:
        timestep: What makes currents of the timestep.
        populations: By name, in an order in which sources come before their targets.
        inputs: Channels of the input currents by the name of the source that they are; a window's
            channels are those of all inputs, one after the other.
        outputs: Names of the populations of which the currents are the output, one after the other.
        sample_size: Height and width of the images.
    """

    def __init__(
        self,
        timestep: TimestepCurrents,
        populations: Mapping[str, Population],
        inputs: Mapping[str, int],
        outputs: Sequence[str],
        sample_size: int,
    ) -> None:
        super().__init__()
        self.timestep = timestep
        self.populations = nn.ModuleDict(populations)
        self.inputs = dict(inputs)
        self.outputs = tuple(outputs)
        self.sample_size = sample_size
        self._last_use = _last_use(populations)

    @property
    def dtype(self) -> torch.dtype:
        """Type of the weights."""
        return self.timestep.table.dtype

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.timestep.table.device

    def forward(self, window: Tensor, timestep: Timestep, memory: Memory | None = None) -> Tensor:
        """Return the output currents [T, B, C_out, H, W] for currents [T, B, C, H, W].

        Args:
            window: Currents of all inputs.
            timestep: Diffusion timestep, a whole number, one for all or one per image [B].
            memory: As in `spikediff.neurons.NeuronLayer.forward`.

        Raises:
            UserError: Channels or size do not fit, or the table has no such timestep.
        """
        self._check(window)
        rows = torch.as_tensor(timestep, device=window.device).reshape(-1)  # [B or 1]
        embedding = self.timestep(rows, len(window), memory)  # [T, B or 1, E]
        parts = torch.split(window, list(self.inputs.values()), dim=2)
        sources = dict(zip(self.inputs, parts, strict=True))
        for name, population in self.populations.items():
            sources[name] = population(sources, embedding, memory)
            for source in self._last_use.get(name, ()):
                if source not in self.outputs:
                    del sources[source]
        return torch.cat([sources[name] for name in self.outputs], dim=2)

    def step(
        self, current: Tensor, timestep: Timestep, state: Mapping[str, NeuronState] | None
    ) -> tuple[Tensor, dict[str, NeuronState]]:
        """Run one spiking step: currents [B, C, H, W] -> [B, C_out, H, W], and the new state.

        Raises:
            UserError: As `forward`, or the state is another network's.
        """
        layers = {n: m for n, m in self.named_modules() if isinstance(m, NeuronLayer)}
        if state is not None and state.keys() != layers.keys():
            raise UserError("merged network: the state is that of another network")
        memory = {layers[name]: value for name, value in (state or {}).items()}
        output = self(current[None], timestep, memory)
        return output[0], {name: memory[layer] for name, layer in layers.items()}

    def _check(self, window: Tensor) -> None:
        want = (sum(self.inputs.values()), self.sample_size, self.sample_size)
        if window.dim() != 5 or tuple(window.shape[2:]) != want:
            raise UserError(
                f"merged network: expects currents [T, B, {', '.join(map(str, want))}], got "
                f"{list(window.shape)}; synapses are merged for one image size, that of the "
                "model's sample_size"
            )


def _last_use(populations: Mapping[str, Population]) -> dict[str, list[str]]:
    """Return the sources that nobody needs any more, by the last population that does."""
    user = {source: name for name, p in populations.items() for source in p.synapses}
    spent: dict[str, list[str]] = {}
    for source, name in user.items():
        spent.setdefault(name, []).append(source)
    return spent


class GraphOfImages(Protocol):
    """A graph, and how images become the currents that it takes."""

    graph: SynapticGraph

    def first_currents(self, noise: Tensor) -> Tensor:
        """Return currents of images [B, C, H, W], equal at all spiking steps."""

    def image_currents(self, currents: Tensor) -> Tensor:
        """Return the currents [T, B, C, H, W] of which the mean is the image."""


def answer(network: GraphOfImages, sample: Tensor, timestep: Timestep) -> Tensor:
    """Return the currents that a network answers a window [T, B, C, H, W], or the mean image."""
    if sample.dim() == 5:
        window: Tensor = network.graph(sample, timestep)
        return window
    window = network.graph(network.first_currents(sample), timestep)
    return mean(network.image_currents(window))

"""Populations of neurons, and everything that drives them."""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from spikediff.errors import UserError
from spikediff.layers.time import over_time
from spikediff.neurons import Memory


class TimestepCurrents(nn.Module):
    """The timestep at every spiking step: a row of a table, a neuron, a synapse.

    What real numbers the original computes from a timestep depends on the timestep alone, so
    the table holds the currents that they become.

    Args:
        table: Currents of the first neurons [num_train_timesteps, E].
        neuron: Those neurons.
        synapse: Linear map of their spikes [E] -> [E].

    Shape: [B] -> [T, B, E].
    """

    table: Tensor

    def __init__(self, table: Tensor, neuron: nn.Module, synapse: nn.Linear) -> None:
        super().__init__()
        self.register_buffer("table", table)
        self.neuron = neuron
        self.synapse = synapse

    def forward(self, timestep: Tensor, spiking_steps: int, memory: Memory | None = None) -> Tensor:
        """Return the currents of timesteps [B] over so many spiking steps.

        Raises:
            UserError: A timestep is fractional, or not in the table.
        """
        row = timestep.long()
        if not torch.equal(row.to(timestep.dtype), timestep):
            raise UserError(
                f"merged network: timestep {timestep.tolist()} is fractional, and the table of "
                "currents has none for it; take a scheduler with whole timesteps"
            )
        if row.min() < 0 or row.max() >= len(self.table):
            raise UserError(
                f"merged network: timestep {timestep.tolist()} lies outside of the table of "
                f"{len(self.table)} rows"
            )
        current = self.table[row].expand(spiking_steps, -1, -1)  # [T, B, E]
        return over_time(self.synapse, self.neuron(current, memory))


class TimestepDrive(nn.Module):
    """What the timestep adds to one population: the same to every neuron of a channel.

    Args:
        neuron: Neurons that the timestep's currents drive.
        synapse: Linear map of their spikes [E] -> [C], without bias.

    Shape: [T, B, E] -> [T, B, C, 1, 1].
    """

    def __init__(self, neuron: nn.Module, synapse: nn.Linear) -> None:
        super().__init__()
        self.neuron = neuron
        self.synapse = synapse

    def forward(self, embedding: Tensor, memory: Memory | None = None) -> Tensor:
        """Return the current."""
        return over_time(self.synapse, self.neuron(embedding, memory))[..., None, None]


class Population(nn.Module):
    """Neurons that fire by what their synapses bring; or a read-out, which has no neurons.

    Args:
        synapses: By the name of their source.
        constant: Current that flows without any spike [C, H, W] or [C, 1, 1].
        neuron: The neurons; None for a read-out.
        drive: What the timestep adds.
    """

    constant: Tensor

    def __init__(
        self,
        synapses: Mapping[str, nn.Module],
        constant: Tensor,
        neuron: nn.Module | None = None,
        drive: TimestepDrive | None = None,
    ) -> None:
        super().__init__()
        self.synapses = nn.ModuleDict(synapses)
        self.register_buffer("constant", constant)
        self.neuron = neuron
        self.drive = drive

    def forward(
        self, sources: Mapping[str, Tensor], embedding: Tensor, memory: Memory | None = None
    ) -> Tensor:
        """Return the spikes, or the currents of a read-out.

        Args:
            sources: Windows [T, B, C', H', W'] by name, among them those of all synapses.
            embedding: The timestep's currents [T, B or 1, E].
            memory: As in `spikediff.neurons.NeuronLayer.forward`.
        """
        current = sum(
            (synapse(sources[name]) for name, synapse in self.synapses.items()), self.constant
        )  # [T, B, C, H, W]
        if self.drive is not None:
            current = current + self.drive(embedding, memory)
        return current if self.neuron is None else self.neuron(current, memory)

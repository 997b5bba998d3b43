"""The merged network: layers of neurons, and the synapses that drive them."""

from collections.abc import Mapping
from typing import Any

import torch
from diffusers.models.unets.unet_2d import UNet2DOutput
from torch import Tensor, nn

from spikediff.errors import UserError
from spikediff.layers import one_or_each
from spikediff.layers.coding import direct, mean
from spikediff.layers.time import over_time
from spikediff.neurons import Memory, NeuronState
from spikediff.systems.fsddim.latent_space import CurrentSpace
from spikediff.systems.fsddim.merged.kernels import UniformSynapse
from spikediff.systems.fsddim.network import Timestep, run_step

IMAGE = "image"  # the source that the image's currents are
STEM = "stem"  # likewise the stem's, where they are carried


class TimestepTable(nn.Module):
    """The timestep at every spiking step: a row of a table, a neuron, a synapse.

    The real-valued part of the original depends only on the timestep, so the table has the
    resulting currents [num_train_timesteps, E].

    Shape: [B] -> [T, B, E].
    """

    table: Tensor

    def __init__(self, table: Tensor, neuron: nn.Module, synapse: nn.Linear) -> None:
        super().__init__()
        self.register_buffer("table", table)
        self.neuron = neuron
        self.synapse = synapse

    def forward(self, timestep: Tensor, spiking_steps: int, memory: Memory | None = None) -> Tensor:
        """Return the currents of integer timesteps [B] for every spiking step."""
        row = timestep.long()
        if not torch.equal(row.to(timestep.dtype), timestep):
            raise UserError(
                f"merged network: timestep {timestep.tolist()} is fractional, and the table of "
                "currents has none for it; take a scheduler with whole timesteps"
            )
        if ((row < 0) | (row >= len(self.table))).any():
            raise UserError(
                f"merged network: timestep {timestep.tolist()} lies outside of the table of "
                f"{len(self.table)} rows"
            )
        current = self.table[row].expand(spiking_steps, -1, -1)  # [T, B, E]
        return over_time(self.synapse, self.neuron(current, memory))


class TimestepSynapse(nn.Module):
    """The timestep's current in a layer, the same for every neuron of a channel.

    Shape: [T, B, E] -> [T, B, C, 1, 1].
    """

    def __init__(self, neuron: nn.Module, synapse: nn.Linear) -> None:
        super().__init__()
        self.neuron = neuron
        self.synapse = synapse

    def forward(self, embedding: Tensor, memory: Memory | None = None) -> Tensor:
        """Return the current."""
        return over_time(self.synapse, self.neuron(embedding, memory))[..., None, None]


class MergedLayer(nn.Module):
    """A layer of neurons and its synapses; or a read-out, which has no neurons.

    Synapses are keyed by the name of their source. The constant current [C, H, W] or [C, 1, 1]
    needs no spikes.
    """

    constant: Tensor

    def __init__(
        self,
        synapses: Mapping[str, nn.Module],
        constant: Tensor,
        neuron: nn.Module | None = None,
        timestep: TimestepSynapse | None = None,
    ) -> None:
        super().__init__()
        self.synapses = nn.ModuleDict(synapses)
        self.register_buffer("constant", constant)
        self.neuron = neuron
        self.timestep = timestep

    def forward(
        self, sources: Mapping[str, Tensor], embedding: Tensor, memory: Memory | None = None
    ) -> Tensor:
        """Return the spikes, or the currents of a read-out.

        `sources` are windows [T, B, C', H', W'] by name, including those of all synapses;
        `embedding` [T, B or 1, E] has the timestep's currents.
        """
        current = sum(
            (synapse(sources[name]) for name, synapse in self.synapses.items()), self.constant
        )  # [T, B, C, H, W]
        if self.timestep is not None:
            current = current + self.timestep(embedding, memory)
        return current if self.neuron is None else self.neuron(current, memory)


class MergedSynapticUNet(nn.Module):
    """A `SynapticCurrentUNet` whose linear maps between two layers of neurons are one synapse each.

    Made by `merge_synapses`. It has the inputs and, up to rounding, the outputs of the original,
    for currents or images of the configured size and integer timesteps. It cannot be saved: save
    the original; merging the published network takes half a minute.

    Args:
        config: Configuration of the original.
        timestep: The currents of the timestep.
        layers: By name, in an order in which sources come before their targets. The currents of
            read-outs are the output.
        stem: For a network that carries the stem's currents; see `CarriedSynapticUNet`.
    """

    def __init__(
        self,
        config: Any,
        timestep: TimestepTable,
        layers: Mapping[str, MergedLayer],
        stem: UniformSynapse | None = None,
    ) -> None:
        super().__init__()
        self.config = config
        self.timestep = timestep
        self.layers = nn.ModuleDict(layers)
        self.stem = stem
        self._channels = {IMAGE: config.in_channels}
        if stem is not None:
            self._channels[STEM] = len(stem.weight)
        self._last_target = {source: name for name, x in layers.items() for source in x.synapses}

    @property
    def dtype(self) -> torch.dtype:
        """Type of the weights."""
        return self.timestep.table.dtype

    @property
    def device(self) -> torch.device:
        """Device of the weights."""
        return self.timestep.table.device

    def latent_space(self) -> CurrentSpace:
        """Return the space of currents."""
        return CurrentSpace(self)

    def first_currents(self, noise: Tensor) -> Tensor:
        """Return noise [B, C, H, W] as currents [T, B, C, H, W], equal at all spiking steps.

        If the stem's currents are carried, the result is extended, [T, B, C+w, H, W]: this is then
        the only real-valued convolution, once per image.
        """
        if self.stem is not None:
            noise = torch.cat([noise, self.stem(noise[None])[0]], dim=1)  # [B, C+w, H, W]
        return direct(noise, self.config.spiking_steps)

    def image_currents(self, currents: Tensor) -> Tensor:
        """Return the currents [T, B, C, H, W] whose mean is the image."""
        return currents if self.stem is None else currents[:, :, : self.config.in_channels]

    def forward(
        self, sample: Tensor, timestep: Timestep, return_dict: bool = True
    ) -> UNet2DOutput | tuple[Tensor]:
        """Return the original's estimate; see `SynapticCurrentUNet.forward`.

        Raises:
            UserError: Channels or size do not fit, or the timestep is fractional or out of range.
        """
        is_window = sample.dim() == 5
        estimate = self._run(sample if is_window else self.first_currents(sample), timestep, None)
        estimate = estimate if is_window else mean(self.image_currents(estimate))
        return UNet2DOutput(sample=estimate) if return_dict else (estimate,)

    def step(
        self, current: Tensor, timestep: Timestep, state: Mapping[str, NeuronState] | None = None
    ) -> tuple[Tensor, dict[str, NeuronState]]:
        """Run one spiking step; see `SynapticCurrentUNet.step`."""
        return run_step(self, lambda memory: self._run(current[None], timestep, memory), state)

    def _run(self, window: Tensor, timestep: Timestep, memory: Memory | None) -> Tensor:
        """Return the output currents [T, B, C_out, H, W] for currents [T, B, C, H, W]."""
        channels, size = list(self._channels.values()), self.config.sample_size
        want = (sum(channels), size, size)
        if window.dim() != 5 or tuple(window.shape[2:]) != want:
            raise UserError(
                f"merged network: expects currents [T, B, {', '.join(map(str, want))}], got "
                f"{list(window.shape)}; synapses are merged for one image size, that of the "
                "model's sample_size"
            )
        rows = one_or_each("timestep", timestep, window.shape[1], window.device)  # [B or 1]
        embedding = self.timestep(rows, len(window), memory)  # [T, B or 1, E]
        sources = dict(zip(self._channels, torch.split(window, channels, dim=2), strict=True))
        for name, layer in self.layers.items():
            sources[name] = layer(sources, embedding, memory)
            for source, target in self._last_target.items():
                if target == name:
                    del sources[source]
        outputs = [sources[name] for name, layer in self.layers.items() if layer.neuron is None]
        return torch.cat(outputs, dim=2)


class CarriedSynapticUNet(MergedSynapticUNet):
    """A merged network of extended currents, the image's and the stem's: no input is convolved.

    Made by `carry_currents`. With the stem's linear map A, an extended window is (I, A I), with
    C + w channels; the network's output is (v, A v), both linear in spikes. Steps that scale
    and add arrays preserve this form.
    """

"""Carrying the stem's current from step to step, so that no image current enters a synapse."""

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from diffusers.models.unets.unet_2d import UNet2DOutput
from torch import Tensor, nn

from spikediff.coding import direct
from spikediff.errors import UserError
from spikediff.models.merged.assembly import IMAGE, READOUT, Assembly, timestep_currents
from spikediff.models.merged.graph import SynapticGraph, answer
from spikediff.models.merged.kernels import composite, scaled
from spikediff.models.merged.network import prepared
from spikediff.models.merged.parts import Part, constant_current, gain_of, merged_synapses
from spikediff.models.merged.populations import Population
from spikediff.models.merged.synapses import UniformSynapse
from spikediff.models.synaptic_current_unet import SynapticCurrentUNet
from spikediff.neurons import NeuronState

STEM = "stem"  # the source that the stem's currents are


class CarriedSynapticUNet(nn.Module):
    r"""A merged network of extended currents, the image's and the stem's: no input is convolved.

    `carry_currents` makes it. With A the stem's linear map, an extended window is (I, A I), of
    C + w channels; the network's output is (v, A v), both linear in spikes. Any step that scales
    and adds arrays keeps an extended window one.

    Args:
        config: Configuration of the original.
        graph: Its populations and synapses.
        stem: A, from the image's currents to the stem's.
    """

    def __init__(self, config: Any, graph: SynapticGraph, stem: nn.Module) -> None:
        super().__init__()
        self.config = config
        self.graph = graph
        self.stem = stem

    @property
    def dtype(self) -> torch.dtype:
        """Type of the weights."""
        return self.graph.dtype

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.graph.device

    def first_currents(self, noise: Tensor) -> Tensor:
        """Return extended currents [T, B, C+w, H, W] of noise [B, C, H, W], equal at all steps.

        It is the only convolution of real values, and takes place once per image.
        """
        extended = torch.cat([noise, self.stem(noise[None])[0]], dim=1)  # [B, C+w, H, W]
        return direct(extended, self.config.spiking_steps)

    def image_currents(self, currents: Tensor) -> Tensor:
        """Return the image's part [T, B, C, H, W] of extended currents [T, B, C+w, H, W]."""
        return currents[:, :, : self.config.in_channels]

    def forward(
        self, sample: Tensor, timestep: Tensor | float | int, return_dict: bool = True
    ) -> UNet2DOutput | tuple[Tensor]:
        """Estimate what the original estimates, and what its stem would make of that.

        Args:
            sample: Extended currents [T, B, C+w, H, W] of any T, or images x_t [B, C, H, W].
            timestep: Diffusion timestep t, one for all (a number or 0-dim) or one per image [B].
            return_dict: False returns a tuple.

        Returns:
            An output whose `.sample` has the shape of what was given: extended currents, or for
            images the mean over T of the image's part.

        Raises:
            UserError: Channels or size do not fit, or the timestep is fractional or out of range.
        """
        estimate = answer(self, sample, timestep)
        return UNet2DOutput(sample=estimate) if return_dict else (estimate,)

    def step(
        self,
        current: Tensor,
        timestep: Tensor | float | int,
        state: Mapping[str, NeuronState] | None = None,
    ) -> tuple[Tensor, dict[str, NeuronState]]:
        """Run one spiking step; see `SynapticCurrentUNet.step`.

        Args:
            current: Extended current of this spiking step [B, C+w, H, W].
            timestep: Diffusion timestep, the same in all steps of a window.
            state: State after the step before; None starts a window.

        Returns:
            The extended output current of this step, and the state after it.

        Raises:
            UserError: As `forward`, or the state is another network's.
        """
        return self.graph.step(current, timestep, state)


@torch.no_grad()
def carry_currents(model: SynapticCurrentUNet) -> CarriedSynapticUNet:
    r"""Merge all synapses, and carry the stem's current beside the image's through all steps.

    The image's current I enters the network by the stem's linear map A alone, and the output is
    $v = W S + b$, of spikes S. So beside $I' = \cos\delta\,I - \sin\delta\,v$ a chip keeps K = A I,

        K' = cos(delta) K - sin(delta) (A W S + A b),

    where A W is one more synapse of spikes. In no step is a current the input of a synapse; what is
    left besides accumulates are the step's two scalars.

    It is a matter of principle rather than of energy: an image has few channels, so that A I is
    cheap, while A W has as many targets as the stem and accumulates for every spike that W sees.

    Args:
        model: A network with `spiking_stem=True`, in evaluation mode. It stays as it is.

    Returns:
        The network, which a `SynapticCurrentPipeline` takes instead of the original.

    Raises:
        UserError: The model is in training mode, has no neurons behind its stem, or does not put
            out as many channels as it takes.

    Example:
        >>> model = SynapticCurrentUNet(8, 1, base_channels=8, channel_mult=(1, 2), spiking_steps=4,
        ...                             spiking_stem=True)
        >>> carried = carry_currents(model.double().eval())
        >>> extended = carried.first_currents(torch.randn(2, 1, 8, 8, dtype=torch.float64))
        >>> output = carried(extended, 10).sample
        >>> extended.shape, output.shape
        (torch.Size([4, 2, 9, 8, 8]), torch.Size([4, 2, 9, 8, 8]))
        >>> image, of_stem = output[0].split([1, 8], dim=1)
        >>> carried.stem(image[None])[0].allclose(of_stem)
        True
    """
    _check(model)
    original = prepared(model)
    assembly = Assembly(original)
    conv, norm, populations = original.stem.conv, original.stem.norm, assembly.populations
    kernel = scaled(conv.weight, gain_of(norm, conv.out_channels))  # A [w, C, 3, 3]
    name = assembly.stem.source
    old = populations[name]
    # A I arrives as it is, where the synapse A was.
    populations[name] = Population({STEM: nn.Identity()}, old.constant, old.neuron)
    populations[f"{READOUT}_{STEM}"] = _through_stem(assembly.seen, original.readout, kernel)
    graph = SynapticGraph(
        timestep_currents(original),
        populations,
        inputs={IMAGE: conv.in_channels, STEM: conv.out_channels},
        outputs=[READOUT, f"{READOUT}_{STEM}"],
        sample_size=model.config.sample_size,
    )
    stem = UniformSynapse(kernel, padding=1)
    carried = CarriedSynapticUNet(model.config, graph, stem).requires_grad_(False)
    return carried.to(device=model.device, dtype=model.dtype).eval()


def _check(model: SynapticCurrentUNet) -> None:
    if not model.config.spiking_stem:
        raise UserError(
            "carry_currents: the model has no neurons behind its stem (spiking_stem=False), so its "
            "read-out and last block see the stem's current, and the output itself holds a "
            "convolution of the input current; merge_synapses takes such a model"
        )
    if model.config.out_channels not in (None, model.config.in_channels):
        raise UserError(
            f"carry_currents: the output has {model.config.out_channels} channels, the input "
            f"{model.config.in_channels}; the stem cannot take the one for the other"
        )


def _through_stem(seen: Sequence[Part], readout: nn.Conv2d, kernel: Tensor) -> Population:
    """Return the read-out of A v: synapses A W in place of W, and the constant current A b."""
    both = composite(kernel, readout.weight)  # [w, M, 3, 3]
    conv = nn.Conv2d(both.shape[1], len(both), 3, padding=1, bias=False, dtype=torch.float64)
    conv.weight.copy_(both)
    offset = constant_current(seen, readout, nn.Identity())  # b [C, H, W]
    constant = nn.functional.conv2d(offset[None], kernel, padding=1)[0]
    return Population(merged_synapses(seen, conv, nn.Identity()), constant)

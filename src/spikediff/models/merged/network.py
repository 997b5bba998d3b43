"""The merged network: what a chip would hold of a `SynapticCurrentUNet`."""

import copy
from collections.abc import Mapping
from typing import Any

import torch
from diffusers.models.unets.unet_2d import UNet2DOutput
from torch import Tensor, nn

from spikediff.coding import direct
from spikediff.errors import UserError
from spikediff.models.merged.assembly import IMAGE, READOUT, Assembly, timestep_currents
from spikediff.models.merged.graph import SynapticGraph, answer
from spikediff.models.synaptic_current_unet import SynapticCurrentUNet
from spikediff.neurons import NeuronState


class MergedSynapticUNet(nn.Module):
    """A `SynapticCurrentUNet` of which the linear maps between two neurons are one synapse each.

    `merge_synapses` makes it. It takes what the original takes and answers the same, but for
    rounding: currents or images of the configured size, and whole timesteps. It is not saved; the
    original is, and merging the published one takes half a minute.

    Args:
        config: Configuration of the original.
        graph: Its populations and synapses.
    """

    def __init__(self, config: Any, graph: SynapticGraph) -> None:
        super().__init__()
        self.config = config
        self.graph = graph

    @property
    def dtype(self) -> torch.dtype:
        """Type of the weights."""
        return self.graph.dtype

    @property
    def device(self) -> torch.device:
        """Where the weights are."""
        return self.graph.device

    def first_currents(self, noise: Tensor) -> Tensor:
        """Return noise [B, C, H, W] as currents [T, B, C, H, W], equal at all spiking steps."""
        return direct(noise, self.config.spiking_steps)

    def image_currents(self, currents: Tensor) -> Tensor:
        """Return the currents [T, B, C, H, W] of which the mean is the image: all of them."""
        return currents

    def forward(
        self, sample: Tensor, timestep: Tensor | float | int, return_dict: bool = True
    ) -> UNet2DOutput | tuple[Tensor]:
        """Estimate what the original estimates.

        Args:
            sample: Currents [T, B, C, H, W] of any T, or images x_t [B, C, H, W].
            timestep: Diffusion timestep t, one for all (a number or 0-dim) or one per image [B].
            return_dict: False returns a tuple.

        Returns:
            An output whose `.sample` has the shape of what was given: currents
            [T, B, C_out, H, W], or their mean over T for images.

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
            current: Current of this spiking step [B, C, H, W].
            timestep: Diffusion timestep, the same in all steps of a window.
            state: State after the step before; None starts a window.

        Returns:
            The output current of this step [B, C_out, H, W], and the state after it.

        Raises:
            UserError: As `forward`, or the state is another network's.
        """
        return self.graph.step(current, timestep, state)


def prepared(model: SynapticCurrentUNet) -> SynapticCurrentUNet:
    """Return a copy to compose kernels of: float64, on the CPU.

    Raises:
        UserError: The model is in training mode, where norms are no linear maps; or it knows
            classes, whose currents have no place in the merged network.
    """
    if model.training:
        raise UserError("merging needs the norms' running statistics; call `.eval()` first")
    if model.config.num_classes:
        raise UserError(
            f"merging: the model knows {model.config.num_classes} classes, which a merged network "
            f"does not take; train it with num_classes=0"
        )
    original: SynapticCurrentUNet = copy.deepcopy(model).cpu().double()
    return original


@torch.no_grad()
def merge_synapses(model: SynapticCurrentUNet) -> MergedSynapticUNet:
    r"""Merge all linear maps between two layers of neurons into one synapse each.

    A neuron of the original is driven by $\sum_p N\,C_p\,P_p\,s_p + b$: convolutions C of what
    stands before it, norms N, and for some parts p another convolution P behind a change of size
    (or the stem) without a neuron. The merged network holds $N C_p P_p$, exact at the image's
    border too, and b as a constant current. So the input of every synapse is spikes, but for
    synapses that the input current drives itself: the stem's, or, as published without
    neurons behind the stem, those of whatever sees the stem.

    Kernels are composed in float64 and stored in the model's type.

    Args:
        model: The original, in evaluation mode. It stays as it is; nothing is shared.

    Returns:
        The merged network, which a `SynapticCurrentPipeline` takes instead of the original.

    Raises:
        UserError: The model is in training mode.

    Example:
        >>> model = SynapticCurrentUNet(8, 1, base_channels=8, channel_mult=(1, 2), spiking_steps=4)
        >>> merged = merge_synapses(model.double().eval())
        >>> x = torch.randn(2, 1, 8, 8, dtype=torch.float64)
        >>> torch.allclose(merged(x, 10).sample, model(x, 10).sample)
        True

    Reference: Watanabe et al., "Fully spiking denoising diffusion implicit models", 2023, which
    argues that these maps merge.
    """
    original = prepared(model)
    graph = SynapticGraph(
        timestep_currents(original),
        Assembly(original).populations,
        inputs={IMAGE: model.config.in_channels},
        outputs=[READOUT],
        sample_size=model.config.sample_size,
    )
    merged = MergedSynapticUNet(model.config, graph).requires_grad_(False)
    return merged.to(device=model.device, dtype=model.dtype).eval()

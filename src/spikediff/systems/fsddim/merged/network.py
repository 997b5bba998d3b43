"""From the original network to its populations, in float64.

The merged network: what a chip would hold of a `SynapticCurrentUNet`.

Carrying the stem's current from step to step, so that no image current enters a synapse.
"""

import copy
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from diffusers.models.unets.unet_2d import UNet2DOutput
from torch import Tensor, nn

from spikediff.errors import UserError
from spikediff.layers.coding import direct
from spikediff.neurons import NeuronState
from spikediff.systems.fsddim.blocks import PostActivationBlock, SynapticResampling
from spikediff.systems.fsddim.merged.populations import (
    Part,
    Population,
    SynapticGraph,
    TimestepCurrents,
    TimestepDrive,
    answer,
    constant_current,
    gain_of,
    merged_synapses,
    resampled,
    shrunk,
)
from spikediff.systems.fsddim.merged.synapses import UniformSynapse, composite, scaled
from spikediff.systems.fsddim.network import SynapticCurrentUNet

IMAGE = "image"  # the source that the image's currents are
READOUT = "readout"


class Assembly:
    """The populations of a network, named as its neuron layers, in the order in which they fire.

    Args:
        model: The original in evaluation mode, in float64 on the CPU.

    Attributes:
        populations: By name.
        stem: What the first level and the read-out see of the stem.
        seen: What the read-out sees.
    """

    def __init__(self, model: SynapticCurrentUNet) -> None:
        self.populations: dict[str, Population] = {}
        self._names = {layer: name for name, layer in model.named_modules()}
        image = Part(IMAGE, model.config.in_channels, model.config.sample_size)
        self.stem = self._behind(model.stem, image)
        self.seen = self._walk(model)
        norm = nn.Identity()
        self.populations[READOUT] = Population(
            merged_synapses(self.seen, model.readout, norm),
            constant_current(self.seen, model.readout, norm),
        )

    def _walk(self, model: Any) -> list[Part]:
        """Follow the original's forward pass; return what its read-out sees."""
        h = self.stem
        skips = [h]
        for level in model.down_levels:
            for block in level.blocks:
                h = self._block(block, [h])
                skips.append(h)
            h = self._behind(level.resampling, h)
        for block in model.middle_blocks:
            h = self._block(block, [h])
        shallow = skips[: 1 + model.config.layers_per_block]
        for level in model.up_levels:
            risen = []
            for block in level.blocks:
                h = self._block(block, [h, skips.pop()])
                risen.append(h)
            h = self._behind(level.resampling, h)
        h = self._block(model.last_block, [h, skips.pop()])
        return [h, *shallow, *risen]

    def _behind(self, module: SynapticResampling, part: Part) -> Part:
        """Return what is seen behind a resampling: new spikes where it has neurons."""
        seen = resampled(part, module)
        if module.neuron is None:
            return seen
        synapses = merged_synapses([seen], None, module.norm)
        return self._fire(module.neuron, synapses, constant_current([seen], None, module.norm))

    def _block(self, block: PostActivationBlock, parts: Sequence[Part]) -> Part:
        """Return the spikes of a residual block, which are those of two populations."""
        conv, norm = block.synapse1.conv, block.synapse1.norm
        linear = block.timestep_synapse
        hidden = self._fire(
            block.neuron1,
            merged_synapses(parts, conv, norm),
            constant_current(parts, conv, norm, more=linear.bias),
            TimestepDrive(block.timestep_neuron, _scaled_linear(linear, norm)),
        )
        conv, norm, shortcut = block.synapse2.conv, block.synapse2.norm, block.shortcut
        skip_conv = shortcut.conv if isinstance(shortcut.conv, nn.Conv2d) else None
        return self._fire(
            block.neuron2,
            merged_synapses([hidden], conv, norm)
            | merged_synapses(parts, skip_conv, shortcut.norm),
            constant_current([hidden], conv, norm)
            + constant_current(parts, skip_conv, shortcut.norm),
        )

    def _fire(
        self,
        neuron: nn.Module,
        synapses: dict[str, nn.Module],
        constant: Tensor,
        drive: TimestepDrive | None = None,
    ) -> Part:
        name = self._names[neuron].replace(".", "_")
        self.populations[name] = Population(synapses, shrunk(constant), neuron, drive)
        return Part(name, channels=len(constant), size=constant.shape[-1])


def timestep_currents(model: SynapticCurrentUNet) -> TimestepCurrents:
    """Return the table of a network's timestep currents, and what follows it."""
    embedding = model.time_embedding
    return TimestepCurrents(embedding.linear1(embedding.table), embedding.neuron, embedding.linear2)


def _scaled_linear(linear: nn.Linear, norm: nn.Module) -> nn.Linear:
    """Return the linear map with the gain of the norm behind it, and without its bias."""
    gain = gain_of(norm, linear.out_features)
    scaled = nn.Linear(linear.in_features, linear.out_features, bias=False, dtype=torch.float64)
    scaled.weight.copy_(linear.weight * gain[:, None])
    return scaled


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

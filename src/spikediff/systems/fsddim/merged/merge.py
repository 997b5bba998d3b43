"""Merging: from FSDDIM's network to one synapse between every two layers of neurons, in float64."""

import copy
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import accumulate, pairwise
from typing import Any, TypeVar

import torch
from torch import Tensor, nn

from spikediff.errors import UserError
from spikediff.layers import nearest_upsample
from spikediff.layers.norm import ThresholdNorm, norm_affine
from spikediff.systems.fsddim.blocks import (
    PostActivationBlock,
    SynapticResampling,
    average_downsample,
    same_size,
)
from spikediff.systems.fsddim.merged.kernels import (
    RegionalSynapse,
    UniformSynapse,
    behind_average,
    composite,
    regional_kernels,
    regions,
)
from spikediff.systems.fsddim.merged.network import (
    IMAGE,
    STEM,
    CarriedSynapticUNet,
    MergedLayer,
    MergedSynapticUNet,
    TimestepSynapse,
    TimestepTable,
)
from spikediff.systems.fsddim.network import SynapticCurrentUNet

READOUT = "readout"
Network = TypeVar("Network", bound=MergedSynapticUNet)


@torch.no_grad()
def merge_synapses(model: SynapticCurrentUNet) -> MergedSynapticUNet:
    r"""Merge all linear maps between two layers of neurons into one synapse each.

    The input of a neuron of the original is $\sum_p N\,C_p\,P_p\,s_p + b$: convolutions C of the
    sources before it, norms N, and for some sources p another convolution P after a change of size
    (or the stem) without a neuron. The merged network stores $N C_p P_p$, exact at the image's
    border too, and b as a constant current. So the input of every synapse is spikes, except for
    synapses driven by the input current: the stem's or, as published without
    neurons after the stem, those that receive the stem's current.

    Kernels are composed in float64 and stored in the model's type.

    Args:
        model: The original, in evaluation mode. It is not changed; nothing is shared.

    Returns:
        The merged network, which a `SynapticCurrentPipeline` accepts instead of the original.

    Raises:
        UserError: The model is in training mode or compiled for inference, or has classes.

    Example:
        >>> model = SynapticCurrentUNet(8, 1, base_channels=8, channel_mult=(1, 2), spiking_steps=4)
        >>> merged = merge_synapses(model.double().eval())
        >>> x = torch.randn(2, 1, 8, 8, dtype=torch.float64)
        >>> torch.allclose(merged(x, 10).sample, model(x, 10).sample)
        True

    Reference: Watanabe et al., "Fully spiking denoising diffusion implicit models", 2023, which
    argues that these maps merge.
    """
    merging = _Merging(model)
    return _like(model, MergedSynapticUNet(model.config, merging.timestep, merging.layers))


@torch.no_grad()
def carry_currents(model: SynapticCurrentUNet) -> CarriedSynapticUNet:
    r"""Merge all synapses, and carry the stem's current along with the image's through all steps.

    The image's current I enters the network only through the stem's linear map A, and the output is
    $v = W S + b$ for spikes S. So with $I' = \cos\delta\,I - \sin\delta\,v$ a chip stores K = A I,

        K' = cos(delta) K - sin(delta) (A W S + A b),

    where A W is one more synapse with spiking input. No synapse has a current as its input; besides
    accumulates, only the step's two scalars remain.

    This does not save energy: an image has few channels, so A I is
    cheap, while A W has as many targets as the stem and accumulates for every input spike of W.

    Args:
        model: A network with `spiking_stem=True`, in evaluation mode. It is not changed.

    Returns:
        The network, which a `SynapticCurrentPipeline` accepts instead of the original.

    Raises:
        UserError: As for `merge_synapses`; or the model has no neurons after its stem, or has
            different numbers of input and output channels.

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
    merging = _Merging(model)
    layers, stem = merging.layers, merging.original.stem
    kernel = _scaled(stem.conv.weight, _gain(stem.norm, stem.conv.out_channels))  # A [w, C, 3, 3]
    first = layers[merging.stem.name]
    # A I arrives as it is, where the synapse A was.
    layers[merging.stem.name] = MergedLayer({STEM: nn.Identity()}, first.constant, first.neuron)
    layers[f"{READOUT}_{STEM}"] = merging.readout_behind(kernel)
    carried = UniformSynapse(kernel, padding=1)
    return _like(model, CarriedSynapticUNet(model.config, merging.timestep, layers, carried))


def _like(model: SynapticCurrentUNet, network: Network) -> Network:
    """Return a network in the type and at the place of the original, for inference."""
    network.requires_grad_(False)
    return network.to(device=model.device, dtype=model.dtype).eval()


@dataclass(frozen=True)
class _Source:
    """A window of spikes or currents that a layer sees, perhaps through a resampling.

    Attributes:
        name: Of the layer that fires, or of the input.
        channels: Channels that are seen.
        size: Height and width that are seen.
        conv: The resampling's convolution, in float64; None if the source itself is seen.
        scale: Change of size before that convolution: 0.5 averages, 2 doubles every pixel.
    """

    name: str
    channels: int
    size: int
    conv: nn.Conv2d | None = None
    scale: float = 1.0

    def through(self, resampling: SynapticResampling) -> "_Source":
        """Return the source behind a resampling, whose norm and neurons are left to the layer."""
        scales: dict[object, float] = {
            average_downsample: 0.5,
            nearest_upsample: 2.0,
            same_size: 1.0,
        }
        scale, conv = scales[resampling.resize], resampling.conv
        assert self.conv is None
        return _Source(self.name, conv.out_channels, int(self.size * scale), conv, scale)

    def at_rest(self) -> Tensor:
        """Return what is seen while the source is zero [C, H, W], float64."""
        zero = torch.zeros(self.channels, dtype=torch.float64)
        levels = zero if self.conv is None or self.conv.bias is None else self.conv.bias
        return levels.view(-1, 1, 1).expand(-1, self.size, self.size)

    def synapse(self, kernel: Tensor) -> nn.Module:
        """Return the synapse from the source itself to a layer of this kernel [O, M, k, k]."""
        taps = kernel.shape[-1]
        if self.conv is None:
            return UniformSynapse(kernel.clone(), padding=taps // 2)
        weight = self.conv.weight  # [M, I, b, b]
        if self.scale < 1.0:
            return UniformSynapse(behind_average(kernel, weight), 2, padding=2 * (taps // 2))
        if self.scale == 1.0 and 1 in (taps, weight.shape[-1]):
            kernel = composite(kernel, weight)
            return UniformSynapse(kernel, padding=kernel.shape[-1] // 2)
        places = regions(self.size, taps, weight.shape[-1], int(self.scale))
        return RegionalSynapse(regional_kernels(kernel, weight, places), places)


class _Merging:
    """The merged layers of a network, named as its neurons, in the order in which they fire.

    It takes a copy of the network in float64 on the CPU.
    """

    def __init__(self, model: SynapticCurrentUNet) -> None:
        if getattr(model, "event_driven", False):
            raise UserError("merging: the model was compiled for inference; merge the original")
        if model.training:
            raise UserError("merging needs the norms' running statistics; call `.eval()` first")
        if model.config.num_classes:
            raise UserError(
                f"merging: the model knows {model.config.num_classes} classes, which a merged "
                f"network does not take; train it with num_classes=0"
            )
        self.original: Any = copy.deepcopy(model).cpu().double()
        self.layers: dict[str, MergedLayer] = {}
        self._names = {layer: name for name, layer in self.original.named_modules()}
        embedding = self.original.time_embedding
        currents = embedding.linear1(embedding.table)
        self.timestep = TimestepTable(currents, embedding.neuron, embedding.linear2)
        image = _Source(IMAGE, model.config.in_channels, model.config.sample_size)
        self.stem = self._resample(self.original.stem, image)
        self._seen = self._walk(self.original)  # what the read-out sees
        self.layers[READOUT] = self._readout(self.original.readout)

    def readout_behind(self, kernel: Tensor) -> MergedLayer:
        """Return a read-out behind which a convolution [w, C, 3, 3] stands."""
        readout = self.original.readout
        both = composite(kernel, readout.weight)  # [w, M, 3, 3]
        conv = nn.Conv2d(both.shape[1], len(both), 3, padding=1, bias=False, dtype=torch.float64)
        conv.weight.copy_(both)
        constant = nn.functional.conv2d(_constant(self._seen, readout)[None], kernel, padding=1)[0]
        return MergedLayer(_synapses(self._seen, conv), constant)

    def _readout(self, conv: nn.Conv2d) -> MergedLayer:
        return MergedLayer(_synapses(self._seen, conv), _constant(self._seen, conv))

    def _walk(self, model: Any) -> list[_Source]:
        """Follow the original's forward pass; return what its read-out sees."""
        h = self.stem
        skips = [h]
        for level in model.down_levels:
            for block in level.blocks:
                h = self._block(block, [h])
                skips.append(h)
            h = self._resample(level.resampling, h)
        for block in model.middle_blocks:
            h = self._block(block, [h])
        shallow = skips[: 1 + model.config.layers_per_block]
        for level in model.up_levels:
            risen = []
            for block in level.blocks:
                h = self._block(block, [h, skips.pop()])
                risen.append(h)
            h = self._resample(level.resampling, h)
        h = self._block(model.last_block, [h, skips.pop()])
        return [h, *shallow, *risen]

    def _resample(self, module: SynapticResampling, source: _Source) -> _Source:
        """Return what is seen behind a resampling: new spikes where it has neurons."""
        seen = source.through(module)
        if module.neuron is None:
            return seen
        constant = _constant([seen], None, module.norm)
        return self._fire(module.neuron, _synapses([seen], None, module.norm), constant)

    def _block(self, block: PostActivationBlock, sources: Sequence[_Source]) -> _Source:
        """Return the spikes of a residual block, which is two layers."""
        conv, norm, linear = block.synapse1.conv, block.synapse1.norm, block.timestep_synapse
        of_timestep = nn.Linear(linear.in_features, linear.out_features, False, dtype=torch.float64)
        of_timestep.weight.copy_(_scaled(linear.weight, _gain(norm, linear.out_features)))
        hidden = self._fire(
            block.neuron1,
            _synapses(sources, conv, norm),
            _constant(sources, conv, norm, more=linear.bias),
            TimestepSynapse(block.timestep_neuron, of_timestep),
        )
        conv, norm, shortcut = block.synapse2.conv, block.synapse2.norm, block.shortcut
        skip = shortcut.conv if isinstance(shortcut.conv, nn.Conv2d) else None
        return self._fire(
            block.neuron2,
            _synapses([hidden], conv, norm) | _synapses(sources, skip, shortcut.norm),
            _constant([hidden], conv, norm) + _constant(sources, skip, shortcut.norm),
        )

    def _fire(
        self,
        neuron: nn.Module,
        synapses: dict[str, nn.Module],
        constant: Tensor,
        timestep: TimestepSynapse | None = None,
    ) -> _Source:
        """Add a layer of neurons; return its spikes."""
        name = self._names[neuron].replace(".", "_")
        level = constant[:, :1, :1]  # [C, 1, 1] will do where all places of a channel are equal
        kept = level if torch.equal(level.expand_as(constant), constant) else constant
        self.layers[name] = MergedLayer(synapses, kept.clone(), neuron, timestep)
        return _Source(name, channels=len(constant), size=constant.shape[-1])


def _synapses(
    sources: Sequence[_Source], conv: Any, norm: nn.Module | None = None
) -> dict[str, nn.Module]:
    """Return one synapse per source that does what `norm(conv(cat(sources)))` does, but constants.

    Without a convolution every channel sees itself.
    """
    if conv is None:
        (source,) = sources  # no norm stands alone behind a concatenation
        gain = _gain(norm, source.channels)
        if source.conv is None:
            kernel = gain.view(-1, 1, 1, 1).clone()
            return {source.name: UniformSynapse(kernel, groups=source.channels)}
        return {source.name: source.synapse(gain.diag()[..., None, None])}
    kernel = _scaled(conv.weight, _gain(norm, conv.out_channels))  # [O, M, k, k]
    ends = [0, *accumulate(source.channels for source in sources)]
    synapses = {
        source.name: source.synapse(kernel[:, start:end])
        for source, (start, end) in zip(sources, pairwise(ends), strict=True)
    }
    assert len(synapses) == len(sources), "a source enters a layer once"
    return synapses


def _constant(
    sources: Sequence[_Source], conv: Any, norm: nn.Module | None = None, more: Tensor | None = None
) -> Tensor:
    """Return what flows while no source is active: [C, H, W], float64.

    It is the original chain itself, run on what is seen of zeros; `more` [C] joins before the norm.
    """
    current = torch.cat([source.at_rest() for source in sources])[None]  # [1, M, H, W]
    current = current if conv is None else conv(current)
    current = current if more is None else current + more.view(-1, 1, 1)
    return current[0] if norm is None else norm(current)[0]


def _gain(norm: nn.Module | None, channels: int) -> Tensor:
    """Return the factor [C] that a norm in evaluation multiplies by; 1 for no norm."""
    if isinstance(norm, ThresholdNorm):
        return norm_affine(norm)[0]
    return torch.ones(channels, dtype=torch.float64)


def _scaled(kernel: Tensor, gain: Tensor) -> Tensor:
    """Return weights [O, ...] with every output channel times its gain [O]."""
    return kernel * gain.view(-1, *[1] * (kernel.dim() - 1))

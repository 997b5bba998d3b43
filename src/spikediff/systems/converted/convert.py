"""Conversion: from a denoiser to a quantised one, and from that to spikes."""

import copy
from typing import Any

import torch
from diffusers.models.unets.unet_2d import UNet2DModel
from torch import Tensor, nn

from spikediff.diffusion.classes import class_names, name_classes
from spikediff.errors import UserError
from spikediff.systems.converted.layers import AUTHORS_CLIP, QuantisedReLU, quantise_activation
from spikediff.systems.converted.network import ConvertedUNet, QuantisedUNet
from spikediff.systems.converted.replace_modules import fold_residual_norms, own_config
from spikediff.systems.converted.training import NoisedImages

_SAMPLES = 100_000  # activations of a layer that decide its clip
_CANDIDATES = 64  # clips that are tried


def quantise(
    unet: UNet2DModel,
    bits: int | None = 2,
    noised: NoisedImages | None = None,
    *,
    clip: float = AUTHORS_CLIP,
    calibration_images: int = 64,
    attention: str = "refuse",
) -> QuantisedUNet:
    """Replace every activation of a U-Net by a clipped ReLU of `2^bits - 1` steps.

    The result computes a different function, especially if the activation was not a ReLU:
    train it (`distil`, or the ordinary loop).

    Args:
        unet: The network; it is not changed.
        bits: Usually 2 to 4; None for no rounding.
        noised: If given, every clip starts at the best value for the layer's currents.
        clip: The initial clip otherwise.
        calibration_images: The number of x_t used for this.
        attention: "refuse", or "real" to keep attention blocks as they are.

    Raises:
        UserError: The network has a part that cannot be converted.
    """
    if not isinstance(unet, UNet2DModel):
        raise UserError(f"quantise: expects a diffusers UNet2DModel, got {type(unet).__name__}")
    quantised: QuantisedUNet = QuantisedUNet(
        own_config(unet),
        bits=bits,
        clip=clip,
        batch_norm=any(isinstance(module, nn.BatchNorm2d) for module in unet.modules()),
        attention=attention,
    )
    ours = quantised.state_dict()
    named = {_plain_name(key): key for key in ours if not key.endswith(".clip")}
    quantised.load_state_dict(
        {named[key]: tensor for key, tensor in unet.state_dict().items()}
        | {key: tensor for key, tensor in ours.items() if key.endswith(".clip")}
    )
    nn.Module.to(quantised.eval(), unet.device, unet.dtype)  # ModelMixin's own warns of any cast
    name_classes(quantised, class_names(unet))
    if noised is not None:
        _calibrate(quantised, *noised.draw(calibration_images))
    return quantised


def _plain_name(key: str) -> str:
    """Return the name of one of our weights in the `UNet2DModel`."""
    return key.removeprefix("unet.").replace(".layer.", ".").replace(".attention.", ".")


@torch.no_grad()
def _calibrate(quantised: QuantisedUNet, sample: Tensor, timestep: Tensor) -> None:
    """Set every clip from its input currents, layer by layer in the order of execution."""

    def set_clip(module: Any, inputs: tuple[Tensor, ...]) -> None:
        current = inputs[0].flatten()
        stride = -(-len(current) // _SAMPLES)
        module.clip.fill_(best_clip(current[::stride], module.levels))

    layers = [module for module in quantised.modules() if isinstance(module, QuantisedReLU)]
    hooks = [layer.register_forward_pre_hook(set_clip) for layer in layers]
    try:
        quantised(sample, timestep)
    finally:
        for hook in hooks:
            hook.remove()


def best_clip(current: Tensor, levels: int | None) -> float:
    """Return the clip whose activation is closest to the ReLU of a current, in mean square.

    Without `levels` it is the largest current.
    """
    rectified = current.relu()
    largest = rectified.max().item()
    if largest == 0.0:
        return AUTHORS_CLIP  # a silent layer: nothing tells
    if levels is None:
        return largest
    clips = [largest * (i + 1) / _CANDIDATES for i in range(_CANDIDATES)]
    return min(
        clips,
        key=lambda s: (quantise_activation(rectified, s, levels) - rectified).square().mean(),
    )


def convert(
    unet: UNet2DModel | QuantisedUNet,
    spiking_steps: int | None = None,
    *,
    bits: int = 2,
    spikes: str = "signed",
    norm: str = "shared",
    attention: str = "refuse",
    noised: NoisedImages | None = None,
) -> ConvertedUNet:
    """Convert a quantised network to a spiking one with the same activations as spike counts.

    Args:
        unet: A quantised network, or any `UNet2DModel`, which is quantised first and, without
            training for it, loses most of its quality at few bits.
        spiking_steps: T; by default `2^bits - 1`, where spike counts have the activation's
            levels. More steps give finer levels than in training, and cost more.
        bits: Bits of the quantisation; this and `attention` are ignored for a quantised network.
        spikes: "signed", or "unsigned".
        norm: "shared" over the spiking steps, or "per_step" as in the authors' code.
        attention: "refuse", or "real" to keep attention blocks in real numbers.
        noised: For the clips of a network that is quantised here.

    Returns:
        A network with its own weights, in evaluation mode.

    Example:
        >>> import torch
        >>> from spikediff.systems.ddpm.network import ddpm_unet
        >>> snn = convert(ddpm_unet(8, 1, base_channels=8, channel_mult=(1, 2)), bits=2)
        >>> snn.config.spiking_steps, snn(torch.randn(2, 1, 8, 8), 10).sample.shape
        (3, torch.Size([2, 1, 8, 8]))

    Reference: Cao et al., SDM, IEEE TAI 2025, section 6.
    """
    if isinstance(unet, UNet2DModel):
        unet = quantise(unet, bits, noised, attention=attention)
    if not isinstance(unet, QuantisedUNet):
        raise UserError(
            f"convert: expects a diffusers UNet2DModel or a QuantisedUNet, got "
            f"{type(unet).__name__}"
        )
    config = unet.config
    if spiking_steps is None and config.bits is None:
        raise UserError("convert: the network was not rounded to levels; give spiking_steps")
    if config.batch_norm:
        unet = copy.deepcopy(unet)
        fold_residual_norms(unet)
    converted: ConvertedUNet = ConvertedUNet(
        config.architecture,
        spiking_steps=2**config.bits - 1 if spiking_steps is None else spiking_steps,
        spikes=spikes,
        norm=norm,
        batch_norm=config.batch_norm,
        attention=config.attention,
    )
    converted.load_state_dict(unet.state_dict())
    nn.Module.to(converted.eval(), unet.device, unet.dtype)
    name_classes(converted, class_names(unet))
    return converted

"""From a denoiser to a spiking denoiser."""

import copy

from diffusers.models.unets.unet_2d import UNet2DModel
from torch import nn

from spikediff.errors import UserError
from spikediff.systems.converted.network import ConvertedUNet
from spikediff.systems.converted.quantise import NoisedImages, quantise
from spikediff.systems.converted.quantised import QuantisedUNet
from spikediff.systems.converted.replace_modules import fold_residual_norms


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
    """Make the spiking network that does what a quantised one does, as spike counts.

    Args:
        unet: A quantised network, or any `UNet2DModel`, which is quantised first and, untrained
            for it, loses most of what it knew at few bits.
        spiking_steps: T; `2^bits - 1` by default, at which spike counts have the activation's
            levels. More resolve finer than it was trained for, and cost more.
        bits: Of the quantisation; a quantised network tells its own.
        spikes: "signed", or "unsigned".
        norm: "shared" over the spiking steps, or "per_step" as the authors have it.
        attention: "refuse", or "real" to keep attention blocks in real numbers.
        noised: For the clips of a network that is quantised here.

    Returns:
        A network with weights of its own, in evaluation mode.

    Raises:
        UserError: The network has a part that cannot be converted, or an option is unknown.

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
    nn.Module.to(converted.eval(), unet.device, unet.dtype)  # ModelMixin's own warns of any cast
    return converted

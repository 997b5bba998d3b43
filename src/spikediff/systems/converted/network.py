"""The two networks around a diffusers `UNet2DModel`: quantised, and converted to spikes."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import torch
from diffusers.configuration_utils import register_to_config
from diffusers.models.attention_processor import Attention
from diffusers.models.unets.unet_2d import UNet2DModel, UNet2DOutput
from torch import Tensor, nn

from spikediff.diffusion.model import SpikingModel, with_all_weights
from spikediff.diffusion.return_dict import Answering
from spikediff.layers import fold_time, one_or_each, unfold_time
from spikediff.layers.coding import direct
from spikediff.layers.sizes import check_positive, check_sample, choose
from spikediff.systems.converted.layers import (
    AUTHORS_CLIP,
    ConvertedIF,
    QuantisedReLU,
    QuantisedSynapse,
    SharedGroupNorm,
    SpikingSynapse,
    TimeMeanAttention,
)
from spikediff.systems.converted.replace_modules import (
    bare_unet,
    pair_activations,
    replace_modules,
    unet_of,
    without_folded_norms,
)

SPIKES = {"signed": True, "unsigned": False}
NORMS = {"shared": True, "per_step": False}


class _AroundUNet:
    """A denoiser that contains a `UNet2DModel`; it precedes `SpikingModel` in the bases."""

    config: Any
    unet: UNet2DModel

    def _register_settings(self) -> None:
        """Add the settings that pipelines read to the configuration."""
        names = ("sample_size", "in_channels", "out_channels", "num_class_embeds")
        settings = {name: self.unet.config[name] for name in names}
        self.register_to_config(**settings)  # type: ignore[attr-defined]

    def _estimate(self, sample: Tensor, timestep: Any, labels: Tensor | None) -> Tensor:
        raise NotImplementedError

    def forward(
        self,
        sample: Tensor,
        timestep: Tensor | float | int,
        class_labels: Tensor | None = None,
        return_dict: bool = True,
    ) -> UNet2DOutput | tuple[Tensor]:
        """Estimate the noise (or what `prediction_type` says) in images x_t [B, C, H, W].

        The arguments are those of `SpikingUNet.forward`.
        """
        levels = len(self.unet.config.block_out_channels)
        check_sample(type(self).__name__, sample, self.config.in_channels, levels)
        if class_labels is None and self.config.num_class_embeds:
            nothing = self.config.num_class_embeds - 1
            class_labels = torch.full((1,), nothing, device=sample.device)
        estimate = self._estimate(sample, timestep, class_labels)
        return UNet2DOutput(sample=estimate) if return_dict else (estimate,)

    if TYPE_CHECKING:
        __call__: Answering[..., UNet2DOutput]


class QuantisedUNet(_AroundUNet, SpikingModel):
    """diffusers' `UNet2DModel` with a `QuantisedReLU` instead of every activation.

    This includes the activations of the timestep embedding and of its projections. Weights have
    full precision, as in the authors' network. It trains, saves and samples like any denoiser.

    Args:
        architecture: Configuration of the `UNet2DModel`.
        bits: b, for `2^b - 1` steps; None for no rounding.
        clip: Initial clip of every activation.
        batch_norm: Whether batch norm replaces group norm.
        attention: "refuse", or "real" to keep attention blocks as they are.
        sample_size: Read off `architecture`, as those below: what a pipeline asks a denoiser for.
        in_channels: Channels of the image.
        out_channels: Channels of the estimate.
        num_class_embeds: K + 1 for a network of K classes; the last is no class.

    Raises:
        UserError: The network has a part that cannot be converted.

    Example:
        >>> import torch
        >>> from spikediff.systems.ddpm.network import ddpm_unet
        >>> unet = ddpm_unet(8, 1, base_channels=8, channel_mult=(1, 2))
        >>> model = QuantisedUNet({k: v for k, v in unet.config.items() if k[0] != "_"}, bits=2)
        >>> model(torch.randn(2, 1, 8, 8), timestep=10).sample.shape
        torch.Size([2, 1, 8, 8])
    """

    @register_to_config
    def __init__(
        self,
        architecture: Mapping[str, Any],
        bits: int | None = 2,
        clip: float = AUTHORS_CLIP,
        batch_norm: bool = False,
        attention: str = "refuse",
        sample_size: int | None = None,
        in_channels: int | None = None,
        out_channels: int | None = None,
        num_class_embeds: int | None = None,
    ) -> None:
        super().__init__()
        self.unet = bare_unet(architecture, batch_norm, attention)
        replace_modules(self.unet, Attention, lambda a: TimeMeanAttention(a, spiking_steps=1))
        pair_activations(
            self.unet,
            lambda layer, dropout: QuantisedSynapse(QuantisedReLU(bits, clip), layer, dropout),
        )
        self._register_settings()

    def _estimate(self, sample: Tensor, timestep: Any, labels: Tensor | None) -> Tensor:
        estimate: Tensor = self.unet(sample, timestep, labels, return_dict=False)[0]
        return estimate


class ConvertedUNet(_AroundUNet, SpikingModel):
    """A spiking network with the weights of a `QuantisedUNet`.

    The image enters as the same current at every spiking step, the residual stream is real-valued,
    the convolutions of the residual blocks receive only spikes, and the estimate is the mean of the
    last convolution over the window. Weights have the same names as in `QuantisedUNet`.

    Args:
        architecture: Configuration of the source `UNet2DModel`.
        spiking_steps: T; `2^b - 1` gives neurons the levels of a b-bit activation.
        spikes: "signed", or "unsigned" for neurons that cannot take a spike back.
        norm: "shared", group norm with the statistics of the window's mean; or "per_step", with
            those of every step, as in the authors' code, which leaves an error at any T.
        batch_norm: Whether batch norm replaced group norm. It is the same at every
            step, and folds into a convolution before it.
        attention: "refuse", or "real" to keep attention, on the window's mean.
        sample_size: Read off `architecture`, as those below: what a pipeline asks a denoiser for.
        in_channels: Channels of the image.
        out_channels: Channels of the estimate.
        num_class_embeds: K + 1 for a network of K classes; the last is no class.

    Example:
        >>> from spikediff.systems.ddpm.network import ddpm_unet
        >>> unet = ddpm_unet(8, 1, base_channels=8, channel_mult=(1, 2))
        >>> model = ConvertedUNet({k: v for k, v in unet.config.items() if k[0] != "_"})
        >>> model(torch.randn(2, 1, 8, 8), timestep=10).sample.shape
        torch.Size([2, 1, 8, 8])
    """

    @register_to_config
    def __init__(
        self,
        architecture: Mapping[str, Any],
        spiking_steps: int = 3,
        spikes: str = "signed",
        norm: str = "shared",
        batch_norm: bool = False,
        attention: str = "refuse",
        sample_size: int | None = None,
        in_channels: int | None = None,
        out_channels: int | None = None,
        num_class_embeds: int | None = None,
    ) -> None:
        super().__init__()
        check_positive("ConvertedUNet", spiking_steps=spiking_steps)
        signed = choose("ConvertedUNet", SPIKES, "spikes", spikes)
        shared = choose("ConvertedUNet", NORMS, "norm", norm)
        steps = spiking_steps
        self.unet = bare_unet(architecture, batch_norm, attention)
        if batch_norm:
            without_folded_norms(self.unet)
        replace_modules(self.unet, Attention, lambda a: TimeMeanAttention(a, steps))
        if shared:
            kinds = (TimeMeanAttention, nn.GroupNorm)  # the input of attention is the mean
            replace_modules(
                self.unet,
                kinds,
                lambda m: SharedGroupNorm(m, steps) if isinstance(m, nn.GroupNorm) else m,
            )
        pair_activations(
            self.unet, lambda layer, _dropout: SpikingSynapse(ConvertedIF(signed), layer, steps)
        )
        self._register_settings()

    @with_all_weights
    def _estimate(self, sample: Tensor, timestep: Any, labels: Tensor | None) -> Tensor:
        steps = self.config.spiking_steps
        window = fold_time(direct(sample, steps))  # [T*B, C, H, W]
        batch = sample.shape[0], sample.device
        timestep = one_or_each("timestep", timestep, *batch)
        timestep = timestep.expand(len(sample)).repeat(steps)  # [T*B]
        if labels is not None:
            labels = one_or_each("class_labels", labels, *batch)
            labels = labels.expand(len(sample)).repeat(steps)
        currents = self.unet(window, timestep, labels, return_dict=False)[0]
        return unfold_time(currents, steps).mean(0)  # [T, B, C, H, W] -> [B, C, H, W]

    def ann_counterpart(self) -> UNet2DModel:
        """Return the source network, untrained."""
        counterpart: UNet2DModel = unet_of(self.config.architecture)
        return counterpart

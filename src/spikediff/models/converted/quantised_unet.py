"""The network half-way: ordinary arithmetic, activations that a spike count can express."""

from collections.abc import Mapping
from typing import Any

from diffusers.configuration_utils import register_to_config
from diffusers.models.attention_processor import Attention
from diffusers.models.modeling_utils import ModelMixin
from diffusers.models.unets.unet_2d import UNet2DOutput
from torch import Tensor, nn

from spikediff.errors import UserError
from spikediff.models.converted.quantised_relu import AUTHORS_CLIP, QuantisedReLU
from spikediff.models.converted.surgery import bare_unet, pair_activations, replace_modules
from spikediff.models.converted.synapses import QuantisedSynapse
from spikediff.models.converted.time_mean_attention import TimeMeanAttention
from spikediff.models.loading import load_whole
from spikediff.models.own_config import OwnConfig


class QuantisedUNet(ModelMixin, OwnConfig):
    """diffusers' `UNet2DModel` with a `QuantisedReLU` in the place of every activation.

    The activations of the timestep embedding and of its projections are among them, and weights
    stay in full precision, as in the authors' network. A denoiser like any other: train it, save
    it, sample with it.

    Args:
        architecture: Configuration of the `UNet2DModel`.
        bits: b, of which `2^b - 1` steps come; None does not round.
        clip: Initial clip of every activation.
        batch_norm: Whether batch norm stands in the place of group norm.
        attention: "refuse", or "real" to keep attention blocks as they are.
        sample_size: Read off `architecture`, as the two below: what a pipeline asks a denoiser for.
        in_channels: Channels of the image.
        out_channels: Channels of the estimate.

    Raises:
        UserError: The network has a part that cannot be converted.

    Example:
        >>> import torch
        >>> from spikediff.models import ddpm_unet
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
    ) -> None:
        super().__init__()
        self.unet = bare_unet(architecture, batch_norm, attention)
        replace_modules(self.unet, Attention, lambda a: TimeMeanAttention(a, spiking_steps=1))
        pair_activations(
            self.unet,
            lambda layer, dropout: QuantisedSynapse(QuantisedReLU(bits, clip), layer, dropout),
        )
        register_image_shape(self)

    @classmethod
    def from_pretrained(cls, *args: Any, **kwargs: Any) -> Any:
        """Load a model as diffusers does, and whole: see `spikediff.models.loading.load_whole`."""
        return load_whole(cls, super().from_pretrained, *args, **kwargs)

    def forward(
        self,
        sample: Tensor,
        timestep: Tensor | float | int,
        class_labels: Tensor | None = None,
        return_dict: bool = True,
    ) -> UNet2DOutput | tuple[Tensor]:
        """Estimate the noise (or what `prediction_type` says) in a batch of images.

        Args:
            sample: Noisy images x_t [B, C, H, W].
            timestep: Diffusion timestep t, one for all (a number or 0-dim) or one per image [B].
            class_labels: Classes [B], for a network that was trained with them.
            return_dict: False returns a tuple.

        Returns:
            An output whose `.sample` is the estimate [B, C_out, H, W].

        Raises:
            UserError: The images have another number of channels.
        """
        check_sample(self, sample)
        estimate = self.unet(sample, timestep, class_labels, return_dict=False)[0]
        return UNet2DOutput(sample=estimate) if return_dict else (estimate,)


def register_image_shape(model: Any) -> None:
    """Write into a model's configuration what pipelines ask of it."""
    unet = model.unet.config
    model.register_to_config(
        sample_size=unet.sample_size, in_channels=unet.in_channels, out_channels=unet.out_channels
    )


def check_sample(model: Any, sample: Tensor) -> None:
    """Refuse images of another number of channels."""
    channels = model.config.in_channels
    if sample.dim() != 4 or sample.shape[1] != channels:
        raise UserError(
            f"{type(model).__name__}: expects images [B, {channels}, H, W], got "
            f"{tuple(sample.shape)}; the model was made with in_channels={channels}"
        )


def activations(model: nn.Module) -> dict[str, QuantisedReLU]:
    """Return the quantised activations of a model by name."""
    return {n: m for n, m in model.named_modules() if isinstance(m, QuantisedReLU)}

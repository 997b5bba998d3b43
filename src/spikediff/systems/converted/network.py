"""Group norm whose statistics the spiking steps share.

The converted network: a `UNet2DModel` whose activations are layers of neurons.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from diffusers.configuration_utils import register_to_config
from diffusers.models.attention_processor import Attention
from diffusers.models.unets.unet_2d import UNet2DModel, UNet2DOutput
from torch import Tensor, nn

from spikediff.diffusion.model import SpikingModel
from spikediff.diffusion.offloading import with_all_weights
from spikediff.errors import UserError, suggestion
from spikediff.layers import fold_time, unfold_time
from spikediff.layers.coding import direct
from spikediff.systems.converted.quantised import (
    ConvertedIF,
    SpikingSynapse,
    TimeMeanAttention,
    check_sample,
    register_image_shape,
)
from spikediff.systems.converted.replace_modules import (
    bare_unet,
    pair_activations,
    replace_modules,
    unet_of,
    without_folded_norms,
)


class SharedGroupNorm(nn.Module):
    r"""Group norm by the statistics of the window's mean, the same at every spiking step.

    $y[n] = \gamma\,(x[n] - \mu(\bar x)) / \sqrt{\sigma^2(\bar x) + \epsilon} + \beta$ with
    $\bar x = \frac{1}{T}\sum_n x[n]$. It is linear in the window, so that
    $\overline{y} = GN(\bar x)$: the norm of the network that was converted, exactly. A norm of its
    own at every step divides by the step's deviation, which the spikes' variation inflates; the
    error that this leaves does not vanish however many steps there are.

    It must know the whole window before its first step, and its statistics depend on the image: no
    neuromorphic chip runs it as accumulates.

    Args:
        groups: Number of groups.
        channels: Number of channels.
        eps: Added to the variance.
        spiking_steps: T.

    Shape: [T*B, C, H, W] -> [T*B, C, H, W].

    Example:
        >>> norm, x = SharedGroupNorm(2, 4, 1e-5, spiking_steps=3), torch.randn(3 * 5, 4, 2, 2)
        >>> mean = nn.functional.group_norm(x.unflatten(0, (3, 5)).mean(0), 2)
        >>> torch.allclose(norm(x).unflatten(0, (3, 5)).mean(0), mean, atol=1e-6)
        True
    """

    def __init__(self, groups: int, channels: int, eps: float, spiking_steps: int) -> None:
        super().__init__()
        self.groups, self.eps, self.spiking_steps = groups, eps, spiking_steps
        self.weight = nn.Parameter(torch.ones(channels))
        self.bias = nn.Parameter(torch.zeros(channels))

    @classmethod
    def of(cls, norm: nn.GroupNorm, spiking_steps: int) -> SharedGroupNorm:
        """Return one in the place of a group norm, with the same parameters."""
        shared = cls(norm.num_groups, norm.num_channels, norm.eps, spiking_steps)
        shared.weight, shared.bias = norm.weight, norm.bias
        return shared

    def forward(self, x: Tensor) -> Tensor:
        """Return y."""
        window = unfold_time(x, self.spiking_steps)  # [T, B, C, H, W]
        groups = window.mean(0).reshape(window.shape[1], self.groups, -1)  # [B, G, C/G*H*W]
        variance, mean = torch.var_mean(groups, dim=2, correction=0)  # [B, G]
        mean, variance = (
            statistic.repeat_interleave(len(self.weight) // self.groups, dim=1)[..., None, None]
            for statistic in (mean, variance)
        )  # [B, C, 1, 1]
        gain = self.weight[:, None, None] * torch.rsqrt(variance + self.eps)
        return fold_time((window - mean) * gain + self.bias[:, None, None])


SPIKES = {"signed": True, "unsigned": False}
NORMS = ("shared", "per_step")


class ConvertedUNet(SpikingModel):
    """A spiking network with the weights of a `QuantisedUNet`.

    The image enters as the same current at every spiking step, the residual stream is real-valued,
    spikes alone enter the convolutions of the residual blocks, and the estimate is the mean of the
    last convolution over the window. Its weights have the names that they have in `QuantisedUNet`.

    Args:
        architecture: Configuration of the `UNet2DModel` that it was.
        spiking_steps: T; `2^b - 1` gives neurons the levels of a b-bit activation.
        spikes: "signed", or "unsigned" for neurons that cannot take a spike back.
        norm: "shared", group norm by the statistics of the window's mean; or "per_step", by those
            of every step, as the authors have it, which leaves an error at any T.
        batch_norm: Whether batch norm stood in the place of group norm. It is the same at every
            step; where a convolution came before it, it is folded into that.
        attention: "refuse", or "real" to keep attention, on the window's mean.
        sample_size: Read off `architecture`, as the two below: what a pipeline asks a denoiser for.
        in_channels: Channels of the image.
        out_channels: Channels of the estimate.

    Raises:
        UserError: An option is unknown, or the network has a part that cannot be converted.

    Example:
        >>> from spikediff.systems.ddpm.network import ddpm_unet
        >>> unet = ddpm_unet(8, 1, base_channels=8, channel_mult=(1, 2))
        >>> model = ConvertedUNet({k: v for k, v in unet.config.items() if k[0] != "_"})
        >>> model(torch.randn(2, 1, 8, 8), timestep=10).sample.shape
        torch.Size([2, 1, 8, 8])

    Reference: Cao et al., SDM, IEEE TAI 2025, section 6.
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
    ) -> None:
        super().__init__()
        _check(spiking_steps, spikes, norm)
        steps = spiking_steps
        self.unet = bare_unet(architecture, batch_norm, attention)
        if batch_norm:
            without_folded_norms(self.unet)
        replace_modules(self.unet, Attention, lambda a: TimeMeanAttention(a, steps))
        if norm == "shared":
            _share_statistics(self.unet, steps)
        pair_activations(
            self.unet,
            lambda layer, _dropout: SpikingSynapse(ConvertedIF(SPIKES[spikes]), layer, steps),
        )
        register_image_shape(self)

    @with_all_weights
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
        steps = self.config.spiking_steps
        window = fold_time(direct(sample, steps))  # [T*B, C, H, W]
        timestep = torch.as_tensor(timestep, device=sample.device).reshape(-1)
        timestep = timestep.expand(len(sample)).repeat(steps)  # [T*B]
        labels = None if class_labels is None else class_labels.repeat(steps)
        currents = self.unet(window, timestep, labels, return_dict=False)[0]
        estimate = unfold_time(currents, steps).mean(0)  # [T, B, C, H, W] -> [B, C, H, W]
        return UNet2DOutput(sample=estimate) if return_dict else (estimate,)

    def ann_counterpart(self) -> UNet2DModel:
        """Return the network that it was, untrained."""
        counterpart: UNet2DModel = unet_of(self.config.architecture)
        return counterpart


def _share_statistics(unet: nn.Module, spiking_steps: int) -> None:
    """Replace the group norms, but for those of attention, which sees the mean alone."""

    def share(module: nn.Module) -> nn.Module:
        if isinstance(module, nn.GroupNorm):
            return SharedGroupNorm.of(module, spiking_steps)
        return module

    replace_modules(unet, (TimeMeanAttention, nn.GroupNorm), share)


def _check(spiking_steps: int, spikes: str, norm: str) -> None:
    if spiking_steps < 1:
        raise UserError(f"ConvertedUNet: spiking_steps = {spiking_steps} must be at least 1")
    if spikes not in SPIKES:
        raise UserError(f"ConvertedUNet: unknown spikes {spikes!r}; {suggestion(spikes, SPIKES)}")
    if norm not in NORMS:
        raise UserError(f"ConvertedUNet: unknown norm {norm!r}; {suggestion(norm, NORMS)}")

"""The ordinary baseline of spiking networks: the U-Net of DDPM.

It is diffusers' `UNet2DModel` in the configuration of the published baseline, with group norm and
Swish instead of batch norm and neurons.

Reference: Ho et al., "Denoising diffusion probabilistic models", NeurIPS 2020; Cao et al., "Spiking
denoising diffusion probabilistic models", WACV 2024, table 3 (its baseline).
"""

from collections.abc import Sequence
from math import gcd
from typing import Any

from diffusers.models.unets.unet_2d import UNet2DModel

from spikediff.errors import UserError
from spikediff.layers.sizes import check_classes, check_positive, check_sizes


def ddpm_unet(
    sample_size: int | Sequence[int] = 32,
    in_channels: int = 3,
    out_channels: int | None = None,
    base_channels: int = 128,
    channel_mult: Sequence[int] = (1, 2, 2, 4),
    layers_per_block: int = 2,
    dropout: float = 0.0,
    attention: bool = False,
    num_classes: int = 0,
) -> UNet2DModel:
    """Make the baseline: 66,423,043 parameters and 6.333 GMAC per step by default.

    Args:
        sample_size: Height and width of the images, a number or a pair.
        in_channels: Channels of the image.
        out_channels: Channels of the estimate; as many as `in_channels` by default.
        base_channels: Width of the first level.
        channel_mult: Width of every level, in multiples of `base_channels`.
        layers_per_block: Residual blocks per level (one more on the way up).
        dropout: Probability of dropout in the residual blocks.
        attention: Whether the middle block has self-attention, with one head: 67,474,691
            parameters, 6.350 GMAC. The paper says that its baseline has no attention, but its
            figures are those of a network with attention.
        num_classes: K classes; the last of the network's K + 1 embeddings means no class. 0 for a
            network without classes.

    Example:
        >>> ddpm_unet(8, 1, base_channels=8, channel_mult=(1, 2)).config.norm_num_groups
        8
    """
    check_sizes("UNet2DModel", sample_size, base_channels, channel_mult, layers_per_block, dropout)
    check_positive("UNet2DModel", in_channels=in_channels, out_channels=out_channels or in_channels)
    check_classes("UNet2DModel", num_classes)
    widths = tuple(base_channels * m for m in channel_mult)
    return UNet2DModel(
        sample_size=sample_size,
        in_channels=in_channels,
        out_channels=out_channels or in_channels,
        layers_per_block=layers_per_block,
        block_out_channels=widths,
        down_block_types=("DownBlock2D",) * len(widths),
        up_block_types=("UpBlock2D",) * len(widths),
        norm_num_groups=gcd(32, *widths),
        dropout=dropout,
        add_attention=attention,
        attention_head_dim=widths[-1],
        num_class_embeds=num_classes + 1 if num_classes else None,
    )


def ddpm_unet_like(config: Any) -> UNet2DModel:
    """Return the baseline with the widths, depths and images of a spiking U-Net.

    Patches of pixels are channels of its images.

    Args:
        config: Configuration of the `SpikingUNet` or `SynapticCurrentUNet`.
    """
    if config.get("dimensions", 2) != 2:
        raise UserError("a network of signals has no ordinary counterpart to compare with")
    patch, size = config.get("patch_size", 1), config.sample_size
    return ddpm_unet(
        size // patch if isinstance(size, int) else [side // patch for side in size],
        patch**2 * config.in_channels,
        patch**2 * (config.out_channels or config.in_channels),
        config.base_channels,
        config.channel_mult,
        config.layers_per_block,
        config.dropout,
    )

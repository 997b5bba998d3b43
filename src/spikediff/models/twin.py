"""The ordinary network that a spiking one is compared with."""

from typing import Any

from diffusers.models.unets.unet_2d import UNet2DModel

from spikediff.errors import UserError
from spikediff.models.converted import ConvertedUNet
from spikediff.models.ddpm_unet import ddpm_unet
from spikediff.models.spiking_unet import SpikingUNet
from spikediff.models.synaptic_current_unet import SynapticCurrentUNet


def ann_twin(model: Any, attention: bool = False) -> UNet2DModel:
    """Make an ordinary network of the same widths, depths and images, untrained.

    Args:
        model: A `SpikingUNet`; a `SynapticCurrentUNet`, whose levels are as wide as those of its
            twin behind them; or a `ConvertedUNet`, whose twin is the network that it was.
        attention: Of the first two's twin, as in `ddpm_unet`.

    Raises:
        UserError: The model is another.

    Example:
        >>> spiking = SpikingUNet(8, 1, base_channels=8, channel_mult=(1, 2))
        >>> ann_twin(spiking).config.block_out_channels
        (8, 16)
    """
    config = model.config
    if isinstance(model, ConvertedUNet):
        twin: UNet2DModel = UNet2DModel.from_config(config.architecture)
        return twin
    if not isinstance(model, SpikingUNet | SynapticCurrentUNet):
        raise UserError(f"{type(model).__name__} has no ordinary twin")
    if config.get("dimensions", 2) != 2:
        raise UserError("a network of signals has no ordinary twin; leave out the comparison")
    return ddpm_unet(
        config.sample_size,
        config.in_channels,
        config.out_channels,
        config.base_channels,
        config.channel_mult,
        config.layers_per_block,
        config.dropout,
        attention,
    )

"""Taking a `UNet2DModel` apart: every activation goes into the synapse behind it."""

from collections.abc import Callable, Mapping
from typing import Any

from diffusers.models.activations import ACT2CLS
from diffusers.models.attention_processor import Attention
from diffusers.models.embeddings import TimestepEmbedding
from diffusers.models.resnet import ResnetBlock2D
from diffusers.models.unets.unet_2d import UNet2DModel
from torch import nn

from spikediff.errors import UserError
from spikediff.layers.batch_norm import BatchNorm2d
from spikediff.models.converted.stem import unet_of

MakeSynapse = Callable[[Any, nn.Module], nn.Module]
"""From the layer behind an activation, and the dropout between them, to what replaces all three."""
ATTENTION = ("refuse", "real")


def bare_unet(config: Mapping[str, Any], batch_norm: bool, attention: str) -> UNet2DModel:
    """Make an untrained `UNet2DModel` that can be taken apart.

    Args:
        config: Its configuration, without diffusers' private entries (`unet_of`).
        batch_norm: Whether batch norm stands in the place of every group norm.
        attention: "refuse", or "real" to let attention blocks pass as they are.

    Raises:
        UserError: It has attention, and that is refused.
    """
    unet = unet_of(config)
    if attention not in ATTENTION:
        raise UserError(f"conversion: attention = {attention!r}; choose from {ATTENTION}")
    blocks = [name for name, m in unet.named_modules() if isinstance(m, Attention)]
    if blocks and attention == "refuse":
        raise UserError(
            f"conversion: attention multiplies real numbers and has no spiking counterpart here "
            f"({', '.join(blocks)}); pass attention='real' to keep it, or train without it"
        )
    if batch_norm:
        replace_modules(unet, nn.GroupNorm, lambda norm: BatchNorm2d(norm.num_channels))
    return unet


def own_config(unet: UNet2DModel) -> dict[str, Any]:
    """Return a U-Net's configuration without the entries that diffusers keeps for itself."""
    return {key: value for key, value in unet.config.items() if not key.startswith("_")}


def replace_modules(
    root: nn.Module,
    kinds: type[nn.Module] | tuple[type[nn.Module], ...],
    make: Callable[[Any], nn.Module],
) -> None:
    """Replace every module of some kinds by what `make` makes of it; nothing inside one is."""
    for name, child in list(root.named_children()):
        if isinstance(child, kinds):
            setattr(root, name, make(child))
        else:
            replace_modules(child, kinds, make)


def pair_activations(unet: UNet2DModel, synapse: MakeSynapse) -> None:
    """Replace every activation and the layer behind it by a synapse, in place.

    diffusers' residual block uses one activation module in three places; afterwards each place has
    its own.

    Args:
        unet: The network.
        synapse: Makes a synapse.

    Raises:
        UserError: The network has an activation in another place.
    """
    for name, module in list(unet.named_modules()):
        if isinstance(module, ResnetBlock2D):
            _pair_residual_block(module, synapse, name)
        elif isinstance(module, TimestepEmbedding):
            module.linear_2 = synapse(module.linear_2, nn.Identity())
            module.act = nn.Identity()
    unet.conv_out = synapse(unet.conv_out, nn.Identity())
    unet.conv_act = nn.Identity()
    kinds = tuple({nn.Sigmoid, nn.Tanh, *ACT2CLS.values()})
    left = [name for name, module in unet.named_modules() if isinstance(module, kinds)]
    if left:
        raise UserError(
            f"conversion: the activation {left[0]} stands in a kind of block that has no spiking "
            f"counterpart here; use DownBlock2D and UpBlock2D, with or without attention"
        )


def _pair_residual_block(block: ResnetBlock2D, synapse: MakeSynapse, name: str) -> None:
    if block.upsample is not None or block.downsample is not None:
        raise UserError(
            f"conversion: {name} resamples inside a residual block, between an activation and its "
            f"weights; use downsample_type='conv' and upsample_type='conv'"
        )
    block.conv1 = synapse(block.conv1, nn.Identity())
    block.conv2 = synapse(block.conv2, block.dropout)
    if block.time_emb_proj is not None and not block.skip_time_act:
        block.time_emb_proj = synapse(block.time_emb_proj, nn.Identity())
    block.nonlinearity = block.dropout = nn.Identity()

"""A `UNet2DModel` whose first convolution is narrower or wider than its first level.

The authors' network has its first level `channel_mult[0]` times as wide as the first convolution,
and embeds the timestep in the width of that; diffusers has one width for both.
"""

from collections.abc import Mapping
from typing import Any

from diffusers.models.embeddings import TimestepEmbedding
from diffusers.models.resnet import ResnetBlock2D
from diffusers.models.unets.unet_2d import UNet2DModel
from torch import nn

from spikediff.errors import UserError

STEM = "stem_channels"  # the key of an architecture, beside those of `UNet2DModel`


def unet_of(architecture: Mapping[str, Any]) -> UNet2DModel:
    """Make an untrained `UNet2DModel`, with a first convolution of another width if told.

    Args:
        architecture: Its configuration, without diffusers' private entries; `stem_channels` is the
            width of the first convolution where it is not that of the first level.

    Raises:
        UserError: The width of the first convolution is told, and the timestep is not embedded by
            a learned table.
    """
    config = dict(architecture)
    stem = config.pop(STEM, None)
    unet: UNet2DModel = UNet2DModel.from_config(config)
    if stem is not None and stem != unet.config.block_out_channels[0]:
        _set_stem(unet, stem)
    return unet


def _set_stem(unet: UNet2DModel, stem: int) -> None:
    """Give the first convolution, its skip and the timestep's embedding another width, in place."""
    if not isinstance(unet.time_proj, nn.Embedding):
        raise UserError(f"{STEM} = {stem}: goes with time_embedding_type='learned' only")
    rows, embedding = unet.time_proj.num_embeddings, 4 * stem
    unet.conv_in = nn.Conv2d(unet.config.in_channels, stem, kernel_size=3, padding=1)
    unet.time_proj = nn.Embedding(rows, stem)
    unet.time_embedding = TimestepEmbedding(stem, embedding)
    first, last = unet.down_blocks[0].resnets, unet.up_blocks[-1].resnets
    level = unet.config.block_out_channels[0]
    first[0] = _block(first[0], stem, embedding)
    last[-1] = _block(last[-1], level + stem, embedding)  # the skip of the first convolution
    for block in unet.modules():
        if isinstance(block, ResnetBlock2D) and block.time_emb_proj.in_features != embedding:
            block.time_emb_proj = nn.Linear(embedding, block.time_emb_proj.out_features)


def _block(like: ResnetBlock2D, in_channels: int, embedding: int) -> ResnetBlock2D:
    """Return a residual block of another input."""
    return ResnetBlock2D(
        in_channels=in_channels,
        out_channels=like.out_channels,
        temb_channels=embedding,
        groups=like.norm1.num_groups,
        eps=like.norm1.eps,
        dropout=like.dropout.p,
        output_scale_factor=like.output_scale_factor,
    )

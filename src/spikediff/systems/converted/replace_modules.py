"""Restructure a `UNet2DModel`: every activation moves into the synapse after it.

The first convolution may have another width than the first level: in the authors' network the
level is `channel_mult[0]` times as wide, and the timestep is embedded in the width of the
convolution. diffusers has one width for both.
"""

from collections.abc import Callable, Mapping
from typing import Any

from diffusers.models.activations import ACT2CLS
from diffusers.models.attention_processor import Attention
from diffusers.models.embeddings import TimestepEmbedding
from diffusers.models.resnet import ResnetBlock2D
from diffusers.models.unets.unet_2d import UNet2DModel
from torch import nn

from spikediff.errors import UserError, check_known
from spikediff.layers.norm import BatchNorm2d, norm_affine, scale_outputs


def fold_residual_norms(unet: nn.Module) -> None:
    """Fold the second norm of every residual block, in place; the first has no layer before it."""
    for block in _residual_blocks(unet):
        gain, offset = norm_affine(block.norm2)
        scale_outputs(block.conv1.layer, gain, offset)
        if block.time_emb_proj is not None and block.time_embedding_norm == "default":
            scale_outputs(block.time_emb_proj.layer, gain)  # added before the norm
    without_folded_norms(unet)


def without_folded_norms(unet: nn.Module) -> None:
    """Remove the norms that `fold_residual_norms` folds."""
    for block in _residual_blocks(unet):
        block.norm2 = nn.Identity()


def _residual_blocks(unet: nn.Module) -> list[ResnetBlock2D]:
    return [module for module in unet.modules() if isinstance(module, ResnetBlock2D)]


STEM = "stem_channels"  # the key of an architecture, beside those of `UNet2DModel`


def unet_of(architecture: Mapping[str, Any]) -> UNet2DModel:
    """Make an untrained `UNet2DModel` from a configuration without diffusers' private entries.

    `stem_channels` is the width of the first convolution if it differs from the first level's;
    it needs a learned table of timesteps.
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
    return ResnetBlock2D(
        in_channels=in_channels,
        out_channels=like.out_channels,
        temb_channels=embedding,
        groups=like.norm1.num_groups,
        eps=like.norm1.eps,
        dropout=like.dropout.p,
        output_scale_factor=like.output_scale_factor,
    )


MakeSynapse = Callable[[Any, nn.Module], nn.Module]
"""Maps the layer after an activation, and the dropout between them, to their replacement."""
ATTENTION = ("refuse", "real")


def bare_unet(config: Mapping[str, Any], batch_norm: bool, attention: str) -> UNet2DModel:
    """Make an untrained `UNet2DModel` (`unet_of`) that can be restructured.

    With `batch_norm`, batch norm replaces every group norm. `attention` is "refuse", or "real" to
    keep attention blocks unchanged.
    """
    unet = unet_of(config)
    check_known("attention", attention, ATTENTION, "conversion: ")
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
    """Return a U-Net's configuration without diffusers' private entries."""
    return {key: value for key, value in unet.config.items() if not key.startswith("_")}


def replace_modules(
    root: nn.Module,
    kinds: type[nn.Module] | tuple[type[nn.Module], ...],
    make: Callable[[Any], nn.Module],
) -> None:
    """Replace every module of some kinds by `make(module)`, but no modules inside them."""
    for name, child in list(root.named_children()):
        if isinstance(child, kinds):
            setattr(root, name, make(child))
        else:
            replace_modules(child, kinds, make)


def pair_activations(unet: UNet2DModel, synapse: MakeSynapse) -> None:
    """Replace every activation and the layer after it by a synapse, in place.

    diffusers' residual block uses one activation module in three places; afterwards each place has
    its own.
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

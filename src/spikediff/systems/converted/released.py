"""The authors' ANN-to-SNN checkpoints of SDM: the quantised and the converted network.

Both contain the same tensors, those of DDPM's U-Net, as in diffusers' `UNet2DModel`. Their
timestep table is stored, so it is loaded as a learned embedding instead of being computed.
"""

import re
from typing import Any

from torch import Tensor

from spikediff.errors import UserError
from spikediff.files.weights import load_renamed, rename
from spikediff.systems.converted.network import ConvertedUNet, QuantisedUNet
from spikediff.systems.converted.replace_modules import STEM, own_config
from spikediff.systems.ddpm.network import ddpm_unet
from spikediff.systems.sddpm.released import infer_sddpm_config

_GROUPS = 32  # of every group norm; the weights do not tell

# Our name in the U-Net -> theirs, the first pattern that matches wins.
_RENAME = [
    (r"time_proj\.(.*)", r"time_embedding.timembedding.0.\1"),
    (r"time_embedding\.linear_1\.(.*)", r"time_embedding.timembedding.1.\1"),
    (r"time_embedding\.linear_2\.activation\.clip", r"time_embedding.timembedding.2.act_alpha"),
    (r"time_embedding\.linear_2\.layer\.(.*)", r"time_embedding.timembedding.3.\1"),
    (r"conv_in\.(.*)", r"head.\1"),
    (r"conv_norm_out\.(.*)", r"tail.0.\1"),
    (r"conv_out\.activation\.clip", r"tail.1.act_alpha"),
    (r"conv_out\.layer\.(.*)", r"tail.2.\1"),
]
# Likewise within a residual block or resampling.
_RENAME_IN_BLOCK = [
    (r"norm([12])\.(.*)", r"block\1.0.\2"),
    (r"conv([12])\.activation\.clip", r"block\1.1.act_alpha"),
    (r"conv1\.layer\.(.*)", r"block1.2.\1"),
    (r"conv2\.layer\.(.*)", r"block2.3.\1"),
    (r"time_emb_proj\.activation\.clip", r"temb_proj.0.act_alpha"),
    (r"time_emb_proj\.layer\.(.*)", r"temb_proj.1.\1"),
    (r"conv_shortcut\.(.*)", r"shortcut.\1"),
    (r"conv\.(.*)", r"main.\1"),
]
_PLACE = re.compile(
    r"(?:(down|up)_blocks\.(\d+)|(mid)_block)\.(resnets|downsamplers|upsamplers)\.(\d+)\.(.*)"
)


def sdm_converted_key(key: str, layers_per_block: int) -> str:
    """Return the authors' name, in the quantised network, of one of our parameters.

    They number blocks consecutively, so the name depends on the residual blocks per level.
    """
    key = key.removeprefix("unet.")
    place = _PLACE.fullmatch(key)
    if place is None:
        return rename(key, _RENAME)
    way, level, _middle, kind, index, rest = place.groups()
    name = rename(rest, _RENAME_IN_BLOCK)
    if way is None:
        return f"middleblocks.{index}.{name}"
    blocks = layers_per_block + (way == "up")  # residual blocks of a level; a resampling follows
    number = int(level) * (blocks + 1) + (int(index) if kind == "resnets" else blocks)
    return f"{way}blocks.{number}.{name}"


def load_sdm_converted(
    state: dict[str, Tensor], spiking_steps: int, sample_size: int
) -> ConvertedUNet:
    """Build the spiking network with the authors' arithmetic: signed spikes, norms at every step.

    The state dict is that of the quantised or of the converted network.
    """
    state, architecture = _architecture(state, sample_size)
    model: ConvertedUNet = ConvertedUNet(
        architecture, spiking_steps, spikes="signed", norm="per_step"
    )
    _fill(model, state, architecture)
    return model


def load_sdm_quantised(
    state: dict[str, Tensor], spiking_steps: int, sample_size: int
) -> QuantisedUNet:
    """Build the quantised network that the authors convert."""
    bits = (spiking_steps + 1).bit_length() - 1
    if spiking_steps != 2**bits - 1 or bits < 1:
        raise UserError(
            f"sdm-quantised: spiking_steps = {spiking_steps} must be 2^b - 1 for the b bits of the "
            f"network: 3 for 2 bits, 7 for 3, 15 for 4"
        )
    state, architecture = _architecture(state, sample_size)
    model: QuantisedUNet = QuantisedUNet(architecture, bits)
    _fill(model, state, architecture)
    return model


def _architecture(
    state: dict[str, Tensor], sample_size: int
) -> tuple[dict[str, Tensor], dict[str, Any]]:
    """Return the state with the quantised network's names, and the U-Net that it describes."""
    state = {key.replace(".block.", "."): tensor for key, tensor in state.items()}
    if "head.weight" not in state or "tail.1.act_alpha" not in state:
        raise UserError(
            f"not an SDM conversion state dict: keys 'head.weight' and 'tail.1.act_alpha' are "
            f"missing (it has {sorted(state)[:4]} ...)"
        )
    as_sddpm = {
        key.replace("head.", "conv.")
        .replace("tail.2.", "tail_conv.")
        .replace(".block1.2.", ".conv1."): tensor
        for key, tensor in state.items()
    }
    sizes = infer_sddpm_config(as_sddpm, "SDM conversion")
    rows = sizes.pop("num_train_timesteps")
    unet = ddpm_unet(sample_size, **sizes)
    stored_table = {
        "norm_num_groups": _GROUPS,
        "time_embedding_type": "learned",
        "num_train_timesteps": rows,
    }
    return state, own_config(unet) | stored_table | {STEM: sizes["base_channels"]}


def _fill(model: Any, state: dict[str, Tensor], architecture: dict[str, Any]) -> None:
    layers = architecture["layers_per_block"]
    load_renamed(
        model,
        state,
        "SDM conversion checkpoint",
        lambda key: sdm_converted_key(key, layers),
        lambda tensor, key: tensor.reshape(()) if key.endswith("act_alpha") else tensor,
    )

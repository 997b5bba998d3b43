"""The authors' FSDDIM checkpoints: key names, and sizes inferred from the weights."""

import re
from typing import Any

from torch import Tensor

from spikediff.errors import UserError
from spikediff.files.weights import conv3d_as_conv2d, load_renamed, rename
from spikediff.systems.fsddim.network import SynapticCurrentUNet

# Our name -> theirs, the first pattern that matches wins; levels are numbered by both alike.
_RENAME = [
    (r"time_embedding\.table", r"pe"),
    (r"time_embedding\.linear1\.(.*)", r"temb.0.\1"),
    (r"time_embedding\.linear2\.(.*)", r"temb.1.\1"),
    (r"stem\.conv\.(.*)", r"conv_in.\1"),
    (r"readout\.(.*)", r"conv_out.\1"),
    (r"(down|up)_levels\.(\d+)\.blocks\.(\d+)\.(.*)", r"\1s.\2.\3.\4"),
    (r"middle_blocks\.0\.(.*)", r"mid_block1.\1"),
    (r"middle_blocks\.1\.(.*)", r"mid_block2.\1"),
    (r"last_block\.(.*)", r"final_res_block.\1"),
]
# Likewise within a residual block.
_RENAME_IN_BLOCK = [
    (r"\.timestep_synapse\.", r".temb_proj."),
    (r"\.synapse1\.conv\.", r".conv1."),
    (r"\.synapse1\.norm\.", r".bn1."),
    (r"\.synapse2\.conv\.", r".conv2."),
    (r"\.synapse2\.norm\.", r".conv2.bn."),
    (r"\.shortcut\.conv\.", r".nin_shortcut."),
    (r"\.shortcut\.norm\.", r".nin_shortcut.bn."),
]
_RESAMPLING = re.compile(r"(down|up)_levels\.(\d+)\.resampling\.(conv|norm)\.(.*)")


def fsddim_key(key: str, state: dict[str, Tensor], layers_per_block: int) -> str:
    """Return the authors' name of one of our parameters or buffers.

    Their state dict shows which skips have a convolution, and which levels keep the image size.
    The layers after the residual blocks of a level have the level's number.
    """
    if resampling := _RESAMPLING.fullmatch(key):
        return _resampling_key(resampling, state, layers_per_block)
    key = rename(key, _RENAME)
    for ours, theirs in _RENAME_IN_BLOCK:
        key = re.sub(ours, theirs, key)
    block, is_norm, rest = key.partition(".nin_shortcut.bn.")
    if is_norm and f"{block}.nin_shortcut.bn.weight" not in state:  # the skip is the norm alone
        return f"{block}.nin_shortcut.{rest}"
    return key


def _resampling_key(name: re.Match[str], state: dict[str, Tensor], layers_per_block: int) -> str:
    way, level, part, rest = name.groups()
    place = f"{way}s.{level}.{layers_per_block}"
    if f"{place}.bn.weight" in state:  # the level that keeps the image size, and fires
        return f"{place}.{rest}" if part == "conv" else f"{place}.bn.{rest}"
    return f"{place}.conv.1.{rest}" if way == "down" else f"{place}.conv.{rest}"


def infer_fsddim_config(state: dict[str, Tensor]) -> dict[str, Any]:
    """Return the arguments of `SynapticCurrentUNet` implied by the authors' weights."""
    try:
        base, in_channels = state["conv_in.weight"].shape[:2]
        out_channels = state["conv_out.weight"].shape[0]
        rows = state["pe"].shape[0]
    except KeyError as error:
        raise UserError(
            f"not an FSDDIM state dict: key {error} is missing (it has {sorted(state)[:4]} ...)"
        ) from error
    blocks = [len(_numbers(state, rf"ups\.{i}\.(\d+)\.conv1\.weight")) for i in _levels(state)]
    if not blocks or not all(blocks) or len(set(blocks)) > 1:
        raise UserError(f"not an FSDDIM state dict: residual blocks per level are {blocks}")
    behind = [state[f"ups.{i}.0.conv1.weight"].shape[0] for i in _levels(state)]  # the last first
    return {
        "in_channels": in_channels,
        "out_channels": out_channels,
        "base_channels": base,
        "channel_mult": [width // base for width in reversed(behind)],
        "layers_per_block": blocks[0],
        "num_train_timesteps": rows,
    }


def _levels(state: dict[str, Tensor]) -> list[int]:
    return _numbers(state, r"ups\.(\d+)\.0\.conv1\.weight")


def _numbers(state: dict[str, Tensor], pattern: str) -> list[int]:
    matches = (re.fullmatch(pattern, key) for key in state)
    return sorted(int(match[1]) for match in matches if match)


def load_fsddim(
    state: dict[str, Tensor], spiking_steps: int, sample_size: int, residual_alpha: float = 1.0
) -> SynapticCurrentUNet:
    """Build the model that an FSDDIM state dict describes.

    `residual_alpha`, the gain of the residual norms, cannot be inferred from the weights: 1.0 is
    the value in effect in the released trainer (it replaces every tdBN by a plain batch norm),
    `2 ** -0.5` is the genuine tdBN.
    """
    config = infer_fsddim_config(state)
    model: SynapticCurrentUNet = SynapticCurrentUNet(
        sample_size=sample_size,
        spiking_steps=spiking_steps,
        residual_alpha=residual_alpha,
        **config,
    )
    load_renamed(
        model,
        state,
        "FSDDIM checkpoint",
        lambda key: fsddim_key(key, state, config["layers_per_block"]),
        conv3d_as_conv2d,
    )
    return model

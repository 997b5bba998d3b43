"""The authors' SDDPM checkpoints: key names, and sizes inferred from the weights."""

from typing import Any

from torch import Tensor

from spikediff.errors import UserError
from spikediff.files.weights import conv3d_as_conv2d, load_renamed, rename
from spikediff.systems.sddpm.network import SpikingUNet

# Our name -> theirs, the first pattern that matches wins.
_RENAME = [
    (r"time_embedding\.table", r"time_embedding.timembedding.0.weight"),
    (r"time_embedding\.linear1\.(.*)", r"time_embedding.timembedding.1.\1"),
    (r"time_embedding\.linear2\.(.*)", r"time_embedding.timembedding.3.\1"),
    (r"stem\.encode\.conv\.(.*)", r"conv.\1"),
    (r"stem\.encode\.norm\.(.*)", r"bn.\1"),
    (r"stem\.synapse\.conv\.(.*)", r"conv_identity.\1"),
    (r"stem\.synapse\.norm\.(.*)", r"bn_identity.\1"),
    (r"(down|middle|up)_blocks\.(\d+)\.synapse(\d?)\.conv\.(.*)", r"\1blocks.\2.conv\3.\4"),
    (r"(down|middle|up)_blocks\.(\d+)\.synapse(\d?)\.norm\.(.*)", r"\1blocks.\2.bn\3.\4"),
    (r"(down|middle|up)_blocks\.(\d+)\.timestep_bias\.linear\.(.*)", r"\1blocks.\2.temb_proj.1.\3"),
    (r"(down|middle|up)_blocks\.(\d+)\.shortcut\.conv\.(.*)", r"\1blocks.\2.shortcut.\3"),
    (r"head\.norm\.(.*)", r"tail_bn.\1"),
    (r"head\.conv\.(.*)", r"tail_conv.\1"),
    (r"head\.refine\.conv\.(.*)", r"T_output_layer.\1"),
    (r"head\.refine\.norm\.(.*)", r"last_bn.\1"),
]


def sddpm_key(key: str) -> str:
    """Return the authors' name of one of our parameters or buffers."""
    return rename(key, _RENAME)


def infer_sddpm_config(state: dict[str, Tensor], system: str = "SDDPM") -> dict[str, Any]:
    """Return the arguments of `SpikingUNet` implied by the authors' weights."""
    try:
        base, in_channels = state["conv.weight"].shape[:2]
        out_channels = state["tail_conv.weight"].shape[0]
        rows = state["time_embedding.timembedding.0.weight"].shape[0]
    except KeyError as error:
        raise UserError(
            f"not an {system} state dict: key {error} is missing (it has {sorted(state)[:4]} ...)"
        ) from error
    levels: list[list[int]] = [[]]  # the widths of the residual blocks of every level
    index = 0
    while any(key.startswith(f"downblocks.{index}.") for key in state):
        block = state.get(f"downblocks.{index}.conv1.weight")
        if block is None:
            levels.append([])
        else:
            levels[-1].append(block.shape[0])
        index += 1
    if not all(levels) or len({len(widths) for widths in levels}) > 1:
        raise UserError(f"not an {system} state dict: residual blocks per level are {levels}")
    return {
        "in_channels": in_channels,
        "out_channels": out_channels,
        "base_channels": base,
        "channel_mult": [widths[0] // base for widths in levels],
        "layers_per_block": len(levels[0]),
        "num_train_timesteps": rows,
    }


def load_sddpm(state: dict[str, Tensor], spiking_steps: int, sample_size: int) -> SpikingUNet:
    """Build the model that an SDDPM state dict describes."""
    config = infer_sddpm_config(state)
    model: SpikingUNet = SpikingUNet(sample_size=sample_size, spiking_steps=spiking_steps, **config)
    load_renamed(model, state, "SDDPM checkpoint", sddpm_key, conv3d_as_conv2d)
    return model

"""The authors' SDM checkpoints: SDDPM's with a factor beside every convolution (TSM)."""

from torch import Tensor

from spikediff.errors import UserError
from spikediff.files.weights import conv3d_as_conv2d, load_renamed
from spikediff.systems.sddpm.network import SpikingUNet
from spikediff.systems.sddpm.released import infer_sddpm_config, sddpm_key


def sdm_key(key: str) -> str:
    """Return the authors' name of one of our parameters or buffers."""
    convolution, scaled, _ = key.rpartition(".scaling.p")
    if scaled:
        return sddpm_key(f"{convolution}.conv.weight").removesuffix("weight") + "tsmp"
    theirs = sddpm_key(key)
    if ".conv." not in key or key.startswith("head.refine."):  # their Conv3d, which TSM spares
        return theirs
    layer, _, kind = theirs.rpartition(".")
    return f"{layer}.tsmconv.{kind}"


def load_sdm(state: dict[str, Tensor], spiking_steps: int, sample_size: int) -> SpikingUNet:
    """Build the model that an SDM state dict describes; T comes from the weights."""
    if "conv.tsmp" not in state:
        raise UserError(
            "not an SDM state dict: it has no TSM factors (key 'conv.tsmp'); of a network without "
            "them, use system 'sddpm'"
        )
    plain = {key.replace(".tsmconv.", "."): tensor for key, tensor in state.items()}
    config = infer_sddpm_config(plain, "SDM")
    spiking_steps = len(state["conv.tsmp"])
    model: SpikingUNet = SpikingUNet(
        sample_size=sample_size, spiking_steps=spiking_steps, temporal_scaling=True, **config
    )
    load_renamed(model, state, "SDM checkpoint", sdm_key, conv3d_as_conv2d)
    return model

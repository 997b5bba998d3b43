"""Looking into a network: which blocks it has in the order of running, and what reaches one."""

from typing import Any

import torch
from diffusers.models.downsampling import Downsample2D
from diffusers.models.embeddings import TimestepEmbedding
from diffusers.models.resnet import ResnetBlock2D
from diffusers.models.upsampling import Upsample2D
from torch import Tensor, nn

from spikediff.models.converted import (
    ConvertedUNet,
    QuantisedSynapse,
    QuantisedUNet,
    SpikingSynapse,
    TimeMeanAttention,
)

_BLOCKS = (TimestepEmbedding, ResnetBlock2D, TimeMeanAttention, Downsample2D, Upsample2D)
_SYNAPSES = (QuantisedSynapse, SpikingSynapse)


def block_names(
    model: QuantisedUNet | ConvertedUNet, sample: Tensor, timestep: Tensor
) -> list[str]:
    """Return what is fine-tuned at once, in the order of running; the last convolution is not.

    The timestep embedding, the first convolution, then every residual block, attention block and
    resampling: down, middle, up. The order is that of a run, because diffusers registers modules in
    another one.
    """
    blocks = _blocks(model)
    return [name for name in outputs(model, sample, timestep) if name in blocks]


def _blocks(model: QuantisedUNet | ConvertedUNet) -> dict[str, nn.Module]:
    return {
        name: module
        for name, module in model.unet.named_modules()
        if isinstance(module, _BLOCKS) or name == "conv_in"
    }


class _ReachedError(Exception):
    """Ends a forward pass at the block that was asked for."""


def run_to(
    model: QuantisedUNet | ConvertedUNet, name: str, sample: Tensor, timestep: Tensor
) -> tuple[tuple[Any, ...], Tensor]:
    """Run a network up to a block; return what the block was given, and its output."""
    seen: list[Any] = []

    def stop(_module: nn.Module, inputs: tuple[Any, ...], out: Tensor) -> None:
        seen.extend((inputs, out))
        raise _ReachedError

    hook = model.unet.get_submodule(name).register_forward_hook(stop)
    try:
        model(sample, timestep)
    except _ReachedError:
        pass
    finally:
        hook.remove()
    inputs, out = seen
    return inputs, out


@torch.no_grad()
def outputs(
    model: QuantisedUNet | ConvertedUNet, sample: Tensor, timestep: Tensor
) -> dict[str, Tensor]:
    """Return the outputs of every block and synapse in the order of running, by name.

    Those of a spiking network are averages over the window, [B, ...] as the others.
    """
    found: dict[str, Tensor] = {}
    hooks = []
    chosen = {n: m for n, m in model.unet.named_modules() if isinstance(m, _SYNAPSES)}
    for name, module in (chosen | _blocks(model)).items():

        def keep(_module: nn.Module, _inputs: Any, out: Tensor, name: str = name) -> None:
            found[name] = time_mean(out, len(sample))

        hooks.append(module.register_forward_hook(keep))
    try:
        model(sample, timestep)
    finally:
        for hook in hooks:
            hook.remove()
    return found


def time_mean(x: Tensor, batch: int) -> Tensor:
    """Return [T*B, ...] as its mean over the window [B, ...]; [B, ...] as it is."""
    return x.reshape(-1, batch, *x.shape[1:]).mean(0)

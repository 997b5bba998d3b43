"""The error of conversion in every layer and block of a spiking network."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers.models.downsampling import Downsample2D
from diffusers.models.embeddings import TimestepEmbedding
from diffusers.models.resnet import ResnetBlock2D
from diffusers.models.upsampling import Upsample2D
from torch import Tensor, nn

from spikediff.systems.converted.layers import QuantisedSynapse, SpikingSynapse, TimeMeanAttention
from spikediff.systems.converted.network import ConvertedUNet, QuantisedUNet

_BLOCKS = (TimestepEmbedding, ResnetBlock2D, TimeMeanAttention, Downsample2D, Upsample2D)
_SYNAPSES = (QuantisedSynapse, SpikingSynapse)


def block_names(
    model: QuantisedUNet | ConvertedUNet, sample: Tensor, timestep: Tensor
) -> list[str]:
    """Return the blocks to fine-tune in the order of execution, without the last convolution.

    They are the timestep embedding, the first convolution, then every residual block, attention
    block and resampling. diffusers registers modules in another order.
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
    """Ends a forward pass at the requested block."""


def run_to(
    model: QuantisedUNet | ConvertedUNet, name: str, sample: Tensor, timestep: Tensor
) -> tuple[tuple[Any, ...], Tensor]:
    """Run a network up to a block; return the block's inputs and output."""
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
    """Return the outputs of every block and synapse in the order of execution, by name.

    Those of a spiking network are averages over the window, so all are [B, ...].
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
    """Return the mean of [T*B, ...] over the window, [B, ...]; leave [B, ...] unchanged."""
    return x.reshape(-1, batch, *x.shape[1:]).mean(0)


@dataclass(frozen=True)
class LayerError:
    r"""The error of a layer or block.

    Attributes:
        layer: Its name in the U-Net.
        error: $\|\bar o_{SNN} - o_{ANN}\| / \|o_{ANN}\|$, of the time-averaged output.
    """

    layer: str
    error: float


def probe(
    converted: ConvertedUNet, quantised: QuantisedUNet, sample: Tensor, timestep: Tensor
) -> list[LayerError]:
    """Compare a spiking network with its quantised source, layer by layer.

    Errors accumulate: a layer's error includes those of the layers before it. The input is noisy
    images x_t [B, C, H, W] and their timesteps [B].

    Returns:
        One entry for every synapse and block in the order of execution; the last, `conv_out`, is
        the estimate itself.
    """
    spiking = outputs(converted, sample, timestep)
    ordinary = outputs(quantised, sample, timestep)
    return [LayerError(name, relative_error(spiking[name], o)) for name, o in ordinary.items()]


def relative_error(value: Tensor, reference: Tensor) -> float:
    """Return the L2 norm of the difference over that of the reference."""
    return float((value - reference).norm() / reference.norm().clamp(min=1e-12))


def plot_conversion_errors(errors: dict[str, list[LayerError]], path: Path) -> None:
    """Plot the errors of several conversions of one network over the depth, a curve per label."""
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    names = [entry.layer for entry in next(iter(errors.values()))]
    figure = Figure(figsize=(7, max(3.0, 0.16 * len(names))), layout="constrained")
    axes = figure.add_subplot(xlabel="relative error of the time-averaged output")
    for label, entries in errors.items():
        axes.plot([entry.error for entry in entries], range(len(names)), marker=".", label=label)
    axes.set_yticks(range(len(names)), names, fontsize=6)
    axes.invert_yaxis()
    axes.set_xlim(left=0.0)
    axes.grid(alpha=0.3)
    axes.legend()
    path.parent.mkdir(parents=True, exist_ok=True)
    FigureCanvasAgg(figure).print_png(str(path))

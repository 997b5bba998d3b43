"""Looking into a network: which blocks it has in the order of running, and what reaches one.

Where conversion loses: the error of every layer of a spiking network.

Block-wise fine-tuning: every block learns to make up for what the spikes before it lost.
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from diffusers.models.downsampling import Downsample2D
from diffusers.models.embeddings import TimestepEmbedding
from diffusers.models.resnet import ResnetBlock2D
from diffusers.models.upsampling import Upsample2D
from torch import Tensor, nn
from torch.func import functional_call

from spikediff.errors import UserError
from spikediff.files.tensors import check_step
from spikediff.systems.converted.network import ConvertedUNet
from spikediff.systems.converted.quantise import NoisedImages
from spikediff.systems.converted.quantised import (
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
    """Compare a spiking network with the one that it was converted from, layer by layer.

    Errors add up along the way: a layer's holds what the layers before it contributed.

    Args:
        converted: The spiking network.
        quantised: The network that it was converted from.
        sample: Noisy images x_t [B, C, H, W].
        timestep: Diffusion timesteps t [B].

    Returns:
        One entry for every synapse and block in the order of running; the last, `conv_out`, is the
        estimate itself.
    """
    spiking = outputs(converted, sample, timestep)
    ordinary = outputs(quantised, sample, timestep)
    return [LayerError(name, relative_error(spiking[name], o)) for name, o in ordinary.items()]


def relative_error(value: Tensor, reference: Tensor) -> float:
    """Return the L2 norm of the difference over that of the reference.

    Example:
        >>> import torch
        >>> relative_error(torch.tensor([3.0, 6.5]), torch.tensor([3.0, 4.0]))
        0.5
    """
    return float((value - reference).norm() / reference.norm().clamp(min=1e-12))


def plot_conversion_errors(errors: dict[str, list[LayerError]], path: Path) -> None:
    """Draw the errors of one or several conversions, one curve each, over the depth.

    Args:
        errors: By the label of the curve; all of the same network.
        path: Where the picture goes.
    """
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


_CHECKS = 64  # x_t on which it is decided whether a block has gained
_ROUNDING = 1e-9  # below this share of its output's power a block is right up to rounding


@dataclass(frozen=True)
class BlockLoss:
    """What fine-tuning did for a block, on x_t that it did not train on.

    Attributes:
        block: Its name in the U-Net.
        before: Mean squared difference between its time-averaged output and the quantised
            network's, with the blocks before it already tuned.
        after: The same after its own tuning; equal where it gained nothing and was left alone.
    """

    block: str
    before: float
    after: float


def fine_tune(
    converted: ConvertedUNet,
    quantised: QuantisedUNet,
    noised: NoisedImages,
    steps_per_block: int,
    *,
    batch_size: int = 32,
    lr: float = 1e-4,
    train_thresholds: bool = False,
    on_step: Callable[[str, float], None] | None = None,
) -> list[BlockLoss]:
    r"""Fine-tune a converted network block by block, from the timestep embedding upwards.

    For every block: the spiking network runs up to it; the block's inputs, averaged over the
    window, go through the same block of the quantised network with the spiking network's weights;
    its output takes the value $\bar o$ of the spiking block's average and keeps its own gradient;
    Adam lowers $\|\bar o - o\|^2$ where o is what the quantised network says at that depth.
    So the spikes decide how wrong a block is, and the straight-through estimator which way to go.
    A block that has gained nothing in the end gets its weights back.

    Args:
        converted: The spiking network, changed in place.
        quantised: The network that it was converted from.
        noised: Where x_t and t come from. The authors' code passed clean images and t below
            `2^b - 1`; the paper does not ask for that.
        steps_per_block: Optimizer steps for every block; the authors take 20,000.
        batch_size: Images per step.
        lr: Learning rate; the authors' is 1e-6.
        train_thresholds: Whether thresholds learn too; the authors freeze them.
        on_step: Called with the block's name and the loss after every step.

    Returns:
        One entry for every block, in order.

    Raises:
        UserError: The two networks are of different shape, or folded batch norm tells them apart;
            or a loss or a gradient is not finite.

    Reference: Cao et al., SDM, IEEE TAI 2025, section 6.
    """
    if (
        quantised.config.batch_norm
        or converted.config.architecture != quantised.config.architecture
    ):
        raise UserError(
            "fine_tune: the quantised network must be the one that was converted, without batch "
            "norm (whose folding leaves the two with different weights)"
        )
    check, losses = noised.draw(_CHECKS), []
    for name in block_names(quantised, *check):
        before, power = _measure(converted, quantised, name, check)
        after = before
        if before > _ROUNDING * power:
            block = converted.unet.get_submodule(name)
            given = {key: tensor.clone() for key, tensor in block.state_dict().items()}
            learning = _learning(block, train_thresholds)
            optimizer = torch.optim.Adam(learning, lr=lr)
            for step in range(steps_per_block):
                loss, _target = _block_loss(converted, quantised, name, *noised.draw(batch_size))
                optimizer.zero_grad()
                loss.backward()  # type: ignore[no-untyped-call]
                norm = nn.utils.get_total_norm([p.grad for p in learning if p.grad is not None])
                told = check_step(loss, norm, step + 1, lr)
                optimizer.step()
                if on_step is not None:
                    on_step(name, told)
            after, _power = _measure(converted, quantised, name, check)
            if not after < before:
                block.load_state_dict(given)
                after = before
        losses.append(BlockLoss(name, before, after))
    converted.zero_grad(set_to_none=True)
    return losses


def _learning(block: nn.Module, train_thresholds: bool) -> list[nn.Parameter]:
    """Return what learns of a block."""
    named = block.named_parameters()
    return [p for key, p in named if train_thresholds or not key.endswith("activation.clip")]


@torch.no_grad()
def _measure(
    converted: ConvertedUNet, quantised: QuantisedUNet, name: str, drawn: tuple[Tensor, Tensor]
) -> tuple[float, float]:
    """Return a block's loss and the mean square of what it should put out."""
    loss, target = _block_loss(converted, quantised, name, *drawn)
    return loss.item(), target.square().mean().item()


def _block_loss(
    converted: ConvertedUNet, quantised: QuantisedUNet, name: str, sample: Tensor, timestep: Tensor
) -> tuple[Tensor, Tensor]:
    """Return the loss, with a gradient for the spiking network's weights, and what was wanted."""
    with torch.no_grad():
        inputs, spiking = run_to(converted, name, sample, timestep)
        _, target = run_to(quantised, name, sample, timestep)
        averaged = tuple(time_mean(x, len(sample)) for x in inputs if isinstance(x, Tensor))
        value = time_mean(spiking, len(sample))
    weights = dict(converted.unet.get_submodule(name).named_parameters())
    twin: Tensor = functional_call(quantised.unet.get_submodule(name), weights, averaged)
    return nn.functional.mse_loss(twin + (value - twin).detach(), target), target

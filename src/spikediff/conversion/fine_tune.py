"""Block-wise fine-tuning: every block learns to make up for what the spikes before it lost."""

from collections.abc import Callable
from dataclasses import dataclass

import torch
from torch import Tensor, nn
from torch.func import functional_call

from spikediff.conversion.blocks import block_names, run_to, time_mean
from spikediff.conversion.noised import NoisedImages
from spikediff.errors import UserError
from spikediff.finite import check_step
from spikediff.models.converted import ConvertedUNet, QuantisedUNet

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

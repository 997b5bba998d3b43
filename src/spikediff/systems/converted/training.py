"""Training for conversion: distillation, and block-wise fine-tuning of a spiking network."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from math import inf
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from spikediff.errors import UserError
from spikediff.files.tensors import check_step
from spikediff.systems.converted.layer_errors import block_names, run_to, time_mean
from spikediff.systems.converted.network import ConvertedUNet, QuantisedUNet


class NoisedImages:
    r"""Draws x_t and t: images with replacement, t uniform over every training timestep.

    The authors' fine-tuning drew t from {0, ..., 2^b - 2} and used clean images.

    Args:
        images: In the model's range [N, C, H, W].
        alphas_cumprod: $\bar\alpha$ of every training timestep, as a scheduler has them.
        seed: The seed of the draws.
    """

    def __init__(self, images: Tensor, alphas_cumprod: Tensor, seed: int = 0) -> None:
        if images.dim() != 4 or not len(images) or not images.is_floating_point():
            raise UserError(
                f"NoisedImages: needs floating-point images [N, C, H, W], at least one, got "
                f"{images.dtype} {tuple(images.shape)}"
            )
        self.images, self.alphas_cumprod = images, alphas_cumprod.to(images)
        self.generator = torch.Generator().manual_seed(seed)

    def draw(self, count: int) -> tuple[Tensor, Tensor]:
        """Return x_t [count, C, H, W] and t [count]; each call draws new ones."""
        x_0 = self.images[torch.randint(len(self.images), (count,), generator=self.generator)]
        timestep = torch.randint(len(self.alphas_cumprod), (count,), generator=self.generator)
        eps = torch.randn(x_0.shape, generator=self.generator).to(x_0)
        alpha_bar = self.alphas_cumprod[timestep][:, None, None, None]  # [count, 1, 1, 1]
        x_t = alpha_bar.sqrt() * x_0 + (1.0 - alpha_bar).sqrt() * eps
        return x_t, timestep.to(x_0.device)


def distil(
    student: QuantisedUNet | ConvertedUNet,
    teacher: Callable[..., Any],
    noised: NoisedImages,
    steps: int,
    *,
    batch_size: int = 32,
    lr: float = 1e-3,
    on_step: Callable[[float], None] | None = None,
) -> list[float]:
    """Train a network's weights and clips to match another network; return the losses.

    Uses Adam with a cosine schedule on x_t of every timestep; the student is changed in place. A
    converted network learns through the neurons' surrogate gradient, and its steps take T times as
    long.

    Args:
        student: The network that learns.
        teacher: `teacher(x_t, t).sample`, in evaluation mode. If the student has classes, both
            networks also get random `class_labels`, "no class" among them.
        noised: The source of x_t and t.
        steps: Optimizer steps.
        batch_size: Images per step.
        lr: Maximum learning rate.
        on_step: Called with the loss after every step.

    Raises:
        UserError: A loss or a gradient is not finite.
    """

    def loss_of_a_batch() -> Tensor:
        x_t, timestep = noised.draw(batch_size)
        more = {}
        if classes := student.config.num_class_embeds:
            labels = torch.randint(classes, (batch_size,), generator=noised.generator)
            more["class_labels"] = labels.to(x_t.device)
        with torch.no_grad():
            target = teacher(x_t, timestep, **more).sample
        return nn.functional.mse_loss(student(x_t, timestep, **more).sample, target)

    parameters = [*student.parameters()]
    student.train()
    try:
        return _train(parameters, loss_of_a_batch, steps, lr, on_step, max_norm=1.0, cosine=True)
    finally:
        student.eval()


def _train(
    parameters: Sequence[nn.Parameter],
    loss_of_a_batch: Callable[[], Tensor],
    steps: int,
    lr: float,
    on_step: Callable[[float], None] | None,
    max_norm: float = inf,
    cosine: bool = False,
) -> list[float]:
    """Minimise a loss with Adam; return the loss of every step.

    Gradients are clipped to `max_norm`; with `cosine` the learning rate falls to 0.
    """
    optimizer = torch.optim.Adam(parameters, lr=lr)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, max(1, steps))
    losses: list[float] = []
    for step in range(1, steps + 1):
        loss = loss_of_a_batch()
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        norm = nn.utils.clip_grad_norm_(parameters, max_norm)
        losses.append(check_step(loss, norm, step, lr))
        optimizer.step()
        if cosine:
            schedule.step()
        if on_step is not None:
            on_step(losses[-1])
    return losses


_CHECKS = 64  # x_t on which it is decided whether a block has gained
_ROUNDING = 1e-9  # below this share of its output's power a block is right up to rounding


@dataclass(frozen=True)
class BlockLoss:
    """The effect of fine-tuning on a block, for x_t not used in training.

    Attributes:
        block: Its name in the U-Net.
        before: Mean squared difference between its time-averaged output and the quantised
            network's, with the blocks before it already tuned.
        after: The same after its own tuning; equal if the block did not improve and was restored.
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

    For every block, the spiking network runs up to it. The block's inputs, averaged over the
    window, go through the same block of the quantised network with the spiking network's weights.
    Its output takes the value $\bar o$ of the spiking block's average and keeps its own gradient.
    Adam minimises $\|\bar o - o\|^2$, where o is the output of the quantised network at that depth.
    So the spikes determine the error, and the straight-through estimator its gradient.
    A block that does not improve gets its old weights back.

    Args:
        converted: The spiking network, changed in place.
        quantised: The network that it was converted from.
        noised: The source of x_t and t.
        steps_per_block: Optimizer steps for every block; the authors use 20,000.
        batch_size: Images per step.
        lr: Learning rate; the authors' is 1e-6.
        train_thresholds: Whether thresholds are trained too; the authors freeze them.
        on_step: Called with the block's name and the loss after every step.

    Returns:
        One entry for every block, in order.

    Raises:
        UserError: The two networks are of different shape, or folded batch norm tells them apart;
            or a loss or a gradient is not finite.
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
            named = block.named_parameters()
            learning = [p for k, p in named if train_thresholds or not k.endswith(".clip")]

            def loss_of_a_batch(name: str = name) -> Tensor:
                return _block_loss(converted, quantised, name, *noised.draw(batch_size))[0]

            report = None if on_step is None else partial(on_step, name)
            _train(learning, loss_of_a_batch, steps_per_block, lr, report)
            after, _power = _measure(converted, quantised, name, check)
            if not after < before:
                block.load_state_dict(given)
                after = before
        losses.append(BlockLoss(name, before, after))
    converted.zero_grad(set_to_none=True)
    return losses


@torch.no_grad()
def _measure(
    converted: ConvertedUNet, quantised: QuantisedUNet, name: str, drawn: tuple[Tensor, Tensor]
) -> tuple[float, float]:
    """Return a block's loss and the mean square of its target output."""
    loss, target = _block_loss(converted, quantised, name, *drawn)
    return loss.item(), target.square().mean().item()


def _block_loss(
    converted: ConvertedUNet, quantised: QuantisedUNet, name: str, sample: Tensor, timestep: Tensor
) -> tuple[Tensor, Tensor]:
    """Return the loss, with a gradient for the spiking network's weights, and the target."""
    with torch.no_grad():
        inputs, spiking = run_to(converted, name, sample, timestep)
        _, target = run_to(quantised, name, sample, timestep)
        averaged = tuple(time_mean(x, len(sample)) for x in inputs if isinstance(x, Tensor))
        value = time_mean(spiking, len(sample))
    weights = dict(converted.unet.get_submodule(name).named_parameters())
    ordinary: Tensor = functional_call(quantised.unet.get_submodule(name), weights, averaged)
    return nn.functional.mse_loss(ordinary + (value - ordinary).detach(), target), target

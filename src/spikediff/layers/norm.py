r"""Batch norms whose running statistics follow training only, and folding them into synapses.

diffusers' pipelines do not put a network into evaluation mode, because theirs have no batch norm.
In a training loop, images sampled with a network in training mode would change its statistics. So
these norms do not update their statistics while gradients are off.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any, Protocol, runtime_checkable

import torch
from torch import Tensor, nn
from torch.nn import functional as F


@contextmanager
def running_statistics(network: nn.Module) -> Iterator[None]:
    """Make norms use, but not change, their running statistics; modes are restored afterwards."""
    in_training = [module for module in network.modules() if module.training]
    if in_training:
        network.eval()
    try:
        yield
    finally:
        for module in in_training:
            module.training = True


def follows_batches(module: nn.Module) -> bool:
    """Whether a module updates its statistics: in training mode, with gradients on."""
    return module.training and torch.is_grad_enabled()


class _FollowsTraining(nn.modules.batchnorm._BatchNorm):
    """Batch norm that does not update its statistics without gradients."""

    def forward(self, input: Tensor) -> Tensor:
        """Return the normalised currents."""
        if not self.training or follows_batches(self):
            return super().forward(input)
        self._check_input_dim(input)  # type: ignore[no-untyped-call]
        return F.batch_norm(input, None, None, self.weight, self.bias, True, 0.0, self.eps)


class BatchNorm1d(_FollowsTraining, nn.BatchNorm1d):
    """torch's batch norm for signals, with statistics updated only in training.

    Example:
        >>> norm, x = BatchNorm1d(1), torch.tensor([[1.0], [3.0]])
        >>> with torch.no_grad():
        ...     norm(x).round().flatten().tolist(), norm.running_mean.item()
        ([-1.0, 1.0], 0.0)
    """


class BatchNorm2d(_FollowsTraining, nn.BatchNorm2d):
    """torch's batch norm for images, with statistics updated only in training."""


class ThresholdNorm(nn.Module):
    r"""Batch norm scaled by the threshold of the following neuron (tdBN).

    $y = \alpha\,V_{th}\,\gamma\,(x - \mu) / \sqrt{\sigma^2 + \varepsilon} + \beta$, with statistics
    joint over batch, space and, because the spiking steps are folded into the batch, time. If
    two such currents are added, $\alpha = 1/\sqrt{2}$ keeps the variance of one.

    It is not a `BatchNorm2d`, because tools that convert those in place would silently drop alpha:
    `SyncBatchNorm.convert_sync_batchnorm` does so in FSDDIM's trainer.

    Shape: [T*B, C, H, W] -> [T*B, C, H, W].

    Example:
        >>> norm = ThresholdNorm(1, alpha=0.5)
        >>> norm(torch.tensor([-1.0, 1.0]).view(2, 1, 1, 1)).flatten().round(decimals=3).tolist()
        [-0.5, 0.5]

    Reference: Zheng et al., "Going deeper with directly-trained larger spiking neural networks",
    AAAI 2021, equations 5 to 7.
    """

    running_mean: Tensor
    running_var: Tensor
    num_batches_tracked: Tensor

    def __init__(self, channels: int, alpha: float = 1.0, v_threshold: float = 1.0) -> None:
        super().__init__()
        self.alpha = alpha
        self.v_threshold = v_threshold
        self.eps = 1e-5
        self.momentum = 0.1
        self.weight = nn.Parameter(torch.ones(channels))  # gamma
        self.bias = nn.Parameter(torch.zeros(channels))  # beta
        self.register_buffer("running_mean", torch.zeros(channels))
        self.register_buffer("running_var", torch.ones(channels))
        self.register_buffer("num_batches_tracked", torch.tensor(0))

    @property
    def gain(self) -> Tensor:
        r"""$\alpha V_{th} \gamma$ [C]; the weight itself where the factor is 1."""
        factor = self.alpha * self.v_threshold
        return self.weight if factor == 1.0 else self.weight * factor

    def forward(self, x: Tensor) -> Tensor:
        """Return y; in training, by the batch's own statistics, which the running ones follow."""
        follows = follows_batches(self)
        if follows:
            self.num_batches_tracked.add_(1)
        known = follows or not self.training
        return F.batch_norm(
            x,
            self.running_mean if known else None,
            self.running_var if known else None,
            self.gain,
            self.bias,
            self.training,
            self.momentum,
            self.eps,
        )

    def extra_repr(self) -> str:
        """Return the constants, for `print(model)`."""
        return f"{len(self.weight)}, alpha={self.alpha:g}, v_threshold={self.v_threshold:g}"


@runtime_checkable
class FoldsNorms(Protocol):
    """A layer that can fold its norms into its synapses, in evaluation."""

    def fold_norms(self) -> None:
        """Fold the norms that can be folded, in place."""


def fold_norms(model: nn.Module) -> None:
    """Fold every norm that follows a synapse into it, in place.

    A block is visited before its parts, so it can fold norms across them.
    """
    for module in model.modules():
        if isinstance(module, FoldsNorms):
            module.fold_norms()


def fold_norm(module: nn.Module, synapse: str) -> Tensor | None:
    """Fold `module.norm` into a synapse before it, an attribute of the module too, in place.

    It changes the rounding of currents, and so fewer than one spike in ten thousand.

    Returns:
        The gain [C], or None if there is nothing to fold.
    """
    linear, after = getattr(module, synapse), module.norm
    if not isinstance(linear, nn.Conv1d | nn.Conv2d | nn.ConvTranspose2d | nn.Linear):
        return None
    if not isinstance(after, nn.BatchNorm2d | nn.BatchNorm1d | ThresholdNorm):
        return None
    gain, offset = norm_affine(after)
    scale_outputs(linear, gain, offset)
    module.norm = nn.Identity()
    return gain


def scale_outputs(linear: Any, gain: Tensor, offset: Tensor | float = 0.0) -> None:
    """Multiply every output channel of a synapse by its gain [C], and add an offset, in place."""
    shape = [1] * linear.weight.dim()
    shape[1 if isinstance(linear, nn.ConvTranspose2d) else 0] = -1
    bias = torch.zeros_like(gain) if linear.bias is None else linear.bias.detach().double()
    weight = linear.weight.detach().double() * gain.view(shape)
    linear.weight = nn.Parameter(weight.to(linear.weight.dtype))
    linear.bias = nn.Parameter((gain * bias + offset).to(linear.weight.dtype))


def norm_affine(norm: nn.BatchNorm2d | nn.BatchNorm1d | ThresholdNorm) -> tuple[Tensor, Tensor]:
    """Return the factor and the offset [C] of a norm in evaluation, float64."""
    assert norm.running_mean is not None
    assert norm.running_var is not None
    weight = norm.gain if isinstance(norm, ThresholdNorm) else norm.weight
    deviation = torch.sqrt(norm.running_var.double() + norm.eps)
    gain = weight.detach().double() / deviation
    return gain, norm.bias.detach().double() - gain * norm.running_mean.double()

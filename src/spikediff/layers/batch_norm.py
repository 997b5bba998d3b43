"""Batch norm whose running statistics follow training only: they stand still without gradients.

diffusers' pipelines do not put a network into evaluation mode, for theirs have no batch norm. In a
training loop, pictures drawn with a network in training mode would overwrite its statistics.
"""

import torch
from torch import Tensor, nn
from torch.nn import functional as F


def follows_batches(module: nn.Module) -> bool:
    """Whether a module's statistics follow what it sees: in training, where gradients are on."""
    return module.training and torch.is_grad_enabled()


def _by_the_batch(norm: nn.BatchNorm1d | nn.BatchNorm2d, x: Tensor) -> Tensor:
    """Return x normalised by its own statistics, which leave no trace."""
    norm._check_input_dim(x)
    return F.batch_norm(x, None, None, norm.weight, norm.bias, True, 0.0, norm.eps)


class BatchNorm1d(nn.BatchNorm1d):
    """torch's, for signals; see above.

    Example:
        >>> norm, x = BatchNorm1d(1), torch.tensor([[1.0], [3.0]])
        >>> with torch.no_grad():
        ...     norm(x).round().flatten().tolist(), norm.running_mean.item()
        ([-1.0, 1.0], 0.0)
    """

    def forward(self, input: Tensor) -> Tensor:
        """Return the normalised currents."""
        if self.training and not follows_batches(self):
            return _by_the_batch(self, input)
        return super().forward(input)


class BatchNorm2d(nn.BatchNorm2d):
    """torch's, for images; see above."""

    def forward(self, input: Tensor) -> Tensor:
        """Return the normalised currents."""
        if self.training and not follows_batches(self):
            return _by_the_batch(self, input)
        return super().forward(input)

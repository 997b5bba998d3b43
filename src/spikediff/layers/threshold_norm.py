r"""Threshold-dependent batch norm (tdBN): currents of the size of the threshold that they meet."""

import torch
from torch import Tensor, nn

from spikediff.layers.batch_norm import follows_batches


class ThresholdNorm(nn.Module):
    r"""Batch norm whose gain knows the neuron behind it.

    $y = \alpha\,V_{th}\,\gamma\,(x - \mu) / \sqrt{\sigma^2 + \varepsilon} + \beta$, with statistics
    joint over batch, space and, because the spiking steps are folded into the batch, time.

    It is no `BatchNorm2d`, because tools that convert those in place would drop alpha without a
    word: `SyncBatchNorm.convert_sync_batchnorm` does so in FSDDIM's trainer.

    Args:
        channels: C.
        alpha: Factor of the gain; $1/\sqrt{2}$ where two such currents meet, so that their sum
            keeps the variance of one.
        v_threshold: $V_{th}$ of the neuron.
        eps: Added to the variance.
        momentum: Weight of a batch in the running statistics.

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

    def __init__(
        self,
        channels: int,
        alpha: float = 1.0,
        v_threshold: float = 1.0,
        eps: float = 1e-5,
        momentum: float = 0.1,
    ) -> None:
        super().__init__()
        self.alpha = alpha
        self.v_threshold = v_threshold
        self.eps = eps
        self.momentum = momentum
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
        """Return y; in training, by the batch's own statistics, which the running ones follow.

        Without gradients they stand still; see `batch_norm`.
        """
        follows = follows_batches(self)
        if follows:
            self.num_batches_tracked.add_(1)
        known = follows or not self.training
        return nn.functional.batch_norm(
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

"""Images or signals: torch's layers by the number of axes along which they convolve."""

from torch import nn

from spikediff.layers.batch_norm import BatchNorm1d, BatchNorm2d

Convolution = nn.Conv1d | nn.Conv2d

CONVOLUTIONS: dict[int, type[nn.Conv1d] | type[nn.Conv2d]] = {1: nn.Conv1d, 2: nn.Conv2d}
BATCH_NORMS: dict[int, type[BatchNorm1d] | type[BatchNorm2d]] = {1: BatchNorm1d, 2: BatchNorm2d}

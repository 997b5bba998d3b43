"""Looking at a network without leaving a trace in its norms."""

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn


@contextmanager
def running_statistics(network: nn.Module) -> Iterator[None]:
    """Let norms use, and not change, their running statistics; every module's mode comes back.

    Args:
        network: The network, in whatever mode.

    Example:
        >>> network = nn.BatchNorm1d(1)
        >>> with running_statistics(network):
        ...     network.training
        False
        >>> network.training
        True
    """
    modes = {module: module.training for module in network.modules()}
    network.eval()
    try:
        yield
    finally:
        for module, mode in modes.items():
            module.training = mode

"""A convolution, a norm and a neuron: one layer of a feed-forward spiking network."""

from torch import Tensor, nn

from spikediff.layers.time import over_time


class SpikingConv(nn.Module):
    """`SN(BN(Conv(x)))` at every spiking step: spikes in, spikes out.

    Args:
        conv: The convolution, ordinary or transposed.
        norm: The norm of its result; the statistics are joint over time and batch.
        neuron: The neuron layer.

    Shape: [T, B, C_in, H, W] -> spikes [T, B, C_out, H', W'].

    Example:
        >>> import torch
        >>> from spikediff.neurons import LIF
        >>> layer = SpikingConv(nn.ConvTranspose2d(2, 3, 2, stride=2), nn.BatchNorm2d(3), LIF())
        >>> layer(torch.ones(4, 1, 2, 5, 5)).shape
        torch.Size([4, 1, 3, 10, 10])
        >>> layer(torch.ones(1, 2, 5, 5), spiking_steps=4).shape
        torch.Size([4, 1, 3, 10, 10])
    """

    def __init__(self, conv: nn.Module, norm: nn.Module, neuron: nn.Module) -> None:
        super().__init__()
        self.conv = conv
        self.norm = norm
        self.neuron = neuron

    def forward(self, x: Tensor, spiking_steps: int | None = None) -> Tensor:
        """Return the spikes.

        Args:
            x: A window [T, B, C_in, H, W]; or, with `spiking_steps`, what is the same at every step
                [B, C_in, H, W], whose convolution then runs once.
            spiking_steps: T, of such an input.
        """
        if spiking_steps is None:
            current = over_time(self.conv, x)
        else:
            once = self.conv(x)  # [B, C_out, H', W'] -> [T, B, C_out, H', W'], a view
            current = once.expand(spiking_steps, *once.shape)
        spikes: Tensor = self.neuron(over_time(self.norm, current))
        return spikes

"""An activation and the weights behind it, before and after conversion, under the same names.

Kept together because a spike's amplitude belongs to both: the neuron says it, and the weights
absorb it, so that what travels between them is 0, 1 or -1 and costs accumulates alone.
"""

from torch import Tensor, nn
from torch.func import functional_call

from spikediff.layers import fold_time, unfold_time
from spikediff.models.converted.converted_if import ConvertedIF
from spikediff.models.converted.quantised_relu import QuantisedReLU


class QuantisedSynapse(nn.Module):
    """`W Dropout(Q(x))`.

    Args:
        activation: Q.
        layer: The convolution or linear layer W.
        dropout: What stands between them.

    Shape: [B, ...] -> [B, ...].
    """

    def __init__(self, activation: QuantisedReLU, layer: nn.Module, dropout: nn.Module) -> None:
        super().__init__()
        self.activation, self.dropout, self.layer = activation, dropout, layer

    def forward(self, x: Tensor) -> Tensor:
        """Return the layer's output."""
        out: Tensor = self.layer(self.dropout(self.activation(x)))
        return out


class SpikingSynapse(nn.Module):
    """`(s W) SN(x)`: neurons of amplitude s, whose weights absorb it.

    Args:
        activation: The neurons SN.
        layer: The convolution or linear layer W.
        spiking_steps: T.

    Shape: currents [T*B, ...] -> currents [T*B, ...].
    """

    def __init__(
        self, activation: ConvertedIF, layer: nn.Conv2d | nn.Linear, spiking_steps: int
    ) -> None:
        super().__init__()
        self.activation, self.layer, self.spiking_steps = activation, layer, spiking_steps

    def forward(self, x: Tensor) -> Tensor:
        """Return the current of every spiking step."""
        spikes = self.activation(unfold_time(x, self.spiking_steps))  # [T, B, ...]
        weight = self.layer.weight * self.activation.clip
        out: Tensor = functional_call(self.layer, {"weight": weight}, (fold_time(spikes),))
        return out

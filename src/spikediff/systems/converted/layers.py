r"""The layers of a quantised network, and the spiking layers that replace them.

An activation and the weights after it are one module, with the same names before and after
conversion, because they share the amplitude of a spike. The weights absorb it, so
spikes are 0, 1 or -1 and cost only accumulates.
"""

from dataclasses import replace
from typing import Any

import torch
from torch import Tensor, nn
from torch.func import functional_call

from spikediff.errors import check_number
from spikediff.layers import fold_time, unfold_time
from spikediff.neurons import Dynamics, IntegrateAndFire, NeuronState, carry_nan, membranes, scan

AUTHORS_CLIP = 6.0  # where the authors' clips start


class _StraightThrough(torch.autograd.Function):
    """Rounding with a derivative of 1."""

    @staticmethod
    def forward(ctx: Any, x: Tensor) -> Tensor:
        return x.round()

    @staticmethod
    def backward(ctx: Any, grad: Tensor) -> Tensor:
        return grad


def quantise_activation(x: Tensor, clip: Tensor | float, levels: int | None) -> Tensor:
    r"""Return $Q(x) = \frac{s}{L}\,\mathrm{round}(L\,\mathrm{clip}(x / s, 0, 1))$ of clip s.

    Without L nothing is rounded. The gradient goes straight through the rounding: $\partial
    Q/\partial x$ is 1 where $0 < x < s$, else 0, and $\partial Q/\partial s$ is $(Q(x) - x) / s$
    there, 1 above, 0 below.

    Reference: Cao et al., SDM, IEEE TAI 2025, section 6; Hu et al., Fast-SNN, IEEE TPAMI 2023.
    """
    share = carry_nan((x / clip).relu().clamp(max=1.0), x)
    if levels is None:
        return share * clip
    rounded: Tensor = _StraightThrough.apply(levels * share)  # type: ignore[no-untyped-call]
    return rounded / levels * clip


class QuantisedReLU(nn.Module):
    """A ReLU with a learnable clip and `2^b - 1` steps below it.

    Args:
        bits: b; None for no rounding, the limit of infinitely many spiking steps.
        clip: Initial clip s, in units of the activation.

    Example:
        >>> QuantisedReLU(bits=2, clip=3.0)(torch.tensor([1.2, 1.8])).tolist()
        [1.0, 2.0]
    """

    def __init__(self, bits: int | None, clip: float = AUTHORS_CLIP) -> None:
        super().__init__()
        if bits is not None:
            check_number("QuantisedReLU: bits", bits, 1, whole=True)
        check_number("QuantisedReLU: clip", clip, above=0)
        self.levels = None if bits is None else 2**bits - 1
        self.clip = nn.Parameter(torch.tensor(float(clip)))

    def forward(self, x: Tensor) -> Tensor:
        """Return Q(x)."""
        return quantise_activation(x, self.clip, self.levels)

    def extra_repr(self) -> str:
        """Return the constants, for `print(model)`."""
        return f"levels={self.levels}"


V_NEGATIVE = 1e-3  # how far below zero the membrane takes a spike back, in units of the current


class ConvertedIF(IntegrateAndFire):
    r"""IF neurons whose threshold is the clip s of the activation that they replace.

    Soft reset, and a membrane that starts at s/2. For a constant current I, T steps give
    $\mathrm{clip}(\lfloor T I / s + 1/2 \rfloor, 0, T)$ spikes: times s/T, the quantised activation
    of T levels. The membrane is kept in units of s, so the gradient reaches the clip too.

    Args:
        signed: Whether a neuron may take a spike back, which corrects errors from currents that
            vary over the window: spikes {-1, 0, 1}, with never more -1 than 1.
        clip: s, in units of the current.

    Shape: currents [T, ...] -> spikes [T, ...]; the next synapse applies their amplitude s.

    Example:
        >>> ConvertedIF(signed=False, clip=3.0)(torch.full((3,), 1.8)).sum().item()
        2.0

    Reference: Hu et al., "Fast-SNN", IEEE TPAMI 2023; Bu et al., "Optimal ANN-SNN conversion", ICLR
    2022; as used in SDM, section 6.
    """

    def __init__(self, signed: bool = True, clip: float = AUTHORS_CLIP) -> None:
        super().__init__(
            Dynamics(
                v_threshold=1.0, v_reset=None, v_init=0.5, v_negative=V_NEGATIVE if signed else None
            )
        )
        check_number("ConvertedIF: clip", clip, above=0)
        self.clip = nn.Parameter(torch.tensor(float(clip)))

    def window(self, current: Tensor) -> Tensor:
        """Return the spikes [T, ...] of a window that starts from rest."""
        return self.run(current)[0]

    def run(self, current: Tensor, state: NeuronState | None = None) -> tuple[Tensor, NeuronState]:
        """Return the spikes [T, ...] and the state after them, whose membrane is in clips."""
        return scan(current / self.clip, self.membrane_dynamics, state=state)

    def membranes(self, current: Tensor, state: NeuronState | None = None) -> tuple[Tensor, Tensor]:
        """Return the membranes before and after the reset [T, ...], in clips."""
        return membranes(current / self.clip, self.membrane_dynamics, state=state)

    @property
    def membrane_dynamics(self) -> Dynamics:
        """The constants in clips, as the membrane is."""
        if self.dynamics.v_negative is None:
            return self.dynamics
        return replace(self.dynamics, v_negative=self.dynamics.v_negative / _number(self.clip))


@torch.compiler.assume_constant_result  # a compiled network is that of its weights
def _number(clip: Tensor) -> float:
    number: float = clip.item()  # of an exported program a symbol, which float() would fix
    return number


class QuantisedSynapse(nn.Module):
    """`W Dropout(Q(x))`: activation, dropout, then a convolution or linear layer."""

    def __init__(self, activation: QuantisedReLU, layer: nn.Module, dropout: nn.Module) -> None:
        super().__init__()
        self.activation, self.dropout, self.layer = activation, dropout, layer

    def forward(self, x: Tensor) -> Tensor:
        """Return the layer's output."""
        out: Tensor = self.layer(self.dropout(self.activation(x)))
        return out


class SpikingSynapse(nn.Module):
    """`(s W) SN(x)`: neurons of amplitude s, whose weights absorb it.

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


class TimeMeanAttention(nn.Module):
    r"""Attention of the window's mean, added to every spiking step.

    $y[n] = A(\bar x) + (x[n] - \bar x) / r$, where A is diffusers' block with its residual
    connection, and r the factor that rescales its output. So $\overline{y} = A(\bar x)$, the block
    of the network that was converted, and its products run once instead of T times. They multiply
    real numbers, and the energy audit lists them.

    Shape: [T*B, C, H, W] -> [T*B, C, H, W].
    """

    def __init__(self, attention: nn.Module, spiking_steps: int) -> None:
        super().__init__()
        self.attention, self.spiking_steps = attention, spiking_steps
        self.rescale: float = attention.rescale_output_factor  # type: ignore[assignment]

    def forward(self, x: Tensor, *_unused: object, **_keywords: object) -> Tensor:
        """Return y."""
        window = unfold_time(x, self.spiking_steps)  # [T, B, C, H, W]
        mean = window.mean(0)
        rest = (window - mean) / self.rescale
        return fold_time(self.attention(mean) + rest)


class SharedGroupNorm(nn.Module):
    r"""Group norm by the statistics of the window's mean, the same at every spiking step.

    $y[n] = \gamma\,(x[n] - \mu(\bar x)) / \sqrt{\sigma^2(\bar x) + \epsilon} + \beta$ with
    $\bar x = \frac{1}{T}\sum_n x[n]$. It is linear in the window, so $\overline{y} = GN(\bar x)$:
    exactly the norm of the source network. It needs the whole window before its first step, and its
    statistics depend on the image, so no neuromorphic chip can run it with accumulates.

    Shape: [T*B, C, H, W] -> [T*B, C, H, W].
    """

    def __init__(self, norm: nn.GroupNorm, spiking_steps: int) -> None:
        super().__init__()
        self.groups, self.eps, self.spiking_steps = norm.num_groups, norm.eps, spiking_steps
        self.weight, self.bias = norm.weight, norm.bias

    def forward(self, x: Tensor) -> Tensor:
        """Return y."""
        window = unfold_time(x, self.spiking_steps)  # [T, B, C, H, W]
        groups = window.mean(0).reshape(window.shape[1], self.groups, -1)  # [B, G, C/G*H*W]
        variance, mean = torch.var_mean(groups, dim=2, correction=0)  # [B, G]
        mean, variance = (
            statistic.repeat_interleave(len(self.weight) // self.groups, dim=1)[..., None, None]
            for statistic in (mean, variance)
        )  # [B, C, 1, 1]
        gain = self.weight[:, None, None] * torch.rsqrt(variance + self.eps)
        return fold_time((window - mean) * gain + self.bias[:, None, None])

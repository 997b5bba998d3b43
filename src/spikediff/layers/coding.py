"""From real numbers to a window of currents [T, ...], and from a window to real numbers."""

from collections.abc import Callable

import torch
from torch import Tensor

from spikediff.errors import check_number


def direct(x: Tensor, spiking_steps: int) -> Tensor:
    """Direct coding: return x [B, ...] as a constant current [T, B, ...] (a view, no copy)."""
    return x.expand(spiking_steps, *x.shape)


def postsynaptic_potential(spikes: Tensor, tau_syn: float = 2.0) -> Tensor:
    r"""Return the postsynaptic potential of a spike train [T, ...] after every spiking step.

    $PSP[n] = (1 - 1/\tau_{syn})\,PSP[n-1] + z[n]/\tau_{syn}$, from 0. Rates between 0 and 1 work
    too.

    Example:
        >>> postsynaptic_potential(torch.tensor([1.0, 0.0, 1.0])).tolist()
        [0.5, 0.25, 0.625]

    Reference: Kamata et al., "Fully spiking variational autoencoder", AAAI 2022 (the kernel of its
    MMD); Liu et al., "Spiking-Diffusion", arXiv 2308.10187, equation 5.
    """
    check_number("postsynaptic potential: tau_syn", tau_syn, 1)
    potential, potentials = torch.zeros_like(spikes[0]), []
    for spike in spikes:
        potential = potential + (spike - potential) / tau_syn
        potentials.append(potential)
    return torch.stack(potentials)


def psp_mmd(a: Tensor, b: Tensor, tau_syn: float = 2.0) -> Tensor:
    r"""Return the squared maximum mean discrepancy of two spike trains under the PSP kernel.

    The kernel $k(z, z') = \sum_n PSP(z_{\le n}) \cdot PSP(z'_{\le n})$ makes it
    $\sum_n \|PSP(a_{\le n}) - PSP(b_{\le n})\|^2$. As in the released code of FSVAE and of
    Spiking-Diffusion it is a mean over the steps and all units, where the papers write the sum. Its
    gradient reaches both sides.

    Example:
        >>> psp_mmd(torch.tensor([1.0, 0.0]), torch.tensor([0.0, 1.0])).item()  # (.5^2 + .25^2) / 2
        0.15625

    Reference: Kamata et al.; Liu et al., equation 9.
    """
    # The potential is linear in the spikes, but the authors' rounding is that of two traces.
    difference = postsynaptic_potential(a, tau_syn) - postsynaptic_potential(b, tau_syn)
    return difference.square().mean()


def decay_weights(spiking_steps: int, decay: float = 0.8) -> Tensor:
    r"""Return $\lambda^{T-1-n}$ for n = 0 to T - 1, float64 [T]: the weights of `decayed_sum`."""
    powers = [decay ** (spiking_steps - 1 - n) for n in range(spiking_steps)]
    return torch.tensor(powers, dtype=torch.float64)


def weighted_sum(x: Tensor, weights: Tensor) -> Tensor:
    """Return the sum of x [T, ...] over the spiking steps, each by its weight [T]."""
    return (weights.to(x).view(-1, *[1] * (x.dim() - 1)) * x).sum(0)


def decayed_sum(x: Tensor, decay: float = 0.8) -> Tensor:
    r"""Return the membrane [...] of a leaky neuron that never fires, after the last step.

    $v[T] = \sum_n \lambda^{T-1-n} x[n]$, n from 0. The weights are not normalised (they sum to
    2.952 for T = 4 and 4.161 for T = 8), so a network needs rescaling for another T.

    Reference: FSVAE (Kamata et al., AAAI 2022) calls it membrane output; SDDPM uses it too.
    """
    return weighted_sum(x, decay_weights(x.shape[0], decay))


def mean(x: Tensor) -> Tensor:
    """Return the average over the spiking steps [...]."""
    return x.mean(0)


def last(x: Tensor) -> Tensor:
    """Return the value at the last spiking step [...]."""
    return x[-1]


def rate_and_potential(spikes: Tensor, k: Tensor | float, tau_syn: float = 2.0) -> Tensor:
    r"""Return Spiking-Diffusion's feature as in the paper, $k\,SFR(z) + (1 - k)\,PSP(z_{\le T})$.

    The rate says how often a neuron fired, the potential when; k lies between 0 and 1.

    Example:
        >>> rate_and_potential(torch.tensor([0.0, 1.0]), k=0.5).item()  # rate and potential 0.5
        0.5

    Reference: Liu et al., equations 4 to 6.
    """
    return k * mean(spikes) + (1 - k) * postsynaptic_potential(spikes, tau_syn)[-1]


def rate_and_membrane(spikes: Tensor, a: Tensor | float, weights: Tensor | None = None) -> Tensor:
    r"""Return Spiking-Diffusion's feature as released, $a\,SFR(z) + (1 - a) \sum_n w_n z[n]$.

    It mixes the rate, by an unbounded factor, with the unnormalised membrane read-out, which is
    at most 4.86 for T = 16. w [T] is $0.8^{T-1-n}$ by default.

    Example:
        >>> round(rate_and_membrane(torch.ones(16), a=0.0).item(), 5)
        4.85926

    Reference: Liu et al., the released code (its reading of equation 6).
    """
    weights = decay_weights(len(spikes)) if weights is None else weights
    return a * mean(spikes) + (1 - a) * weighted_sum(spikes, weights)


DECODERS: dict[str, Callable[[Tensor], Tensor]] = {
    "decayed_sum": decayed_sum,
    "mean": mean,
    "last": last,
}

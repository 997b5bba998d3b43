r"""What a spike train says in real numbers: its firing rate mixed with its recent past.

The rate knows how often a neuron fired, a potential when. Spiking-Diffusion quantises a mixture of
the two. The paper mixes rate and postsynaptic potential, both between 0 and 1, by a share between
0 and 1. The released code instead takes the unnormalised membrane read-out, up to 4.86 for T = 16,
for the second, and a factor that nothing bounds for the share.
"""

from torch import Tensor

from spikediff.coding.postsynaptic import postsynaptic_potential
from spikediff.coding.readout import decay_weights, mean, weighted_sum


def rate_and_potential(spikes: Tensor, k: Tensor | float, tau_syn: float = 2.0) -> Tensor:
    r"""Return the paper's feature, $k\,SFR(z) + (1 - k)\,PSP(z_{\le T})$.

    Args:
        spikes: z [T, ...].
        k: Share of the firing rate, between 0 and 1.
        tau_syn: Time constant of the synapse in spiking steps, at least 1.

    Returns:
        The feature [...], between 0 and 1.

    Raises:
        UserError: `tau_syn` is below 1.

    Example:
        >>> import torch
        >>> rate_and_potential(torch.tensor([0.0, 1.0]), k=0.5).item()  # rate and potential 0.5
        0.5

    Reference: Liu et al., "Spiking-Diffusion", arXiv 2308.10187, equations 4 to 6.
    """
    return k * mean(spikes) + (1 - k) * postsynaptic_potential(spikes, tau_syn)[-1]


def rate_and_membrane(spikes: Tensor, a: Tensor | float, weights: Tensor | None = None) -> Tensor:
    r"""Return the released feature, $a\,SFR(z) + (1 - a) \sum_n w_n z[n]$.

    Args:
        spikes: z [T, ...].
        a: Factor of the firing rate; nothing bounds it.
        weights: w [T], of the membrane read-out; $0.8^{T-1-n}$ where they are not given.

    Returns:
        The feature [...].

    Example:
        >>> import torch
        >>> round(rate_and_membrane(torch.ones(16), a=0.0).item(), 5)
        4.85926

    Reference: Liu et al., "Spiking-Diffusion", the released code (its reading of equation 6).
    """
    weights = decay_weights(len(spikes)) if weights is None else weights
    return a * mean(spikes) + (1 - a) * weighted_sum(spikes, weights)

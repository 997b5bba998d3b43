r"""Postsynaptic potentials: spike trains as the slow traces that a synapse leaves of them."""

import torch
from torch import Tensor

from spikediff.errors import UserError


def postsynaptic_potential(spikes: Tensor, tau_syn: float = 2.0) -> Tensor:
    r"""Return the postsynaptic potential of a spike train after every spiking step.

    $PSP[n] = (1 - 1/\tau_{syn})\,PSP[n-1] + z[n]/\tau_{syn}$, from 0.

    Args:
        spikes: z [T, ...]; rates between 0 and 1 will do too.
        tau_syn: Time constant of the synapse in spiking steps, at least 1.

    Returns:
        The potentials [T, ...]; the last is $1 - (1 - 1/\tau_{syn})^T$ where every step fires.

    Raises:
        UserError: `tau_syn` is below 1.

    Example:
        >>> postsynaptic_potential(torch.tensor([1.0, 0.0, 1.0])).tolist()
        [0.5, 0.25, 0.625]

    Reference: Kamata et al., "Fully spiking variational autoencoder", AAAI 2022 (the kernel of its
    MMD); Liu et al., "Spiking-Diffusion", arXiv 2308.10187, equation 5.
    """
    if not tau_syn >= 1.0:
        raise UserError(f"postsynaptic potential: tau_syn = {tau_syn} must be at least 1 step")
    potential, potentials = torch.zeros_like(spikes[0]), []
    for spike in spikes:
        potential = potential + (spike - potential) / tau_syn
        potentials.append(potential)
    return torch.stack(potentials)

"""How far apart two bundles of spike trains are, as the synapses behind them feel it."""

from torch import Tensor

from spikediff.coding.postsynaptic import postsynaptic_potential


def psp_mmd(a: Tensor, b: Tensor, tau_syn: float = 2.0) -> Tensor:
    r"""Return the mean squared difference of two spike trains' postsynaptic potentials.

    $\mathrm{mean}\,(PSP(a) - PSP(b))^2$ over all elements: the squared maximum mean discrepancy of
    the kernel $k(a, b) = \sum_n PSP(a)[n]\,PSP(b)[n]$, whose sum over the spiking steps the authors
    take as a mean.

    Args:
        a: Spikes, or firing rates between 0 and 1, [T, ...].
        b: Those that they are compared with, of the same shape.
        tau_syn: Time constant of the synapse in spiking steps, at least 1.

    Returns:
        The distance, 0-dim; 0 for equal trains.

    Raises:
        UserError: `tau_syn` is below 1.

    Example:
        >>> import torch
        >>> psp_mmd(torch.tensor([1.0, 0.0]), torch.tensor([0.0, 0.0])).item()
        0.15625

    Reference: Kamata et al., "Fully spiking variational autoencoder", AAAI 2022.
    """
    # The potential is linear in the spikes, but the authors' rounding is that of two traces.
    difference = postsynaptic_potential(a, tau_syn) - postsynaptic_potential(b, tau_syn)
    return difference.square().mean()

r"""How far two spike trains are apart, as a synapse sees it: MMD with the PSP kernel."""

from torch import Tensor

from spikediff.coding.postsynaptic import postsynaptic_potential


def psp_mmd(a: Tensor, b: Tensor, tau_syn: float = 2.0) -> Tensor:
    r"""Return the squared maximum mean discrepancy of two spike trains under the PSP kernel.

    The kernel $k(z, z') = \sum_n PSP(z_{\le n}) \cdot PSP(z'_{\le n})$ makes it
    $\sum_n \|PSP(a_{\le n}) - PSP(b_{\le n})\|^2$. As in the released code of FSVAE and of
    Spiking-Diffusion it is a mean, over the steps n and over all units, where the papers write the
    sum.

    Args:
        a: Spikes, or firing probabilities [T, ...].
        b: The others, of the same shape.
        tau_syn: Time constant of the synapse in spiking steps, at least 1.

    Returns:
        The distance, a scalar; its gradient reaches both sides.

    Raises:
        UserError: `tau_syn` is below 1.

    Example:
        >>> import torch
        >>> psp_mmd(torch.tensor([1.0, 0.0]), torch.tensor([0.0, 1.0])).item()  # (.5^2 + .25^2) / 2
        0.15625

    Reference: Kamata et al., "Fully spiking variational autoencoder", AAAI 2022; Liu et al.,
    "Spiking-Diffusion", arXiv 2308.10187, equation 9.
    """
    # The potential is linear in the spikes, but the authors' rounding is that of two traces.
    difference = postsynaptic_potential(a, tau_syn) - postsynaptic_potential(b, tau_syn)
    return difference.square().mean()

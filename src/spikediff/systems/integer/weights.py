"""Weights as integers of 8, 6 or 4 bits, with a power of two per output channel as the unit.

Power-of-two units need no multiplication: left shifts bring the currents of two synapses to a
common fixed point, and nothing is rounded after a sum.
"""

import torch
from torch import Tensor

from spikediff.errors import UserError

FRACTION_BITS = 16  # of currents, in the deployment form
WEIGHT_BITS = (8, 6, 4)
_UNITS_TRIED = 3  # a smaller unit rounds less and clips more; beyond a quarter it only clips


def check_weight_bits(weight_bits: int) -> None:
    """Refuse numbers of bits that no kernel supports."""
    if weight_bits not in WEIGHT_BITS:
        raise UserError(f"weight_bits={weight_bits}: choose from 8, 6 and 4")


def to_whole(weight: Tensor, bits: int) -> tuple[Tensor, Tensor]:
    r"""Round weights [C_out, C, k, k] to integers times a power of two.

    $W \approx q\, 2^{-e}$ with $|q| \le 2^{bits - 1} - 1$. For each output channel, e is the
    exponent with the smallest squared error: the largest that clips nothing, or one of the next
    two; at most 16, the fraction bits of a current.

    Returns:
        Integers in the weights' shape and dtype, and exponents [C_out].

    Example:
        >>> whole, exponents = to_whole(torch.tensor([[[[0.5]], [[-0.25]]]]), bits=4)
        >>> whole.flatten().tolist(), exponents.tolist()
        ([4.0, -2.0], [3.0])
    """
    largest = 2.0 ** (bits - 1) - 1
    rows = weight.detach().flatten(1)  # [C_out, N]
    peak = rows.abs().amax(1).clamp(min=2.0**-60)
    first = (largest / peak).log2().floor()
    tried = first + torch.arange(_UNITS_TRIED, device=rows.device)[:, None]  # [3, C_out]
    units = 2.0 ** -tried.clamp(max=FRACTION_BITS)
    errors = [
        (_nearest(rows, unit, largest) * unit[:, None] - rows).square().sum(1) for unit in units
    ]
    exponents = tried.gather(0, torch.stack(errors).argmin(0)[None])[0].clamp(max=FRACTION_BITS)
    whole = _nearest(rows, 2.0**-exponents, largest)
    return whole.view_as(weight), exponents


def rounded(weight: Tensor, bits: int) -> Tensor:
    """Return weights [C_out, ...] rounded as by `to_whole`, with the gradient of the identity.

    Reference: Bengio et al., "Estimating or propagating gradients through stochastic neurons for
    conditional computation", 2013 (the straight-through estimator).
    """
    whole, exponents = to_whole(weight, bits)
    exact = whole * (2.0**-exponents).view(-1, *[1] * (weight.dim() - 1))
    return weight + (exact - weight).detach()


def _nearest(rows: Tensor, unit: Tensor, largest: float) -> Tensor:
    """Return rows [C_out, N] in multiples of a unit [C_out]."""
    return (rows / unit[:, None]).round().clamp(-largest, largest)


def pack(whole: Tensor, bits: int) -> Tensor:
    """Return integers [...], int8, in their stored form: two of 4 bits share a byte."""
    if bits > 4:
        return whole
    flat = whole.flatten()
    low, high = torch.cat([flat, flat.new_zeros(len(flat) % 2)]).view(-1, 2).unbind(1)
    return (low & 15) | (high << 4)


def unpack(packed: Tensor, bits: int) -> Tensor:
    """Return the integers stored by `pack`, flat; an odd number of 4 bits gets a final 0."""
    if bits > 4:
        return packed
    return torch.stack([(packed << 4) >> 4, packed >> 4], dim=1).flatten()

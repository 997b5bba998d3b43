"""The temporal-wise spiking mechanism (TSM): one learned factor per layer and spiking step."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from spikediff.errors import UserError

Scaling = Callable[[], nn.Module]


class TemporalScaling(nn.Module):
    """Scale the synaptic current of every spiking step by its own factor: $p[n] I[n]$.

    It comes between a convolution (including its bias) and its batch norm, whose statistics are
    joint over the spiking steps and so preserve the ratios of the factors. All T factors start at
    1, where the layer changes no bit of its input.

    Shape: [T, B, ...] -> [T, B, ...].

    Reference: Cao et al., "Spiking diffusion models", IEEE TAI 2025 (arXiv 2408.16467), section
    4.2 and algorithm 1.
    """

    def __init__(self, spiking_steps: int) -> None:
        super().__init__()
        self.p = nn.Parameter(torch.ones(spiking_steps, 1, 1, 1, 1))

    def forward(self, current: Tensor) -> Tensor:
        """Return the scaled currents, in the type that they came in."""
        if len(current) != len(self.p):
            raise UserError(
                f"TemporalScaling: has factors for T = {len(self.p)} spiking steps, got a window "
                f"of {len(current)}; use the spiking_steps that the model was made with"
            )
        p = self.p.view(-1, *[1] * (current.dim() - 1))  # [T, 1, ..., 1]
        return (current * p).to(current.dtype)  # half precision is left only after the product


def scaling_factors(model: nn.Module) -> dict[str, Tensor]:
    """Return the factors p [T] of every layer that has them, by the layer's name."""
    return {
        name.removesuffix(".scaling"): module.p.detach().flatten()
        for name, module in model.named_modules()
        if isinstance(module, TemporalScaling)
    }

"""The neuron that stands where a quantised activation was."""

from dataclasses import replace

import torch
from torch import Tensor, nn

from spikediff.errors import UserError
from spikediff.models.converted.quantised_relu import AUTHORS_CLIP
from spikediff.neurons import Dynamics, NeuronLayer, NeuronState, membranes, scan

V_NEGATIVE = 1e-3  # how far below zero the membrane takes a spike back, in units of the current


class ConvertedIF(NeuronLayer):
    r"""IF neurons whose threshold is the clip s of the activation that they replace.

    Soft reset, and a membrane that starts at s/2. For a constant current I, T steps give
    $\mathrm{clip}(\lfloor T I / s + 1/2 \rfloor, 0, T)$ spikes: times s/T, the quantised activation
    of T levels. The membrane is kept in units of s, so the gradient reaches the clip too.

    Args:
        signed: Whether a neuron may take a spike back, which mends what a current that varies over
            the window has cost: spikes {-1, 0, 1}, of which never more are -1 than 1.
        clip: s, in units of the current.

    Shape: currents [T, ...] -> spikes [T, ...]; their amplitude s is the next synapse's business.

    Example:
        >>> ConvertedIF(signed=False, clip=3.0)(torch.full((3,), 1.8)).sum().item()
        2.0

    Reference: Hu et al., "Fast-SNN", IEEE TPAMI 2023; Bu et al., "Optimal ANN-SNN conversion", ICLR
    2022; as used in SDM, section 6.
    """

    def __init__(self, signed: bool = True, clip: float = AUTHORS_CLIP) -> None:
        super().__init__(
            Dynamics(
                v_threshold=1.0,
                v_reset=None,
                v_init=0.5,
                v_negative=V_NEGATIVE if signed else None,
            )
        )
        if not clip > 0:
            raise UserError(f"ConvertedIF: clip = {clip} must be positive")
        self.clip = nn.Parameter(torch.tensor(float(clip)))

    @property
    def decay(self) -> float:
        """No leak."""
        return 1.0

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

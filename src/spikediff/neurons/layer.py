"""What all neuron layers are: constants, a decay, and the scan over a window."""

from collections.abc import MutableMapping

import torch
from torch import Tensor

from spikediff.neurons.dynamics import Decay, Dynamics, NeuronState
from spikediff.neurons.emitter import SpikeEmitter, UnitTrace
from spikediff.neurons.scan import membranes, scan, window

Memory = MutableMapping["NeuronLayer", NeuronState]


class NeuronLayer(SpikeEmitter):
    """The face of a neuron: a window at once, or a step at a time. It keeps no state.

    Abstract: the neurons are its final subclasses, which say only what decays. (The neuron of a
    converted network also says what its threshold is, because it is learnt.)

    Args:
        dynamics: The neuron's constants.
    """

    def __init__(self, dynamics: Dynamics) -> None:
        super().__init__()
        self.dynamics = dynamics

    @property
    def decay(self) -> Decay:
        """Multiplier of the membrane per spiking step."""
        raise NotImplementedError

    @property
    def membrane_dynamics(self) -> Dynamics:
        """The constants in the units of the membrane; a neuron that scales it says which."""
        return self.dynamics

    def forward(self, current: Tensor, memory: Memory | None = None) -> Tensor:
        """Return the spikes [T, ...] for the currents [T, ...] of one window.

        Args:
            current: Currents [T, ...].
            memory: States by layer, of a network that streams: the window goes on from this layer's
                state in it (from rest where there is none yet) and leaves the new state there.
                Without a memory the window starts from rest, and nothing is kept.
        """
        if memory is None:
            return self.window(current)
        spikes, memory[self] = self.run(current, memory.get(self))
        return spikes

    def window(self, current: Tensor) -> Tensor:
        """Return the spikes [T, ...] of a window that starts from rest."""
        return window(current, self.dynamics, self.decay)

    def step(self, current: Tensor, state: NeuronState | None = None) -> tuple[Tensor, NeuronState]:
        """Return the spike and the state after one step, for a current [...]; None starts fresh."""
        spikes, state = self.run(current[None], state)
        return spikes[0], state

    def run(self, current: Tensor, state: NeuronState | None = None) -> tuple[Tensor, NeuronState]:
        """Return the spikes [T, ...] and the state after them; None starts from rest."""
        return scan(current, self.dynamics, self.decay, state)

    def membranes(self, current: Tensor, state: NeuronState | None = None) -> tuple[Tensor, Tensor]:
        """Return u [T, ...], which is compared with the threshold, and v [T, ...] after the reset.

        Args:
            current: Currents [T, ...].
            state: State before the window; None starts from rest.
        """
        return membranes(current, self.dynamics, self.decay, state)

    def spiking_steps(self, emitted: Tensor) -> int:
        """Return T of a window of spikes [T, ...]."""
        return len(emitted)

    def unrolled(self, emitted: Tensor) -> Tensor:
        """Return a window of spikes as [T, B, ...]."""
        return _folded(emitted)

    def trace(self, current: Tensor, units: Tensor, before: NeuronState | None = None) -> UnitTrace:
        """Return the membranes of some neurons of the first image, by the layer's own equations."""
        chosen = _folded(current)[:, 0].flatten(1)[:, units]  # [T, K]
        dynamics = self.membrane_dynamics
        state = dynamics.fresh_state(chosen[0])
        if before is not None:
            counted = before.net_spikes
            state = NeuronState(
                _of_first(before.v, units), None if counted is None else _of_first(counted, units)
            )
        u, v = self.membranes(chosen, state)
        return UnitTrace(
            u,
            torch.cat([state.v[None], v]),
            dynamics.v_threshold,
            dynamics.v_negative,
            dynamics.strict_threshold,
        )

    def describe(self) -> str:
        """Return what the neurons are, in words.

        Example:
            >>> from spikediff.neurons import LIF
            >>> LIF(tau=2.0, v_reset=None).describe()
            'LIF, decay 0.5, threshold 1, soft reset'
        """
        decay = torch.as_tensor(self.decay).item()
        leak = "no leak" if decay == 1 else f"decay {decay:.3g}"
        kind = "soft" if self.dynamics.v_reset is None else "hard"
        threshold = f"threshold {self.dynamics.v_threshold:g}"
        return f"{type(self).__name__}, {leak}, {threshold}, {kind} reset"

    def extra_repr(self) -> str:
        """Return the constants, for `print(model)`."""
        decay = torch.as_tensor(self.decay).item()
        return f"decay={decay:g}, {self.dynamics!r}"


def _of_first(state: Tensor, units: Tensor) -> Tensor:
    """Return some neurons of the first image, of a state [B, ...]."""
    return _folded(state[None])[0, 0].flatten()[units]


def _folded(window: Tensor) -> Tensor:
    """Return a window as [T, B, ...]; a plain [T] or [T, C] has one image."""
    return window if window.dim() > 2 else window.reshape(len(window), 1, -1)

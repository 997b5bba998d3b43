"""Changes in the inputs of synapses from one network call to the next.

A synapse is linear, so its sums can be updated by the changes: `sum(t) = sum(t-1) +
W (x(t) - x(t-1))`. A change of k spikes costs k accumulates. Real values rarely repeat exactly, so
their quantised values are compared (Ditto).

Reference: Kim et al., "Ditto: accelerating diffusion model via temporal value similarity", HPCA
2025; O'Connor and Welling, "Sigma delta quantized networks", ICLR 2017.
"""

from typing import NamedTuple

import torch
from torch import Tensor

_SAMPLE = 2048  # elements per input and call for choosing the range
_CLIPS = tuple(step / 20 for step in range(20, 0, -1))  # shares of the full range to try

Place = tuple[int, int]  # a model, and the number of the synapse in its call


class _Quantiser(NamedTuple):
    """Real values as integers: clip(round(x / scale) + zero, 0, 2^bits - 1)."""

    scale: float
    zero: int
    bits: int

    def quantise(self, x: Tensor) -> Tensor:
        whole = (x / self.scale).round() + self.zero
        return whole.clamp(0, 2**self.bits - 1).to(torch.int16)

    def error(self, x: Tensor) -> float:
        return float(((self.quantise(x) - self.zero) * self.scale - x).square().mean())


class QuantisedActivations:
    """Uniform quantisers of synapses' real-valued inputs: one per synapse, for all timesteps.

    A first generation collects samples; `fix` then chooses the range with the least squared error.
    """

    def __init__(self, bits: int) -> None:
        self.bits = bits
        self._samples: dict[Place, list[Tensor]] = {}
        self._quantisers: dict[Place, _Quantiser] = {}

    def fix(self) -> None:
        """Choose the ranges from the samples."""
        for place, samples in self._samples.items():
            self._quantisers[place] = self._fitted(torch.cat(samples))
        self._samples.clear()

    def quantise(self, place: Place, x: Tensor) -> Tensor | None:
        """Return an input as integers, int16; None while samples are being collected."""
        known = self._quantisers.get(place)
        if known is not None:
            return known.quantise(x)
        flat = x.detach().flatten().float()
        self._samples.setdefault(place, []).append(flat[:: max(1, len(flat) // _SAMPLE)].cpu())
        return None

    def _fitted(self, x: Tensor) -> _Quantiser:
        low, high = min(0.0, float(x.min())), max(0.0, float(x.max()))
        if low == high:
            return _Quantiser(1.0, 0, self.bits)
        scales = [clip * (high - low) / (2**self.bits - 1) for clip in _CLIPS]
        tried = [
            _Quantiser(scale, round(-clip * low / scale), self.bits)
            for clip, scale in zip(_CLIPS, scales, strict=True)
        ]
        return min(tried, key=lambda quantiser: quantiser.error(x))


class Changes:
    """Compares synapses' inputs with those of the last call; real values need `activations`."""

    def __init__(self, activations: QuantisedActivations | None = None) -> None:
        self._activations = activations
        self._before: dict[Place, Tensor] = {}
        self._place: Place = (0, 0)

    def begin_call(self, model: int, afresh: bool) -> None:
        """Begin a call of model number `model`; `afresh` starts a new generation of images."""
        self._place = (model, 0)
        if afresh:
            self._before = {place: x for place, x in self._before.items() if place[0] != model}

    def of(self, x: Tensor, spikes: bool) -> tuple[Tensor | None, bool]:
        """Return the change in the next synapse's input x, and whether changes are tracked.

        It is |x - before| for spike counts, 1 for a changed real value, and None in the first call.
        """
        self._place = (self._place[0], self._place[1] + 1)
        whole: Tensor | None = x.detach().to(torch.int16) if spikes else None
        if not spikes and self._activations is not None:
            whole = self._activations.quantise(self._place, x)
        if whole is None:
            return None, False
        before = self._before.get(self._place)
        self._before[self._place] = whole
        if before is None or before.shape != whole.shape or not before.any():
            return None, True
        difference = (whole - before).abs()
        return (difference if spikes else difference.clamp(max=1)), True

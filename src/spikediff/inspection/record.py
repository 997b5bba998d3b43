"""What was seen of the spikes: counts that add up, and the windows of a few chosen neurons."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from torch import Tensor

from spikediff.errors import UserError

_NAN = float("nan")


@dataclass
class StepCounts:
    """What a layer did in one denoising step, over all images and spiking steps.

    Attributes:
        channels: Spikes by channel [C].
        places: Spikes by place [H, W]; None for a layer without places.
        windows: Images times spiking steps that were counted.
    """

    channels: Tensor
    places: Tensor | None
    windows: int = 0


@dataclass(frozen=True)
class Window:
    """What the chosen neurons of the first image did in one denoising step.

    Attributes:
        spikes: s [T, K], -1, 0 or 1.
        u: Membrane that was compared with the threshold [T, K].
        v: Membrane before the window and after every spiking step [T + 1, K].
        v_threshold: The threshold, as it was at that step (threshold guidance changes it).
        v_negative: Distance below zero at which a signed neuron takes a spike back, or None.
        strict: Whether a neuron stays silent at exactly the threshold.
    """

    spikes: Tensor
    u: Tensor
    v: Tensor
    v_threshold: float
    v_negative: float | None = None
    strict: bool = False

    def crossings(self) -> Tensor:
        """Return where the membrane reaches the threshold [T, K]: there, and there only, is +1."""
        return self.u > self.v_threshold if self.strict else self.u >= self.v_threshold

    def followed_by(self, later: "Window") -> "Window":
        """Return the window that goes on with the steps of another one."""
        return Window(
            torch.cat([self.spikes, later.spikes]),
            torch.cat([self.u, later.u]),
            torch.cat([self.v, later.v[1:]]),
            self.v_threshold,
            self.v_negative,
            self.strict,
        )


@dataclass
class LayerRecord:
    """What was seen of one layer of neurons.

    Attributes:
        name: Where it is in the model.
        neuron: What it is, in words.
        shape: Shape of a layer's spikes at one step and image, [C, H, W] or [C].
        units: The chosen neurons, as places in the flattened shape [K].
        steps: Counts, by the number of the denoising step (column of `SpikeRecord.timesteps`).
        windows: What the chosen neurons did, by the same number.
        fired: How often every neuron fired, in all [*shape].
        observed: Images times spiking steps that were counted, in all.
    """

    name: str
    neuron: str
    shape: tuple[int, ...]
    units: Tensor
    fired: Tensor
    observed: int = 0
    steps: dict[int, StepCounts] = field(default_factory=dict)
    windows: dict[int, Window] = field(default_factory=dict)

    def add(self, step: int, spikes: Tensor) -> None:
        """Count a window.

        Args:
            step: Number of the denoising step.
            spikes: [T, B, *shape].
        """
        windows = spikes.shape[0] * spikes.shape[1]
        fired = (spikes != 0).sum((0, 1)).cpu()  # [*shape], whole numbers
        self.fired += fired
        self.observed += windows
        channels = fired.flatten(1).sum(1) if fired.dim() > 1 else fired
        places = fired.sum(0) if fired.dim() == 3 else None
        if step not in self.steps:
            self.steps[step] = StepCounts(channels, places, windows)
            return
        counts = self.steps[step]
        counts.channels += channels
        counts.windows += windows
        if counts.places is not None and places is not None:
            counts.places += places

    @property
    def neurons(self) -> int:
        """How many neurons the layer has."""
        return self.fired.numel()

    @property
    def rate(self) -> float:
        """Spikes per neuron and spiking step, over all that was observed."""
        return int(self.fired.sum()) / (self.neurons * self.observed)

    @property
    def dead(self) -> float:
        """Share of the neurons that never fired."""
        return int((self.fired == 0).sum()) / self.neurons

    @property
    def saturated(self) -> float:
        """Share of the neurons that fired at every spiking step of every image."""
        return int((self.fired == self.observed).sum()) / self.neurons

    def rates(self, columns: int) -> list[float]:
        """Return the rate in every denoising step; not a number where the layer did not run.

        Args:
            columns: How many denoising steps there were.
        """
        return [self._rate(self.steps.get(step)) for step in range(columns)]

    def _rate(self, counts: StepCounts | None) -> float:
        if counts is None:
            return _NAN
        return int(counts.channels.sum()) / (self.neurons * counts.windows)

    def channel_rates(self, columns: int) -> Tensor:
        """Return the rate of every channel in every denoising step [C, columns]."""
        size = self.neurons // self.shape[0]
        rates = torch.full((self.shape[0], columns), _NAN)
        for step, counts in self.steps.items():
            rates[:, step] = counts.channels / (size * counts.windows)
        return rates

    def map_of(self, step: int | None = None) -> Tensor | None:
        """Return the rate at every place, over the channels [H, W]; None where there are none.

        Args:
            step: Number of a denoising step in which the layer ran; None for all of them.
        """
        if len(self.shape) != 3:
            return None
        if step is None:
            return self.fired.sum(0) / (self.shape[0] * self.observed)
        counts = self.steps[step]
        assert counts.places is not None
        return counts.places / (self.shape[0] * counts.windows)

    def raster(self) -> Tensor:
        """Return the spikes of the chosen neurons, denoising step after denoising step [N, K]."""
        return torch.cat([self.windows[step].spikes for step in sorted(self.windows)])

    def unit_name(self, k: int) -> str:
        """Return the place of the k-th chosen neuron in words.

        Example:
            >>> units = torch.tensor([5])
            >>> LayerRecord("a", "IF", (2, 2, 2), units, torch.zeros(2, 2, 2)).unit_name(0)
            'channel 1 at (0, 1)'
        """
        rest, place = int(self.units[k]), []
        for size in reversed(self.shape):
            place.append(rest % size)
            rest //= size
        channel, *where = reversed(place)
        return f"channel {channel}" + (f" at ({', '.join(map(str, where))})" if where else "")

    def to_dict(self, columns: int) -> dict[str, Any]:
        """Return the figures as plain values, for JSON; None where the layer did not run.

        Args:
            columns: How many denoising steps there were.
        """
        return {
            "name": self.name,
            "neuron": self.neuron,
            "shape": list(self.shape),
            "neurons": self.neurons,
            "observed": self.observed,
            "rate": self.rate,
            "dead": self.dead,
            "saturated": self.saturated,
            "rates": [None if rate != rate else rate for rate in self.rates(columns)],
            "channel_rates": (
                self.fired.flatten(1).double().mean(1) / self.observed
                if self.fired.dim() > 1
                else self.fired.double() / self.observed
            ).tolist(),
        }


@dataclass
class SpikeRecord:
    """What was seen of all layers.

    Attributes:
        timesteps: Of every denoising step, in the order of sampling; None stands for calls
            without one, such as an autoencoder's.
        layers: By name, in the order in which they ran first.
        not_called: Names of layers that were watched and never ran.
    """

    timesteps: list[float | None] = field(default_factory=list)
    layers: dict[str, LayerRecord] = field(default_factory=dict)
    not_called: list[str] = field(default_factory=list)

    def column(self, timestep: float | None) -> int:
        """Return the number of a denoising step; a new one follows those that are there."""
        if timestep not in self.timesteps:
            self.timesteps.append(timestep)
        return self.timesteps.index(timestep)

    @property
    def rate(self) -> float:
        """Spikes per neuron and spiking step, over all layers."""
        updates = sum(layer.neurons * layer.observed for layer in self.layers.values())
        return sum(int(layer.fired.sum()) for layer in self.layers.values()) / max(1, updates)

    @property
    def seen(self) -> Sequence[LayerRecord]:
        """The layers, of which there is at least one.

        Raises:
            UserError: No layer ran.
        """
        if not self.layers:
            raise UserError("nothing was observed: call the model inside the `with` block")
        return list(self.layers.values())

    @property
    def labels(self) -> list[str]:
        """The denoising steps in a few letters: the timestep, or "once" where there is none."""
        return ["once" if t is None else f"{t:g}" for t in self.timesteps]

    def to_dict(self) -> dict[str, Any]:
        """Return the figures as plain values, for JSON."""
        return {
            "timesteps": self.timesteps,
            "rate": self.rate,
            "layers": [layer.to_dict(len(self.timesteps)) for layer in self.layers.values()],
            "not_called": self.not_called,
        }

"""Records of spikes: accumulated counts, and windows of a few chosen neurons."""

from collections.abc import Sequence
from dataclasses import dataclass, field, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from spikediff.errors import UserError
from spikediff.tables import html_table, text_table

_NAN = float("nan")


@dataclass
class StepCounts:
    """Spike counts of a layer in one denoising step, over all images and spiking steps."""

    channels: Tensor  # spikes by channel [C]
    places: Tensor | None  # spikes by place [H, W]; None for a layer without places
    windows: int = 0  # number of images times spiking steps


@dataclass(frozen=True)
class Window:
    """Spikes and membranes of the chosen neurons in one denoising step, for the first image."""

    spikes: Tensor  # s [T, K], -1, 0 or 1
    u: Tensor  # membrane compared with the threshold [T, K]
    v: Tensor  # membrane before the window and after every spiking step [T + 1, K]
    v_threshold: float  # the threshold at that step (threshold guidance changes it)
    # Distance below zero at which a signed neuron emits a negative spike, or None.
    v_negative: float | None = None
    strict: bool = False  # whether a neuron stays silent at exactly the threshold

    def crossings(self) -> Tensor:
        """Return where the membrane reaches the threshold [T, K]; only there is the spike +1."""
        return self.u > self.v_threshold if self.strict else self.u >= self.v_threshold

    def followed_by(self, later: "Window") -> "Window":
        """Return this window followed by the steps of another one."""
        return replace(
            self,
            spikes=torch.cat([self.spikes, later.spikes]),
            u=torch.cat([self.u, later.u]),
            v=torch.cat([self.v, later.v[1:]]),
        )


@dataclass
class LayerRecord:
    """The record of one layer of neurons; `steps` and `windows` are by denoising step."""

    name: str  # name of the layer in the model
    neuron: str  # type of the neuron, in words
    shape: tuple[int, ...]  # shape of the spikes of one step and image, [C, H, W] or [C]
    units: Tensor  # indices of the chosen neurons in the flattened shape [K]
    fired: Tensor  # total spike count of every neuron [*shape]
    observed: int = 0  # total number of images times spiking steps
    # Counts by the index of the denoising step in `SpikeRecord.timesteps`.
    steps: dict[int, StepCounts] = field(default_factory=dict)
    # Windows of the chosen neurons, by the same index.
    windows: dict[int, Window] = field(default_factory=dict)

    def add(self, step: int, spikes: Tensor) -> None:
        """Count a window of spikes [T, B, *shape] in a denoising step."""
        windows = spikes.shape[0] * spikes.shape[1]
        fired = (spikes != 0).sum((0, 1)).cpu()  # [*shape], integers
        channels = fired.flatten(1).sum(1) if fired.dim() > 1 else fired
        places = fired.sum(0) if fired.dim() == 3 else None
        if (before := self.steps.get(step)) is not None:
            channels = before.channels + channels
            places = None if places is None else places + before.places  # type: ignore[operator]
            windows += before.windows
        self.observed += spikes.shape[0] * spikes.shape[1]
        self.fired += fired
        self.steps[step] = StepCounts(channels, places, windows)

    @property
    def neurons(self) -> int:
        """Number of neurons in the layer."""
        return self.fired.numel()

    @property
    def rate(self) -> float:
        """Spikes per neuron and spiking step, over everything observed."""
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
        """Return the rate in each of `columns` denoising steps; NaN where the layer did not run."""
        rates = [_NAN] * columns
        for step, counts in self.steps.items():
            rates[step] = int(counts.channels.sum()) / (self.neurons * counts.windows)
        return rates

    def channel_rates(self, columns: int) -> Tensor:
        """Return the rate of every channel in every denoising step [C, columns]."""
        size = self.neurons // self.shape[0]
        rates = torch.full((self.shape[0], columns), _NAN)
        for step, counts in self.steps.items():
            rates[:, step] = counts.channels / (size * counts.windows)
        return rates

    def map_of(self, step: int | None = None) -> Tensor | None:
        """Return the rate by place [H, W] in one or all denoising steps; None without places."""
        if len(self.shape) != 3:
            return None
        if step is None:
            return self.fired.sum(0) / (self.shape[0] * self.observed)
        counts = self.steps[step]
        assert counts.places is not None
        return counts.places / (self.shape[0] * counts.windows)

    def raster(self) -> Tensor:
        """Return the spikes of the chosen neurons, in the order of the denoising steps [N, K]."""
        return torch.cat([self.windows[step].spikes for step in sorted(self.windows)])

    def unit_name(self, k: int) -> str:
        """Return the position of the k-th chosen neuron in words.

        Example:
            >>> units = torch.tensor([5])
            >>> LayerRecord("a", "IF", (2, 2, 2), units, torch.zeros(2, 2, 2)).unit_name(0)
            'channel 1 at (0, 1)'
        """
        channel, *where = np.unravel_index(int(self.units[k]), self.shape)
        return f"channel {channel}" + (f" at ({', '.join(map(str, where))})" if where else "")

    def to_dict(self, columns: int) -> dict[str, Any]:
        """Return the figures as plain values, for JSON; a rate is None where it did not run."""
        per_channel = self.fired.reshape(self.shape[0], -1).double().mean(1)
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
            "channel_rates": (per_channel / self.observed).tolist(),
        }


@dataclass
class SpikeRecord:
    """The records of all layers."""

    timesteps: list[float | None] = field(default_factory=list)
    """The timesteps of all denoising steps, in the order of sampling; None for calls without one,
    such as an autoencoder's."""
    layers: dict[str, LayerRecord] = field(default_factory=dict)
    """Records by name, in the order of their first call."""
    not_called: list[str] = field(default_factory=list)
    """Layers that were watched but never ran."""

    def column(self, timestep: float | None) -> int:
        """Return the index of a denoising step; append it if it is new."""
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
        """The layers that ran; raises `UserError` if none did."""
        if not self.layers:
            raise UserError("nothing was observed: call the model inside the `with` block")
        return list(self.layers.values())

    @property
    def labels(self) -> list[str]:
        """Short labels of the denoising steps: the timestep, or "once" without one."""
        return ["once" if t is None else f"{t:g}" for t in self.timesteps]

    def table(self) -> str:
        """Return a table of the layers for a terminal of 80 columns."""
        return f"{text_table(self._rows())}\n{self._summary}"

    def __str__(self) -> str:
        return self.table()

    def _repr_html_(self) -> str:
        return html_table(self._rows(), self._summary)

    @property
    def _summary(self) -> str:
        return f"all neurons fire at {self.rate:.1%} of the spiking steps"

    def _rows(self) -> list[list[str]]:
        rows = [["layer", "neurons", "fires", "dead", "saturated"]]
        for layer in self.layers.values():
            shares = (f"{share:.1%}" for share in (layer.rate, layer.dead, layer.saturated))
            rows.append([layer.name, f"{layer.neurons:,}", *shares])
        return rows

    def to_dict(self) -> dict[str, Any]:
        """Return the figures as plain values, for JSON."""
        return {
            "timesteps": self.timesteps,
            "rate": self.rate,
            "layers": [layer.to_dict(len(self.timesteps)) for layer in self.layers.values()],
            "not_called": self.not_called,
        }

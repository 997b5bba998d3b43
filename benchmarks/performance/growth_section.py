"""How the time of a forward pass grows with T, batch, resolution, channels and sampling steps."""

from collections.abc import Callable, Mapping
from dataclasses import asdict, dataclass
from functools import partial
from typing import Any

import torch
from torch import nn

from performance import ours, sources
from performance.exponent import PowerLaw, fit_power_law
from performance.missing import Missing
from performance.settings import Settings
from performance.table import quantity
from performance.timing import interleave
from spikediff.diffusion.schedulers import make_scheduler
from spikediff.systems.sddpm.network import SpikingUNet

SMALL = {"sample_size": 16, "base_channels": 32, "channel_mult": (1, 2), "layers_per_block": 1}
BATCH = 16  # of the axes that are not the batch: what a call costs at least is then a small share
AXES: dict[str, tuple[int, ...]] = {
    "T": (1, 2, 4, 8, 16),
    "batch": (1, 4, 16, 64),
    "resolution": (8, 16, 32, 64),
    "channels": (16, 32, 64, 128),
    "steps": (1, 2, 4, 8),
}
FORMS = ("plain", "compiled")


@dataclass(frozen=True)
class Curve:
    """One form along one axis.

    Attributes:
        axis: Key of `AXES`.
        form: "plain" or "compiled".
        x: Where it was measured.
        seconds: Medians there.
        law: What fits them.
        weights: Whose weights the networks have.
    """

    axis: str
    form: str
    x: tuple[int, ...]
    seconds: tuple[float, ...]
    law: PowerLaw
    weights: str

    def to_dict(self) -> dict[str, Any]:
        """Return plain values, for JSON."""
        return asdict(self)


def measure(settings: Settings) -> list[Curve]:
    """Measure every axis, all its points and both forms in turns."""
    weights, base = sources.RANDOM, sources.random(BATCH, **SMALL).model
    if settings.growth is not None:
        try:
            found = sources.trained(settings.growth, BATCH)
            weights, base = found.weights, found.model
        except Missing as reason:
            print(f"\ngrowth: -- {reason}")
    curves = []
    for axis, values in AXES.items():
        points = values[:3] if settings.quick else values
        whose = sources.RANDOM if axis == "channels" else weights
        curves += _along(axis, points, base, whose, settings)
    return curves


def lines(curves: list[Curve]) -> list[str]:
    """Return the curves as lines of the printed table."""
    told = []
    for curve in curves:
        law = curve.law
        points = ", ".join(
            f"{x}: {quantity(s, 's')}" for x, s in zip(curve.x, curve.seconds, strict=True)
        )
        told.append(
            f"\ngrowth: {curve.form}, time ~ {curve.axis}^{law.exponent:.2f} (+- {law.error:.2f})"
            f", at the end {law.last:.2f}"
            f"\n  weights: {curve.weights}\n  {points}"
        )
    return told


def _along(
    axis: str, points: tuple[int, ...], base: nn.Module, weights: str, settings: Settings
) -> list[Curve]:
    runs: dict[str, Callable[[], object]] = {}
    for form in FORMS:
        try:
            made = {f"{form} {x}": _run(axis, x, form, base) for x in points}
        except Missing as reason:
            print(f"\ngrowth: {axis}, {form} -- {reason}")
            continue
        runs |= made
    patience = settings.patience(7, 60)
    found = interleave(runs, patience.rounds, patience.clock, 1, patience.budget)
    curves = []
    for form in FORMS:
        seconds = [found[f"{form} {x}"].median for x in points if f"{form} {x}" in found]
        if seconds:
            law = fit_power_law(points, seconds)
            curves.append(Curve(axis, form, points, tuple(seconds), law, weights))
    return curves


def _run(axis: str, x: int, form: str, base: nn.Module) -> Callable[[], object]:
    """Return a forward pass (or a sampling) of one point."""
    config = base.config
    batch, side = BATCH, config.sample_size
    model = base
    if axis == "T":
        model = _rebuilt(base, {"spiking_steps": x}, keep=True)
    elif axis == "batch":
        batch = x
    elif axis == "resolution":
        side = x
    elif axis == "channels":
        model = _rebuilt(base, {"base_channels": x}, keep=False)
    if form == "compiled":
        model = ours.compiled(model)
    sample = torch.randn(
        batch, config.in_channels, side, side, generator=torch.Generator().manual_seed(0)
    )
    if axis == "steps":
        return partial(_sample, model, sample, x)

    @torch.no_grad()
    def forward() -> Any:
        return model(sample, 500).sample

    return forward


def _rebuilt(base: nn.Module, changes: Mapping[str, Any], keep: bool) -> nn.Module:
    """Return the network with another configuration: with its weights, or with settled norms."""
    config = {k: v for k, v in base.config.items() if not k.startswith("_")} | dict(changes)
    torch.manual_seed(0)
    model = SpikingUNet(**config)
    if keep:
        model.load_state_dict(base.state_dict())
        return model.eval()
    shape = (BATCH, model.config.in_channels, model.config.sample_size, model.config.sample_size)
    sources.settle_norms(model, torch.randn(shape))
    return model


@torch.no_grad()
def _sample(model: nn.Module, sample: torch.Tensor, steps: int) -> torch.Tensor:
    """Walk a DDIM trajectory of so many steps."""
    scheduler = make_scheduler("ddim")
    scheduler.set_timesteps(steps)
    for timestep in scheduler.timesteps:
        estimate = model(sample, timestep).sample
        sample = scheduler.step(estimate, timestep, sample).prev_sample
    return sample

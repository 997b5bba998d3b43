"""How time and memory grow along one axis at a time, for small networks of every system."""

import itertools
import multiprocessing
import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import asdict, dataclass, replace
from functools import partial
from typing import Any

import torch
from torch import nn

from performance import ours
from performance.exponent import PowerLaw, fit_power_law
from performance.memory import peak_bytes
from performance.missing import Missing
from performance.settings import Settings
from performance.sources import settle_norms
from performance.table import quantity
from performance.timing import clock_for, interleave
from spikediff.diffusion.autoencoder_pipeline import VAEPipeline
from spikediff.diffusion.schedulers import make_scheduler
from spikediff.events import compile_for_inference
from spikediff.systems.ddpm.network import ddpm_unet
from spikediff.systems.fsddim.network import SynapticCurrentUNet
from spikediff.systems.fsvae.network import FSVAE
from spikediff.systems.integer import IntegerSpikingUNet, to_integer
from spikediff.systems.sddpm.network import SpikingUNet
from spikediff.systems.spiking_diffusion.absorbing import AbsorbingStateScheduler
from spikediff.systems.spiking_diffusion.decoder import SpikingImageDecoder
from spikediff.systems.spiking_diffusion.pipeline import VQSpikingDiffusionPipeline
from spikediff.systems.spiking_diffusion.vq_svae import VQSVAE


@dataclass(frozen=True)
class Point:
    """Where a network is measured. An axis changes one value of `BASE`."""

    T: int = 4  # spiking steps
    D: int = 4  # the largest count of an integer neuron
    batch: int = 16  # images; what a call costs at least is then a small share
    resolution: int = 16  # pixels a side
    width: int = 32  # channels of the first level
    steps: int = 1  # network calls
    threads: int = 1  # that share the batch
    processes: int = 1  # that share the batch


BASE = Point()
_CPUS = os.cpu_count() or 1
_SHARED = tuple(2**i for i in range(6) if 2**i <= max(2, _CPUS))
# Processes come first and threads last: a process with threads should not be forked.
AXES: dict[str, tuple[int, ...]] = {
    "processes": _SHARED,
    "T": (1, 2, 4, 8, 16),
    "D": (1, 2, 4, 8),
    "batch": (1, 4, 16, 64),
    "resolution": (8, 16, 32),
    "width": (16, 32, 64),
    "steps": (1, 2, 4),
    "threads": _SHARED,
}
FORMS = (
    "ordinary",
    "SDDPM",
    "SDDPM, compiled",
    "SDM",
    "FSDDIM",
    "Spiking-Diffusion",
    "FSVAE",
    "integer, compiled",
)
_ONE_PASS = ("FSVAE",)  # no network calls to count
_CODES = 64  # of Spiking-Diffusion
_LEVELS = {"channel_mult": (1, 2), "layers_per_block": 1}
_BEND = 0.25  # a change of the exponent between neighbours that is told


@dataclass(frozen=True)
class Curve:
    """One form along one axis.

    Attributes:
        axis: Key of `AXES`.
        form: One of `FORMS`.
        x: Where it was measured.
        seconds: Medians there; CPU time, but of threads and processes the time on the wall.
        memory: Bytes of tensors alive at the peak of a call, above the network's own.
        law: What fits the seconds.
    """

    axis: str
    form: str
    x: tuple[int, ...]
    seconds: tuple[float, ...]
    memory: tuple[int, ...]
    law: PowerLaw

    def bend(self) -> int | None:
        """Return the x at which the exponent changes most; None if by less than `_BEND`."""
        pairs = zip(self.x, self.x[1:], self.seconds, self.seconds[1:], strict=False)
        slopes = [fit_power_law((a, b), (s, t)).exponent for a, b, s, t in pairs]
        changes = [abs(b - a) for a, b in itertools.pairwise(slopes)]
        if max(changes, default=0.0) < _BEND:
            return None
        return self.x[1 + changes.index(max(changes))]

    def to_dict(self) -> dict[str, Any]:
        """Return plain values, for JSON, which knows no NaN."""
        law = {k: None if v != v else v for k, v in asdict(self.law).items()}
        return asdict(self) | {"law": law, "bend": self.bend()}


def curve_of_json(stored: dict[str, Any]) -> Curve:
    """Return a curve as `Curve.to_dict` wrote it."""
    law = {k: float("nan") if v is None else v for k, v in stored["law"].items()}
    x, seconds, memory = (tuple(stored[key]) for key in ("x", "seconds", "memory"))
    return Curve(stored["axis"], stored["form"], x, seconds, memory, PowerLaw(**law))


def measure(settings: Settings) -> list[Curve]:
    """Measure every axis, all its points and forms in turns."""
    return [curve for axis in AXES for curve in _along(axis, settings)]


def lines(curves: list[Curve]) -> list[str]:
    """Return the curves as lines of the printed table."""
    told = []
    for curve in curves:
        law, bend = curve.law, curve.bend()
        points = ", ".join(
            f"{x}: {quantity(s, 's')} {quantity(m, 'B')}"
            for x, s, m in zip(curve.x, curve.seconds, curve.memory, strict=True)
        )
        bends = "" if bend is None else f", bends at {bend}"
        told.append(
            f"\ngrowth: {curve.form}, time ~ {curve.axis}^{law.exponent:.2f} (+- {law.error:.2f})"
            f", at the end {law.last:.2f}{bends}\n  {points}"
        )
    return told


def _along(axis: str, settings: Settings) -> Iterator[Curve]:
    points = AXES[axis][:3] if settings.quick else AXES[axis]
    memory: dict[str, tuple[int, ...]] = {}
    with ExitStack() as stack:
        runs: dict[str, Callable[[], object]] = {}
        for form in _forms_with(axis):
            try:
                memory[form], made = _made(form, axis, points, stack)
            except Missing as reason:
                print(f"\ngrowth: {axis}, {form} -- {reason}")
                continue
            runs |= made
        patience = settings.patience(5, 12)
        shared = axis in ("threads", "processes")
        clock = clock_for(2)[1] if shared else patience.clock
        found = interleave(runs, patience.rounds, clock, 1, patience.budget)
    for form, peaks in memory.items():
        seconds = tuple(found[f"{form} {x}"].median for x in points)
        yield Curve(axis, form, points, seconds, peaks, fit_power_law(points, seconds))


def _forms_with(axis: str) -> tuple[str, ...]:
    """Return the forms that an axis applies to."""
    if axis == "D":
        return tuple(form for form in FORMS if form.startswith("integer"))
    if axis == "T":
        return tuple(form for form in FORMS if not form.startswith(("integer", "ordinary")))
    return tuple(form for form in FORMS if axis != "steps" or form not in _ONE_PASS)


def _made(
    form: str, axis: str, points: Sequence[int], stack: ExitStack
) -> tuple[tuple[int, ...], dict[str, Callable[[], object]]]:
    """Return the peaks of memory, and what is timed, of the points of an axis."""
    places = [replace(BASE, **{axis: x}) for x in points]
    calls = [_call(form, replace(p, batch=max(1, p.batch // p.processes))) for p in places]
    runs: dict[str, Callable[[], object]] = {}
    for x, call, place in zip(points, calls, places, strict=True):
        shared = axis == "processes"
        runs[f"{form} {x}"] = (
            stack.enter_context(_processes(call, x))
            if shared
            else partial(_with_threads, call, place.threads)
        )
    peaks = [p.processes * peak_bytes(call) for call, p in zip(calls, places, strict=True)]
    return tuple(peaks), runs


def _call(form: str, point: Point) -> Callable[[], torch.Tensor]:
    """Return what is timed: network calls of a batch, along a trajectory if several.

    Of Spiking-Diffusion and FSVAE it is generation, the decoding of the images included.
    """
    torch.manual_seed(0)
    if form in ("Spiking-Diffusion", "FSVAE"):
        pipe = _pipeline(form, point)
        pipe.set_progress_bar_config(disable=True)
        steps = {} if form in _ONE_PASS else {"num_inference_steps": point.steps}
        return partial(_generate, pipe, seeds=range(point.batch), output_type="pt", **steps)
    model = _model(form, point)
    generator = torch.Generator().manual_seed(0)
    shape = (point.batch, 1, point.resolution, point.resolution)
    return partial(_sample, model, torch.randn(shape, generator=generator), point.steps)


def _generate(pipe: Any, **call: Any) -> torch.Tensor:
    images: torch.Tensor = pipe(**call).images
    return images


def _pipeline(form: str, point: Point) -> Any:
    """Return a pipeline of random weights, with norms that know the noise of a batch."""
    size, widths = point.resolution, (point.width, 2 * point.width)
    images = torch.rand(BASE.batch, 1, size, size) - 0.5
    if form == "FSVAE":
        autoencoder = FSVAE(size, 1, widths, latent_channels=32, spiking_steps=point.T)
        settle_norms(autoencoder, images)
        return VAEPipeline(autoencoder)
    vqvae = VQSVAE(size, 1, widths[:1], _CODES, spiking_steps=point.T)
    settle_norms(vqvae, images)
    decoder = SpikingImageDecoder(_CODES, widths, spiking_steps=point.T)
    settle_norms(decoder, torch.randint(_CODES, (BASE.batch, size // 2, size // 2)), 5)
    scheduler = AbsorbingStateScheduler(mask_token=_CODES)
    return VQSpikingDiffusionPipeline(vqvae, decoder, scheduler)


def _model(form: str, point: Point) -> nn.Module:
    """Return a network of random weights, with batch norms that know the noise of a batch."""
    sizes: dict[str, Any] = {"sample_size": point.resolution, "in_channels": 1}
    wide = sizes | _LEVELS | {"base_channels": point.width}
    match form.partition(",")[0]:
        case "ordinary":
            return ddpm_unet(**wide).eval()
        case "SDDPM":
            model: Any = SpikingUNet(**wide, spiking_steps=point.T)
        case "SDM":
            model = SpikingUNet(**wide, spiking_steps=point.T, temporal_scaling=True)
        case "FSDDIM":
            model = SynapticCurrentUNet(**wide, spiking_steps=point.T)
        case _:
            widths = (point.width, 2 * point.width)
            model = IntegerSpikingUNet(**sizes, block_out_channels=widths, levels=point.D)
            nn.init.normal_(model.head.weight, std=0.1)
    settle_norms(model, torch.randn(BASE.batch, 1, point.resolution, point.resolution), 500)
    if form.startswith("integer"):
        return compile_for_inference(to_integer(model))
    return ours.compiled(model) if form.endswith("compiled") else model


@torch.no_grad()
def _sample(model: nn.Module, sample: torch.Tensor, steps: int) -> torch.Tensor:
    scheduler = make_scheduler("ddim")
    scheduler.set_timesteps(steps)
    for timestep in scheduler.timesteps:
        estimate = model(sample, timestep).sample
        sample = scheduler.step(estimate, timestep, sample).prev_sample
    return sample


def _with_threads(call: Callable[[], object], threads: int) -> object:
    before = torch.get_num_threads()
    torch.set_num_threads(threads)
    try:
        return call()
    finally:
        torch.set_num_threads(before)


@contextmanager
def _processes(call: Callable[[], object], count: int) -> Iterator[Callable[[], object]]:
    """Give what runs a call once in each of so many processes, at the same time."""
    if "fork" not in multiprocessing.get_all_start_methods():
        raise Missing("processes are forked here")
    context = multiprocessing.get_context("fork")
    pipes = [context.Pipe() for _ in range(count)]
    workers = [context.Process(target=_serve, args=(theirs, call)) for _, theirs in pipes]
    for worker in workers:
        worker.start()

    def run() -> None:
        for mine, _ in pipes:
            mine.send(True)
        for mine, _ in pipes:
            mine.recv()

    try:
        yield run
    finally:
        for (mine, _), worker in zip(pipes, workers, strict=True):
            mine.send(False)
            worker.join()


def _serve(pipe: Any, call: Callable[[], object]) -> None:
    while pipe.recv():
        call()
        pipe.send(None)

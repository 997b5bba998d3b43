"""The whole denoiser: forward and training step, time and memory."""

import copy
from collections.abc import Iterator, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor

from performance import resident, sources, systems
from performance.agreement import agreeing, difference, relative_error
from performance.memory import peak_bytes, retained_bytes
from performance.missing import Missing
from performance.operators import seconds_by_operator
from performance.settings import Settings
from performance.sources import Source
from performance.systems import System
from performance.table import Group, available, sizes, times

FORWARD = (
    systems.NAIVE,
    systems.PEER,
    systems.REFERENCE,
    systems.NATIVE,
    systems.COMPILED,
    systems.INT16,
    systems.INT8,
)
TRAINING = (
    systems.NAIVE,
    systems.PEER,
    systems.REFERENCE,
    systems.NATIVE,
    systems.LOW_MEMORY,
    systems.BY_EVENTS,
    systems.PEER_BF16,
    systems.BF16,
)
PROFILED = (systems.PEER, systems.BY_EVENTS, systems.BF16)  # training steps
TASKS = ("forward", "training")
SMALL = {"base_channels": 32, "channel_mult": (1, 2), "layers_per_block": 1, "sample_size": 16}


def measure(settings: Settings) -> Iterator[Group]:
    """Measure the network of the run that was named, and the full-size one of random weights."""
    for batch in settings.batches:
        yield from _of_batch(batch, settings)
    if settings.sddpm is None and not settings.random_weights:
        print("\nnetwork: -- give --sddpm RUN for trained weights, or --random-weights")


def _of_batch(batch: int, settings: Settings) -> Iterator[Group]:
    if settings.sddpm is not None:
        try:
            source = sources.trained(settings.sddpm, batch)
            yield from _compare(source, settings, resident.Network(settings.sddpm))
        except Missing as reason:
            print(f"\nnetwork: -- {reason}")
    if settings.random_weights:
        config = SMALL if settings.quick else {}
        source = sources.random(batch, **config)
        yield from _compare(source, settings, resident.Network(None, config))


def _compare(source: Source, settings: Settings, network: resident.Network) -> Iterator[Group]:
    agreement, wrong = ({}, {}) if settings.times_only else _agreement(source)
    facts = {
        "weights": source.weights,
        "firing_rate": source.firing["neurons"],
        "share_of_dense_operations": source.firing["operations"],
        "agreement_float64": agreement,
    }
    for training, names in ((False, FORWARD), (True, TRAINING)):
        if TASKS[training] not in settings.tasks:
            continue
        chosen = _chosen(names, settings)
        made, missing = available(
            {n: partial(systems.build, n, source.model, training) for n in chosen if n not in wrong}
        )
        compare = _training if training else _forward
        yield from compare(source, settings, made, missing | wrong, facts)
        if not settings.quick and not settings.times_only:
            yield _resident(source, network, list(made), training, facts)


def _chosen(names: Sequence[str], settings: Settings) -> list[str]:
    """Return the ways to measure; the reference, if the others are to be compared with it."""
    every = [*names, *([systems.PEER_COMPILED] if settings.compiled else [])]
    wanted = {*settings.ways, *([] if settings.times_only else [systems.REFERENCE])}
    return [name for name in every if not settings.ways or name in wanted]


def _forward(
    source: Source,
    settings: Settings,
    made: dict[str, System],
    missing: dict[str, str],
    facts: dict[str, Any],
) -> Iterator[Group]:
    runs = {n: systems.forward(s, source.sample, source.timestep) for n, s in made.items()}
    also: dict[str, Any] = {"firing_rates": source.firing["layers"]}
    if not settings.times_only:
        want = runs[systems.REFERENCE]()
        also["difference_float32"] = {n: difference(run(), want) for n, run in runs.items()}
    name, patience = f"forward, {source.title}", settings.patience(7, 120)
    warm_up = int(settings.times_only)  # else the comparison was that
    yield times("network", name, runs, patience, missing, facts | also, warm_up)
    if settings.times_only:
        return
    peaks = {}
    for key, system in made.items():
        system.clear()
        peaks[key] = peak_bytes(runs[key])
    yield sizes("memory", f"{name}, peak of tensors", peaks, missing, facts)


def _training(
    source: Source,
    settings: Settings,
    made: dict[str, System],
    missing: dict[str, str],
    facts: dict[str, Any],
) -> Iterator[Group]:
    eps = torch.randn(source.sample.shape, generator=torch.Generator().manual_seed(1))
    inputs = (source.sample, source.timestep, eps)
    steps = {n: systems.training_step(s, *inputs) for n, s in made.items()}
    name = f"training step, {source.title}"
    also: dict[str, Any] = {}
    if not settings.times_only:
        also["gradient_error_float32"] = _gradient_errors(made, steps)
        also["seconds_by_operator"] = {
            n: seconds_by_operator(steps[n]) for n in PROFILED if n in made
        }
    patience, warm_up = settings.patience(5, 240), int(settings.times_only)
    yield times("network", name, steps, patience, missing, facts | also, warm_up)
    if settings.times_only:
        return
    kept, peaks = {}, {}
    for key, system in made.items():
        system.clear()
        kept[key] = retained_bytes(partial(systems.loss, system, *inputs))
        system.clear()
        peaks[key] = peak_bytes(steps[key])
        system.clear()
    yield sizes("memory", f"{name}, kept for backward", kept, missing, facts)
    yield sizes("memory", f"{name}, peak of tensors", peaks, missing, facts)


def _gradient_errors(made: dict[str, System], steps: dict[str, Any]) -> dict[str, float]:
    """Compare the gradients of one step with the reference's; told, not judged, in float32."""

    def gradients(name: str) -> list[Tensor]:
        torch.manual_seed(0)  # dropout
        steps[name]()
        found = [p.grad for p in made[name].network.parameters() if p.grad is not None]
        made[name].clear()
        return found

    want = gradients(systems.REFERENCE)
    return {name: relative_error(gradients(name), want) for name in made}


def _resident(
    source: Source,
    network: resident.Network,
    names: list[str],
    training: bool,
    facts: dict[str, Any],
) -> Group:
    batch = len(source.sample)
    peaks, missing = available(
        {n: partial(resident.in_fresh_process, n, network, batch, training) for n in names}
    )
    kind = "training step" if training else "forward"
    return sizes("memory", f"{kind}, {source.title}, peak of the process", peaks, missing, facts)


def _agreement(source: Source) -> tuple[dict[str, float], dict[str, str]]:
    """Compare the peers' networks with ours, in float64: in float32 one lost spike makes many."""
    wide = copy.deepcopy(source.model).double()
    sample = source.sample.double()

    def answer(name: str) -> tuple[Tensor]:
        system = systems.build(name, wide, training=False)
        return (systems.forward(system, sample, source.timestep)(),)

    want = answer(systems.REFERENCE)
    peers, missing = available(
        {n: partial(_at_once, answer, n) for n in (systems.NAIVE, systems.PEER)}
    )
    found, wrong = agreeing(peers, want)
    return found, wrong | missing


def _at_once(answer: Any, name: str) -> Any:
    """Return an answer, computed where it can still be missing."""
    got = answer(name)
    return lambda: got

"""Neurons on a GPU: our Triton kernel beside the reference and SpikingJelly.

SpikingJelly chooses its implementation when it is imported, so its torch and its Triton are
measured in processes of their own. It has no CuPy any more, and no CUDA in its wheel.
"""

from collections.abc import Callable, Iterator
from functools import partial
from typing import Any

import torch
from torch import Tensor

from performance import spikingjelly_peer, systems
from performance.agreement import relative_error
from performance.gpu.device import Bench, attempt, clear
from performance.neuron_section import (
    NEURONS,
    SHAPE,
    add_bandwidth,
    spikes_and_gradient,
)
from performance.systems import System
from performance.table import Group, available, times
from performance.timing import repeat
from spikediff.neurons import NeuronLayer
from spikediff.neurons.kernels import triton_kernel

SECTION = "neuron on a GPU"
LARGE = (4, 256, 256, 32, 32)  # 1 GiB in float32, far more than an L2 cache
QUICK_LARGE = (4, 32, 256, 32, 32)
INTERPRETED = ((4, 2, 8, 4, 4), (4, 3, 50, 3, 3))
# rtol and atol of gradients, those of tests/neurons/triton_cases.py
TOLERANCES = {torch.float32: (1e-5, 1e-5), torch.bfloat16: (2.0**-7, 1e-4)}
CALLS = (50, 5)  # in one measurement, of the small and the large size


class Disagreement(Exception):  # noqa: N818 -- what the section found
    """Our kernel does not compute what the reference does."""


def measure(bench: Bench, theirs: str) -> Iterator[Group]:
    """Measure every neuron in float32 and bf16, at both sizes.

    Args:
        bench: How to measure.
        theirs: SpikingJelly's implementation in this process: "torch" or "triton".

    Raises:
        Disagreement: At the end, if our kernel differed from the reference.
    """
    shapes = (SHAPE, QUICK_LARGE if bench.quick else LARGE)
    if bench.interpreted:
        shapes = INTERPRETED
    faults: list[str] = []
    for shape, calls in reversed(list(zip(shapes, CALLS, strict=True))):
        for kind, make in NEURONS.items():
            for dtype in TOLERANCES:
                title = f"{kind}, atan, {_name(dtype)}, {list(shape)}"
                current, grad = _inputs(shape, dtype, bench.device)
                many = 1 if bench.interpreted else calls
                group = _compare(title, make(), current, grad, bench, theirs, many)
                if "wrong" in group.facts:
                    faults.append(f"{title}: {group.facts['wrong']}")
                yield group
                if theirs == "triton" and kind == "LIF":
                    yield _bandwidth(title, make(), current, grad, bench, many)
                del current, grad
                clear()
    if faults:
        raise Disagreement("; ".join(faults))


def _name(dtype: torch.dtype) -> str:
    return {torch.float32: "float32", torch.bfloat16: "bf16"}[dtype]


def _inputs(
    shape: tuple[int, ...], dtype: torch.dtype, device: torch.device
) -> tuple[Tensor, Tensor]:
    generator = torch.Generator(device).manual_seed(0)
    current, grad = (torch.randn(shape, generator=generator, device=device) for _ in range(2))
    return current.to(dtype), grad.to(dtype)


def _compare(
    title: str,
    layer: NeuronLayer,
    current: Tensor,
    grad: Tensor,
    bench: Bench,
    theirs: str,
    calls: int,
) -> Group:
    """Compare spikes, gradients and times of one neuron on one input."""
    peers: dict[str, Callable[[], System]] = {f"SpikingJelly {theirs}": partial(_peer, layer)}
    if theirs == "torch":
        peers[systems.PEER_COMPILED] = partial(_peer, layer, compiled=True)
    elif current.dtype != torch.float32:
        peers = {"SpikingJelly triton": partial(_peer_in_bf16, layer, bench.device)}
    runs = {n: attempt(partial(_run, make, current, grad)) for n, make in peers.items()}
    steps, missing = available(runs)
    for name in (systems.REFERENCE, systems.TRITON):
        system = systems.build(name, layer, training=True)
        steps[name] = partial(spikes_and_gradient, system, current, grad)
    facts = _agreement(steps)
    many = dict.fromkeys(steps, calls)
    repeated = {name: partial(repeat, step, calls) for name, step in steps.items()}
    name = f"{title}, forward + backward"
    return times(
        SECTION, name, repeated, bench.patience(15, 2.0), missing, facts, warm_up=2, calls=many
    )


def _peer(layer: NeuronLayer, compiled: bool = False) -> System:
    return System(spikingjelly_peer.network(layer, compiled))


def _peer_in_bf16(layer: NeuronLayer, device: torch.device) -> System:
    return System(spikingjelly_peer.in_bf16(spikingjelly_peer.network(layer), device))


def _run(make: Callable[[], System], current: Tensor, grad: Tensor) -> Callable[[], object]:
    """Return a peer's step, called once: what it cannot do is known then."""
    step = partial(spikes_and_gradient, make(), current, grad)
    step()
    return step


def _agreement(steps: dict[str, Any]) -> dict[str, Any]:
    """Compare everything with the reference; ours must fire in the same places."""
    want = steps[systems.REFERENCE]()
    rtol, atol = TOLERANCES[want[0].dtype]
    differing, errors, wrong = {}, {}, []
    for name, step in steps.items():
        spikes, gradient = step()
        differing[name] = int(spikes.ne(want[0]).count_nonzero())
        errors[name] = relative_error((gradient,), want[1:])
        if name == systems.TRITON:
            if differing[name]:
                wrong.append(f"{differing[name]} spikes of {spikes.numel()} differ")
            off = int(gradient.isclose(want[1], rtol, atol).logical_not().count_nonzero())
            if off:
                wrong.append(f"{off} gradients of {spikes.numel()} differ")
    facts: dict[str, Any] = {
        "firing_rate": want[0].mean(dtype=torch.float32).item(),
        "spikes_that_differ": differing,
        "gradient_error": errors,
    }
    return facts | ({"wrong": ", ".join(wrong)} if wrong else {})


def _bandwidth(
    title: str, layer: NeuronLayer, current: Tensor, grad: Tensor, bench: Bench, calls: int
) -> Group:
    """Measure our kernels beside plain loops of torch that move as many bytes."""
    made = torch.empty_like(current)
    constants: Any = (layer.decay, layer.dynamics)
    runs: dict[str, Callable[[], object]] = {
        "copy": partial(made.copy_, current),
        "ours forward kernel": partial(triton_kernel.forward, current, *constants, keep_last=False),
        "addition": partial(torch.add, current, grad, out=made),
        "ours backward kernel": partial(triton_kernel.backward, current, grad, *constants, False),
    }
    moved = dict(zip(runs, (2, 2, 3, 3), strict=True))
    many = dict.fromkeys(runs, calls)
    repeated = {name: partial(repeat, run, calls) for name, run in runs.items()}
    group = times(
        SECTION, f"{title}, bytes moved", repeated, bench.patience(25, 1.0), warm_up=2, calls=many
    )
    add_bandwidth(group, moved, current.nbytes)
    return group

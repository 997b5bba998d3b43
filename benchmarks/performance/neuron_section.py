"""One neuron layer: forward and backward, and inference."""

import copy
from collections.abc import Callable, Iterator, Mapping
from ctypes import byref, c_int, c_int64
from functools import partial

import torch
from torch import Tensor

from performance import systems
from performance.agreement import agreeing, relative_error
from performance.settings import Settings
from performance.systems import System
from performance.table import Group, available, times
from performance.timing import repeat
from spikediff.native import library_of, native, pointer
from spikediff.neurons import IF, LIF, NeuronLayer
from spikediff.neurons.kernels.native import options

SHAPE = (4, 16, 128, 16, 16)  # 8 MiB, a layer of the SDDPM network at batch 16
QUICK_SHAPE = (4, 2, 64, 8, 8)
NEURONS: dict[str, Callable[..., NeuronLayer]] = {"IF": IF, "LIF": partial(LIF, tau=2.0)}
SURROGATES = ("atan", "sigmoid")
IN_A_ROW = 10  # forward passes per round, so that page faults of the first do not decide


def spikes_and_gradient(system: System, current: Tensor, grad: Tensor) -> tuple[Tensor, Tensor]:
    """Return the spikes, and the gradient that reaches the current."""
    x = current.detach().requires_grad_()
    spikes = system(x)
    spikes.backward(grad)
    assert x.grad is not None
    return spikes.detach(), x.grad


def measure(settings: Settings) -> Iterator[Group]:
    """Measure every neuron with every surrogate, and inference, which has none."""
    shape = QUICK_SHAPE if settings.quick else SHAPE
    generator = torch.Generator().manual_seed(0)
    current = torch.randn(shape, generator=generator)
    grad = torch.randn(shape, generator=generator)
    for kind, make in NEURONS.items():
        for surrogate in SURROGATES:
            layer = make(surrogate=surrogate)
            yield from _compare(kind, surrogate, layer, current, grad, settings)
    yield from _bandwidth(NEURONS["LIF"](), current, grad, settings)


def _bandwidth(
    layer: NeuronLayer, current: Tensor, grad: Tensor, settings: Settings
) -> Iterator[Group]:
    """Measure the C kernels beside plain loops of torch that move as many bytes.

    A forward pass reads currents and writes spikes, as a copy does; a backward pass reads currents
    and gradients and writes gradients, as an addition does. All write into memory that is there.
    """
    if native() is None:
        return
    spikes, made = torch.empty_like(current), torch.empty_like(current)
    constants = byref(options(layer.decay, layer.dynamics))
    size = (c_int64(len(current)), c_int64(current[0].numel()), constants)
    threads = c_int(settings.threads)
    library = library_of()
    forward = (*map(pointer, (current, spikes)), None, None)
    backward = map(pointer, (current, grad, made))
    runs: dict[str, Callable[[], object]] = {
        "copy": partial(spikes.copy_, current),
        "ours forward kernel": partial(library.neuron_forward, *forward, *size, threads),
        "addition": partial(torch.add, current, grad, out=made),
        "ours backward kernel": partial(
            library.neuron_backward, *backward, *size, c_int(0), threads
        ),
        "ours with autograd": partial(spikes_and_gradient, System(layer), current, grad),
    }
    moved = dict(zip(runs, (2, 2, 3, 3, 5), strict=True))
    name = f"LIF, atan, bytes moved {list(current.shape)}"
    group = times("neuron", name, runs, settings.patience(31, 30))
    add_bandwidth(group, moved, current.nbytes)
    yield group


def add_bandwidth(group: Group, moved: Mapping[str, int], window: int) -> None:
    """Add to the facts of a group what its rows move, in windows of so many bytes."""
    group.facts["MiB_moved"] = {key: many * window / 2**20 for key, many in moved.items()}
    group.facts["gigabytes_per_second"] = {
        key: moved[key] * window / row.median / 1e9 for key, row in group.rows.items()
    }


def _compare(
    kind: str,
    surrogate: str,
    layer: NeuronLayer,
    current: Tensor,
    grad: Tensor,
    settings: Settings,
) -> Iterator[Group]:
    names = [systems.NAIVE, systems.PEER, systems.REFERENCE, systems.NATIVE]
    if settings.compiled:
        names.insert(2, systems.PEER_COMPILED)
    made, missing = available({n: partial(systems.build, n, layer, True) for n in names})
    agreement, wrong = _agreement(made, current, grad)
    right = {name: system for name, system in made.items() if name not in wrong}
    facts = {
        "firing_rate": right[systems.REFERENCE](current).mean().item(),
        "agreement_float64": agreement,
        **_float32_errors(right, current, grad),
    }
    steps = {
        name: partial(spikes_and_gradient, system, current, grad) for name, system in right.items()
    }
    inference = {
        name: partial(repeat, systems.forward(system, current), IN_A_ROW)
        for name, system in right.items()
    }
    shape, patience = list(current.shape), settings.patience(31, 30)
    both = f"{kind}, {surrogate}, forward + backward {shape}"
    yield times("neuron", both, steps, patience, missing | wrong, facts)
    if surrogate == SURROGATES[0]:
        only = f"{kind}, inference {shape}"
        calls = dict.fromkeys(inference, IN_A_ROW)
        yield times("neuron", only, inference, patience, missing | wrong, facts, calls=calls)


def _float32_errors(
    made: dict[str, System], current: Tensor, grad: Tensor
) -> dict[str, dict[str, float]]:
    """Return what is told, not judged: in float32 a current at the threshold rounds either way."""
    want = spikes_and_gradient(made[systems.REFERENCE], current, grad)
    spikes, gradients = {}, {}
    for name, system in made.items():
        got = spikes_and_gradient(system, current, grad)
        spikes[name] = got[0].ne(want[0]).float().mean().item()
        gradients[name] = relative_error(got[1:], want[1:])
    return {"spikes_that_differ_float32": spikes, "gradient_error_float32": gradients}


def _agreement(
    made: dict[str, System], current: Tensor, grad: Tensor
) -> tuple[dict[str, float], dict[str, str]]:
    """Compare spikes and gradients in float64 with those of our reference."""
    few = (slice(None), slice(0, 2))
    wide = current[few].double(), grad[few].double()
    doubles = {
        name: System(copy.deepcopy(system.network).double(), system.context)
        for name, system in made.items()
        # The C kernel has float32 alone; SpikingJelly would be compiled again, for minutes.
        if name not in (systems.PEER_COMPILED, systems.NATIVE)
    }
    want = spikes_and_gradient(doubles[systems.REFERENCE], *wide)
    return agreeing(
        {name: partial(spikes_and_gradient, system, *wide) for name, system in doubles.items()},
        want,
    )

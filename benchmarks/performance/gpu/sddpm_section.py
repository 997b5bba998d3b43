"""A training step of the SDDPM network of CIFAR-10 beside SpikingJelly's neurons, on a GPU."""

from collections.abc import Iterator
from functools import partial

from torch import nn

from performance import spikingjelly_peer, systems
from performance.gpu.device import Bench, attempt
from performance.gpu.steps import compare, recipe_of, training_step
from performance.network_section import SMALL
from performance.table import Group

SECTION = "network on a GPU"
RECIPE, BATCH = "sddpm/cifar10", 64


def measure(bench: Bench) -> Iterator[Group]:
    """Measure a step in bf16, with both kinds of neurons."""
    batch, size, small = BATCH, 32, {}
    if bench.quick or bench.interpreted:
        small = {key: value for key, value in SMALL.items() if key != "sample_size"}
        batch, size = 2, SMALL["sample_size"]
    recipe = recipe_of(RECIPE, batch, "bf16", **small)
    make = partial(training_step, recipe, (3, size, size), bench.device)
    makers = {
        systems.PEER: attempt(partial(make, with_neurons=spikingjelly_peer.network)),
        "SpikingJelly triton": attempt(partial(make, with_neurons=partial(_of_half, bench))),
        systems.TRITON: make,
    }
    yield from compare(SECTION, f"SDDPM, a step of {batch} images, bf16", batch, makers, bench)


def _of_half(bench: Bench, model: nn.Module) -> nn.Module:
    return spikingjelly_peer.in_bf16(spikingjelly_peer.network(model), bench.device)

"""What weights of 16 and 8 bits change: weights, currents, spikes, and the images of one seed.

    PYTHONPATH=benchmarks python benchmarks/weight_precision.py RUN --output weight_precision.json

Layers are compared given the same input: that of the event-driven network with float32 weights.
"""

import argparse
import copy
import json
from collections.abc import Callable
from pathlib import Path
from statistics import median
from typing import Any

import torch
from torch import Tensor, nn

from performance.agreement import relative_error
from performance.sources import pipeline_at
from spikediff.events import EventConv2d, PackedNeuron, PackedSpikes, compile_for_inference
from spikediff.events.weights import BITS, quantise

PRECISIONS = ("int16", "int8")


def weight_error(conv: EventConv2d, precision: str) -> float:
    """Return the length of the weights' rounding over that of the weights."""
    axis = 1 if conv.transposed else 0
    whole, scales = quantise(conv.weight, BITS[precision], axis)
    shape = [-1 if i == axis else 1 for i in range(4)]
    return relative_error([whole.double() * scales.double().view(shape)], [conv.weight.double()])


class Layers:
    """Compares every layer of a compiled network while it runs.

    Attributes:
        errors: By layer: of its weights, of its current, and the share of spikes that the neuron
            behind it fires otherwise, where one stands directly behind.
    """

    def __init__(self, network: nn.Module, precision: Any) -> None:
        self.errors: dict[str, dict[str, float]] = {}
        self._last: tuple[str, Tensor] | None = None
        for name, module in network.named_modules():
            if isinstance(module, EventConv2d):
                rounded = copy.copy(module)
                rounded.precision, rounded._events = precision, {}
                module.register_forward_hook(self._synapse(name, rounded))
            elif isinstance(module, PackedNeuron):
                module.register_forward_pre_hook(self._neuron)

    def _synapse(self, name: str, rounded: EventConv2d) -> Callable[..., None]:
        def hook(_: nn.Module, inputs: tuple[Any], current: Tensor) -> None:
            self._last = None
            if not isinstance(inputs[0], PackedSpikes):
                return
            got = rounded.forward(inputs[0])
            self.errors[name] = {
                "weights": weight_error(rounded, rounded.precision),
                "current": relative_error([got], [current]),
            }
            self._last = (name, got - current)

        return hook

    def _neuron(self, neuron: nn.Module, inputs: tuple[Any]) -> None:
        last, self._last = self._last, None
        if last is None or last[1].numel() != inputs[0].numel():
            return
        name, change = last
        layer, current = neuron.neuron, inputs[0]
        spikes, other = layer(current), layer(current + change.view(current.shape))
        self.errors[name]["flipped"] = (spikes != other).float().mean().item()
        self.errors[name]["firing_rate"] = spikes.mean().item()


@torch.no_grad()
def layers_of(network: nn.Module, call: Callable[[nn.Module], Any], precision: Any) -> Any:
    """Return the errors of every layer in one call of the network."""
    compiled = compile_for_inference(network)
    layers = Layers(compiled, precision)
    call(compiled)
    return layers.errors


def summary(errors: dict[str, dict[str, float]]) -> dict[str, float]:
    """Return the middle and the worst layer of every kind of error."""
    kinds = {kind: [e[kind] for e in errors.values() if kind in e] for kind in _KINDS}
    found = {kind: values for kind, values in kinds.items() if values}
    return {
        f"{kind}_{which.__name__}": which(values)
        for kind, values in found.items()
        for which in (median, max)
    }


_KINDS = ("weights", "current", "flipped", "firing_rate")


def images_of(run: Path, weights: str | None, images: int, steps: int) -> Tensor:
    """Return the images of the first seeds, in [0, 1]."""
    pipe = pipeline_at(run)
    if weights is not None:
        pipe = pipe.compile_for_inference(weights)
        pipe.set_progress_bar_config(disable=True)
    seeds = range(images)
    made: Tensor = pipe(seeds=seeds, num_inference_steps=steps, output_type="pt").images
    return made


def changes(run: Path, images: int, steps: int) -> dict[str, Any]:
    """Return how far images are from those of the network as it was trained, by weights."""
    want = images_of(run, None, images, steps)
    found = {}
    for weights in BITS:
        off = images_of(run, weights, images, steps) - want
        found[weights] = {
            "mse": off.square().mean().item(),
            "images_that_differ": (off.abs().flatten(1).amax(1) > 0.5 / 255).float().mean().item(),
        }
    shuffled = want.roll(1, 0) - want  # how far the image of one seed is from that of another
    return {"by_weights": found, "mse_of_other_seeds": shuffled.square().mean().item()}


def main() -> None:
    """Measure, print and write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path)
    parser.add_argument("--images", type=int, default=16)
    parser.add_argument("--steps", type=int, default=50)
    parser.add_argument("--output", type=Path)
    args = parser.parse_args()
    torch.set_num_threads(1)
    told: dict[str, Any] = {"run": args.run.name, "images": args.images, "steps": args.steps}
    unet = getattr(pipeline_at(args.run), "unet", None)
    for precision in PRECISIONS if unet is not None else ():
        size = (1, unet.config.in_channels, unet.config.sample_size, unet.config.sample_size)
        sample = torch.randn(size, generator=torch.Generator().manual_seed(0))
        errors = layers_of(unet, lambda network, x=sample: network(x, 500), precision)
        told[precision] = summary(errors) | {"layers": errors}
        print(precision, summary(errors), flush=True)
    if args.images:
        told["images_of_one_seed"] = changes(args.run, args.images, args.steps)
        print(told["images_of_one_seed"], flush=True)
    if args.output is not None:
        args.output.write_text(json.dumps(told, indent=1) + "\n")


if __name__ == "__main__":
    main()

"""Generate images from exported NIR graphs, without spikediff: read, run T steps, denoise, save.

    python examples/run_nir.py GRAPHS [--output digits.png] [--num-images 8]

GRAPHS is the folder that `spikediff export` wrote. `run` interprets a graph by the equations of
NIR's documentation: Euler's method for `tau dv/dt = (v_leak - v) + r I`, a spike where
`v > v_threshold`, then `v = v_reset`. What arrives at a node is the sum over its edges. Replace
`run` by a simulator or a chip; the rest is the work of the host.
"""

import argparse
import json
from graphlib import TopologicalSorter
from pathlib import Path
from typing import Any

import diffusers
import nir
import torch
from diffusers.utils.pil_utils import make_image_grid, numpy_to_pil
from torch import Tensor
from torch.nn import functional as F


def run(graph: Any, x: Tensor, spiking_steps: int, dt: float) -> dict[str, Tensor]:
    """Return what every node emits at every step: by name, [T, B, ...], for a constant input x."""
    sources = {name: [a for a, b in graph.edges if b == name] for name in graph.nodes}
    order = list(TopologicalSorter(sources).static_order())
    membranes: dict[str, Tensor] = {}  # all start at 0
    emitted: dict[str, list[Tensor]] = {name: [] for name in order}
    for _ in range(spiking_steps):
        now: dict[str, Tensor] = {}
        for name in order:
            arrived = sum(now[source] for source in sources[name]) if sources[name] else x
            now[name] = _node(graph.nodes[name], arrived, membranes, name, dt)
            emitted[name].append(now[name])
    return {name: torch.stack(values) for name, values in emitted.items()}


def _node(node: Any, x: Any, membranes: dict[str, Tensor], name: str, dt: float) -> Tensor:
    kind = type(node).__name__
    if kind in ("Input", "Output"):
        return x
    if kind == "Conv2d":
        weight, bias = (torch.as_tensor(array).to(x) for array in (node.weight, node.bias))
        where = [tuple(map(int, pair)) for pair in (node.stride, node.padding, node.dilation)]
        return F.conv2d(x, weight, bias, *where, groups=int(node.groups))
    if kind == "AvgPool2d":
        where = [tuple(map(int, p)) for p in (node.kernel_size, node.stride, node.padding)]
        return F.avg_pool2d(x, *where)
    assert kind in ("LIF", "IF"), f"the interpreter knows no {kind}"
    numbers = {
        key: torch.as_tensor(getattr(node, key)).to(x)
        for key in ("tau", "r", "v_leak", "v_threshold", "v_reset")
        if hasattr(node, key)
    }
    assert all(value.shape == x.shape[1:] for value in numbers.values())
    v = membranes.get(name, torch.zeros_like(x))
    if kind == "LIF":
        v = v + dt / numbers["tau"] * ((numbers["v_leak"] - v) + numbers["r"] * x)
    else:
        v = v + dt * numbers["r"] * x
    spikes = (v > numbers["v_threshold"]).to(x)
    membranes[name] = torch.where(spikes > 0, numbers["v_reset"], v)
    return spikes


def denoise(folder: Path, sample: Tensor) -> Tensor:
    """Turn noise [B, C, H, W] into images in [-1, 1], as index.json says."""
    index = json.loads((folder / "index.json").read_text())
    if index["first_convolution_by"] == "host" or index.get("patch_size") != 1:
        raise SystemExit("this host makes no patches, tokens or convolution; see docs/export.md")
    said = index["scheduler"]
    scheduler = getattr(diffusers, said["class"]).from_config(said["config"])
    scheduler.set_timesteps(said["num_inference_steps"])
    weights = torch.tensor(index["readout_weights"]).to(sample).view(-1, 1, 1, 1, 1)  # [T, ...]
    for step in index["steps"]:
        t = torch.tensor(int(step["timestep"]))
        x = scheduler.scale_model_input(sample, t)
        spikes = run(nir.read(folder / step["file"]), x, index["spiking_steps"], index["dt"])
        estimate = (weights * spikes["output"]).sum(0)
        sample = scheduler.step(estimate, t, sample).prev_sample
    return sample


def main(arguments: list[str] | None = None) -> None:
    """Generate a row of images and save it."""
    parser = argparse.ArgumentParser(description="Generate images from exported NIR graphs.")
    parser.add_argument("graphs", type=Path)
    parser.add_argument("--output", type=Path, default=Path("nir.png"))
    parser.add_argument("--num-images", type=int, default=8)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args(arguments)
    shape = json.loads((given.graphs / "index.json").read_text())["shapes"]["input"]
    noise = torch.Generator().manual_seed(given.seed)
    sample = torch.randn(given.num_images, *shape, generator=noise)
    pixels = (denoise(given.graphs, sample) / 2 + 0.5).clamp(0, 1)  # [B, C, H, W]
    images = numpy_to_pil(pixels.permute(0, 2, 3, 1).numpy())
    make_image_grid(images, rows=1, cols=len(images), resize=64).save(given.output)
    print(given.output)


if __name__ == "__main__":
    main()

"""Export a denoiser to NIR: a graph for every timestep, an index, and tensors for the host."""

import json
import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypedDict, Unpack

import torch
from safetensors.torch import save
from torch import Tensor, nn

from spikediff import __version__
from spikediff.diffusion.exact_timesteps import visiting
from spikediff.errors import UserError, check_number, import_extra
from spikediff.files.writing import write_whole
from spikediff.interchange.nir.graph import GraphBuilder, default_dt
from spikediff.interchange.nir.networks import LOWERINGS, Shape
from spikediff.interchange.nir.unsupported_layers import check_supported
from spikediff.interchange.programs import sample_size_of
from spikediff.layers.coding import decay_weights
from spikediff.layers.sizes import patches_of, sides_of
from spikediff.neurons import NeuronLayer

INDEX, HOST = "index.json", "host.safetensors"


class Options(TypedDict, total=False):
    """Options of every export."""

    # Height and width of the image, or of the grid of tokens; the configured ones by default.
    sample_size: int | Shape | None
    # Length of a spiking step in NIR's unit of time, which all readers we know take as seconds. By
    # default 1e-4, or 1 for neurons without a leak.
    dt: float | None
    # Whether the host computes the first, real-valued convolution; the graph then takes its current
    # as input.
    first_on_host: bool
    class_label: int | None  # class of the images; None for no class


def write_nir(
    model: nn.Module,
    scheduler: Any,
    num_inference_steps: int,
    folder: Path,
    **options: Unpack[Options],
) -> dict[str, Any]:
    """Write a graph for every network call of a generation, and an index; return the index.

    For the arguments see `export_nir`; the scheduler determines the timesteps.
    """
    nir = import_extra("nir", "nir")
    lowering = LOWERINGS.get(type(model).__name__)
    timed = lowering is None or lowering.depends_on_time
    if timed:
        visiting(scheduler, num_inference_steps)
    else:  # tokens, with timesteps T_d to 1
        scheduler.set_timesteps(num_inference_steps)
    timesteps = [float(t) for t in scheduler.timesteps]
    exported: dict[str, Exported] = {}
    steps: list[dict[str, Any]] = []
    for call, timestep in enumerate(timesteps):
        name = f"timestep_{timestep:g}.nir" if timed else "network.nir"
        if name not in exported:
            exported[name] = export_nir(model, timestep, **options)
            folder.mkdir(parents=True, exist_ok=True)
            nir.write(folder / name, exported[name].graph)
        steps.append({"call": call, "timestep": timestep, "file": name})
    first = exported[steps[0]["file"]]
    if first.host:
        write_whole(folder / HOST, save({key: x.contiguous() for key, x in first.host.items()}))
    index = _index(model, first, scheduler, steps)
    (folder / INDEX).write_text(
        json.dumps(index, indent=1, allow_nan=False) + "\n", encoding="utf-8"
    )
    return index


def to_nir(
    model: nn.Module,
    timestep: Tensor | float | int | None = None,
    **options: Unpack[Options],
) -> Any:
    """Return a denoiser at one timestep as a `nir.NIRGraph`; see `export_nir` for the arguments.

    Norms are folded into convolutions, and the timestep into their biases; a convolution of a
    concatenation becomes the sum of two convolutions. The graph takes the same input at each of the
    T spiking steps, starting from membranes at 0. The readout of its outputs is the estimate.

    Example:
        >>> from spikediff import SpikingUNet
        >>> to_nir(SpikingUNet(8, 1, base_channels=8, channel_mult=(1,)).eval(), timestep=10)
        Traceback (most recent call last):
        ...
        spikediff.interchange.nir.unsupported_layers.UnsupportedLayersError: SpikingUNet: NIR \
cannot express 2 of its layers (--format onnx and torch can): [1] head (Head): real-valued Swish; \
train with spiking_head: true; [2] readout (decayed_sum): weights that differ by spiking step; \
train with readout: mean

    Reference: Pedersen et al., "Neuromorphic intermediate representation", Nature Communications
    2024.
    """
    return export_nir(model, timestep, **options).graph


@dataclass(frozen=True)
class Exported:
    """A graph, and the computations left to the host."""

    graph: Any  # the `nir.NIRGraph`
    host: Mapping[str, Tensor]  # tensors that the host needs, by name
    facts: Mapping[str, Any]  # information for users of the graph; also its metadata


@torch.no_grad()
def export_nir(
    model: nn.Module,
    timestep: Tensor | float | int | None = None,
    **options: Unpack[Options],
) -> Exported:
    """Export a denoiser at one timestep, with the facts and tensors that the host needs.

    The model is a `SpikingUNet` or a `SpikingImageDecoder`, in evaluation mode. The timestep is
    folded into biases; a network that does not depend on it needs no timestep.

    Raises:
        UserError: The package nir is missing, the model is in training mode, an argument is
            missing, or NIR cannot express some layers; the message names all of them.
    """
    check_supported(model)
    if model.training:
        raise UserError("export to NIR needs the norms' running statistics; call `.eval()` first")
    network: Any = model
    name, patch_size = type(model).__name__, network.config.get("patch_size", 1)
    lowering = LOWERINGS[name]
    if lowering.depends_on_time and timestep is None:
        raise UserError(f"{name}: give the timestep that the graph is made for")
    first_on_host, class_label = options.get("first_on_host", False), options.get("class_label")
    height, width = sides_of(name, sample_size_of(model, options.get("sample_size")))
    for side in (height, width):
        patches_of(name, side, patch_size)
    dt = _step_length(model, options.get("dt"))
    builder = GraphBuilder(import_extra("nir", "nir"), dt, first_on_host)
    label = None if class_label is None else torch.tensor([class_label])
    output = lowering.walk(builder, model, (height, width), timestep, label)
    facts: dict[str, Any] = {
        "made_by": f"spikediff {__version__}",
        "network": name,
        "spiking_steps": int(network.config.spiking_steps),
        "dt": dt,
        "readout": lowering.readout(model),
        "first_convolution": builder.first,
        "first_convolution_by": "host" if first_on_host else "graph",
    }
    if class_label is not None:
        facts["class_label"] = class_label
    if lowering.depends_on_time:
        facts["patch_size"] = int(patch_size)
        facts["timestep"] = float(torch.as_tensor(timestep))
    return Exported(builder.finish(output, facts), builder.host, facts)


def _step_length(model: nn.Module, given: float | None) -> float:
    if given is None:
        return default_dt(next(m for m in model.modules() if isinstance(m, NeuronLayer)))
    check_number("dt", given, above=0)
    return given


def _index(
    model: Any, exported: Exported, scheduler: Any, steps: Sequence[Mapping[str, Any]]
) -> dict[str, Any]:
    graph, host = exported.graph, exported.host
    facts = {key: value for key, value in exported.facts.items() if key != "timestep"}
    return {
        **facts,
        "readout_weights": _weights(facts["readout"], facts["spiking_steps"]),
        "shapes": {
            "input": [int(side) for side in graph.input_type["input"]],
            "output": [int(side) for side in graph.output_type["output"]],
        },
        "host": host_duties(facts, host),
        "host_tensors": {"file": HOST if host else None}
        | {k: list(v.shape) for k, v in host.items()},
        "scheduler": {
            "class": type(scheduler).__name__,
            "num_inference_steps": len(steps),
            "init_noise_sigma": float(getattr(scheduler, "init_noise_sigma", 1.0)),
            "config": _plain(scheduler.config),
        },
        "configuration": _plain(model.config),
        "steps": list(steps),
    }


def _weights(readout: str, spiking_steps: int) -> list[float]:
    if readout == "last":
        return [0.0] * (spiking_steps - 1) + [1.0]
    if readout == "mean":
        return [1.0 / spiking_steps] * spiking_steps
    weights: list[float] = decay_weights(spiking_steps).tolist()
    return weights


def host_duties(facts: Mapping[str, Any], host: Mapping[str, Any]) -> list[str]:
    """Return the steps that the host performs in a network call, in order; see `Exported`."""
    steps, patch, duties = facts["spiking_steps"], facts.get("patch_size", 1), []
    if "embedding" in host:
        duties.append("look up the tokens' vectors in the tensor embedding: [h, w] -> [C, h, w]")
    else:
        duties.append("scale the sample as the scheduler says (scale_model_input)")
    if patch > 1:
        duties.append(f"turn its patches of {patch} pixels into channels (pixel_unshuffle)")
    if facts["first_convolution_by"] == "host":
        name = facts["first_convolution"]
        duties.append(
            f"convolve it with {name}.weight and {name}.bias; zero padding keeps the size"
        )
    back = (
        [f"turn its channels into patches of {patch} pixels (pixel_shuffle)"] if patch > 1 else []
    )
    return [
        *duties,
        "set all membranes to 0",
        f"give the graph the same input at {steps} spiking steps",
        "sum its outputs, weighted by readout_weights, to get the estimate",
        *back,
        "make a step of the scheduler with the estimate",
    ]


def _plain(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return a configuration as JSON, without diffusers' own keys and infinite defaults."""
    own = {
        key: value
        for key, value in config.items()
        if not key.startswith("_") and not (isinstance(value, float) and math.isinf(value))
    }
    plain: dict[str, Any] = json.loads(json.dumps(own, default=str))
    return plain

"""A denoiser at one timestep as a NIR graph.

The files of an export: a graph for every timestep, an index, and what the host needs.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import Tensor, nn

from spikediff import __version__
from spikediff.diffusion.exact_timesteps import visiting
from spikediff.errors import UserError
from spikediff.interchange.extras import import_extra
from spikediff.interchange.nir.graph import GraphBuilder, default_dt
from spikediff.interchange.nir.networks import LOWERINGS, Shape
from spikediff.interchange.nir.unsupported_layers import check_expressible
from spikediff.layers.coding import decay_weights
from spikediff.neurons import NeuronLayer


@dataclass(frozen=True)
class Exported:
    """A graph, and what the host computes around it.

    Attributes:
        graph: The `nir.NIRGraph`.
        host: Tensors that the host needs, by name.
        facts: What a reader must know, in words and numbers; the graph's metadata too.
    """

    graph: Any
    host: Mapping[str, Tensor]
    facts: Mapping[str, Any]


@torch.no_grad()
def export_nir(
    model: nn.Module,
    timestep: Tensor | float | int | None = None,
    *,
    sample_size: int | Shape | None = None,
    dt: float | None = None,
    first_on_host: bool = False,
    class_label: int | None = None,
) -> Exported:
    """Turn a denoiser at one timestep into a NIR graph, and say what the host does around it.

    Args:
        model: A `SpikingUNet` or a `SpikingImageDecoder`, in evaluation mode.
        timestep: Diffusion timestep, folded into biases; a network without one needs none.
        sample_size: Height and width of the image, or of the grid of tokens; the configured ones
            where there are such.
        dt: Length of a spiking step in NIR's unit of time, which is seconds for all readers that
            we know: 1e-4, or 1 for neurons without a leak, where it is not given.
        first_on_host: Whether the host computes the first convolution, of real numbers; the graph
            then starts at its current.
        class_label: The class that the images shall be of; None for no class.

    Raises:
        UserError: The package nir is missing, the model is in training mode, an argument is
            missing, or there are layers that NIR cannot express; all of them are named.
    """
    check_expressible(model)
    if model.training:
        raise UserError("export to NIR needs the norms' running statistics; call `.eval()` first")
    lowering = LOWERINGS[type(model)]
    if lowering.depends_on_time and timestep is None:
        raise UserError(f"{type(model).__name__}: give the timestep that the graph is made for")
    size, step = _size(model, sample_size), _step_length(model, dt)
    builder = GraphBuilder(import_extra("nir", "nir"), step, first_on_host)
    label = None if class_label is None else torch.tensor([class_label])
    answer = lowering.walk(builder, model, size, timestep, label)
    steps = int(model.config.spiking_steps)  # type: ignore[union-attr, arg-type]
    facts: dict[str, Any] = {
        "made_by": f"spikediff {__version__}",
        "network": type(model).__name__,
        "spiking_steps": steps,
        "dt": step,
        "readout": lowering.readout(model),
        "first_convolution": builder.first,
        "first_convolution_by": "host" if first_on_host else "graph",
    }
    if class_label is not None:
        facts["class_label"] = class_label
    if lowering.depends_on_time:
        facts["patch_size"] = int(model.config.patch_size)  # type: ignore[union-attr, arg-type]
        facts["timestep"] = float(torch.as_tensor(timestep))
    return Exported(builder.finish(answer, facts), builder.host, facts)


def to_nir(
    model: nn.Module,
    timestep: Tensor | float | int | None = None,
    *,
    sample_size: int | Shape | None = None,
    dt: float | None = None,
    first_on_host: bool = False,
    class_label: int | None = None,
) -> Any:
    """Return a denoiser at one timestep as a `nir.NIRGraph`.

    Norms are folded into convolutions, the timestep into their biases; a convolution of a
    concatenation is the sum of two. The graph takes the same input at every one of T spiking steps,
    from membranes at 0; the read-out of what it answers makes the estimate.

    Args:
        model: See `export_nir`, as for the others.
        timestep: Diffusion timestep.
        sample_size: Height and width of the input.
        dt: Length of a spiking step.
        first_on_host: Whether the graph starts behind the first convolution.
        class_label: The class, of a network that knows some.

    Raises:
        UserError: See `export_nir`.

    Example:
        >>> from spikediff import SpikingUNet
        >>> to_nir(SpikingUNet(8, 1, base_channels=8, channel_mult=(1,)).eval(), timestep=10)
        Traceback (most recent call last):
        ...
        spikediff.errors.UserError: SpikingUNet: NIR cannot express 2 of its layers \
(--format onnx and torch can): [1] head (Head): Swish of real numbers; train with spiking_head: \
true; [2] readout (decayed_sum): weights that differ by spiking step; train with readout: mean

    Reference: Pedersen et al., "Neuromorphic intermediate representation", Nature Communications
    2024.
    """
    return export_nir(
        model,
        timestep,
        sample_size=sample_size,
        dt=dt,
        first_on_host=first_on_host,
        class_label=class_label,
    ).graph


def _size(model: Any, given: int | Shape | None) -> Shape:
    size = model.config.get("sample_size") if given is None else given
    if size is None:
        raise UserError(f"{type(model).__name__}: takes any size; give sample_size, of its input")
    return (size, size) if isinstance(size, int) else (int(size[0]), int(size[1]))


def _step_length(model: nn.Module, given: float | None) -> float:
    if given is None:
        return default_dt(next(m for m in model.modules() if isinstance(m, NeuronLayer)))
    if not given > 0:
        raise UserError(f"dt = {given} must be positive")
    return given


INDEX, HOST = "index.json", "host.safetensors"


def write_nir(
    model: nn.Module,
    scheduler: Any,
    num_inference_steps: int,
    folder: Path,
    *,
    sample_size: int | Shape | None = None,
    dt: float | None = None,
    first_on_host: bool = False,
    class_label: int | None = None,
) -> dict[str, Any]:
    """Write a graph for every network call of a generation, and an index of them.

    Args:
        model: See `export_nir`.
        scheduler: Decides the timesteps.
        num_inference_steps: Network calls.
        folder: Where to write; it is made.
        sample_size: See `export_nir`, as the others.
        dt: Length of a spiking step.
        first_on_host: Whether the host computes the first convolution.
        class_label: The class that the images shall be of.

    Returns:
        The index, as it stands in `index.json`.

    Raises:
        UserError: See `export_nir`.
    """
    nir = import_extra("nir", "nir")
    timesteps = [float(t) for t in visiting(scheduler, num_inference_steps).timesteps]
    timed = type(model) not in LOWERINGS or LOWERINGS[type(model)].depends_on_time
    exported: dict[str, Exported] = {}
    steps: list[dict[str, Any]] = []
    for call, timestep in enumerate(timesteps):
        name = f"timestep_{timestep:g}.nir" if timed else "network.nir"
        if name not in exported:
            exported[name] = export_nir(
                model,
                timestep,
                sample_size=sample_size,
                dt=dt,
                first_on_host=first_on_host,
                class_label=class_label,
            )
            folder.mkdir(parents=True, exist_ok=True)
            nir.write(folder / name, exported[name].graph)
        steps.append({"call": call, "timestep": timestep, "file": name})
    first = exported[steps[0]["file"]]
    host = {key: tensor.contiguous() for key, tensor in first.host.items()}
    if host:
        save_file(host, folder / HOST)
    index = _index(model, first, scheduler, host, steps)
    (folder / INDEX).write_text(json.dumps(index, indent=1) + "\n", encoding="utf-8")
    return index


def _index(
    model: Any,
    exported: Exported,
    scheduler: Any,
    host: Mapping[str, torch.Tensor],
    steps: Sequence[Mapping[str, Any]],
) -> dict[str, Any]:
    facts = {key: value for key, value in exported.facts.items() if key != "timestep"}
    shapes = {
        word: [int(side) for side in kind[word]]
        for word, kind in (
            ("input", exported.graph.input_type),
            ("output", exported.graph.output_type),
        )
    }
    return {
        **facts,
        "readout_weights": _weights(facts["readout"], facts["spiking_steps"]),
        "shapes": shapes,
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


def host_duties(facts: Mapping[str, Any], host: Mapping[str, Any]) -> list[str]:
    """Return what the host does in a network call, in order.

    Args:
        facts: Those of `Exported`.
        host: Tensors of the host, by name.
    """
    steps, patch, duties = facts["spiking_steps"], facts.get("patch_size", 1), []
    if "embedding" in host:
        duties.append("look up the tokens' vectors in the tensor embedding: [h, w] -> [C, h, w]")
    else:
        duties.append("scale the sample as the scheduler says (scale_model_input)")
    if patch > 1:
        duties.append(f"make channels of its patches of {patch} pixels (pixel_unshuffle)")
    if facts["first_convolution_by"] == "host":
        name = facts["first_convolution"]
        duties.append(
            f"convolve it with {name}.weight and {name}.bias; zeros round it keep the size"
        )
    back = [f"make patches of {patch} pixels of its channels (pixel_shuffle)"] if patch > 1 else []
    return [
        *duties,
        "set all membranes to 0",
        f"give the graph the same input at {steps} spiking steps",
        "add up its outputs, each times its number in readout_weights: the estimate",
        *back,
        "make a step of the scheduler with the estimate",
    ]


def _weights(readout: str, spiking_steps: int) -> list[float]:
    """Return what the output of every spiking step is multiplied by."""
    if readout == "last":
        return [0.0] * (spiking_steps - 1) + [1.0]
    if readout == "mean":
        return [1.0 / spiking_steps] * spiking_steps
    weights: list[float] = decay_weights(spiking_steps).tolist()
    return weights


def _plain(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return a configuration without diffusers' own keys, as JSON has it."""
    own = {key: value for key, value in config.items() if not key.startswith("_")}
    plain: dict[str, Any] = json.loads(json.dumps(own, default=str))
    return plain

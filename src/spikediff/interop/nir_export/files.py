"""The files of an export: a graph for every timestep, an index, and what the host needs."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file
from torch import nn

from spikediff.coding import decay_weights
from spikediff.interop.extras import import_extra
from spikediff.interop.nir_export.export import Exported, export_nir
from spikediff.interop.nir_export.networks import LOWERINGS, Shape
from spikediff.schedulers.exact_timesteps import visiting

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

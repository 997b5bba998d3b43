"""A denoiser at one timestep as a NIR graph."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

from spikediff import __version__
from spikediff.errors import UserError
from spikediff.interop.extras import import_extra
from spikediff.interop.nir_export.graph import GraphBuilder
from spikediff.interop.nir_export.networks import LOWERINGS, Shape
from spikediff.interop.nir_export.neuron_nodes import default_dt
from spikediff.interop.nir_export.offences import check_expressible
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
        >>> from spikediff.models import SpikingUNet
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

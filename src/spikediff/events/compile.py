"""Turn a trained network into its event-driven form."""

import copy
from typing import Any, NoReturn, TypeVar

import torch
from torch import nn

from spikediff.errors import UserError
from spikediff.events.folding import fold_norms
from spikediff.events.neuron import PackedNeuron, can_be_packed
from spikediff.events.synapse import EventConv2d, can_be_event_driven
from spikediff.native import native

Model = TypeVar("Model", bound=nn.Module)


def compile_for_inference(model: Model) -> Model:
    """Return a copy that computes the same, event by event.

    Norms are folded into the convolutions before them; spikes travel as bits; a convolution that
    sees them adds the weights of what fired (`EventConv2d`). There is nothing to wait for: it takes
    as long as copying the weights. Without the compiled kernels (`spikediff info` says whether they
    are there) only the norms are folded.

    Rounding differs from the model's by the folded norms and the order of sums. One spike that
    flips changes many behind it, so the outputs agree layer by layer given the same input, and end
    to end in distribution, not bit by bit.

    Args:
        model: Any network of this library, on the CPU, float32.

    Returns:
        The copy, in evaluation mode; it cannot be trained, saved or measured for energy.

    Raises:
        UserError: The model is on another device, or not float32.

    Example:
        >>> from spikediff.models import SpikingUNet
        >>> model = SpikingUNet(sample_size=8, in_channels=1, base_channels=8, channel_mult=(1, 2))
        >>> fast = compile_for_inference(model)
        >>> fast(torch.randn(2, 1, 8, 8), timestep=10).sample.shape
        torch.Size([2, 1, 8, 8])
    """
    first = next(model.parameters(), torch.zeros(()))
    if first.device.type != "cpu" or first.dtype != torch.float32:
        raise UserError(
            f"compile_for_inference: the event-driven form runs float32 on the CPU, the model is "
            f"{first.dtype} on {first.device.type}"
        )
    compiled = copy.deepcopy(model).eval()
    fold_norms(compiled)
    if native() is not None and any(map(can_be_event_driven, compiled.modules())):
        _replace(compiled)
    compiled.requires_grad_(False)
    compiled.event_driven = True  # type: ignore[assignment]  # the energy meter refuses it
    compiled.save_pretrained = _refuse_to_save  # type: ignore[assignment]
    return compiled


def _replace(module: nn.Module) -> None:
    """Replace neurons and convolutions below a module."""
    for name, child in module.named_children():
        if isinstance(child, PackedNeuron | EventConv2d):
            continue  # compiled already
        if can_be_packed(child):
            setattr(module, name, PackedNeuron(child))  # type: ignore[arg-type]
        elif can_be_event_driven(child):
            setattr(module, name, EventConv2d(child))  # type: ignore[arg-type]
        else:
            _replace(child)


def _refuse_to_save(*_: Any, **__: Any) -> NoReturn:
    raise UserError("compiled for inference: its norms are folded; save the model it came from")

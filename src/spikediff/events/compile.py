"""Compile a trained network for event-driven inference; its neurons emit spikes as bits."""

import copy
from typing import Any, NoReturn, TypeVar

import torch
from torch import Tensor, nn

from spikediff.errors import UserError, kind_of
from spikediff.events.packed import PackedSpikes, empty_words, window_of
from spikediff.events.synapse import EventConv2d, can_be_event_driven
from spikediff.events.weights import Precision, check_precision
from spikediff.layers.norm import fold_norms
from spikediff.native import native
from spikediff.neurons import IF, LIF, Dynamics, IntegrateAndFire, Memory, ParametricLIF
from spikediff.neurons.kernels import native as kernel

Model = TypeVar("Model", bound=nn.Module)


def compile_for_inference(model: Model, weights: Precision = "float32") -> Model:
    """Return an event-driven copy of a network.

    Norms are folded into the preceding convolutions, spikes are passed on as bits, and a
    convolution of spikes adds the weights of the channels that fire (`EventConv2d`). Compiling
    takes as long as copying the weights. Without the C kernels (see `spikediff info`), only the
    norms are folded.

    Folded norms and another order of summation change the rounding, and one flipped spike changes
    many later ones. Outputs therefore agree layer by layer for the same input, and end to end in
    distribution, but not bit by bit. The deployment form of an integer network
    (`spikediff.systems.integer`) does give the same bits; its calls run entirely in C.

    With 16-bit or 8-bit weights, the folded weights for spikes are rounded to integers, with a
    scale per output channel, and summed exactly. Linear layers, and convolutions of currents, keep
    float32 weights.

    Args:
        model: Any network of this library, on the CPU, float32.
        weights: "float32", "int16" (rounding error at most 1/65,534 of the channel's largest
            weight), or "int8" (1/254), which needs a quarter of the memory traffic.

    Returns:
        The copy, in evaluation mode; it cannot be trained, saved or measured for energy.

    Raises:
        UserError: The model is on another device, not float32, or already compiled with other
            weights; `weights` is unknown, or needs the C kernels, which are missing.

    Example:
        >>> from spikediff import SpikingUNet
        >>> model = SpikingUNet(sample_size=8, in_channels=1, base_channels=8, channel_mult=(1, 2))
        >>> fast = compile_for_inference(model)
        >>> fast(torch.randn(2, 1, 8, 8), timestep=10).sample.shape
        torch.Size([2, 1, 8, 8])
    """
    own: Any = model
    if isinstance(own, CompilesItself):
        compiled: Model = _compiled_by_itself(own, weights)
        return compiled
    _check(model, weights)
    compiled = copy.deepcopy(model).eval()
    fold_norms(compiled)
    if native() is not None and any(map(can_be_event_driven, compiled.modules())):
        _replace(compiled, weights)
    compiled.requires_grad_(False)
    compiled.event_driven = True  # type: ignore[assignment]  # the energy meter refuses it
    compiled.event_weights = weights  # type: ignore[assignment]
    compiled.save_pretrained = _refuse_to_save  # type: ignore[assignment]
    return compiled


class CompilesItself:
    """A network with its own form for inference."""

    def compiled(self) -> nn.Module:
        """Return this form, which gives the same bits."""
        raise NotImplementedError


def _compiled_by_itself(model: Any, weights: str) -> Any:
    if weights != "float32":
        raise UserError(
            f"compile_for_inference: weights={weights!r}; the weights of {kind_of(model)} "
            f"are whole numbers already, omit it"
        )
    compiled = model.compiled()
    compiled.save_pretrained = _refuse_to_save
    return compiled


def _check(model: nn.Module, weights: str) -> None:
    check_precision(weights)
    if not isinstance(model, nn.Module):
        raise UserError(
            f"compile_for_inference: {kind_of(model)} is not a network; give one, such as pipe.unet"
        )
    first = next(model.parameters(), torch.zeros(()))
    if first.device.type != "cpu" or first.dtype != torch.float32:
        raise UserError(
            f"compile_for_inference: the event-driven form runs float32 on the CPU, the model is "
            f"{first.dtype} on {first.device.type}"
        )
    before = getattr(model, "event_weights", weights)
    if before != weights:
        raise UserError(
            f"compile_for_inference: the model is compiled already, with weights={before!r}; "
            f"compile the one that it came from"
        )
    if weights != "float32" and native() is None:
        raise UserError(
            f"compile_for_inference: weights={weights!r} needs the compiled kernels; install a C "
            f"compiler and run `python -m spikediff.native.build`"
        )


def _replace(module: nn.Module, weights: Precision) -> None:
    for name, child in module.named_children():
        if isinstance(child, PackedNeuron | EventConv2d):
            continue  # compiled already
        if can_be_packed(child):
            setattr(module, name, PackedNeuron(child))  # type: ignore[arg-type]
        elif can_be_event_driven(child):
            setattr(module, name, EventConv2d(child, weights))  # type: ignore[arg-type]
        else:
            _replace(child, weights)


def _refuse_to_save(*_: Any, **__: Any) -> NoReturn:
    raise UserError("compiled for inference: save the model it came from")


# With fewer channels on more pixels, building lists costs more than the synapses save; on few
# pixels, dense convolutions are slow as well (docs/performance.md).
FEWEST_CHANNELS, FEW_PIXELS = 48, 64


class PackedNeuron(nn.Module):
    """A neuron layer for images that emits `PackedSpikes`; every call reads its constants.

    Only finite float32 windows of images that start from rest and have enough channels are packed.
    All other inputs, such as timestep embeddings and streamed steps, take the ordinary path.

    Shape: currents [T, B, C, H, W] -> spikes of that shape.
    """

    def __init__(self, neuron: IntegrateAndFire) -> None:
        super().__init__()
        self.neuron = neuron

    @property
    def dynamics(self) -> Dynamics:
        """The neuron's constants."""
        return self.neuron.dynamics

    def forward(self, current: Tensor, memory: Memory | None = None) -> PackedSpikes | Tensor:
        """Return the spikes; `memory` as in `spikediff.neurons.NeuronLayer.forward`."""
        images = current.dim() == 5 and current.dtype == torch.float32
        images = images and _pays(*current.shape[2:])
        if memory is not None or not images or not kernel.suits(current, self.dynamics):
            spikes: Tensor = self.neuron(current, memory)
            return spikes
        last = current.detach().movedim(2, -1).contiguous()  # [T, B, H, W, C]
        words, pixels = empty_words(*current.shape), last.flatten(1, 3)  # [T, B*H*W, C]
        active = kernel.forward_packed(pixels, words, self.neuron.decay, self.dynamics)
        if active < 0:
            dense: Tensor = self.neuron(current)
            return dense
        return window_of(words, current.shape[2], active)


def _pays(channels: int, height: int, width: int) -> bool:
    return channels >= FEWEST_CHANNELS or height * width <= FEW_PIXELS


def can_be_packed(module: nn.Module) -> bool:
    """Return whether `PackedNeuron` supports a module: an unsigned neuron of this library."""
    return type(module) in (IF, LIF, ParametricLIF)

"""SpikingJelly 2.0.0 as its users call it; installed apart by `make bench`, in build/peers.

A plain install drags in 6 GB and a torchvision that does not fit a CPU build of torch; without its
dependencies it works beside ours.
"""

import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from types import ModuleType

import torch
from torch import nn

from performance.missing import Missing
from performance.surgery import ResetFirst, with_neurons
from spikediff.neurons import IF, LIF, NeuronLayer
from spikediff.neurons.surrogate import ATan, Sigmoid, Surrogate

FOLDER = Path(__file__).resolve().parents[2] / "build" / "peers"


def parts() -> tuple[ModuleType, ModuleType, ModuleType]:
    """Return SpikingJelly's neurons, surrogates and functions."""
    if FOLDER.is_dir() and str(FOLDER) not in sys.path:
        sys.path.append(str(FOLDER))
    try:
        from spikingjelly.activation_based import functional, neuron, surrogate
    except ImportError as error:
        raise Missing(f"not installed (make peers): {error}") from None
    return neuron, surrogate, functional


def installed_version() -> str | None:
    """Return SpikingJelly's version; None where it is not installed."""
    try:
        parts()
        return version("spikingjelly")
    except (Missing, PackageNotFoundError):
        return None


def neuron_like(layer: NeuronLayer) -> nn.Module:
    """Return SpikingJelly's multi-step neuron with the constants of ours."""
    neuron, _, _ = parts()
    dynamics = layer.dynamics
    if dynamics.strict_threshold or dynamics.v_init is not None or dynamics.v_negative is not None:
        raise Missing("SpikingJelly has no such neuron")
    options = {
        "v_threshold": dynamics.v_threshold,
        "v_reset": dynamics.v_reset,
        "surrogate_function": _surrogate_like(dynamics.surrogate),
        "detach_reset": dynamics.detach_reset,
        "step_mode": "m",
    }
    if isinstance(layer, IF):
        return neuron.IFNode(**options)
    if isinstance(layer, LIF):
        tau = 1.0 / (1.0 - layer.decay)
        return neuron.LIFNode(tau=tau, decay_input=dynamics.decay_input, **options)
    raise Missing(f"no counterpart of {type(layer).__name__}")


def _surrogate_like(surrogate: Surrogate) -> nn.Module:
    _, theirs, _ = parts()
    if isinstance(surrogate, ATan):
        return theirs.ATan(alpha=surrogate.alpha)
    if isinstance(surrogate, Sigmoid):
        return theirs.Sigmoid(alpha=surrogate.alpha)
    raise Missing(f"no counterpart of {surrogate}")


def network(model: nn.Module, compiled: bool = False) -> nn.Module:
    """Return our network with SpikingJelly's neurons, which are reset before every call.

    Args:
        model: Our network; a neuron layer of it is the same.
        compiled: Whether `torch.compile` makes one program of it.
    """
    _, _, functional = parts()
    made = (
        neuron_like(model) if isinstance(model, NeuronLayer) else with_neurons(model, neuron_like)
    )
    return ResetFirst(torch.compile(made) if compiled else made, functional.reset_net)


def in_bf16(model: nn.Module, device: torch.device) -> nn.Module:
    """Return SpikingJelly's network or neuron with kernels that store membranes in bf16.

    By default it computes half precision in torch, with membranes in half precision.

    Args:
        model: What `network` returned.
        device: Of the network; only a GPU has these kernels.
    """
    parts()
    from spikingjelly.activation_based.precision import prepare_model_for_precision

    options = {"mode": "bf16", "neuron_storage": "bf16"}
    made: nn.Module = prepare_model_for_precision(model, device, options).model
    return made

"""Helpers of energy meter, recorder and guidance: find models, name neurons, read calls."""

from collections.abc import Iterable, Mapping
from fnmatch import fnmatchcase
from inspect import signature
from typing import Any, TypeVar

from torch import Tensor, nn

from spikediff.errors import UserError
from spikediff.neurons import SpikeEmitter

Layer = TypeVar("Layer")
Neurons = TypeVar("Neurons", bound=SpikeEmitter)


def modules_of(target: Any, instrument: str) -> dict[str, nn.Module]:
    """Return the networks of a model or pipeline, by the prefix of their layers' names.

    The prefix of a single network is empty. `instrument` names the caller in messages.

    Example:
        >>> modules_of(nn.Linear(2, 2), "EnergyMeter")
        {'': Linear(in_features=2, out_features=2, bias=True)}
    """
    if getattr(target, "event_driven", False):
        raise UserError(
            f"{instrument}: compiled for inference, where layers do not expose their spikes; "
            "measure the original model"
        )
    if isinstance(target, nn.Module):
        return {"": target}
    parts = getattr(target, "components", {})
    modules = {name: part for name, part in parts.items() if isinstance(part, nn.Module)}
    if not modules:
        raise UserError(
            f"{instrument}: {type(target).__name__} contains no model; pass a model or a pipeline"
        )
    return modules if len(modules) > 1 else {"": next(iter(modules.values()))}


def neurons_of(models: Mapping[str, nn.Module], kind: type[Neurons]) -> dict[str, Neurons]:
    """Return the neuron layers of models by name, in order.

    Example:
        >>> from spikediff import IF
        >>> list(neurons_of({"unet": nn.Sequential(nn.Linear(2, 2), IF())}, SpikeEmitter))
        ['unet.1']
    """
    return {
        ".".join(part for part in (prefix, name) if part): module
        for prefix, model in models.items()
        for name, module in model.named_modules()
        if isinstance(module, kind)
    }


def choose_by_name(
    layers: Mapping[str, Layer], patterns: Iterable[str], who: str
) -> dict[str, Layer]:
    """Return the layers that match any pattern, in order; refuse a pattern that matches none.

    Patterns are those of `fnmatch`, where `*` also matches dots; one that matches a module selects
    all layers in it. `who` names the caller in the message.

    Example:
        >>> choose_by_name({"a.0": 1, "a.1": 2, "b": 3}, ["*.1", "b"], "me")
        {'a.1': 2, 'b': 3}
    """
    patterns = list(patterns)
    for pattern in patterns:
        if not any(_fits(name, pattern) for name in layers):
            raise UserError(
                f"{who}: no layer of neurons is named {pattern!r}; there are {', '.join(layers)}"
            )
    return {n: layer for n, layer in layers.items() if any(_fits(n, p) for p in patterns)}


def _fits(name: str, pattern: str) -> bool:
    """Return whether a pattern matches the layer or a module around it."""
    parts = name.split(".")
    return any(fnmatchcase(".".join(parts[: i + 1]), pattern) for i in range(len(parts)))


def arguments_of(
    model: nn.Module, inputs: tuple[Any, ...], options: Mapping[str, Any]
) -> dict[str, Any]:
    """Return the arguments of a call, by the names in the model's `forward`, in order.

    Example:
        >>> arguments_of(nn.Linear(2, 2), ("x",), {})
        {'input': 'x'}
    """
    return dict(zip(signature(model.forward).parameters, inputs, strict=False)) | dict(options)


def as_timestep(given: Any) -> float | None:
    """Return a timestep as a number; None without one, or for a batch of different ones.

    Example:
        >>> as_timestep(981), as_timestep(None)
        (981.0, None)
    """
    if isinstance(given, Tensor):
        same = bool((given == given.flatten()[0]).all())
        return float(given.flatten()[0]) if same else None
    return float(given) if isinstance(given, float | int) else None

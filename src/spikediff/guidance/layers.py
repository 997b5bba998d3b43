"""Naming layers of neurons by patterns."""

from collections.abc import Iterable

from torch import nn

from spikediff.errors import UserError
from spikediff.neurons import NeuronLayer
from spikediff.observed import choose_by_name, neurons_of


def find_layers(model: nn.Module) -> dict[str, NeuronLayer]:
    """Return the layers of neurons of a model by name, in the model's order.

    Raises:
        UserError: There are none.

    Example:
        >>> from spikediff.neurons import IF
        >>> list(find_layers(nn.Sequential(nn.Linear(2, 2), IF())))
        ['1']
    """
    layers = neurons_of({"": model}, NeuronLayer)
    if not layers:
        raise UserError(
            f"{type(model).__name__}: has no spiking neurons that guidance could change; threshold "
            "guidance needs layers of IF, LIF or other neurons with a fixed threshold"
        )
    return layers


def choose_layers(model: nn.Module, patterns: Iterable[str]) -> list[NeuronLayer]:
    """Return the layers of neurons that some pattern fits.

    Args:
        model: Where they are looked for.
        patterns: As `fnmatch` has them, where `*` also stands for dots. One that fits the name of
            a module stands for all layers of neurons in it.

    Raises:
        UserError: The model has no neurons, there is no pattern, or one fits none of them.

    Example:
        >>> from spikediff.neurons import IF, LIF
        >>> model = nn.ModuleDict({"a": nn.Sequential(IF(), LIF()), "b": IF()})
        >>> choose_layers(model, ["a"]) == [*model["a"]]
        True
        >>> choose_layers(model, ["*.0", "b"]) == [model["a"][0], model["b"]]
        True
    """
    layers, patterns = find_layers(model), list(patterns)
    if not patterns:
        raise UserError("threshold_guidance: no layer is named; give a pattern, or nothing for all")
    return list(choose_by_name(layers, patterns, "threshold_guidance").values())

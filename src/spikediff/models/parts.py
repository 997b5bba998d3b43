"""The parts of a network that its configuration names."""

from collections.abc import Mapping
from functools import partial
from typing import Any

from spikediff.errors import UserError, suggestion
from spikediff.layers import Neuron
from spikediff.neurons import NEURONS


def choose(network: str, table: Mapping[str, Any], what: str, name: str) -> Any:
    """Return the row of a table that a name stands for.

    Args:
        network: Name of the network, for the message.
        table: The rows by name.
        what: What the rows are, for the message.
        name: The name that the configuration gives.

    Raises:
        UserError: The table has no such row.

    Example:
        >>> choose("SpikingUNet", {"mean": sum}, "readout", "men")
        Traceback (most recent call last):
        ...
        spikediff.errors.UserError: SpikingUNet: unknown readout 'men'; did you mean 'mean'?
    """
    if name not in table:
        raise UserError(f"{network}: unknown {what} {name!r}; {suggestion(name, table)}")
    return table[name]


def make_neuron_maker(network: str, name: str, options: Mapping[str, Any]) -> Neuron:
    """Return what makes one neuron layer.

    Args:
        network: Name of the network, for the message.
        name: Key of `spikediff.neurons.NEURONS`.
        options: Keyword arguments of the neuron.

    Raises:
        UserError: The name is unknown, or the neuron does not have such options.

    Example:
        >>> make_neuron_maker("SpikingUNet", "lif", {"tau": 4.0})().decay
        0.75
    """
    make: Neuron = partial(choose(network, NEURONS, "neuron", name), **options)
    try:
        make()
    except TypeError as error:
        raise UserError(
            f"{network}: neuron_options={dict(options)} do not fit neuron {name!r} ({error})"
        ) from error
    return make

"""Parts of a network, chosen by name from the tables of the rooms below."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from spikediff.errors import UserError, suggestion
from spikediff.neurons import NEURONS, NeuronLayer


def choose(network: str, table: Mapping[str, Any], what: str, name: str) -> Any:
    """Return a row of a table.

    Args:
        network: Name of the network that asks, for the message.
        table: Rows by name.
        what: What the rows are, for the message.
        name: Name of the row.

    Raises:
        UserError: There is no such row.

    Example:
        >>> choose("SpikingUNet", {"mean": 1}, "readout", "meen")
        Traceback (most recent call last):
        ...
        spikediff.errors.UserError: SpikingUNet: unknown readout 'meen'; did you mean 'mean'?
    """
    if name not in table:
        raise UserError(f"{network}: unknown {what} {name!r}; {suggestion(name, table)}")
    return table[name]


def make_neuron_maker(
    network: str, name: str, options: Mapping[str, Any]
) -> Callable[[], NeuronLayer]:
    """Return what makes one neuron layer; refuse options that the neuron does not have.

    Args:
        network: Name of the network that asks, for the message.
        name: Key of `spikediff.neurons.NEURONS`.
        options: Keyword arguments of the neuron.

    Raises:
        UserError: The neuron is unknown, or does not take the options.

    Example:
        >>> make_neuron_maker("SpikingUNet", "lif", {"tau": 4.0})().decay
        0.75
    """
    make: Callable[[], NeuronLayer] = partial(choose(network, NEURONS, "neuron", name), **options)
    try:
        make()
    except TypeError as error:
        raise UserError(
            f"{network}: neuron_options={dict(options)} do not fit neuron {name!r} ({error})"
        ) from error
    return make

"""Parts of a network that its configuration names."""

from collections.abc import Callable, Mapping
from functools import partial
from typing import Any

from spikediff.errors import UserError, suggestion
from spikediff.neurons import NEURONS, NeuronLayer


def choose(network: str, table: Mapping[str, Any], what: str, name: str) -> Any:
    """Return a row of a table.

    Args:
        network: Name of the network, for the message.
        table: The table.
        what: What its rows are.
        name: Key of the row.

    Raises:
        UserError: There is no such row.
    """
    if name not in table:
        raise UserError(f"{network}: unknown {what} {name!r}; {suggestion(name, table)}")
    return table[name]


def make_neuron_maker(
    network: str, name: str, options: Mapping[str, Any]
) -> Callable[[], NeuronLayer]:
    """Return what makes one neuron layer.

    Args:
        network: Name of the network, for the message.
        name: Key of `spikediff.neurons.NEURONS`.
        options: Keyword arguments of the neuron.

    Raises:
        UserError: There is no such neuron, or it does not have these options.

    Example:
        >>> make_neuron_maker("a network", "lif", {"decay": 0.8})().decay
        0.8
    """
    make: Callable[[], NeuronLayer] = partial(choose(network, NEURONS, "neuron", name), **options)
    try:
        make()
    except TypeError as error:
        raise UserError(
            f"{network}: neuron_options={dict(options)} do not fit neuron {name!r} ({error})"
        ) from error
    return make

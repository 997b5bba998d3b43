"""Checks of a network's configuration and input, and the parts it names.

`network` is the name of the network, for the message.
"""

from collections.abc import Callable, Mapping, Sequence
from functools import partial
from typing import Any

from torch import Tensor

from spikediff.errors import UserError, check_known, check_number, kind_of, shown
from spikediff.neurons import NEURONS, NeuronLayer

_MOST = 2**20  # of any size
MOST_LAYERS = 256  # of a network's level, and of a list in its configuration


def check_sizes(
    network: str,
    sample_size: int | Sequence[int],
    base_channels: int,
    channel_mult: Sequence[int],
    layers_per_block: int,
    dropout: float,
    patch_size: int = 1,
) -> None:
    """Refuse sizes that do not give a U-Net; the arguments are those of `SpikingUNet`.

    Raises:
        UserError: The image cannot be halved between all levels, or a number is out of range.

    Example:
        >>> check_sizes("UNet", 30, 16, (1, 2, 2), 1, 0.0)
        Traceback (most recent call last):
        ...
        spikediff.errors.UserError: UNet: sample_size=30 must be divisible by 4, because \
channel_mult=(1, 2, 2) has 3 levels
    """
    check_positive(network, base_channels=base_channels)
    check_layers(network, layers_per_block)
    check_widths(network, channel_mult=channel_mult)
    halvings = len(channel_mult) - 1
    check_halvings(network, sample_size, halvings, patch_size, channel_mult=channel_mult)
    if base_channels % 2:
        raise UserError(f"{network}: base_channels={base_channels} must be even")
    check_number(f"{network}: dropout", dropout, 0, below=1)


def check_halvings(
    network: str,
    sample_size: int | Sequence[int],
    halvings: int,
    patch_size: int = 1,
    **levels: Sequence[int],
) -> None:
    """Refuse images that cannot be halved between all levels; `levels` is the widths by name."""
    ((name, widths),) = levels.items()
    factor = patch_size * 2**halvings
    if any(side % factor for side in sides_of(network, sample_size)):
        patches = f" and patch_size={patch_size}" if patch_size > 1 else ""
        raise UserError(
            f"{network}: sample_size={sample_size} must be divisible by {factor}, because "
            f"{name}={tuple(widths)} has {len(widths)} levels{patches}"
        )


def check_positive(network: str, **sizes: int) -> None:
    """Refuse a value that is not a whole number, is below 1, or would exhaust any memory."""
    for name, size in sizes.items():
        check_whole(network, name, size)
        if size < 1:
            raise UserError(f"{network}: {name}={shown(size)} must be at least 1")
        if size > _MOST:
            raise UserError(f"{network}: {name}={shown(size)} must be at most {_MOST:,}")


def check_widths(network: str, **widths: Sequence[int]) -> None:
    """Refuse a value that is not a list of whole numbers from 1 on, or is empty."""
    for name, values in widths.items():
        if not isinstance(values, list | tuple):
            raise UserError(f"{network}: {name}={shown(values)} must be a list of whole numbers")
        if not values:
            raise UserError(f"{network}: {name}={shown(values)} must not be empty")
        for size in values:
            check_positive(network, **{name: size})


def check_layers(network: str, layers_per_block: int) -> None:
    """Refuse a number of blocks per level that is not positive, or absurd."""
    check_positive(network, layers_per_block=layers_per_block)
    if layers_per_block > MOST_LAYERS:
        raise UserError(
            f"{network}: layers_per_block={shown(layers_per_block)} must be at most {MOST_LAYERS}"
        )


def check_classes(network: str, num_classes: int) -> None:
    """Refuse a number of classes that is not whole or is negative."""
    check_whole(network, "num_classes", num_classes)
    if num_classes < 0:
        raise UserError(f"{network}: num_classes={num_classes} must not be negative")
    check_positive(network, num_classes=num_classes + 1)  # one more embedding is of no class


def check_whole(network: str, name: str, value: Any) -> None:
    """Refuse a value that is not a whole number."""
    if isinstance(value, bool) or not isinstance(value, int):
        raise UserError(f"{network}: {name}={shown(value)} must be a whole number (int)")


def sides_of(network: str, sample_size: int | Sequence[int], dimensions: int = 2) -> list[int]:
    """Return the lengths of a sample's axes; a single number applies to all.

    Example:
        >>> sides_of("UNet", 8), sides_of("UNet", (8, 16))
        ([8, 8], [8, 16])
    """
    pair = isinstance(sample_size, list | tuple)
    sides: list[Any] = [*sample_size] if pair else [sample_size] * dimensions  # type: ignore[misc]
    if len(sides) != dimensions:
        raise UserError(f"{network}: sample_size={sample_size} must have {dimensions} numbers")
    for side in sides:
        check_positive(network, sample_size=side)
    return sides


def patches_of(network: str, sample_size: int, patch_size: int) -> int:
    """Return the number of patches along a side of an image; both sizes are in pixels."""
    check_whole(network, "sample_size", sample_size)
    check_whole(network, "patch_size", patch_size)
    if patch_size < 1 or sample_size % patch_size:
        raise UserError(
            f"{network}: patch_size={patch_size} must be positive and divide "
            f"sample_size={sample_size}"
        )
    return sample_size // patch_size


def check_sample(
    network: str,
    sample: Tensor,
    channels: int,
    levels: int = 1,
    patch_size: int = 1,
    dimensions: int = 2,
) -> None:
    """Refuse images or signals that a U-Net cannot halve, or with a wrong number of channels.

    The sample is [B, C, H, W], or [B, C, L] for signals.
    """
    what, axes, size = _WORDS[dimensions]
    if not isinstance(sample, Tensor):
        raise UserError(f"{network}: expects a tensor of {what}, got {kind_of(sample)}")
    if sample.dim() != 2 + dimensions or sample.shape[1] != channels:
        raise UserError(
            f"{network}: expects {what} [B, {channels}, {axes}], got {tuple(sample.shape)}; "
            f"the model was made with in_channels={channels}"
            + ("" if dimensions == 2 else f" and dimensions={dimensions}")
        )
    factor = patch_size * 2 ** (levels - 1)
    if any(length % factor for length in sample.shape[2:]):
        raise UserError(
            f"{network}: {size} {tuple(sample.shape[2:])} is not divisible by {factor}; "
            f"pad the {what}, or make the model with fewer than {levels} levels"
        )


def check_places(network: str, sample: Tensor, sample_size: int | Sequence[int]) -> None:
    """Refuse images or signals whose size differs from a network's learned positions."""
    if list(sample.shape[2:]) != sides_of(network, sample_size, sample.dim() - 2):
        raise UserError(
            f"{network}: got a size of {tuple(sample.shape[2:])}; its position_embedding knows "
            f"sample_size={sample_size} alone"
        )


# The kind of input, its axes, and the name of their lengths, by `dimensions`.
_WORDS = {1: ("signals", "L", "signal length"), 2: ("images", "H, W", "image size")}


def check_dimensions(network: str, dimensions: int, patch_size: int = 1) -> None:
    """Refuse a number of axes for which there are no layers, or patches of signals."""
    check_whole(network, "dimensions", dimensions)
    check_whole(network, "patch_size", patch_size)
    if dimensions not in _WORDS:
        raise UserError(f"{network}: dimensions={dimensions}; 2 for images, 1 for signals")
    if dimensions == 1 and patch_size > 1:
        raise UserError(f"{network}: patch_size={patch_size}; signals have no patches, omit it")


def choose(network: str, table: Mapping[str, Any], what: str, name: str) -> Any:
    """Return a row of a table; `what` says what its rows are."""
    check_known(what, name, table, f"{network}: ")
    return table[name]


def keyword_arguments(network: str, neuron_options: Mapping[str, Any] | None) -> dict[str, Any]:
    """Return a neuron's keyword arguments as a dict; refuse what is no mapping."""
    if neuron_options is not None and not isinstance(neuron_options, Mapping):
        raise UserError(f"{network}: neuron_options={shown(neuron_options)} must be a mapping")
    return dict(neuron_options or {})


def make_neuron_maker(
    network: str, name: str, options: Mapping[str, Any] | None
) -> Callable[[], NeuronLayer]:
    """Return a factory of neuron layers, from a key of `NEURONS` and keyword arguments.

    Example:
        >>> make_neuron_maker("a network", "lif", {"decay": 0.8})().decay
        0.8
    """
    options = keyword_arguments(network, options)
    make: Callable[[], NeuronLayer] = partial(choose(network, NEURONS, "neuron", name), **options)
    try:
        make()
    except TypeError as error:
        raise UserError(
            f"{network}: neuron_options={options} do not fit neuron {name!r} ({error})"
        ) from error
    return make

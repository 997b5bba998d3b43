"""Counter-based randomness: the random numbers of step k are a function of the seed and k.

So a resumed run needs no saved generator, and an image's noise depends neither on the number of
processes that share the batch nor on the other images.
"""

import hashlib
from collections.abc import Callable, Iterable, Sequence
from itertools import islice
from operator import index

import torch
from torch import Tensor

from spikediff.errors import UserError, check_number, shown


def derived_seed(seed: int, *path: str | int) -> int:
    """Return a seed for one purpose, for example `derived_seed(seed, "noise", step)`."""
    text = "/".join(map(str, (seed, *path)))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "little") >> 1


def derived_generator(seed: int, *path: str | int) -> torch.Generator:
    """Return a CPU generator for one purpose; see `derived_seed`."""
    return torch.Generator("cpu").manual_seed(derived_seed(seed, *path))


MOST_IMAGES = 65_536  # of one call

Generators = torch.Generator | list[torch.Generator] | None


def generators_of(
    batch_size: int | None, seeds: Sequence[int] | None, generator: Generators
) -> tuple[Generators, int]:
    """Return the source(s) of noise and the batch size; refuse contradictory arguments.

    Example:
        >>> generators, batch_size = generators_of(None, [7, 8], None)
        >>> batch_size, generators[0].initial_seed()
        (2, 7)
    """
    if seeds is not None:
        if generator is not None:
            raise UserError("give seeds or a generator, not both")
        numbers = _numbers(seeds)
        if batch_size not in (None, len(numbers)):
            raise UserError(f"{len(numbers)} seeds for batch_size = {batch_size}; one per image")
        # On the CPU, so that a seed means the same image on every device.
        return [torch.Generator("cpu").manual_seed(seed) for seed in numbers], len(numbers)
    sources = [*generator] if isinstance(generator, list | tuple) else None
    if generator is not None:
        for source in [generator] if sources is None else sources:
            if not isinstance(source, torch.Generator):
                raise UserError(
                    f"generator = {shown(source)} must be a torch.Generator, or a list of them; "
                    f"seeds=[0, 1] takes numbers"
                )
    if batch_size is None:
        batch_size = 1 if sources is None else len(sources)
    check_number("batch_size", batch_size, 1, MOST_IMAGES, whole=True)
    if sources is not None and len(sources) != batch_size:
        raise UserError(
            f"{len(sources)} generators for batch_size = {batch_size}; give one for all images, or "
            f"a list of one per image"
        )
    return generator if sources is None else sources, index(batch_size)


def _numbers(seeds: Iterable[int]) -> list[int]:
    """Return seeds as a list of numbers; refuse none, too many, and those out of range."""
    try:
        some = list(islice(seeds, MOST_IMAGES + 1))
    except TypeError:
        raise UserError(f"seeds = {shown(seeds)} must be a list, one seed per image") from None
    if not 1 <= len(some) <= MOST_IMAGES:
        raise UserError(f"seeds: give 1 to {MOST_IMAGES:,} for one call, one per image")
    for seed in some:
        check_number("seed", seed, 0, 2**64 - 1, whole=True)
    return list(map(index, some))


def draw_each(
    draw: Callable[[int, torch.Generator | None], Tensor],
    batch_size: int,
    generator: Generators,
    axis: int = 0,
) -> Tensor:
    """Draw for a batch of images by `draw(images, generator)`.

    With one generator per image, each image is drawn separately; `axis` is the axis of images in
    the result of `draw`.

    Example:
        >>> seeds = [torch.Generator().manual_seed(s) for s in (5, 6, 5)]
        >>> a, _, c = draw_each(lambda n, g: torch.rand(n, generator=g), 3, seeds)
        >>> bool(a == c)
        True
    """
    if not isinstance(generator, list):
        return draw(batch_size, generator)
    if len(generator) != batch_size:
        raise UserError(f"{len(generator)} generators for a batch of {batch_size}; one per image")
    return torch.cat([draw(1, own) for own in generator], axis)

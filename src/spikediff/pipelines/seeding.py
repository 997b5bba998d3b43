"""Where the randomness of a pipeline's images comes from: one seed per image, or a generator."""

from collections.abc import Sequence

import torch

from spikediff.errors import UserError

Generators = torch.Generator | list[torch.Generator] | None


def generators_of(
    batch_size: int | None, seeds: Sequence[int] | None, generator: Generators
) -> tuple[Generators, int]:
    """Return the source(s) of noise and the batch size.

    Args:
        batch_size: How many images; as many as there are seeds where it is not given, else 1.
        seeds: One seed per image.
        generator: The source of noise instead of seeds.

    Returns:
        A generator per seed, or the generator that was given; and the number of images.

    Raises:
        UserError: Seeds, generator and batch size contradict each other.

    Example:
        >>> generators, batch_size = generators_of(None, [7, 8], None)
        >>> [g.initial_seed() for g in generators], batch_size
        ([7, 8], 2)
    """
    if seeds is None:
        batch_size = 1 if batch_size is None else batch_size
        if batch_size < 1:
            raise UserError(f"batch_size = {batch_size} must be at least 1")
        return generator, batch_size
    if generator is not None:
        raise UserError("give seeds or a generator, not both")
    if len(seeds) != (len(seeds) if batch_size is None else batch_size) or not len(seeds):
        raise UserError(f"{len(seeds)} seeds for batch_size = {batch_size}; give one per image")
    # On the CPU, so that a seed means the same image on every device.
    return [torch.Generator("cpu").manual_seed(int(seed)) for seed in seeds], len(seeds)

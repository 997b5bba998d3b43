"""Counter-based randomness: what step k draws is a function of the seed and of k.

Hence a resumed run needs no saved generator: the step number is the whole state. And hence the
noise of an image does not depend on the number of processes that share the batch.
"""

import hashlib

import torch


def derived_seed(seed: int, *path: str | int) -> int:
    """Return a seed for one purpose, for example `derived_seed(seed, "noise", step)`.

    Example:
        >>> derived_seed(0, "noise", 1) == derived_seed(0, "noise", 1)
        True
        >>> derived_seed(0, "noise", 1) == derived_seed(0, "noise", 2)
        False
    """
    text = "/".join(map(str, (seed, *path)))
    return int.from_bytes(hashlib.sha256(text.encode()).digest()[:8], "little") >> 1


def derived_generator(seed: int, *path: str | int) -> torch.Generator:
    """Return a CPU generator for one purpose; see `derived_seed`."""
    return torch.Generator("cpu").manual_seed(derived_seed(seed, *path))

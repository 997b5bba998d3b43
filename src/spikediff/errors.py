"""The one exception that a caller can mend, and how it suggests a name."""

from collections.abc import Iterable
from difflib import get_close_matches


class UserError(ValueError):
    """Bad input: the message is one line that says what is wrong, where, and what to do.

    The command line prints the line and exits with code 2; a program may catch it as a
    `ValueError`. Anything else that is raised is a fault of this library.

    Example:
        >>> raise UserError("recipe.yaml: unknown key 'optimiser'; did you mean 'optimizer'?")
        Traceback (most recent call last):
        ...
        spikediff.errors.UserError: recipe.yaml: unknown key 'optimiser'; did you mean 'optimizer'?
    """


def suggestion(name: str, known: Iterable[str]) -> str:
    """Return what to say after an unknown name: the nearest known one, or all of them.

    Example:
        >>> suggestion("dimm", ["ddpm", "ddim"])
        "did you mean 'ddim'?"
        >>> suggestion("euler", ["ddpm", "ddim"])
        'choose from ddpm, ddim'
    """
    known = list(known)
    near = get_close_matches(name, known, n=1)
    return f"did you mean {near[0]!r}?" if near else f"choose from {', '.join(known)}"

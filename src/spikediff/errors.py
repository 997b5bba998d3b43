"""`UserError`, raised for mistakes that the caller can fix, and the words of its messages."""

import math
import re
import reprlib
from collections.abc import Iterable
from difflib import get_close_matches
from importlib import import_module, metadata
from numbers import Real
from operator import index
from typing import Any

_MOST_OF_VALUE = 120  # letters of a value in a message

# Characters that control a terminal: C0 and C1 codes, marks of direction, lone surrogates.
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f\u2028\u2029\u202a-\u202e\u2066-\u2069\ud800-\udfff]")


class UserError(ValueError):
    """Bad input: the message is one line that says what is wrong, where, and what to do.

    The command line prints the line and exits with code 2; a program may catch it as a
    `ValueError`. Any other exception is a fault of this library.

    Example:
        >>> raise UserError("recipe.yaml: unknown key 'optimiser'; did you mean 'optimizer'?")
        Traceback (most recent call last):
        ...
        spikediff.errors.UserError: recipe.yaml: unknown key 'optimiser'; did you mean 'optimizer'?
    """

    def __init__(self, message: object = "") -> None:
        super().__init__(one_line(message))


def one_line(text: object, most: int = 600) -> str:
    r"""Return a text as one line of at most `most` letters, without its middle where it is longer.

    Line breaks become spaces, other control characters are escaped.

    Example:
        >>> one_line("a\nb\x1b[2J"), one_line("x" * 99, most=11)
        ('a b\\x1b[2J', 'xxx ... xxx')
    """
    line = re.sub(r"[ \t]*[\r\n\v\f\u2028\u2029]+\s*", " ", str(text).strip())
    return cut(_CONTROL.sub(lambda found: _escape(found[0]), line), most)


def kind_of(value: object) -> str:
    """Return the class of an object with its article.

    Example:
        >>> kind_of(1), kind_of([])
        ('an int', 'a list')
    """
    name = type(value).__name__
    return f"{'an' if name[0] in 'AEIOaeio' else 'a'} {name}"


def visible(text: str) -> str:
    r"""Return a text of any number of lines with its control characters escaped.

    Example:
        >>> visible("a\nb\x1b[2J")
        'a\nb\\x1b[2J'
    """
    return _CONTROL.sub(lambda c: c[0] if c[0] in "\n\t" else _escape(c[0]), text)


def cut(text: str, most: int = _MOST_OF_VALUE) -> str:
    """Return a text of at most `most` letters; longer ones lose their middle."""
    if len(text) <= most:
        return text
    kept = most - len(" ... ")
    return f"{text[: kept - kept // 2]} ... {text[len(text) - kept // 2 :]}"


def shown(value: Any) -> str:
    """Return the `repr` of a value, shortened for a message.

    Only the first items of containers are read: a few bytes of YAML can be endless written out.

    Example:
        >>> shown([1, "a" * 200])
        "[1, 'aaaaaaaaaaaaaaaaaaaaaaaaa...aaaaaaaaaaaaaaaaaaaaaaaaaa']"
    """
    try:
        return cut(_SHORT.repr(value))
    except Exception:  # an integer of too many digits has no text
        return f"<{type(value).__name__}>"


_SHORT = reprlib.Repr()
_SHORT.maxlevel, _SHORT.maxstring, _SHORT.maxother = 3, 56, 80


def _escape(letter: str) -> str:
    return letter.encode("unicode_escape").decode("ascii")


def check_number(
    name: str,
    value: Any,
    least: float | None = None,
    most: float | None = None,
    *,
    above: float | None = None,
    below: float | None = None,
    whole: bool = False,
) -> None:
    """Refuse what is not a finite number, or not a whole one, or lies outside a range.

    `least` and `most` belong to the range, `above` and `below` do not.

    Example:
        >>> check_number("eta", 1.5, 0, 1)
        Traceback (most recent call last):
        ...
        spikediff.errors.UserError: eta = 1.5 must lie in [0, 1]
    """
    if not (_is_whole(value) if whole else _is_finite(value)):
        kind = "whole" if whole else "finite"
        raise UserError(f"{name} = {shown(value)} must be a {kind} number")
    value = index(value) if whole else value  # a tensor of one number compares in 64 bits
    low, high = least if above is None else above, most if below is None else below
    is_low = low is not None and (value < low or value == above)
    is_high = high is not None and (value > high or value == below)
    if not (is_low or is_high):
        return
    if whole and low is not None and high is not None:
        words = f"lie between {low} and {high}"
    elif low is not None and high is not None:
        opening, closing = "[" if above is None else "(", "]" if below is None else ")"
        words = f"lie in {opening}{low}, {high}{closing}"
    elif is_low:
        positive = "not be negative" if above is None else "be positive"
        words = f"be {'at least' if above is None else 'above'} {low}" if low else positive
    else:
        words = f"be {'at most' if below is None else 'below'} {high}"
    raise UserError(f"{name} = {shown(value)} must {words}")


def _is_finite(value: Any) -> bool:
    if isinstance(value, bool) or not isinstance(value, Real):
        return False
    try:
        return math.isfinite(value)
    except OverflowError:  # an integer of more than 1,024 bits
        return False


def _is_whole(value: Any) -> bool:
    try:
        index(value)
    except TypeError:
        return False
    return not isinstance(value, bool)


def suggestion(name: str, known: Iterable[str]) -> str:
    """Return the advice after an unknown name: the nearest known one, or all of them.

    Example:
        >>> suggestion("dimm", ["ddpm", "ddim"])
        "did you mean 'ddim'?"
        >>> suggestion("euler", ["ddpm", "ddim"])
        'choose from ddpm, ddim'
    """
    known = list(known)
    near = get_close_matches(cut(name), known, n=1)
    return f"did you mean {near[0]!r}?" if near else f"choose from {', '.join(known)}"


def check_known(what: str, name: Any, known: Iterable[str], where: str = "") -> None:
    """Refuse a name that is not known, with the nearest one.

    Example:
        >>> check_known("sampler", "dimm", ["ddpm", "ddim"])
        Traceback (most recent call last):
        ...
        spikediff.errors.UserError: unknown sampler 'dimm'; did you mean 'ddim'?
    """
    known = list(known)
    if not isinstance(name, str) or name not in known:
        raise UserError(f"{where}unknown {what} {shown(name)}; {suggestion(str(name), known)}")


def brief(error: BaseException) -> str:
    r"""Return the first line of an exception's message, or its type's name.

    Example:
        >>> brief(ValueError("too short\nmore"))
        'too short'
    """
    reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
    return cut(next(iter(reason.splitlines()), "")) or type(error).__name__


def import_extra(package: str, extra: str) -> Any:
    """Import a package of an optional extra of spikediff.

    Raises:
        UserError: It is not installed; the message has the command that installs it.

    Example:
        >>> import_extra("no_such_package", "nir")
        Traceback (most recent call last):
        ...
        spikediff.errors.UserError: the package no_such_package is missing; run: pip install \
'nir>=1.0.7'
    """
    try:
        return import_module(package)
    except ModuleNotFoundError as error:
        if error.name != package:
            raise
        raise UserError(
            f"the package {package} is missing; run: {install_command(extra)}"
        ) from None


def install_command(extra: str) -> str:
    """Return the command that installs an optional extra, from wherever spikediff came."""
    marked = (each.partition(";") for each in metadata.requires("spikediff") or ())
    wanted = [
        requirement.strip()
        for requirement, _, marker in marked
        if marker.replace("'", '"').strip() == f'extra == "{extra}"'
    ]
    return " ".join(["pip install", *(f"'{requirement}'" for requirement in wanted)])

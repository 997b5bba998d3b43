"""Packages that only one exchange format needs, imported when it is used."""

from importlib import import_module
from typing import Any

from spikediff.errors import UserError


def import_extra(package: str, extra: str) -> Any:
    """Import a package of an optional extra of spikediff.

    Raises:
        UserError: It is not installed; the message has the command that installs it.

    Example:
        >>> import_extra("no_such_package", "nir")
        Traceback (most recent call last):
        ...
        spikediff.errors.UserError: the package no_such_package is missing; run: pip install \
'spikediff[nir]'
    """
    try:
        return import_module(package)
    except ModuleNotFoundError as error:
        if error.name != package:
            raise
        raise UserError(
            f"the package {package} is missing; run: pip install 'spikediff[{extra}]'"
        ) from None

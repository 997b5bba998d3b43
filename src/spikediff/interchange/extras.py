"""Packages that only an exchange format needs: imported where it is used, or named if missing."""

from importlib import import_module
from typing import Any

from spikediff.errors import UserError


def import_extra(package: str, extra: str) -> Any:
    """Import a package of an optional extra.

    Args:
        package: Name of the package.
        extra: The extra of spikediff that brings it.

    Returns:
        The module.

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

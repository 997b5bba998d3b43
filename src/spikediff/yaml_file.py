"""Dataclasses from YAML: every key known, every value of its declared type."""

from collections.abc import Mapping
from dataclasses import MISSING, fields, is_dataclass
from pathlib import Path
from types import UnionType
from typing import Any, Literal, get_args, get_origin, get_type_hints

import yaml

from spikediff.errors import UserError, suggestion


def read_yaml(path: Path) -> Any:
    """Return what a YAML file holds.

    Args:
        path: The file.

    Raises:
        UserError: The file is absent or no YAML.
    """
    try:
        return yaml.safe_load(path.read_text(encoding="utf-8"))
    except OSError as error:
        raise UserError(f"{path}: cannot read it ({error.strerror})") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        reason = " ".join(str(error).split())
        raise UserError(f"{path}: not a YAML file ({reason})") from error


def build(cls: Any, content: Any, where: str, prefix: str = "") -> Any:
    """Build a dataclass from a mapping, and the dataclasses in it from the mappings in that.

    Args:
        cls: The dataclass.
        content: Mappings, lists and values as YAML gives them.
        where: Their source, for messages.
        prefix: Path of keys that leads here, for messages.

    Raises:
        UserError: A key is unknown or missing, or a value has a wrong type; the message names it.

    Example:
        >>> from dataclasses import dataclass
        >>> @dataclass
        ... class Point:
        ...     x: float
        ...     y: float = 0.0
        >>> build(Point, {"x": "1e-3"}, "here")
        Point(x=0.001, y=0.0)
    """
    if not isinstance(content, Mapping):
        what = prefix[:-1] or "the file"
        raise UserError(f"{where}: {what} must hold keys and values, not {content!r}")
    hints, parts = get_type_hints(cls), fields(cls)
    known = [part.name for part in parts]
    for key in content:
        if key not in known:
            raise UserError(f"{where}: unknown key '{prefix}{key}'; {suggestion(str(key), known)}")
    missing = [
        f"{prefix}{part.name}"
        for part in parts
        if part.name not in content and part.default is part.default_factory is MISSING
    ]
    if missing:
        raise UserError(f"{where}: keys are missing: {', '.join(missing)}")
    values = {key: _convert(hints[key], v, where, prefix + key) for key, v in content.items()}
    return cls(**values)


def _convert(kind: Any, value: Any, where: str, key: str) -> Any:
    """Return a value of YAML as the type that is asked for."""
    origin, arguments = get_origin(kind), get_args(kind)
    if is_dataclass(kind):
        return build(kind, value or {}, where, f"{key}.")
    if origin is UnionType:
        inner = next(a for a in arguments if a is not type(None))
        return None if value is None else _convert(inner, value, where, key)
    if origin is Literal:
        if value in arguments:
            return value
        raise UserError(f"{where}: {key} = {value!r}; choose from {', '.join(arguments)}")
    if origin is tuple and isinstance(value, list | tuple):
        return tuple(_convert(arguments[0], v, where, f"{key}[{i}]") for i, v in enumerate(value))
    if origin is dict and isinstance(value, Mapping):
        return dict(value)
    if kind is float and isinstance(value, int | float | str) and not isinstance(value, bool):
        try:
            return float(value)  # YAML 1.1 reads 1e-4 as a string
        except ValueError:
            pass
    if kind in (int, str, bool) and type(value) is kind:  # not isinstance: true is no number
        return value
    name = getattr(kind, "__name__", str(kind)) if origin is None else str(kind)
    raise UserError(f"{where}: {key} = {value!r} must be of type {name}")

"""Build dataclasses from YAML; every key must be known and every value of the declared type."""

import math
from collections.abc import Callable, Hashable, Iterable, Mapping, Sequence
from copy import deepcopy
from dataclasses import MISSING, field, fields, is_dataclass, make_dataclass
from functools import lru_cache
from inspect import signature
from pathlib import Path
from types import MappingProxyType, UnionType
from typing import Any, Literal, get_args, get_origin, get_type_hints

import yaml

from spikediff.errors import UserError, one_line, shown, suggestion
from spikediff.files.reading import MOST_DEPTH, MOST_YAML, read_text

_MOST_NODES = 20_000  # values of a file, with every alias expanded


def read_yaml(path: Path) -> Any:
    """Return the content of a YAML file of limited size and depth, without duplicate keys."""
    text = read_text(path, MOST_YAML)
    try:
        return deepcopy(_loaded(text))
    except UserError as error:
        raise UserError(f"{path}: {error}") from None
    except RecursionError:
        raise UserError(f"{path}: values are nested too deeply") from None
    # A tag promises a type that the value does not have: each type has its own exception.
    except (yaml.YAMLError, ValueError, TypeError, KeyError, AttributeError, OverflowError) as e:
        raise UserError(f"{path}: not a YAML file ({one_line(e, 300)})") from e


@lru_cache(maxsize=8)  # a run's recipe is read several times while the run starts
def _loaded(text: str) -> Any:
    return yaml.load(text, _Loader)


class _Loader(yaml.SafeLoader):
    """Refuses duplicate keys, and content that grows without limit when it is built."""

    depth = 0

    def compose_node(self, parent: Any, index: Any) -> Any:
        self.depth += 1
        if self.depth > MOST_DEPTH:
            raise UserError(f"values lie more than {MOST_DEPTH} levels deep")
        node = super().compose_node(parent, index)
        self.depth -= 1
        return node

    def get_single_node(self) -> Any:
        node = super().get_single_node()
        if node is not None:
            _count_written_out(node, {})
        return node

    def construct_mapping(self, node: Any, deep: bool = False) -> Any:
        seen = set()
        for part, _ in node.value:
            if part.tag == "tag:yaml.org,2002:merge":
                continue
            key = self.construct_object(part, deep=True)
            if isinstance(key, Hashable):
                if key in seen:
                    line = part.start_mark.line + 1
                    raise UserError(f"line {line}: the key {shown(key)} appears twice")
                seen.add(key)
        return super().construct_mapping(node, deep)


def _count_written_out(node: yaml.Node, sizes: dict[int, int]) -> int:
    """Return the number of values in a node with every alias expanded; refuse too many."""
    if id(node) not in sizes:
        sizes[id(node)] = _MOST_NODES + 1  # for a node that contains itself
        total = 1
        if isinstance(node, yaml.SequenceNode):
            total += sum(_count_written_out(part, sizes) for part in node.value)
        elif isinstance(node, yaml.MappingNode):
            total += sum(_count_written_out(part, sizes) for pair in node.value for part in pair)
        sizes[id(node)] = total
    if sizes[id(node)] > _MOST_NODES:
        raise UserError(f"holds more than {_MOST_NODES:,} values when its aliases are written out")
    return sizes[id(node)]


def build(cls: Any, content: Any, where: str, prefix: str = "") -> Any:
    """Build a dataclass, and the dataclasses in it, from nested mappings as YAML returns them.

    For messages, `where` is the source and `prefix` the path of keys that leads here.

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
        raise UserError(f"{where}: {what} must hold keys and values, not {shown(content)}")
    hints, parts = get_type_hints(cls), fields(cls)
    known = [part.name for part in parts]
    for key in content:
        if key not in known:
            named = key if isinstance(key, str) else shown(key)
            hint = suggestion(key if isinstance(key, str) else "", known)
            raise UserError(f"{where}: unknown key '{prefix}{named}'; {hint}")
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
    origin, arguments = get_origin(kind), get_args(kind)
    if is_dataclass(kind):
        return build(kind, {} if value is None else value, where, f"{key}.")
    if origin is UnionType:
        inner = next(a for a in arguments if a is not type(None))
        return None if value is None else _convert(inner, value, where, key)
    if origin is Literal:
        if value is False and "no" in arguments:
            return "no"  # YAML 1.1 reads no as false
        if value in arguments:
            return value
        raise UserError(f"{where}: {key} = {shown(value)}; choose from {', '.join(arguments)}")
    if origin is tuple and isinstance(value, list | tuple):
        if Ellipsis not in arguments and len(value) != len(arguments):
            raise UserError(f"{where}: {key} = {shown(value)} must have {len(arguments)} values")
        return tuple(_convert(arguments[0], v, where, f"{key}[{i}]") for i, v in enumerate(value))
    if origin is dict and isinstance(value, Mapping):
        check_value(value, f"{where}: {key}")
        return dict(value)
    if kind is float and isinstance(value, int | float | str) and not isinstance(value, bool):
        try:
            number = float(value)  # YAML 1.1 reads 1e-4 as a string
        except (ValueError, OverflowError):
            pass
        else:
            check_value(number, f"{where}: {key}")
            return number
    # Not isinstance, because true is not a number.
    if kind in (int, str, bool) and type(value) is kind:
        check_value(value, f"{where}: {key}")
        return value
    name = getattr(kind, "__name__", str(kind)) if origin is None else str(kind)
    raise UserError(f"{where}: {key} = {shown(value)} must be of type {name}")


def check_value(value: Any, name: str) -> None:
    """Refuse unusable numbers and texts of the right type.

    These are numbers that are not finite or have more than 64 bits, and texts with control
    characters. Containers are searched; `name` appears in the message.
    """
    if isinstance(value, float) and not math.isfinite(value):
        raise UserError(f"{name} = {value} must be finite")
    if isinstance(value, int) and not -(2**63) <= value < 2**63:
        raise UserError(f"{name} = {shown(value)} must lie between -2^63 and 2^63 - 1")
    if isinstance(value, str) and not value.isprintable():
        raise UserError(f"{name} = {shown(value)} must be printable, without control characters")
    if isinstance(value, Mapping):
        for key, part in value.items():
            check_value(key, f"a key of {name}")
            check_value(part, f"{name}.{key}")
    if isinstance(value, list | tuple):
        for index, part in enumerate(value):
            check_value(part, f"{name}[{index}]")


def section_of(
    make: Callable[..., Any],
    first: Mapping[str, Any],
    known: Iterable[str] = (),
    keys: Mapping[str, str] = MappingProxyType({}),
) -> type[Any]:
    """Return a frozen dataclass of the keyword arguments of a constructor or function.

    Args:
        make: The constructor or function; every argument kept has a default and a type.
        first: Fields that precede the arguments, with their defaults.
        known: Arguments to omit.
        keys: Argument -> name of its field, if they differ.

    Example:
        >>> def network(sample_size: int, widths: Sequence[int] = (4, 8)) -> None: ...
        >>> section_of(network, {"network": "mine"}, ["sample_size"])()
        network(network='mine', widths=(4, 8))
    """
    hints = get_type_hints(vars(make)["__init__"] if isinstance(make, type) else make)
    parts: list[Any] = [(name, type(value), field(default=value)) for name, value in first.items()]
    text = make.__doc__ or ""
    for argument in signature(make).parameters.values():
        if argument.name not in known:
            key = keys.get(argument.name, argument.name)
            parts.append((key, *_field_of(hints[argument.name], argument.default)))
            text = text.replace(f"\n        {argument.name}:", f"\n        {key}:")
    made = make_dataclass(make.__name__, parts, frozen=True)
    made.__doc__ = text
    return made


def _field_of(kind: Any, default: Any) -> tuple[Any, Any]:
    """Return an argument's type and default in the form of YAML and the command line."""
    plain = next((a for a in get_args(kind) if a is not type(None)), kind)
    if get_origin(kind) is Sequence:
        numbers: Any = tuple[get_args(kind)[0], ...]  # type: ignore[misc]
        return numbers, field(default=tuple(default))
    if get_origin(plain) is Mapping:
        return dict[str, bool | float | str | None], field(default_factory=dict)
    return kind, field(default=default)

"""Read a command's arguments into a dataclass; a mistake becomes a one-line error."""

import contextlib
import io
import math
import os
import re
import shutil
import sys
from ast import literal_eval
from collections.abc import Iterator, Mapping
from dataclasses import MISSING, dataclass, fields, is_dataclass, replace
from functools import reduce
from pathlib import Path
from types import UnionType
from typing import (
    Annotated,
    Any,
    Literal,
    NamedTuple,
    TextIO,
    TypeVar,
    Union,
    cast,
    get_args,
    get_origin,
    get_type_hints,
)

import tyro
from tyro.constructors import ConstructorRegistry, PrimitiveConstructorSpec, PrimitiveTypeInfo

from spikediff.cli.outputs import check_file
from spikediff.errors import UserError, cut, shown, suggestion, visible
from spikediff.pretrained import check_source, find_source
from spikediff.progress import Heard
from spikediff.tables import wrapped

_COLOURS = re.compile(r"(\x1b\[[0-9;]*m)")  # tyro's, in the help text on a terminal


class Visible:
    """A text file that writes control characters, and what it cannot encode, as escapes."""

    def __init__(self, file: TextIO | Heard) -> None:
        self._file = file

    def write(self, text: str) -> int:
        """Write a text; line breaks, tabs and, on a terminal, colours stay."""
        parts = _COLOURS.split(text) if self._file.isatty() else [text]
        escaped = "".join(p if i % 2 else visible(p) for i, p in enumerate(parts))
        try:
            self._file.write(escaped)
        except UnicodeEncodeError:
            encoding = self._file.encoding or "ascii"
            self._file.write(escaped.encode(encoding, "backslashreplace").decode(encoding))
        return len(text)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)


Options = TypeVar("Options")
MODEL = "a model"  # marks an option


@dataclass(frozen=True)
class OutputFile:
    """Marks an option that is a file to write, and the suffixes it may have; () for any."""

    suffixes: tuple[str, ...] = ()


@dataclass(frozen=True)
class Range:
    """Marks an option that is a number, or several: the least and the most that it may be."""

    least: float
    most: float

    def check(self, name: str, number: float) -> None:
        """Refuse a number outside the range, infinite or not a number."""
        if isinstance(number, float) and not math.isfinite(number):
            raise UserError(f"{name} {number} must be a finite number")
        if number < self.least:
            words = "positive" if 0 < self.least < 1 else f"at least {self.least:g}"
            raise UserError(f"{name} {number} must be {words}")
        if number > self.most:
            raise UserError(f"{name} {number} must be at most {self.most:g}")


FINITE = Range(-math.inf, math.inf)


class Option(NamedTuple):
    """One option of a command."""

    path: tuple[str, ...]  # the names of the groups that lead to it, and its own
    flag: str  # as it is typed, without dashes before it
    type: Any  # without marks
    marks: tuple[Any, ...]  # what stands beside its type in `Annotated`


def options_of(kind: type, path: tuple[str, ...] = (), prefix: str = "") -> Iterator[Option]:
    """Yield the options of a command's dataclass, those of its groups included."""
    hints = get_type_hints(kind, include_extras=True)
    for field in fields(kind):
        hint: Any = hints[field.name]
        marks: list[Any] = []
        if get_origin(hint) is Annotated:
            hint, *marks = get_args(hint)
        name = next((m.name for m in marks if getattr(m, "name", None) is not None), field.name)
        inner = (*path, field.name)
        if is_dataclass(hint):
            yield from options_of(cast(type, hint), inner, f"{prefix}{name}." if name else prefix)
        else:
            yield Option(inner, (prefix + name).replace("_", "-"), hint, tuple(marks))


def choices_of(hint: Any) -> tuple[str, ...]:
    """Return the values of a `Literal`, alone or in a union; empty for any other type."""
    if get_origin(hint) is Literal:
        return tuple(map(str, get_args(hint)))
    if get_origin(hint) in (Union, UnionType):
        return tuple(value for part in get_args(hint) for value in choices_of(part))
    return ()


def build(kind: type[Options], given: Mapping[str, Any]) -> Options:
    """Return a command's options from a mapping of flat names, as Python callers give them.

    The names are those of the fields, in any group. Paths may be given as text, text as paths,
    and one text instead of several; a model may be the name of a shipped one.
    """
    known = {option.path[-1]: option for option in options_of(kind)}
    for name in given:
        if name not in known:
            raise UserError(f"{name}: no such option; {suggestion(name, known)}")
    models = {name: find_source(Path(v)) for name, v in given.items() if MODEL in known[name].marks}
    options: Options = _filled(kind, {**given, **models})
    check_options(options)
    return options


def _filled(kind: Any, given: Mapping[str, Any], default: Any = None) -> Any:
    hints, values = get_type_hints(kind), {}
    for field in fields(kind):
        hint, start = hints[field.name], getattr(default, field.name, field.default)
        if is_dataclass(hint):
            values[field.name] = _filled(hint, given, None if start is MISSING else start)
        elif field.name in given:
            values[field.name] = _as_typed(given[field.name], hint)
    return kind(**values) if default is None else replace(default, **values)


def _as_typed(value: Any, hint: Any) -> Any:
    for kind in (hint, *get_args(hint)):
        if get_origin(kind) is tuple and isinstance(value, str | Path | list | tuple):
            several = [value] if isinstance(value, str | Path) else value
            return tuple(_as_typed(part, get_args(kind)[0]) for part in several)
    if getattr(value, "shape", None) == ():  # a number of NumPy
        return value.item()
    if isinstance(value, str) and (hint is Path or Path in get_args(hint)):
        return Path(value)
    return str(value) if isinstance(value, Path) and hint is str else value


def parse(
    options: type[Options], arguments: list[str], usage: str, default: Options | None = None
) -> Options:
    """Read arguments; a mistake in them raises a one-line `UserError`.

    The fields of the dataclass `options` and their docstrings are the options; `default` provides
    the values of options that are not given; `usage` is the command, for the help text. If the
    arguments ask for help, it is printed and `SystemExit` is raised.
    """
    said = io.StringIO()
    asks_for_help = bool({"-h", "--help"} & set(arguments))
    try:
        with (
            contextlib.redirect_stderr(said),
            contextlib.redirect_stdout(_Wrapped(sys.stdout)),
            _terminal(asks_for_help),
        ):
            given: dict[str, Any] = {} if default is None else {"default": default}
            read: Options = tyro.cli(
                options, args=arguments, prog=usage, registry=_READABLE, **given
            )
    except SystemExit as leaving:
        if leaving.code in (0, None):
            raise
        gist = _gist(said.getvalue())
        raise UserError(_wrong_value(options, gist) or f"{usage}: {gist}") from None
    typed = {argument.replace("_", "-") for argument in arguments}
    for option in options_of(options):
        empty = option.path[0] != "recipe" and reduce(getattr, option.path, read) == ()
        aliases = [name for mark in option.marks for name in getattr(mark, "aliases", None) or ()]
        if empty and typed & {f"--{option.flag}", *aliases}:
            raise UserError(f"--{option.flag}: has no value; give one or more, or omit it")
    check_options(read)
    return read


class _Wrapped:
    """A text file that breaks the lines of tyro's help text that are longer than a terminal's."""

    def __init__(self, file: TextIO) -> None:
        self._file = file

    def write(self, text: str) -> int:
        """Write a text; tyro has drawn the lines of tables to fit already."""
        columns = shutil.get_terminal_size().columns
        lines = [
            line if "\u2502" in line or len(line) <= columns else wrapped(line, width=columns)
            for line in text.split("\n")
        ]
        return self._file.write("\n".join(lines))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)


_READABLE = ConstructorRegistry()
_renaming: list[PrimitiveTypeInfo] = []


@_READABLE.primitive_rule
def _readable(info: PrimitiveTypeInfo) -> Any:
    """Read a type as tyro does, and show it in words: `TEXT` for str, `INT` for int | None."""
    if info in _renaming:
        return None  # tyro's own rules come next
    _renaming.append(info)
    try:
        spec = ConstructorRegistry.get_primitive_spec(info)
    finally:
        _renaming.remove(info)
    if not isinstance(spec, PrimitiveConstructorSpec):
        return spec
    words = re.sub(r"^\{None\}\|(\{[A-Z ]+\}|.*)$", r"\1", spec.metavar).replace("{None,", "{")
    words = re.sub(r"^\{([A-Z ]+)\}$", r"\1", words)  # of a tuple
    words = re.sub(r"^\[(.+) \[\1 \.\.\.\]\]$", r"\1 ...", words)
    return replace(spec, metavar=re.sub(r"\bSTR\b", "TEXT", words))


@contextlib.contextmanager
def _terminal(asks_for_help: bool) -> Iterator[None]:
    """Give tyro a terminal: for help the user's, with at least 40 columns, below which tyro hangs.

    Messages are parsed here, so they must have neither colours nor line breaks.
    """
    columns = max(40, shutil.get_terminal_size().columns) if asks_for_help else 10_000
    changed = {"COLUMNS": str(columns)} | ({} if asks_for_help else {"TERM": "dumb"})
    before = {name: os.environ.get(name) for name in changed}
    os.environ.update(changed)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def check_options(options: Any) -> None:
    """Refuse missing models, wrong types and numbers, and files that could not be written.

    Last, groups of options with a method `check` check themselves. A recipe is checked elsewhere.
    """
    known = [option for option in options_of(type(options)) if option.path[0] != "recipe"]
    for option in known:
        value = reduce(getattr, option.path, options)
        if not _is_a(value, option.type):
            raise UserError(f"--{option.flag} {shown(value)}: {_wanted(option, str(value))}")
        file = next((mark for mark in option.marks if isinstance(mark, OutputFile)), None)
        if file is not None and value is not None:
            check_file(value, f"--{option.flag}", file.suffixes)
        bounds = next((mark for mark in option.marks if isinstance(mark, Range)), FINITE)
        for number in value if isinstance(value, tuple) else (value,):
            if isinstance(number, str) and bounds is not FINITE:  # a class, by number or by name
                number = int(number) if re.fullmatch(r"-?\d{1,18}", number) else None
            if isinstance(number, int | float) and not isinstance(number, bool):
                bounds.check(f"--{option.flag}", number)
    for option in known:
        if MODEL in option.marks:
            check_source(reduce(getattr, option.path, options))
    for group in dict.fromkeys(option.path[:-1] for option in known):
        if check := getattr(reduce(getattr, group, options), "check", None):
            check()


def _is_a(value: Any, hint: Any) -> bool:
    """Return whether a value has the type of an option; items of a tuple are checked where used."""
    parts, origin = get_args(hint), get_origin(hint)
    if origin is Literal:
        return value in parts
    if origin in (Union, UnionType):
        return any(_is_a(value, part) for part in parts)
    kind = int | float if hint is float else origin or hint
    return isinstance(value, kind) and (hint is bool or not isinstance(value, bool))


def _wanted(option: Option, value: str) -> str:
    """Return the advice after a wrong value of an option."""
    names = choices_of(option.type)
    return suggestion(value, names) if names else f"give {_told(option.type)}"


def _told(hint: Any) -> str:
    """Return what an option takes, in words."""
    if get_origin(hint) in (Union, UnionType):
        return " or ".join(_told(kind) for kind in get_args(hint) if kind is not type(None))
    if get_origin(hint) is tuple:
        kind, *others = get_args(hint)
        several = {int: "whole numbers", float: "numbers", Path: "paths"}.get(kind, "texts")
        return several if Ellipsis in others else f"{1 + len(others)} {several}"
    words = {int: "a whole number", float: "a number", bool: "True or False", Path: "a path"}
    return words.get(hint, "a text")


_FRAME = re.compile(r"\x1b\[[0-9;]*m|^[│╭╰|+]|[│╮╯|+]$|[─-]{3,}")


def _gist(said: str) -> str:
    """Return the message in tyro's frame, and the option that it suggests."""
    lines = [_FRAME.sub("", line.strip()).strip() for line in said.strip().splitlines()]
    gist, _, rest = "\n".join(lines[1:]).partition("\n\n")  # the first is the frame's title
    gist = " ".join(gist.split()).removesuffix(".")
    if missing := re.match(r"Missing from [^:]*: (.*)", gist):
        parts = re.findall(r"(--\S+ \S+|\S+) (.*?)\.? \(required\)", missing[1])
        names = ", ".join(name for name, _help in parts)
        gist = f"give {names}" + (f": {parts[0][1]}" if len(parts) == 1 else "")
    near = re.search(r"Perhaps you meant:\s*(--[\w.-]+)", rest)
    hint = f"did you mean {near[1]}?" if near else "--help lists the options"
    return f"{gist}; {hint}"


_WRONG_VALUE = re.compile(
    r"Error parsing (?P<flag>--[\w.-]+): [^'\"]*?(?P<values>\[?['\"].*?); [^;]*$"
    r"|invalid choice (?P<choice>.*) for argument '(?P<of>[\w.-]+)"
)


def _wrong_value(options: type[Any], gist: str) -> str | None:
    """Return tyro's message about a wrong value in our words; None for other mistakes."""
    found = _WRONG_VALUE.match(gist)
    if found is None:
        return None
    flag = found["flag"] or found["of"]
    known = {option.flag: option for option in options_of(options)}
    option = known.get(flag.removeprefix("--"))
    if option is None:
        return None
    values = found["values"] or found["choice"]
    try:
        values = literal_eval(values)
    except SyntaxError:  # a long one, which tyro has cut
        values = values[1:]
    typed = " ".join(values) if isinstance(values, list) else values
    return f"{flag} {cut(typed) or repr(typed)}: {_wanted(option, typed)}"

"""Reading a command's arguments into a dataclass; a mistake becomes one line."""

import contextlib
import io
import json
import re
from dataclasses import replace
from pathlib import Path
from typing import Annotated, Any, Literal, TypeVar

import tyro

from spikediff.errors import UserError
from spikediff.pretrained import PRETRAINED, find_source

Options = TypeVar("Options")

# An option of every command that runs a network and does not train it.
EventDriven = Annotated[
    bool,
    tyro.conf.arg(
        help="Compile the networks for inference: spikes as bits, only what fires is computed. "
        "Faster on a CPU; off by default, because rounding differs and with it images now and then."
    ),
]

EventDrivenWeights = Annotated[
    Literal["float32", "int16", "int8"],
    tyro.conf.arg(
        help="Weights that spikes meet, with --event-driven: int16 is faster, int8 faster still; "
        "they are rounded, and more images differ from those of float32 (docs/performance.md)."
    ),
]

Execution = Annotated[
    Literal["counts", "spikes", "events", "delta"] | None,
    tyro.conf.arg(
        help="How the deployment form of an integer network runs; all give the same bits. Its own "
        "way where it is not given."
    ),
]


def parse(
    options: type[Options], arguments: list[str], usage: str, default: Options | None = None
) -> Options:
    """Read arguments.

    Args:
        options: A dataclass; its fields and their docstrings are the options.
        arguments: What the user typed.
        usage: The command, for the help text.
        default: Values of the options that are not given.

    Returns:
        The options.

    Raises:
        UserError: An option is unknown, or a value does not fit; one line.
        SystemExit: Help was asked for and has been printed.
    """
    said = io.StringIO()
    try:
        with contextlib.redirect_stderr(said):
            if default is None:
                return _with_shipped(tyro.cli(options, args=arguments, prog=usage))
            return tyro.cli(options, args=arguments, prog=usage, default=default)
    except SystemExit as leaving:
        if leaving.code in (0, None):
            raise
        raise UserError(f"{usage}: {_one_line(said.getvalue())}") from None


def _with_shipped(options: Options) -> Options:
    """Return the options with the folder of a model that ships with the package for its name."""
    source = getattr(options, "source", None)
    if source is None or str(source) not in PRETRAINED:
        return options
    folder = type(source)(find_source(Path(source)))  # a path, or the text of one
    return replace(options, source=folder)  # type: ignore[type-var]


def _one_line(said: str) -> str:
    """Return the gist of tyro's framed message, and the options that it suggests."""
    lines = [re.sub(r"^[│╭╰─\s]+|[│╮╯─\s]+$", "", line) for line in said.splitlines()]
    lines = [line for line in lines[1:] if line]  # the first is the frame's title
    text = " ".join(lines)
    gist = re.split(r" (?:Perhaps you meant|Argument helptext|For full helptext)", text)[0]
    near = re.search(r"Perhaps you meant: *(--[\w.-]+)", text)
    return gist + (f"; did you mean {near[1]}?" if near else "; --help tells the options")


def check_new_folder(folder: Path) -> None:
    """Refuse to write into what is there already.

    Raises:
        UserError: The folder is not empty, or it is a file.
    """
    if folder.exists() and (not folder.is_dir() or any(folder.iterdir())):
        raise UserError(f"{folder}: exists and is not empty; choose another --output")


def write_json(path: Path | None, content: Any) -> None:
    """Write what a program may read, where it is asked for."""
    if path is not None:
        path.write_text(json.dumps(content, indent=1) + "\n", encoding="utf-8")

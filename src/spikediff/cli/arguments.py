"""What a command prints: names from files are shown, and not obeyed by the terminal.

Reading a command's arguments into a dataclass; a mistake becomes one line.
"""

import contextlib
import io
import math
import os
import re
import shutil
from collections.abc import Iterator
from dataclasses import fields, is_dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal, TextIO, TypeVar

import tyro

from spikediff.cli.outputs import check_file
from spikediff.errors import UserError, visible
from spikediff.pretrained import PRETRAINED, find_source
from spikediff.progress import Heard

_COLOURS = re.compile(r"(\x1b\[[0-9;]*m)")  # tyro's, in the help text on a terminal


class Visible:
    """A text file whose control characters are written as escapes, and what it cannot encode too.

    Args:
        file: Where the text goes.
    """

    def __init__(self, file: TextIO | Heard) -> None:
        self._file = file

    def write(self, text: str) -> int:
        """Write a text; line breaks, tabs and, on a terminal, colours stay."""
        parts = _COLOURS.split(text) if self._file.isatty() else [text]
        shown = "".join(p if i % 2 else visible(p) for i, p in enumerate(parts))
        try:
            self._file.write(shown)
        except UnicodeEncodeError:
            encoding = self._file.encoding or "ascii"
            self._file.write(shown.encode(encoding, "backslashreplace").decode(encoding))
        return len(text)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)


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
    asks_for_help = bool({"-h", "--help"} & set(arguments))
    try:
        with contextlib.redirect_stderr(said), _terminal(asks_for_help):
            if default is None:
                read = _with_shipped(tyro.cli(options, args=arguments, prog=usage))
            else:
                read = tyro.cli(options, args=arguments, prog=usage, default=default)
    except SystemExit as leaving:
        if leaving.code in (0, None):
            raise
        raise UserError(f"{usage}: {_gist(said.getvalue())}") from None
    check_options(read)
    return read


@contextlib.contextmanager
def _terminal(asks_for_help: bool) -> Iterator[None]:
    """Let tyro see a terminal that it can write to.

    For help it is the user's, of 40 columns at the least, for with very few tyro does not come to
    an end. Its messages are read here and want neither colours nor line breaks.
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


# The least and the most that an option may be, in any command that has one of the name.
_RANGES: dict[str, tuple[float, float]] = {
    **dict.fromkeys(("batch_size",), (1, 65_536)),
    **dict.fromkeys(("num_images", "num_samples", "steps", "num_inference_steps"), (1, 10**8)),
    **dict.fromkeys(("quantise_steps", "fine_tune_steps", "train_steps"), (0, 10**9)),
    **dict.fromkeys(("num_iterations", "num_resamples", "jump_length", "repeats"), (1, 10**6)),
    **dict.fromkeys(("quantise_lr", "fine_tune_lr", "train_lr", "dt"), (1e-12, 1e38)),
    **dict.fromkeys(("neurons_per_layer", "spiking_steps", "sample_size"), (1, 65_536)),
    **dict.fromkeys(("token_margin", "data_index", "class_label", "class_labels"), (0, 10**9)),
    **dict.fromkeys(("budget_seconds", "budget_images"), (0, 1e12)),
    "threads": (0, 4096),
    "num_timesteps": (2, 10**6),
    **dict.fromkeys(("seed", "seeds"), (0, 2**62)),
    "bits": (2, 4),
    "eta": (0, 1),
    "temperature": (0, 1e6),
    "top_p": (1e-12, 1),
    "strength": (1e-12, 1),
    "clip_last_noise": (0, 255),
    "residual_alpha": (1e-6, 1e6),
    "guidance_scale": (-1e4, 1e4),
}
_FILES = ("json", "csv", "plot", "probe", "markdown", "latex", "figure")


def check_options(options: Any) -> None:
    """Refuse numbers that make no sense, and files that could not be written at the end.

    Args:
        options: The options of a command; groups of them are looked into, a recipe is not.

    Raises:
        UserError: There is such a one.
    """
    for field in fields(options):
        value, name = getattr(options, field.name), field.name.replace("_", "-")
        if is_dataclass(value) and field.name != "recipe":
            check_options(value)
        if field.name in _FILES and isinstance(value, Path):
            check_file(value, name)
        for number in value if isinstance(value, tuple) else (value,):
            if isinstance(number, int | float) and not isinstance(number, bool):
                _check_number(name, number, *_RANGES.get(field.name, (-math.inf, math.inf)))


def _check_number(name: str, number: float, least: float, most: float) -> None:
    if number < least:
        words = "positive" if 0 < least < 1 else f"at least {least:g}"
        raise UserError(f"--{name} {number} must be {words}")
    if not number <= most or math.isinf(number):
        raise UserError(f"--{name} {number} must be at most {most:g}")


def _with_shipped(options: Options) -> Options:
    """Return the options with the folder of a model that ships with the package for its name."""
    source = getattr(options, "source", None)
    if source is None or str(source) not in PRETRAINED:
        return options
    folder = type(source)(find_source(Path(source)))  # a path, or the text of one
    return replace(options, source=folder)  # type: ignore[type-var]


_FRAME = re.compile(r"\x1b\[[0-9;]*m|^[│╭╰|+]|[│╮╯|+]$|[─-]{3,}")


def _gist(said: str) -> str:
    """Return what tyro says in its frame, and the option that it suggests."""
    lines = [_FRAME.sub("", line.strip()).strip() for line in said.strip().splitlines()]
    gist, _, rest = "\n".join(lines[1:]).partition("\n\n")  # the first is the frame's title
    gist = re.sub(r"^(Missing from [^:]*): *\n(\S+) *\n(.*)", r"\1: \2, \3", gist)
    near = re.search(r"Perhaps you meant:\s*(--[\w.-]+)", rest)
    hint = f"did you mean {near[1]}?" if near else "--help tells the options"
    return f"{' '.join(gist.split())}; {hint}"

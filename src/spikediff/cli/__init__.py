"""The command line, the top layer of the package.

A command is a module of this package: a dataclass of its options, and `run(options)`, which returns
the exit code if it is not 0. A module is imported when its command is called, so `spikediff --help`
does not load torch.
"""

import contextlib
import importlib
import keyword
import logging
import os
import re
import sys
import warnings
from types import ModuleType
from typing import Any

from spikediff import __version__
from spikediff.cli.arguments import Visible, parse
from spikediff.errors import UserError, one_line, shown, suggestion
from spikediff.progress import Heard, at_work, breaking_silence

COMMANDS = {
    "data": "inspect images before training: counts, sizes, classes",
    "train": "train a model from a recipe",
    "sample": "generate images with a trained model",
    "inpaint": "replace a part of a picture and keep the rest bit for bit",
    "vary": "generate variations of a picture",
    "interpolate": "generate the images between those of two seeds",
    "invert": "find the noise of a picture",
    "calibrate": "measure a model for the sampler analytic-dpm",
    "reconstruct": "measure the reconstruction error of an autoencoder",
    "evaluate": "measure image quality, beside that of real images",
    "energy": "measure the energy of an image, by layer and by step",
    "inspect": "show the spikes: rasters, membranes, rates, silent neurons",
    "compare": "compare models: quality, energy, speed, size",
    "guide": "search a threshold scale that improves the images",
    "convert": "turn an ordinary denoiser into a spiking one",
    "deploy": "write a network in integer arithmetic: 8-, 6- or 4-bit weights",
    "import": "turn an authors' checkpoint into a pipeline",
    "push": "upload a model, with a card, to the Hugging Face Hub",
    "export": "export a denoiser to NIR, ONNX or torch.export",
    "info": "describe the installation, or a model",
    "completion": "print a completion script for bash, zsh or fish",
    "web": "serve a web page: generate, inpaint, compare",
    "demo": "run the shipped spiking model, then train one in minutes",
}

DONE, FAILED, WRONG_USE = 0, 1, 2


def main(arguments: list[str] | None = None) -> int:
    """Run a command, by default that of the process.

    Returns:
        0 on success; 2 for wrong use or bad input, after one line on stderr; 1 if interrupted or
        failed.
    """
    arguments = sys.argv[1:] if arguments is None else arguments
    # Read when torch is imported: threads that wait for work leave the core to other processes.
    os.environ.setdefault("OMP_WAIT_POLICY", "PASSIVE")
    _log_in_lines()
    out, err = Heard(sys.stdout), Heard(sys.stderr)
    is_first = os.environ.get("RANK", "0") == "0"  # or the only one, without torchrun
    try:
        with (
            contextlib.redirect_stdout(Visible(out)),
            contextlib.redirect_stderr(err),
            breaking_silence(out, err) if is_first else contextlib.nullcontext(),
            at_work(arguments[0] if arguments else "help"),
        ):
            code = _run(arguments)
            sys.stdout.flush()
        return code
    except BrokenPipeError:  # `spikediff info | head`: the reader has left
        _leave_stdout()
        return FAILED
    except KeyboardInterrupt:
        print("spikediff: interrupted", file=sys.stderr)
        return FAILED
    except Exception as error:
        line = _message(error)
        if line is None:
            raise
        if isinstance(error, OSError):
            _leave_stdout()  # if the disk is full, the exit could not write the rest
        print(f"spikediff: error: {line}", file=sys.stderr)
        return WRONG_USE


_NO_MEMORY = re.compile(
    r"not enough memory|DefaultCPUAllocator|out of memory|can(?:not|'t) allocate memory|bad_alloc",
    re.I,
)


def _message(error: Exception) -> str | None:
    """Return the line for a mistake the user can fix; None for a fault of this library."""
    if isinstance(error, UserError):
        return str(error)
    if isinstance(error, MemoryError) or _NO_MEMORY.search(str(error)):
        reason = one_line(error, 200) or "MemoryError"
        return f"not enough memory ({reason}); use a smaller --batch-size or a larger machine"
    if isinstance(error, OSError) and error.strerror is not None:
        where = f"{error.filename}: " if error.filename else ""
        return one_line(f"{where}{error.strerror}")
    if "No space left on device" in str(error):  # safetensors has exceptions of its own
        return one_line(error)
    return None


def _leave_stdout() -> None:
    """Discard what is not yet written to stdout."""
    with contextlib.suppress(OSError, ValueError):
        try:
            sys.stdout.flush()
        except OSError:
            os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())


def _log_in_lines() -> None:
    """Print warnings and log records in one line each."""
    logging.basicConfig(level=logging.WARNING)
    for handler in logging.getLogger().handlers:
        handler.setFormatter(_Line())
    warnings.formatwarning = _line_of


class _Line(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        return f"spikediff: {record.levelname}: {one_line(record.getMessage())}"


def _run(arguments: list[str]) -> int:
    if not arguments or arguments[0] in ("-h", "--help"):
        print(_help())
        return DONE if arguments else WRONG_USE
    if arguments[0] == "--version":
        print(f"spikediff {__version__}")
        return DONE
    if arguments[0] == "help":
        return _run([*arguments[1:], "--help"])
    command = arguments[0]
    if command not in COMMANDS:
        near = suggestion(command, [*COMMANDS, "help"])
        raise UserError(f"unknown command {shown(command)}; {near}")
    code: int | None = module_of(command).run(read_options(command, arguments[1:]))
    return code or DONE


def module_of(command: str) -> ModuleType:
    """Import and return the module of a command."""
    name = f"{command}_" if keyword.iskeyword(command) else command  # `import` names no module
    return importlib.import_module(f"spikediff.cli.{name}")


def options_class(command: str) -> Any:
    """Return the dataclass of a command's options."""
    return getattr(module_of(command), f"{command.capitalize()}Options")


def read_options(command: str, arguments: list[str]) -> Any:
    """Return the options of a command; those of `train` depend on the recipe."""
    if command == "train":
        return module_of(command).read(arguments)
    return parse(options_class(command), arguments, f"spikediff {command}")


def _line_of(message: Warning | str, *_where: object, **_more: object) -> str:
    """Format a warning without the line of code that it came from."""
    return f"spikediff: WARNING: {one_line(message)}\n"


def _help() -> str:
    width = max(map(len, COMMANDS))
    rows = "\n".join(f"  {name:<{width}}  {what}" for name, what in COMMANDS.items())
    return (
        "usage: spikediff COMMAND [OPTIONS]\n\n"
        "Spiking diffusion models: train, sample, measure.\n\n"
        f"commands:\n{rows}\n\n"
        "spikediff help COMMAND (or COMMAND --help) shows the options of a command.\n"
        "Exit codes: 0 success, 2 wrong use or bad input, 1 anything else."
    )

"""The command line: the only place where all rooms meet.

A command is a module of this room with `run(arguments)`. It is imported when it is called, so that
`spikediff --help` answers without loading torch.
"""

import importlib
import keyword
import logging
import os
import sys
import warnings

from spikediff import __version__
from spikediff.errors import UserError, suggestion

COMMANDS = {
    "train": "train a model from a recipe",
    "sample": "generate images with a trained model",
    "inpaint": "make a part of a picture anew and keep the rest bit for bit",
    "vary": "make variations of a picture",
    "interpolate": "generate the images between those of two seeds",
    "invert": "find the noise that a picture comes from",
    "calibrate": "measure a model for the sampler analytic-dpm",
    "reconstruct": "say how well an autoencoder gives images back",
    "evaluate": "measure how good images are, beside the floor of real ones",
    "energy": "count what an image costs, layer by layer and step by step",
    "inspect": "show the spikes: rasters, membranes, firing rates, dead and saturated neurons",
    "guide": "search a scale of the thresholds that improves the images, on held-out data",
    "convert": "turn an ordinary denoiser into a spiking one, and say where it loses",
    "deploy": "write an integer network in whole numbers: 8-, 6- or 4-bit weights, exact sums",
    "import": "turn a checkpoint of the papers' authors into a pipeline",
    "push": "put a model on the Hugging Face Hub, with a card made from its run",
    "export": "hand a denoiser on as NIR graphs, ONNX or torch.export",
    "info": "say what is installed, or what a model is",
    "demo": "train on real digits for a few minutes and show what comes out",
}

DONE, FAILED, WRONG_USE = 0, 1, 2


def main(arguments: list[str] | None = None) -> int:
    """Run a command.

    Args:
        arguments: The command and its arguments; those of the process by default.

    Returns:
        0 done; 2 wrong use or bad input, told in one line; 1 interrupted or failed.
    """
    arguments = sys.argv[1:] if arguments is None else arguments
    if not arguments or arguments[0] in ("-h", "--help"):
        print(_help())
        return DONE if arguments else WRONG_USE
    if arguments[0] == "--version":
        print(f"spikediff {__version__}")
        return DONE
    logging.basicConfig(format="spikediff: %(levelname)s: %(message)s", level=logging.WARNING)
    warnings.formatwarning = _one_line
    try:
        return _run(arguments[0], arguments[1:])
    except UserError as error:
        print(f"spikediff: error: {error}", file=sys.stderr)
        return WRONG_USE
    except BrokenPipeError:  # `spikediff info | head`: whoever read us has left
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return FAILED
    except OSError as error:  # no space, no permission, no such folder
        if error.filename is None and error.strerror is None:
            raise
        where = f"{error.filename}: " if error.filename else ""
        print(f"spikediff: error: {where}{error.strerror}", file=sys.stderr)
        return WRONG_USE
    except KeyboardInterrupt:
        print("spikediff: interrupted", file=sys.stderr)
        return FAILED


def _run(command: str, arguments: list[str]) -> int:
    if command not in COMMANDS:
        raise UserError(f"unknown command {command!r}; {suggestion(command, COMMANDS)}")
    module = f"{command}_" if keyword.iskeyword(command) else command  # `import` names no module
    code: int = importlib.import_module(f"spikediff.cli.{module}").run(arguments)
    return code


def _one_line(message: Warning | str, *_where: object, **_more: object) -> str:
    """Format a warning for a person: what, without the line of code that it came from."""
    return f"spikediff: WARNING: {message}\n"


def _help() -> str:
    width = max(map(len, COMMANDS))
    rows = "\n".join(f"  {name:<{width}}  {what}" for name, what in COMMANDS.items())
    return (
        "usage: spikediff COMMAND [OPTIONS]\n\n"
        "Spiking diffusion models: train, sample, measure.\n\n"
        f"commands:\n{rows}\n\n"
        "spikediff COMMAND --help tells the options of a command. "
        "Exit codes: 0 done, 2 wrong use or bad input, 1 anything else."
    )

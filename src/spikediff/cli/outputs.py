"""Output folders and files: checked before the work, never mixed with existing files."""

import os
import re
from pathlib import Path
from typing import Literal

from spikediff.errors import UserError
from spikediff.pretrained import ships

FIGURE_FORMATS = (".svg", ".pdf", ".png")
Kind = Literal["pictures", "report", "pipeline", "graphs"]

_PART = r"(unet|vae|vqvae|decoder|scheduler)"
_PIPELINE = (
    rf"(quantised/)?(model_index\.json|pipeline\.py|{_PART}/(\w*config\.json|spikediff_\w+\.py"
    r"|diffusion_pytorch_model[\w.-]*\.(safetensors|json)))"
)
# The files of each kind, relative to the folder; no others are removed.
_WRITTEN: dict[Kind, str] = {
    "pictures": r"(seed-\d+|image|image-\d+|masked|grid|reconstructions?|signals)\.png"
    r"|denoising\.gif|signals\.npy|noise\.safetensors",
    "report": r"index\.html|(images|firing_rates|dead_and_saturated|rate_maps)\.png"
    r"|layers/\d{3}-[\w.-]+\.png",
    "pipeline": rf"{_PIPELINE}|README\.md|samples\.png|(origin|calibration)\.json"
    r"|(evaluation|energy)(-\d+)?\.json|recipe(-stage-\d+)?\.yaml"
    r"|space/(README\.md|app\.py|requirements\.txt)",
    "graphs": r"(timestep_[\w.+-]+|network)\.nir|index\.json|host\.safetensors",
}


def check_new_folder(folder: Path, overwrite: bool = False, option: str = "output") -> None:
    """Refuse a folder that is not empty, unless it is to be overwritten, or not writable."""
    _check_writable(folder)
    if folder.is_dir() and any(folder.iterdir()) and not overwrite:
        raise UserError(
            f"{folder}: exists and is not empty; choose another --{option}, or add --overwrite"
        )
    if folder.exists() and not folder.is_dir():
        raise UserError(f"{folder}: exists and is not a folder; choose another --{option}")


def new_folder(
    folder: Path, kind: Kind, overwrite: bool = False, source: Path | None = None
) -> Path:
    """Make a folder, without the files that an earlier command of the kind wrote there.

    `overwrite` allows removing these files and the folders that they leave empty, nothing else. A
    pipeline folder must not contain `source`, the model or run being read.
    """
    check_new_folder(folder, overwrite)
    reads = () if source is None or kind != "pipeline" else (source, source / "pipeline")
    if folder.exists() and any(p.resolve().is_relative_to(folder.resolve()) for p in reads):
        raise UserError(f"{folder}: contains the model being read; choose another --output")
    written = [path for path in folder.rglob("*") if path.is_symlink() or not path.is_dir()]
    for path in written:
        if re.fullmatch(_WRITTEN[kind], path.relative_to(folder).as_posix()):
            path.unlink()
            while (path := path.parent) != folder and not any(path.iterdir()):
                path.rmdir()
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def check_file(path: Path, name: str, suffixes: tuple[str, ...] = ()) -> None:
    """Refuse a file that could not be written at the end; without `suffixes` any name will do."""
    _check_writable(path)
    if path.is_dir():
        raise UserError(f"{name} {path}: is a folder; give the name of a file")
    if path == Path("-"):
        raise UserError(f"{name} -: standard output is not supported; give the name of a file")
    if suffixes and path.suffix.lower() not in suffixes:
        raise UserError(f"{name} {path}: ends in none of {', '.join(suffixes)}; choose one")


def _check_writable(path: Path) -> None:
    """Refuse a path whose nearest existing folder is not writable."""
    try:
        above = path
        while not above.exists() and not above.is_symlink():
            above = above.parent
        fits = os.access(above, os.W_OK) and (above == path or above.is_dir())
        if ships(path):
            raise UserError(f"{path}: belongs to the installed package, which is read-only")
    except OSError as error:  # a name that is too long
        raise UserError(
            f"{path}: cannot be written ({error.strerror}); choose another path"
        ) from None
    if not fits:
        reason = "cannot be written to" if above.is_dir() or above == path else "is not a folder"
        raise UserError(f"{path}: cannot be written, {above} {reason}; choose another path")


def say_where(what: str, path: Path, then: str = "") -> None:
    """Print where the results are, as paths that a terminal can open, and the next command."""
    print(f"{what} in {path.resolve()}")
    if then:
        print(f"next: spikediff {then}")


def counted(number: int, noun: str) -> str:
    """Return a number with its noun.

    Example:
        >>> counted(1, "image"), counted(2, "image")
        ('1 image', '2 images')
    """
    return f"{number} {noun}{'s' * (number != 1)}"


def write_text(path: Path, text: str) -> None:
    """Write a text file, and the folders above it."""
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text, encoding="utf-8")

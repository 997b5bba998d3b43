"""Signals: a recording over time, cut into windows for a network of signals.

A recording is a row of `SIGNALS` or a `.npy` file. It keeps its own unit; training chooses the
values that a network sees as -1 and 1 (`change_range`).
"""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from spikediff.data.dataset import NO_LABEL
from spikediff.errors import UserError, brief, check_known, suggestion
from spikediff.files.reading import GIB, open_regular

SPLITS = ("train", "test")
DEFAULT_LENGTH = 128
MOST_BYTES = 4 * GIB  # size of a recording
_PARTS = 10
_TEST_PARTS = (3, 8)  # of ten: the fourth and the ninth tenth of the time


@dataclass(frozen=True)
class SignalSpec:
    """One row of `SIGNALS`."""

    summary: str  # description of the recording, in one line
    length: int  # default number of samples per window
    read: Callable[[], tuple[Tensor, str]]  # the recording, float32 `[C, S]`, and its origin


class SignalDataset(Dataset[tuple[Tensor, int]]):
    """All windows of one split of a recording, one for every possible first sample.

    The time is cut into ten equal parts. The fourth and the ninth are the test split, the others
    the training split; no window reaches across a cut, so the splits share no sample.
    Item `i` is `(float32 [C, L], -1)` in the recording's unit; signals have no classes.

    Args:
        name: Name of the data set.
        split: `train` or `test`.
        recording: float32 `[C, S]`.
        length: L; also available as `image_size`, the training loop's name for the size of an item.
        origin: Source of the recording, for reports.

    Example:
        >>> sawtooth = torch.arange(80.0).view(1, 80) % 8
        >>> test = SignalDataset("sawtooth", "test", sawtooth, length=8)
        >>> len(test), test[0][0].tolist()
        (2, [[0.0, 1.0, 2.0, 3.0, 4.0, 5.0, 6.0, 7.0]])
    """

    def __init__(
        self, name: str, split: str, recording: Tensor, length: int, origin: str = ""
    ) -> None:
        samples = recording.shape[1]
        if not 1 <= length <= samples // _PARTS:
            raise UserError(
                f"{name}: windows of {length} samples do not fit into a tenth of the recording, "
                f"{samples // _PARTS} samples; choose a length from 1 to that"
            )
        self.name, self.split, self.origin = name, split, origin
        self.channels, self.image_size = len(recording), length
        self.labels: Tensor | None = None
        self.class_names: tuple[str, ...] = ()
        self.recording = recording
        self._starts = [
            start
            for first, last in _stretches(samples, split)
            for start in range(first, last - length + 1)
        ]

    @property
    def num_classes(self) -> int:
        """0: signals have no classes."""
        return 0

    def __len__(self) -> int:
        return len(self._starts)

    def __getitem__(self, index: int) -> tuple[Tensor, int]:
        start = self._starts[index]
        return self.recording[:, start : start + self.image_size], NO_LABEL

    def stack(self) -> Tensor:
        """Return all windows, float32 `[N, C, L]`."""
        return torch.stack([self[index][0] for index in range(len(self))])


def _stretches(samples: int, split: str) -> list[tuple[int, int]]:
    """Return the start and end of the pieces of a split; neighbouring tenths form one piece.

    Example:
        >>> _stretches(100, "train")
        [(0, 30), (40, 80), (90, 100)]
    """
    cuts = [samples * part // _PARTS for part in range(_PARTS + 1)]
    pieces: list[tuple[int, int]] = []
    for part in range(_PARTS):
        if (part in _TEST_PARTS) != (split == "test"):
            continue
        first = cuts[part]
        if pieces and pieces[-1][1] == first:
            first = pieces.pop()[0]
        pieces.append((first, cuts[part + 1]))
    return pieces


def read_membrane() -> tuple[Tensor, str]:
    """Read a neuron's membrane potential in mV, sampled every 0.5 ms: float32 `[1, 10000]`.

    It is the trace of matplotlib's first logo, whose script states the scale and sampling interval.
    The first and last thousand of its 12,000 samples, in which the cell is at rest, are omitted.
    Matplotlib distributes the file under its licence; its author and the cell are unknown.
    """
    from matplotlib import cbook  # lazy: takes a second

    path = Path(cbook.get_sample_data("membrane.dat", asfileobj=False))
    try:
        volts = np.fromfile(path, np.float32)
    except OSError as error:
        raise UserError(
            f"membrane: {path} cannot be read ({brief(error)}); install matplotlib from PyPI, "
            "whose wheel holds it"
        ) from None
    return torch.from_numpy(volts[None, 1000:-1000] * np.float32(100.0)), "matplotlib membrane.dat"


def read_recording(path: Path) -> tuple[Tensor, str]:
    """Read a `.npy` file of real numbers, `[S]` or `[C, S]`, as float32 `[C, S]`."""
    try:
        with open_regular(path, MOST_BYTES):
            # Mapped, so that a header that declares more than the file holds takes no memory.
            values: Any = np.load(path, mmap_mode="r", allow_pickle=False)
        if not isinstance(values, np.ndarray):
            raise ValueError("it is an archive")
    except UserError:
        raise
    # Numpy's header reader raises the exceptions of Python's tokenizer and parser.
    except Exception as error:
        raise UserError(f"{path}: cannot be read as a .npy file ({brief(error)})") from None
    values = np.atleast_2d(values)
    if values.ndim != 2 or values.dtype.kind not in "iuf" or values.shape[0] > values.shape[1]:
        raise UserError(
            f"{path}: holds {values.dtype} {list(values.shape)}; save real numbers [S] or, with "
            "channels first, [C, S]"
        )
    with np.errstate(over="ignore"):
        recording = torch.from_numpy(values.astype(np.float32))
    if not recording.isfinite().all():
        raise UserError(
            f"{path}: holds values that are not finite in float32; cut or fill the gaps, or scale"
        )
    return recording, str(path)


SIGNALS: dict[str, SignalSpec] = {
    "membrane": SignalSpec(
        summary="a firing neuron's membrane potential in mV, 10,000 samples of 0.5 ms; comes with "
        "matplotlib, no download",
        length=DEFAULT_LENGTH,
        read=read_membrane,
    ),
}


def load_signals(
    name: str,
    split: str = "train",
    *,
    length: int | None = None,
    data_dir: Path | str | None = None,
) -> SignalDataset:
    """Load the windows of one split of a recording.

    Args:
        name: A key of `SIGNALS`, or the path of a `.npy` file: real numbers `[S]` or `[C, S]`.
        split: `train` or `test`.
        length: Samples per window; None keeps the data set's own, or 128 for a file.
        data_dir: A further folder to search for the file.

    Example:
        >>> windows = load_signals("membrane", "test")
        >>> len(windows), windows[0][0].shape
        (1746, torch.Size([1, 128]))
    """
    check_known("split", split, SPLITS, f"{name}: ")
    row = SIGNALS.get(name)
    recording, origin = read_recording(_find(name, data_dir)) if row is None else row.read()
    own = DEFAULT_LENGTH if row is None else row.length
    return SignalDataset(name, split, recording, own if length is None else length, origin)


def _find(name: str, data_dir: Path | str | None) -> Path:
    """Return the file of a recording outside the table."""
    path = Path(name).expanduser()
    if path.suffix != ".npy":
        raise UserError(
            f"unknown signal {name!r}; {suggestion(name, SIGNALS)}, or give the path of a .npy file"
        )
    if data_dir is None or path.is_file():
        return path
    return Path(data_dir).expanduser() / path

"""Long work in pieces on the disk: a piece is whole or absent, and never made twice.

50,000 images, or their features, are made in shards. Each is a safetensors file that is written
under another name, flushed and renamed, with the key of what it was made from and a checksum. So an
interrupted run goes on where it stopped, a damaged or foreign shard is made again, and processes
share the work without sending tensors: they only need to see one folder.
"""

import hashlib
import json
import logging
import os
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import safetensors
import safetensors.torch
from accelerate import PartialState
from safetensors import SafetensorError
from torch import Tensor
from tqdm import tqdm

from spikediff.evaluation.features.extractor import state_digest

Make = Callable[[int, int], dict[str, Tensor]]
"""`(first, count)` to named tensors, each with `count` rows."""

_log = logging.getLogger("spikediff")


def fingerprint_of(**parts: Any) -> str:
    """Return the SHA-256 of named values, as JSON knows them.

    Example:
        >>> fingerprint_of(a=1, b="x") == fingerprint_of(b="x", a=1)
        True
    """
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def write_tensors(path: Path, tensors: dict[str, Tensor], metadata: Mapping[str, str]) -> None:
    """Write a safetensors file that is either there and whole or not there.

    Args:
        path: The file; its folder is made.
        tensors: What to write.
        metadata: Text to keep beside it.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    whole = {name: tensor.contiguous() for name, tensor in tensors.items()}
    told = {**metadata, "checksum": state_digest(whole)}
    draft = path.with_name(f".unfinished-{path.name}")
    with open(draft, "wb") as file:
        file.write(safetensors.torch.save(whole, metadata=told))
        file.flush()
        os.fsync(file.fileno())
    os.replace(draft, path)


def read_tensors(path: Path, metadata: Mapping[str, str]) -> dict[str, Tensor] | None:
    """Read a file of `write_tensors`.

    Args:
        path: The file.
        metadata: What the file must say of itself.

    Returns:
        The tensors; None where there is no file, or, with a warning, where it is damaged or was
        made from something else.
    """
    if not path.is_file():
        return None
    try:
        with safetensors.safe_open(path, framework="pt") as file:
            told = file.metadata() or {}
            tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except (OSError, SafetensorError) as error:
        _log.warning("%s: damaged (%s); made again", path, error)
        return None
    if told.get("checksum") != state_digest(tensors):
        _log.warning("%s: its checksum differs, it is damaged; made again", path)
        return None
    if any(told.get(key) != value for key, value in metadata.items()):
        _log.warning("%s: was made from something else; made again", path)
        return None
    return tensors


@dataclass(frozen=True)
class Shards:
    """Rows 0 to `total`, in files of `size` rows.

    Attributes:
        folder: Where they lie.
        key: Fingerprint of all that decides their content.
        total: Rows.
        size: Rows in a shard; the last one may have fewer.
    """

    folder: Path
    key: str
    total: int
    size: int

    def __len__(self) -> int:
        return -(-self.total // self.size)

    def read(self, index: int) -> dict[str, Tensor] | None:
        """Return shard `index`; None where it must be made."""
        shard = read_tensors(self._path(index), self._metadata())
        if shard is None or any(len(rows) != self._count(index) for rows in shard.values()):
            return None  # the last shard of a shorter or longer run has other rows
        return shard

    def fill(self, make: Make, processes: PartialState, label: str) -> None:
        """Make the missing shards, round-robin over the processes, and wait for all of them.

        Args:
            make: Called as `make(first, count)`, gives the rows `first` to `first + count`.
            processes: Who shares the work.
            label: What the progress bar says.
        """
        mine = range(processes.process_index, len(self), processes.num_processes)
        quiet = True if processes.process_index else None  # None: only where nobody watches
        for index in tqdm(mine, label, unit="shard", disable=quiet, leave=False):
            if self.read(index) is None:
                made = make(index * self.size, self._count(index))
                write_tensors(self._path(index), made, self._metadata())
        processes.wait_for_everyone()

    def get(self, index: int) -> dict[str, Tensor]:
        """Return shard `index`, which must have been filled."""
        shard = self.read(index)
        if shard is None:
            raise RuntimeError(f"{self._path(index)}: vanished or changed while it was needed")
        return shard

    def __iter__(self) -> Iterator[dict[str, Tensor]]:
        """Go through the shards in order; all of them must have been filled."""
        return map(self.get, range(len(self)))

    def _count(self, index: int) -> int:
        return min(self.size, self.total - index * self.size)

    def _path(self, index: int) -> Path:
        return self.folder / f"{index:05d}.safetensors"

    def _metadata(self) -> dict[str, str]:
        return {"key": self.key, "size": str(self.size)}

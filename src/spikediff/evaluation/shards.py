"""Long computations as shards: files that are complete or absent, and computed once.

Images or their features, perhaps 50,000, are stored as shards: safetensors files with a key that
identifies their inputs. An interrupted run continues where it stopped, and a damaged or foreign
shard is computed again. Processes share the work through one folder, without sending tensors.
"""

import hashlib
import json
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from accelerate import PartialState
from torch import Tensor
from tqdm import tqdm

from spikediff.files.tensors import read_tensors, write_tensors
from spikediff.progress import at_work

Make = Callable[[int, int], dict[str, Tensor]]
"""Called with `(first, count)`; returns named tensors, each with `count` rows."""


def fingerprint_of(**parts: Any) -> str:
    """Return the SHA-256 of named values that JSON can represent."""
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


@dataclass(frozen=True)
class Shards:
    """The rows 0 to `total` - 1, in files of `size` rows."""

    folder: Path
    key: str  # fingerprint of everything that determines their content
    total: int
    size: int  # rows in a shard; the last one may have fewer
    needed: tuple[str, ...] = ()  # names of the tensors that every shard must contain

    def __len__(self) -> int:
        return -(-self.total // self.size)

    def read(self, index: int) -> dict[str, Tensor] | None:
        """Return shard `index`; None if it must be computed."""
        shard = read_tensors(self._path(index), self._metadata(), self.needed)
        count = self._count(index)
        if shard is None or any(not x.dim() or len(x) != count for x in shard.values()):
            return None  # the last shard of a shorter or longer run has another length
        return shard

    def fill(self, make: Make, processes: PartialState, label: str) -> None:
        """Compute missing shards, round-robin over the processes, and wait for all of them."""
        mine = range(processes.process_index, len(self), processes.num_processes)
        rows = sum(self._count(index) for index in mine)
        seldom = 0.2 if sys.stderr.isatty() else 4.0
        quiet = processes.process_index > 0
        with (
            tqdm(
                total=rows,
                desc=label,
                unit="image",
                mininterval=seldom,
                disable=quiet,
                leave=False,
            ) as bar,
            at_work(label, rows) as work,
        ):
            for index in mine:
                if self.read(index) is None:
                    made = make(index * self.size, self._count(index))
                    write_tensors(self._path(index), made, self._metadata())
                bar.update(self._count(index))
                work.advance(self._count(index))
        processes.wait_for_everyone()

    def get(self, index: int) -> dict[str, Tensor]:
        """Return shard `index`, which must exist."""
        shard = self.read(index)
        if shard is None:
            raise RuntimeError(f"{self._path(index)}: vanished or changed while it was needed")
        return shard

    def __iter__(self) -> Iterator[dict[str, Tensor]]:
        """Read the shards in order; all must exist."""
        return map(self.get, range(len(self)))

    def _count(self, index: int) -> int:
        return min(self.size, self.total - index * self.size)

    def _path(self, index: int) -> Path:
        return self.folder / f"{index:05d}.safetensors"

    def _metadata(self) -> dict[str, str]:
        return {"key": self.key, "size": str(self.size)}

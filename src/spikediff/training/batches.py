"""Which images step k sees, and how they reach the training loop.

Classes in the training loop: labels are dropped now and then, and shown to the network.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler, default_collate

from spikediff.data import ImageDataset
from spikediff.diffusion.seeds import derived_generator
from spikediff.errors import UserError
from spikediff.training.recipe import Recipe


@dataclass(frozen=True)
class BatchPlan:
    """The order of the data: a fresh permutation every epoch, cut into batches without remainder.

    Attributes:
        num_images: Images in the data set.
        batch_size: Images per optimizer step, over all processes.
        seed: Seed of the run.
    """

    num_images: int
    batch_size: int
    seed: int

    def indices(self, step: int) -> Tensor:
        """Return the images of step `step` (from 0), int64 [batch_size]."""
        wanted = torch.arange(step * self.batch_size, (step + 1) * self.batch_size)
        epochs, places = wanted // self.num_images, wanted % self.num_images
        chosen = [
            _permutation(self.seed, epoch, self.num_images)[places[epochs == epoch]]
            for epoch in range(int(epochs[0]), int(epochs[-1]) + 1)
        ]
        return torch.cat(chosen)

    def position(self, step: int) -> dict[str, int]:
        """Return where step `step` begins: the epoch, and the image within it."""
        epoch, image = divmod(step * self.batch_size, self.num_images)
        return {"epoch": epoch, "image": image}


@lru_cache(maxsize=2)
def _permutation(seed: int, epoch: int, num_images: int) -> Tensor:
    return torch.randperm(num_images, generator=derived_generator(seed, "order", epoch))


class _Parts(Sampler[list[int]]):
    """This process's part of every batch, from `start` on, for ever."""

    def __init__(self, plan: BatchPlan, start: int, rank: int, world_size: int) -> None:
        self.plan, self.start, self.rank, self.world_size = plan, start, rank, world_size

    def __iter__(self) -> Iterator[list[int]]:
        step = self.start
        while True:
            yield self.plan.indices(step).chunk(self.world_size)[self.rank].tolist()
            step += 1


def batches(
    dataset: ImageDataset, plan: BatchPlan, start: int, rank: int, world_size: int, workers: int
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield this process's items of step `start`, `start + 1`, ..., and their labels.

    Images are uint8 [B / world, C, H, W], labels int64 [B / world], -1 where there are none.
    """
    loader = DataLoader(
        _Told(dataset),
        batch_sampler=_Parts(plan, start, rank, world_size),
        num_workers=workers,
        persistent_workers=workers > 0,
        collate_fn=_collate,
    )
    try:
        for batch in loader:
            if isinstance(batch, UserError):
                raise batch
            yield batch
    except RuntimeError as error:
        if "DataLoader worker" not in str(error):
            raise
        raise UserError(
            "a process that decodes images died, perhaps for want of memory; go on with --resume, "
            f"with fewer data.workers than {workers}"
        ) from error


class _Told(Dataset[Any]):
    """A data set whose errors are items: raised in a worker, they would come as a traceback."""

    def __init__(self, dataset: Any) -> None:
        self.dataset = dataset

    def __getitem__(self, index: int) -> Any:
        try:
            return self.dataset[index]
        except UserError as error:
            return error


def _collate(items: list[Any]) -> Any:
    """Return a batch of items, or the first error among them."""
    failed = next((item for item in items if isinstance(item, UserError)), None)
    return default_collate(items) if failed is None else failed


def classes_of(recipe: Recipe, dataset: Any) -> int:
    """Return the number of classes that a recipe's network is trained by; 0 for none.

    Args:
        recipe: The recipe.
        dataset: The items that it trains on, with `num_classes`.

    Raises:
        UserError: The data set has another number of classes.
    """
    wanted: int = getattr(recipe.model, "num_classes", 0)
    if wanted and wanted != dataset.num_classes:
        raise UserError(
            f"model.num_classes = {wanted}: the data set {dataset.name} has "
            f"{dataset.num_classes or 'no'} classes"
        )
    return wanted

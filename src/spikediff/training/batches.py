"""The data of a run: its items, their order, and the loader of batches."""

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset, Sampler, default_collate

from spikediff.data import ImageDataset, SignalDataset, load_images, load_signals
from spikediff.diffusion.seeds import derived_generator
from spikediff.errors import UserError, check_number
from spikediff.training.recipe import DataRecipe, Recipe

_OF_IMAGES = ("channels", "resize_filter", "horizontal_flip", "hold_out")


def image_dataset(data: DataRecipe) -> ImageDataset:
    """Return the images of a recipe's `data:` section."""
    if data.signal_range is not None:
        raise UserError(
            "data.signal_range: images have none; omit it, or train a network of signals "
            "(model.network: spiking_unet_1d)"
        )
    return load_images(
        data.dataset,
        image_size=data.image_size,
        channels=data.channels,
        data_dir=data.data_dir,
        resize_filter=data.resize_filter,
        held_out=False if data.hold_out else None,
    )


def signal_dataset(data: DataRecipe) -> SignalDataset:
    """Return the windows of the recording of a recipe's `data:` section."""
    for key in _OF_IMAGES:
        if (value := getattr(data, key)) != getattr(DataRecipe(), key):
            raise UserError(f"data.{key} = {value!r}: signals have none; omit it")
    windows = load_signals(data.dataset, length=data.image_size, data_dir=data.data_dir)
    if data.signal_range is None:
        low, high = (float(value) for value in windows.recording.aminmax())
        raise UserError(
            f"data.signal_range: say which values the network sees as -1 and 1; {data.dataset} "
            f"runs from {low:.4g} to {high:.4g}"
        )
    return windows


def classes_of(recipe: Recipe, dataset: Any) -> int:
    """Return the number of classes that condition a network; 0 for none."""
    check_number("loss.label_dropout", recipe.loss.label_dropout, 0, 1)
    wanted: int = getattr(recipe.model, "num_classes", 0)
    if wanted and wanted != dataset.num_classes:
        raise UserError(
            f"model.num_classes = {wanted}: the data set {dataset.name} has "
            f"{dataset.num_classes or 'no'} classes"
        )
    return wanted


@dataclass(frozen=True)
class BatchPlan:
    """The order of the data: a fresh permutation every epoch, cut into whole batches."""

    num_images: int  # in the data set
    batch_size: int  # per optimizer step, over all processes
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


@lru_cache(maxsize=2)
def _permutation(seed: int, epoch: int, num_images: int) -> Tensor:
    return torch.randperm(num_images, generator=derived_generator(seed, "order", epoch))


def batches(
    dataset: Any, plan: BatchPlan, start: int, rank: int, world_size: int, workers: int
) -> Iterator[tuple[Tensor, Tensor]]:
    """Yield this process's items of step `start`, `start + 1`, ..., and their labels.

    Images are uint8 [B / world, C, H, W], labels int64 [B / world], -1 without classes.
    """
    loader = DataLoader(
        _ErrorsAsItems(dataset),
        batch_sampler=_Shares(plan, start, rank, world_size),
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
            "a process that decodes images died, perhaps out of memory; continue with --resume "
            f"and fewer data.workers than {workers}"
        ) from error


class _Shares(Sampler[list[int]]):
    """This process's share of every batch from step `start` on, without end."""

    def __init__(self, plan: BatchPlan, start: int, rank: int, world_size: int) -> None:
        self.plan, self.start, self.rank, self.world_size = plan, start, rank, world_size

    def __iter__(self) -> Iterator[list[int]]:
        step = self.start
        while True:
            yield self.plan.indices(step).chunk(self.world_size)[self.rank].tolist()
            step += 1


class _ErrorsAsItems(Dataset[Any]):
    """Returns errors as items, because one raised in a worker would arrive as a traceback."""

    def __init__(self, dataset: Any) -> None:
        self.dataset = dataset

    def __getitem__(self, index: int) -> Any:
        try:
            return self.dataset[index]
        except UserError as error:
            return error


def _collate(items: list[Any]) -> Any:
    failed = next((item for item in items if isinstance(item, UserError)), None)
    return default_collate(items) if failed is None else failed

"""What may change when a run goes on, and what may not: a run is what its recipe says."""

import hashlib
import logging
from collections.abc import Iterator, Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch

from spikediff.errors import UserError
from spikediff.training.recipe import Recipe

_log = logging.getLogger("spikediff")

# What decides the law of a run, by what a run of another is called.
_FIXED: dict[str, tuple[str, ...]] = {
    "model": ("model", "diffusion", "loss"),
    "data": (
        "data.dataset",
        "data.image_size",
        "data.channels",
        "data.resize_filter",
        "data.horizontal_flip",
        "data.hold_out",
        "data.signal_range",
    ),
    "optimizer": ("optimizer.name", "optimizer.schedule"),
}
# What says how long, how often or where, and changes no number.
_FREE = (
    "name",
    "init_from",
    "first_stage",
    "data.data_dir",
    "data.workers",
    "sampling",
    "training.steps",
    "training.log_every",
    "training.checkpoint_every",
    "training.keep_last",
    "training.trackers",
    "training.compress_activations",
    "training.keep_large_tensors",
)
_DIGESTED = 256  # images of a set that is not in memory


def check_same_run(root: Path, before: Recipe, now: Recipe) -> None:
    """Refuse a recipe that is none of the run's; warn of what it changes on the way.

    Args:
        root: The run folder, for the message.
        before: The recipe that the run was made by.
        now: The one to go on with.

    Raises:
        UserError: Model, noise, loss, data, seed, optimizer or schedule differ; all are named.
    """
    old, new = dict(_settings(before)), dict(_settings(now))
    changed = [key for key, value in new.items() if not _is_same(key, old.get(key), value)]
    for what, keys in _FIXED.items():
        differ = [
            f"{key} is {old.get(key)} there and {new[key]} in the recipe"
            for key in changed
            if _is_one_of(key, keys)
        ]
        if differ:
            raise UserError(
                f"{root}: holds a run of another {what}: {'; '.join(differ)}; choose another folder"
            )
    if "seed" in changed or "data.batch_size" in changed:
        raise UserError(
            f"{root}: cannot resume with another seed or data.batch_size, which decide "
            f"the order of the data; choose another folder"
        )
    decays = now.optimizer.schedule != "constant" and "training.steps" in changed
    told = [
        f"{key} is {old.get(key)} there and {new[key]} from now on"
        for key in changed
        if not _is_one_of(key, _FREE) or (decays and key == "training.steps")
    ]
    if told:
        _log.warning("%s: goes on with other values: %s", root, "; ".join(told))


def _settings(recipe: Recipe) -> Iterator[tuple[str, Any]]:
    """Yield every value of a recipe by its path, `section.key`."""
    for section, value in asdict(recipe).items():
        if isinstance(value, Mapping):
            yield from ((f"{section}.{key}", part) for key, part in value.items())
        else:
            yield section, value


def _is_same(key: str, old: Any, new: Any) -> bool:
    """Return whether two values mean the same; `data_facts` tell what the data set decides."""
    if key == "data.dataset":
        return Path(old).name == Path(new).name  # a folder may have moved
    if key in ("data.image_size", "data.channels"):
        return old == new or None in (old, new)
    return bool(old == new)


def _is_one_of(key: str, keys: tuple[str, ...]) -> bool:
    return key in keys or key.split(".")[0] in keys


def data_facts(dataset: Any) -> dict[str, Any]:
    """Return what tells a data set from others, as JSON keeps it.

    Args:
        dataset: Items `(tensor, label)`, with a name, a size, channels and a number of classes.

    Returns:
        Among them a digest of pixels and labels: of all that is in memory, else of images that are
        spread over the set, so that it takes a second at most.
    """
    count = len(dataset)
    stored = getattr(dataset, "images", None)
    digest = hashlib.sha256()
    if isinstance(stored, torch.Tensor):
        digest.update(stored.contiguous().numpy().data)
        if dataset.labels is not None:
            digest.update(dataset.labels.numpy().data)
    else:
        for place in range(0, count, max(1, count // _DIGESTED)):
            item, label = dataset[place]
            digest.update(f"{label} {item.dtype}".encode())
            digest.update(item.contiguous().numpy().data)
    return {
        "name": Path(dataset.name).name,
        "items": count,
        "size": dataset.image_size,
        "channels": dataset.channels,
        "classes": dataset.num_classes,
        "digest": digest.hexdigest(),
    }


def check_same_data(root: Path, before: Mapping[str, Any], now: Mapping[str, Any]) -> None:
    """Refuse to go on with other data than those that a checkpoint was trained on.

    Args:
        root: The run folder, for the message.
        before: The `data_facts` of the checkpoint.
        now: Those of the data that are there.

    Raises:
        UserError: They differ; the message says in what.
    """
    differ = [
        "pixels or labels differ" if key == "digest" else f"{key}: {value} there and {now[key]} now"
        for key, value in before.items()
        if now[key] != value
    ]
    if differ:
        raise UserError(
            f"{root}: holds a run of other data: {'; '.join(differ)}; bring them back, or choose "
            f"another folder"
        )

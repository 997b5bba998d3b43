"""What may change when a run is resumed, and what may not."""

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

# Sections and keys that must not change, by the word for them in the message.
_FIXED_DATA = "dataset image_size channels resize_filter horizontal_flip hold_out signal_range"
_FIXED: dict[str, tuple[str, ...]] = {
    "model": ("model", "diffusion", "loss"),
    "data": tuple(f"data.{key}" for key in _FIXED_DATA.split()),
    "optimizer": ("optimizer.name", "optimizer.schedule"),
}
# Keys that say how long, how often or where, and affect no number.
_FREE_TRAINING = (
    "steps log_every checkpoint_every keep_last trackers compress_activations keep_large_tensors"
)
_FREE = (
    *("name", "init_from", "first_stage", "data.data_dir", "data.workers", "sampling"),
    *(f"training.{key}" for key in _FREE_TRAINING.split()),
)
_DIGESTED = 256  # images to digest of a data set that is not in memory


def check_same_run(root: Path, before: Recipe, now: Recipe) -> None:
    """Refuse to resume with the recipe of another run; warn about other changed values.

    Model, noise, loss, data, seed, optimizer and schedule must not change.
    """
    old, new = dict(settings_of(before)), dict(settings_of(now))
    changed = [key for key, value in new.items() if not _is_same(key, old.get(key), value)]
    for what, keys in _FIXED.items():
        differ = [
            f"{key} is {old.get(key)} there and {new[key]} in the recipe"
            for key in changed
            if _is_one_of(key, keys)
        ]
        if differ:
            raise UserError(
                f"{root}: contains a run of another {what}: {'; '.join(differ)}; "
                "choose another folder"
            )
    if "seed" in changed or "data.batch_size" in changed:
        raise UserError(
            f"{root}: cannot resume with another seed or data.batch_size, which decide "
            f"the order of the data; choose another folder"
        )
    decays = now.optimizer.schedule != "constant" and "training.steps" in changed
    warned = [
        f"{key} is {old.get(key)} there and {new[key]} from now on"
        for key in changed
        if not _is_one_of(key, _FREE) or (decays and key == "training.steps")
    ]
    if warned:
        _log.warning("%s: continues with other values: %s", root, "; ".join(warned))


def settings_of(recipe: Recipe) -> Iterator[tuple[str, Any]]:
    """Yield every value of a recipe by its path, `section.key`."""
    for section, value in asdict(recipe).items():
        if isinstance(value, Mapping):
            yield from ((f"{section}.{key}", part) for key, part in value.items())
        else:
            yield section, value


def _is_same(key: str, old: Any, new: Any) -> bool:
    """Return whether two values are equivalent; `data_facts` compares unset sizes."""
    if key == "data.dataset":
        return Path(old).name == Path(new).name  # a folder may have moved
    if key in ("data.image_size", "data.channels"):
        return old == new or None in (old, new)
    return bool(old == new)


def _is_one_of(key: str, keys: tuple[str, ...]) -> bool:
    return key in keys or key.split(".")[0] in keys


def data_facts(dataset: Any) -> dict[str, Any]:
    """Return facts that identify a data set, as JSON.

    They include a digest of pixels and labels: of all images if they are in memory, else of images
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
    """Refuse to resume with other data: compare `data_facts` of the checkpoint and of now."""
    differ = [
        "pixels or labels differ" if key == "digest" else f"{key}: {value} there and {now[key]} now"
        for key, value in before.items()
        if now[key] != value
    ]
    if differ:
        raise UserError(
            f"{root}: contains a run on other data: {'; '.join(differ)}; restore them, or "
            "choose another folder"
        )

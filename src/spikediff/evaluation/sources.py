"""Image sources of an evaluation: a generator, files, or a data set.

A source returns any image by its number, so processes can share the work. Image i of a generator
has seed `seed + i`. Image i of a data set is the i-th of a fixed permutation. Image i of a folder
is the i-th in the order of file names.
"""

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import cache
from importlib.metadata import version
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from spikediff.data import (
    DATASETS,
    SIGNALS,
    ImageDataset,
    Pictures,
    from_unit_range,
    load_images,
    to_uint8,
)
from spikediff.data.arrays import read_npz
from spikediff.data.dataset import pixel_array
from spikediff.data.decoding import image_files
from spikediff.data.folder import FOLDER_PREFIX, HUB_PREFIX, list_files, warn_of_others
from spikediff.diffusion.classes import classes_in_turn
from spikediff.diffusion.pipeline import scheduler_name, weights_sha256
from spikediff.errors import UserError
from spikediff.evaluation.shards import Shards, fingerprint_of
from spikediff.files.reading import file_sha256
from spikediff.files.tensors import state_digest

DATA_PREFIX = "data:"
_PACKAGE = Path(__file__).parents[1]
# The folders whose code affects generated images.
ROOMS = ("data", "diffusion", "events", "layers", "native", "neurons", "systems")
_SUFFIXES = (".py", ".c", ".h")
_OWN_SAMPLES = "seed-"  # `spikediff sample` writes seed-000000.png, ...
_BESIDE_SAMPLES = ("grid.png", "denoising.gif")  # ... and these files beside them
_MODELS = ("model_index.json", "pipeline/model_index.json", "recipe.yaml")


@dataclass(frozen=True, eq=False)
class ImageSource:
    """Images by number."""

    # Called with `(first, count)`; returns `count` images from `first` on, uint8 [count, C, H, W].
    take: Callable[[int, int], Tensor]
    fingerprint: str  # SHA-256 of everything that determines the images
    description: dict[str, Any]  # facts for a report, without paths of this machine
    available: int | None = None  # number of images; None for a generator, which is unlimited


def generated_images(
    make: Callable[[Sequence[int]], Tensor],
    seed: int,
    batch_size: int,
    fingerprint: str,
    description: dict[str, Any],
) -> ImageSource:
    """Return a source of images generated from seeds, rounded to grey levels as in a PNG.

    `make` turns n consecutive seeds, starting at `seed`, into floating-point images [n, C, H, W]
    in [0, 1]. `fingerprint` covers weights, sampler and code.
    """

    def take(first: int, count: int) -> Tensor:
        seeds = range(seed + first, seed + first + count)
        parts = [seeds[i : i + batch_size] for i in range(0, count, batch_size)]
        return torch.cat([quantise(make(part), part) for part in parts])

    return ImageSource(take, fingerprint, description)


def quantise(images: Tensor, seeds: Sequence[int]) -> Tensor:
    """Round generated images, floating point [n, C, H, W] in [0, 1], to the grey levels of a PNG.

    Example:
        >>> quantise(torch.tensor([[[[0.0, 0.5, 1.0]]]]), [0]).tolist()
        [[[[0, 128, 255]]]]
    """
    which = f"generated images (seeds {seeds[0]} to {seeds[-1]})"
    if not images.is_floating_point() or images.ndim != 4:
        found = f"{images.dtype} {list(images.shape)}"
        raise UserError(f"{which}: {found}; expected floating point [N, C, H, W] in [0, 1]")
    if not images.isfinite().all():
        raise UserError(f"{which}: hold NaN or infinity; the model or the sampler diverged")
    if images.min() < 0 or images.max() > 1:
        low, high = images.min().item(), images.max().item()
        raise UserError(f"{which}: range [{low:.3g}, {high:.3g}]; expected [0, 1]")
    return to_uint8(from_unit_range(images.float())).cpu()


def pipeline_images(
    pipe: Any,
    seed: int = 0,
    num_inference_steps: int = 50,
    batch_size: int = 64,
    guidance_scale: float | None = None,
) -> ImageSource:
    """Return a source of a pipeline's images, one seed each; classes, if any, take turns.

    The pipeline is of this library, or follows its contract: `pipe(seeds=...,
    num_inference_steps=..., output_type="pt").images` are [B, C, H, W] in [0, 1], and image k
    depends on `seeds[k]` alone. The fingerprint covers weights, configurations, steps, the first
    seed, the kind of device, the version of torch and this library's code. Without
    `guidance_scale` there is no classifier-free guidance.
    """
    configurations = {
        name: _plain(part.config)
        for name, part in pipe.components.items()
        if hasattr(part, "config")
    }
    description = {
        "kind": "pipeline",
        "class": type(pipe).__name__,
        "weights_sha256": weights_sha256(pipe),
        "configuration_sha256": fingerprint_of(**configurations),
        "scheduler": scheduler_name(pipe),  # an autoencoder has none
        "num_inference_steps": num_inference_steps,
        "first_seed": seed,
        "device": pipe.device.type,
    }
    if getattr(pipe, "event_weights", None) is not None:
        description["event_driven"] = True  # its rounding differs
        if pipe.event_weights != "float32":
            description["event_weights"] = pipe.event_weights
    if classes_in_turn(pipe, [seed]):
        description["class_labels"] = "in turn"
    guidance = {} if guidance_scale is None else {"guidance_scale": guidance_scale}
    description |= guidance

    def make(seeds: Sequence[int]) -> Tensor:
        options = classes_in_turn(pipe, seeds) | guidance
        images: Tensor = pipe(
            seeds=seeds, num_inference_steps=num_inference_steps, output_type="pt", **options
        ).images
        return images

    fingerprint = fingerprint_of(torch=version("torch"), code=_code_sha256(), **description)
    return generated_images(make, seed, batch_size, fingerprint, description)


def _plain(config: Mapping[str, Any]) -> dict[str, Any]:
    """Return a configuration without diffusers' private entries, which contain paths."""
    own = {k: v for k, v in config.items() if not k.startswith("_") or k == "_class_name"}
    plain: dict[str, Any] = json.loads(json.dumps(own, default=_as_text))
    return plain


def _as_text(value: Any) -> str:
    """Return an array in full; str() shortens a long one."""
    return str(value.tolist()) if hasattr(value, "tolist") else str(value)


@cache
def _code_sha256() -> str:
    digest = hashlib.sha256()
    for room in ROOMS:
        files = (_PACKAGE / room).rglob("*")
        for path in sorted(file for file in files if file.suffix in _SUFFIXES):
            digest.update(path.relative_to(_PACKAGE).as_posix().encode())
            digest.update(path.read_bytes())
    return digest.hexdigest()


def real_images(
    dataset: ImageDataset, seed: int | None = None, limit: int | None = None
) -> ImageSource:
    """Return a source of the first `limit` images of a split, at its own size.

    Without a seed they keep the order of the split; otherwise image i is image
    `numpy.random.default_rng(seed).permutation(n)[i]` of the split.
    """
    count = len(dataset)
    order = np.arange(count) if seed is None else np.random.default_rng(seed).permutation(count)
    chosen: list[int] = order[:limit].tolist()
    sha256 = _sha256_of_pixels(dataset)
    return ImageSource(
        take=lambda first, count: _pixels(dataset, chosen[first : first + count]),
        fingerprint=fingerprint_of(pixels=sha256, seed=seed, limit=limit),
        description={
            "kind": "data",
            "dataset": public_name(dataset.name),
            "split": dataset.split,
            "sha256": sha256,
            "permutation_seed": seed,
        },
        available=len(chosen),
    )


def public_name(dataset: str) -> str:
    """Return a data set's name for a report; a folder is reduced to its last part.

    Example:
        >>> public_name("mnist"), public_name("hf:some/images"), public_name("folder:a/b/cats")
        ('mnist', 'hf:some/images', 'folder:cats')
    """
    listed = dataset in DATASETS or dataset in SIGNALS or dataset.startswith(HUB_PREFIX)
    return dataset if listed else FOLDER_PREFIX + Path(dataset.removeprefix(FOLDER_PREFIX)).name


def _pixels(dataset: ImageDataset, indices: Sequence[int]) -> Tensor:
    if dataset.images is not None:
        return dataset.images[list(indices)]
    return torch.stack([dataset[index][0] for index in indices])


def _sha256_of_pixels(dataset: ImageDataset) -> str:
    """Return the SHA-256 of shape and pixels, a thousand images at a time."""
    shape = [len(dataset), dataset.channels, dataset.image_size, dataset.image_size]
    digest = hashlib.sha256(str(shape).encode())
    for first in range(0, len(dataset), 1000):
        indices = range(first, min(first + 1000, len(dataset)))
        digest.update(_pixels(dataset, indices).contiguous().numpy().tobytes())
    return digest.hexdigest()


def open_images(
    name: str,
    seed: int,
    data_dir: Path | None,
    image_size: int | None = None,
    channels: int | None = None,
) -> ImageSource | None:
    """Open existing images; return None for a folder that contains a model or a run.

    Args:
        name: `data:NAME/SPLIT` for real images, an npz file, or a folder of images.
        seed: Seed of the order of real images.
        data_dir: Folder of the data sets.
        image_size: Side of real images in pixels; None keeps the data set's own.
        channels: Channels of real images; None keeps the data set's own.
    """
    if name.startswith(DATA_PREFIX):
        dataset, _, split = name.removeprefix(DATA_PREFIX).rpartition("/")
        if not dataset:
            raise UserError(f"{name}: name a split too, for example {DATA_PREFIX}mnist/train")
        images = load_images(
            dataset, split, image_size=image_size, channels=channels, data_dir=data_dir
        )
        return real_images(images, seed)
    path = Path(name).expanduser()
    if path.exists() and not path.is_dir():
        return open_archive(path)
    if not path.is_dir():
        raise UserError(f"{name}: no such file or folder; give a model, images or data:NAME/SPLIT")
    return None if any((path / model).exists() for model in _MODELS) else open_folder(path)


def open_folder(folder: Path) -> ImageSource:
    """Open the images in a folder and its subfolders, in the order of their names.

    In a folder written by `spikediff sample`, only the images of seeds count.
    """
    everything, others = list_files(folder)
    names = [name for name in everything if Path(name).name.startswith(_OWN_SAMPLES)]
    if names:
        own = {*names, *_BESIDE_SAMPLES}
        others = [name for name in [*everything, *others] if name not in own]
    names = names or everything
    if not names:
        raise UserError(f"{folder}: contains no model, run or images")
    warn_of_others(folder, others)
    paths = tuple(folder / name for name in names)
    digest = hashlib.sha256()
    for path in paths:
        digest.update(bytes.fromhex(file_sha256(path)))
    return _stored(image_files(paths, str(folder)), "folder", digest.hexdigest())


def open_archive(path: Path) -> ImageSource:
    """Open an npz archive with images in its array `images` or `arr_0`.

    The array is uint8 [N, H, W], [N, H, W, C] or [N, C, H, W], C 1 or 3.
    """
    pixels = _channels_last(_array_of_images(path), path)
    sha256 = state_digest({"images": torch.from_numpy(pixels)})
    return _stored(pixel_array(pixels, str(path)), "npz", sha256)


def _stored(pictures: Pictures, kind: str, sha256: str) -> ImageSource:
    """Return pictures as a source; all must have the size and mode of the first."""

    def pixels(index: int, first: Image.Image) -> Tensor:
        picture = pictures[index]
        if (picture.size, picture.mode) != (first.size, first.mode):
            raise UserError(
                f"{pictures.where(index)}: {_described(picture)}, but the first image is "
                f"{_described(first)}; evaluate images of one size and mode"
            )
        array = np.array(picture).reshape(picture.height, picture.width, -1)
        return torch.from_numpy(array).permute(2, 0, 1)  # [C, H, W]

    def take(first: int, count: int) -> Tensor:
        model = pictures[0]
        return torch.stack([pixels(index, model) for index in range(first, first + count)])

    return ImageSource(take, sha256, {"kind": kind, "sha256": sha256}, len(pictures))


def _described(picture: Image.Image) -> str:
    return f"{picture.width}x{picture.height} {'grey' if picture.mode == 'L' else 'colour'}"


def _array_of_images(path: Path) -> NDArray[Any]:
    try:
        return read_npz(path, ["images"])[0]
    except UserError as error:
        if "has no array" not in str(error):
            raise
        return read_npz(path, ["arr_0"])[0]  # the name that numpy.savez gives


def _channels_last(pixels: NDArray[Any], path: Path) -> NDArray[np.uint8]:
    """Return the array as [N, H, W] or [N, H, W, 3]."""
    found = f"{path}: images are {pixels.dtype} {list(pixels.shape)}"
    if pixels.dtype != np.uint8:
        raise UserError(f"{found}; save them as uint8, 0 (black) to 255 (white)")
    if pixels.ndim == 4 and pixels.shape[3] not in (1, 3) and pixels.shape[1] in (1, 3):
        pixels = pixels.transpose(0, 2, 3, 1)  # [N, C, H, W] -> [N, H, W, C]
    if pixels.ndim == 4 and pixels.shape[3] == 1:
        pixels = pixels[..., 0]
    if 0 in pixels.shape or not (pixels.ndim == 3 or (pixels.ndim == 4 and pixels.shape[3] == 3)):
        raise UserError(f"{found}; expected [N, H, W], [N, H, W, C] or [N, C, H, W], C 1 or 3")
    return np.ascontiguousarray(pixels)


def from_shards(source: ImageSource, shards: Shards) -> ImageSource:
    """Return a slow source that reads its images from existing shards."""

    def take(first: int, count: int) -> Tensor:
        size = shards.size
        touched = range(first // size, (first + count - 1) // size + 1)
        held = torch.cat([shards.get(index)["images"] for index in touched])
        start = first - touched.start * size
        return held[start : start + count]

    return ImageSource(take, source.fingerprint, source.description, shards.total)

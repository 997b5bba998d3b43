"""Where the images of an evaluation come from: a generator, files, or a data set.

A source gives image number i whenever it is asked, so that any process may take any part. Image i
of a generator has seed `seed + i`; of a data set it is the i-th of a fixed permutation; of files it
is the i-th in the order of their names.
"""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from spikediff.data import DATASETS, ImageDataset, PictureSource, load_images, to_uint8
from spikediff.data.arrays import read_npz
from spikediff.data.decoding import ImageFiles
from spikediff.data.folder import FOLDER_PREFIX, HUB_PREFIX, list_files, warn_of_others
from spikediff.data.sources import PixelArray
from spikediff.errors import UserError
from spikediff.evaluation.shards import Shards, fingerprint_of
from spikediff.files.reading import file_sha256
from spikediff.files.tensors import state_digest

DATA_PREFIX = "data:"
_OWN_SAMPLES = "seed-"  # `spikediff sample` writes seed-000000.png, ...
_BESIDE_SAMPLES = ("grid.png", "denoising.gif")  # and these beside them


class ImageSource(Protocol):
    """Images by number."""

    @property
    def fingerprint(self) -> str:
        """SHA-256 of everything that decides the images."""

    @property
    def description(self) -> dict[str, Any]:
        """What a report says of it; no path of this machine."""

    @property
    def available(self) -> int | None:
        """How many images there are; None for a generator, which has no end."""

    def images(self, first: int, count: int) -> Tensor:
        """Return images `first` to `first + count`, uint8 [count, C, H, W]."""


@dataclass(frozen=True, eq=False)
class GeneratedImages:
    """Images that a model makes from seeds, rounded to grey levels as a PNG is.

    Attributes:
        make: From n seeds to floating point images [n, C, H, W] in [0, 1].
        seed: Seed of image 0.
        batch_size: Images per call of `make`.
        fingerprint: Of weights, sampler and code.
        description: What a report says.
    """

    make: Callable[[Sequence[int]], Tensor]
    seed: int
    batch_size: int
    fingerprint: str
    description: dict[str, Any]
    available: int | None = None

    def images(self, first: int, count: int) -> Tensor:
        """Return images `first` to `first + count`, uint8 [count, C, H, W]."""
        seeds = range(self.seed + first, self.seed + first + count)
        parts = [seeds[i : i + self.batch_size] for i in range(0, count, self.batch_size)]
        return torch.cat([quantise(self.make(part), part) for part in parts])


def quantise(images: Tensor, seeds: Sequence[int]) -> Tensor:
    """Round generated images to the grey levels of a PNG.

    Args:
        images: Floating point [n, C, H, W] in [0, 1].
        seeds: Their seeds, for messages.

    Returns:
        uint8 of the same shape.

    Raises:
        UserError: Another type, another range, or NaN.

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
    return to_uint8(images.float() * 2 - 1).cpu()


class RealImages:
    """Images of a data set at its own size.

    Args:
        dataset: One split.
        seed: None keeps the split's order; else image i is image
            `numpy.random.default_rng(seed).permutation(n)[i]` of the split.
        limit: Only the first so many; None takes all.

    Attributes:
        dataset: The split.
        pixels_sha256: SHA-256 of all its pixels.
        fingerprint: Of pixels, order and limit.
        description: What a report says.
        available: Images there are.
    """

    def __init__(
        self, dataset: ImageDataset, seed: int | None = None, limit: int | None = None
    ) -> None:
        count = len(dataset)
        order = np.arange(count) if seed is None else np.random.default_rng(seed).permutation(count)
        self.dataset = dataset
        self._order: list[int] = order[:limit].tolist()
        self.available: int | None = len(self._order)
        self.pixels_sha256 = _sha256_of_pixels(dataset)
        self.fingerprint = fingerprint_of(pixels=self.pixels_sha256, seed=seed, limit=limit)
        self.description: dict[str, Any] = {
            "kind": "data",
            "dataset": public_name(dataset.name),
            "split": dataset.split,
            "sha256": self.pixels_sha256,
            "permutation_seed": seed,
        }

    def __len__(self) -> int:
        return len(self._order)

    def images(self, first: int, count: int) -> Tensor:
        """Return images `first` to `first + count`, uint8 [count, C, H, W]."""
        return _take(self.dataset, self._order[first : first + count])


def public_name(dataset: str) -> str:
    """Return a data set's name for a report: a folder's without the way to it.

    Example:
        >>> public_name("mnist"), public_name("hf:some/images"), public_name("folder:a/b/cats")
        ('mnist', 'hf:some/images', 'folder:cats')
    """
    listed = dataset in DATASETS or dataset.startswith(HUB_PREFIX)
    return dataset if listed else FOLDER_PREFIX + Path(dataset.removeprefix(FOLDER_PREFIX)).name


def _take(dataset: ImageDataset, indices: Sequence[int]) -> Tensor:
    if dataset.images is not None:
        return dataset.images[list(indices)]
    return torch.stack([dataset[index][0] for index in indices])


def _sha256_of_pixels(dataset: ImageDataset) -> str:
    """Return the SHA-256 of shape and pixels, a thousand images at a time."""
    shape = [len(dataset), dataset.channels, dataset.image_size, dataset.image_size]
    digest = hashlib.sha256(str(shape).encode())
    for first in range(0, len(dataset), 1000):
        indices = range(first, min(first + 1000, len(dataset)))
        digest.update(_take(dataset, indices).contiguous().numpy().tobytes())
    return digest.hexdigest()


@dataclass(frozen=True, eq=False)
class StoredImages:
    """Images that somebody made before: a folder of image files, or an npz archive.

    Attributes:
        pictures: The pictures, in order.
        fingerprint: SHA-256 of the files.
        description: What a report says.
    """

    pictures: PictureSource
    fingerprint: str
    description: dict[str, Any]

    @property
    def available(self) -> int | None:
        """Images there are."""
        return len(self.pictures)

    def images(self, first: int, count: int) -> Tensor:
        """Return images `first` to `first + count`, uint8 [count, C, H, W].

        Raises:
            UserError: An image cannot be decoded, or is of another size or of other colours than
                image 0.
        """
        model = self.pictures.decode(0)
        pixels = [self._pixels(index, model) for index in range(first, first + count)]
        return torch.stack(pixels)

    def _pixels(self, index: int, model: Image.Image) -> Tensor:
        picture = self.pictures.decode(index)
        if (picture.size, picture.mode) != (model.size, model.mode):
            raise UserError(
                f"{self.pictures.where(index)}: {_told(picture)}, but the first image is "
                f"{_told(model)}; evaluate images of one size and mode"
            )
        pixels = np.array(picture).reshape(picture.height, picture.width, -1)
        return torch.from_numpy(pixels).permute(2, 0, 1)  # [C, H, W]


def _told(picture: Image.Image) -> str:
    return f"{picture.width}x{picture.height} {'grey' if picture.mode == 'L' else 'colour'}"


def open_folder(folder: Path) -> StoredImages:
    """Open a folder of images, in the order of their names.

    In a folder that `spikediff sample` wrote, only the images of seeds count, not the grid.

    Args:
        folder: Searched with its subfolders.

    Raises:
        UserError: There is no image in it.
    """
    everything, others = list_files(folder)
    names = [name for name in everything if Path(name).name.startswith(_OWN_SAMPLES)]
    if names:
        own = {*names, *_BESIDE_SAMPLES}
        others = [name for name in [*everything, *others] if name not in own]
    names = names or everything
    if not names:
        raise UserError(f"{folder}: holds no model, no run and no images")
    warn_of_others(folder, others)
    paths = tuple(folder / name for name in names)
    digest = hashlib.sha256()
    for path in paths:
        digest.update(bytes.fromhex(file_sha256(path)))
    sha256 = digest.hexdigest()
    pictures = ImageFiles(paths, None, (), str(folder))
    return StoredImages(pictures, sha256, {"kind": "folder", "sha256": sha256})


def open_archive(path: Path) -> StoredImages:
    """Open an npz archive of images.

    Args:
        path: The file; its array `images` or `arr_0` is uint8 [N, H, W], [N, H, W, C] or
            [N, C, H, W] with 1 or 3 channels.

    Raises:
        UserError: There is no such array, or it is of another type or shape.
    """
    pixels = _as_pictures(_array_of_images(path), path)
    sha256 = state_digest({"images": torch.from_numpy(pixels)})
    pictures = PixelArray(pixels, None, (), str(path))
    return StoredImages(pictures, sha256, {"kind": "npz", "sha256": sha256})


def _array_of_images(path: Path) -> NDArray[Any]:
    try:
        return read_npz(path, ["images"])[0]
    except UserError as error:
        if "has no array" not in str(error):
            raise
        return read_npz(path, ["arr_0"])[0]  # the name that numpy.savez gives


def _as_pictures(pixels: NDArray[Any], path: Path) -> NDArray[np.uint8]:
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


def open_images(
    name: str,
    seed: int,
    data_dir: Path | None,
    image_size: int | None = None,
    channels: int | None = None,
) -> ImageSource | None:
    """Open images that are there already.

    Args:
        name: `data:NAME/SPLIT` for real images, an npz file, or a folder of images.
        seed: Of the order of real images.
        data_dir: Folder of the data sets.
        image_size: Side that real images are read at; None keeps the data set's own.
        channels: And their channels.

    Returns:
        The source; None where the name is a folder with a model or a run in it.

    Raises:
        UserError: There is no such thing, or it cannot be read.
    """
    if name.startswith(DATA_PREFIX):
        dataset, _, split = name.removeprefix(DATA_PREFIX).rpartition("/")
        if not dataset:
            raise UserError(f"{name}: name a split too, for example {DATA_PREFIX}mnist/train")
        images = load_images(
            dataset, split, image_size=image_size, channels=channels, data_dir=data_dir
        )
        return RealImages(images, seed)
    path = Path(name).expanduser()
    if path.exists() and not path.is_dir():
        return open_archive(path)
    if not path.is_dir():
        raise UserError(f"{name}: no such file or folder; give a model, images or data:NAME/SPLIT")
    models = ("model_index.json", "pipeline/model_index.json", "recipe.yaml")
    return None if any((path / model).exists() for model in models) else open_folder(path)


@dataclass(frozen=True, eq=False)
class SpooledImages:
    """Images of a slow source, kept on the disk as they were made.

    Attributes:
        source: The slow source.
        shards: Its images, filled.
    """

    source: ImageSource
    shards: Shards

    @property
    def fingerprint(self) -> str:
        """SHA-256 of everything that decides the images."""
        return self.source.fingerprint

    @property
    def description(self) -> dict[str, Any]:
        """What a report says of the source."""
        return self.source.description

    @property
    def available(self) -> int | None:
        """Images on the disk."""
        return self.shards.total

    def images(self, first: int, count: int) -> Tensor:
        """Return images `first` to `first + count`, uint8 [count, C, H, W]."""
        size = self.shards.size
        touched = range(first // size, (first + count - 1) // size + 1)
        held = torch.cat([self.shards.get(index)["images"] for index in touched])
        start = first - touched.start * size
        return held[start : start + count]

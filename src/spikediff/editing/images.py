"""What a caller hands in: pictures and masks, as PIL, numpy or torch; told where they do not fit.

Pictures become `[N, C, H, W]` in [0, 1], the range of diffusers' "np" and "pt". Nothing is resized,
converted or clipped on the way: what comes out of an edit shall be what went in, bit for bit.

What the editing pipelines share: images in, and the denoiser of what is asked for.
"""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from spikediff.data import to_uint8
from spikediff.diffusion.classes import ClassLabels, conditioned
from spikediff.diffusion.latent_space import space_of
from spikediff.diffusion.loop import Denoiser, estimates_of
from spikediff.diffusion.outputs import OUTPUT_TYPES, as_array, pixels_to_pil
from spikediff.diffusion.seeds import Generators, generators_of
from spikediff.errors import UserError

Picture = Image.Image | np.ndarray | Tensor
_MODES = {1: "L", 3: "RGB"}  # PIL's names of the modes that a model's channels are


def read_images(image: Picture | Sequence[Picture], shape: tuple[int, ...]) -> Tensor:
    """Return pictures as [N, C, H, W] in [0, 1].

    Args:
        image: A PIL image ("L" or "RGB"), an array [H, W, C] or [N, H, W, C], a tensor [C, H, W]
            or [N, C, H, W], or a list of one of them. Numbers are uint8 up to 255, or floating
            point in [0, 1], as the pipelines' "np" and "pt" give them back.
        shape: Channels, height and width of the model's images.

    Returns:
        uint8 divided by 255 in float32; floating point as it is.

    Raises:
        UserError: A picture has another size or other channels, or values outside its range; or
            the model makes signals.

    Example:
        >>> read_images(Image.new("L", (8, 8), 255), (1, 8, 8)).shape
        torch.Size([1, 1, 8, 8])
    """
    parts: Sequence[Any] = image if isinstance(image, list | tuple) else [image]
    if not parts:
        raise UserError("image: an empty list; give at least one")
    if len(shape) != 3:
        raise UserError("image: the network makes signals, and only images can be edited")
    channels, height, width = shape
    read = [_read(part, channels) for part in parts]
    for one in read:
        if tuple(one.shape[-3:]) != shape:
            raise UserError(
                f"image: {_size(one)}; the model makes {width}x{height} with {channels} "
                f"channel{'s'[: channels > 1]}; resize it before, image.resize(({width}, {height}))"
            )
    return torch.cat([_unit(one) for one in read])


def _read(picture: Picture, channels: int) -> Tensor:
    """Return one picture, or a batch in one, as [N, C, H, W], its values as they are."""
    if isinstance(picture, Image.Image):
        mode = _MODES.get(channels, "RGB")
        if picture.mode != mode:
            raise UserError(
                f"image: of mode {picture.mode}; the model has {channels} "
                f"channel{'s'[: channels > 1]}; convert it before, image.convert({mode!r})"
            )
        picture = np.asarray(picture)
    if isinstance(picture, np.ndarray):
        picture = picture[:, :, None] if picture.ndim == 2 else picture
        return _batch(torch.from_numpy(picture.copy()).movedim(-1, -3), "[H, W, C]")
    if isinstance(picture, Tensor):
        return _batch(picture, "[C, H, W]")
    raise UserError(
        f"image: a {type(picture).__name__}; give a PIL image, an array, a tensor or a list of them"
    )


def _batch(images: Tensor, known: str) -> Tensor:
    if images.dim() not in (3, 4):
        raise UserError(f"image: {images.dim()} axes; give {known} or a batch of them")
    return images if images.dim() == 4 else images[None]


def _size(images: Tensor) -> str:
    channels, height, width = images.shape[-3:]
    return f"{width}x{height} with {channels} channel{'s'[: channels > 1]}"


def _unit(images: Tensor) -> Tensor:
    if images.dtype == torch.uint8:
        return images / 255
    if not images.is_floating_point():
        raise UserError(f"image: of {images.dtype}; give uint8 up to 255 or floats in [0, 1]")
    if not bool(((images >= 0) & (images <= 1)).all()):  # NaN is in no range
        low, high = float(images.min()), float(images.max())
        raise UserError(f"image: values from {low:g} to {high:g}; floats must lie in [0, 1]")
    return images


def read_mask(mask: Picture | Sequence[Picture], shape: tuple[int, ...]) -> Tensor:
    """Return masks as booleans [N, 1, H, W], true where pixels are to be made anew.

    White is true, as in diffusers. PIL's grey levels and floats are cut at one half: 128 of 255, or
    0.5, and what is above is true. Whole numbers must be binary: 0 and 1, or 0 and 255.

    Args:
        mask: A PIL image, an array or tensor [H, W], one with an axis of one channel, a batch of
            them, or a list of one of them.
        shape: Channels, height and width of the model's images.

    Raises:
        UserError: A mask has another size, several channels, or values that are no mask's.

    Example:
        >>> read_mask(torch.eye(2), (1, 2, 2)).flatten().tolist()
        [True, False, False, True]
    """
    parts: Sequence[Any] = mask if isinstance(mask, list | tuple) else [mask]
    if not parts:
        raise UserError("mask: an empty list; give at least one")
    _, height, width = shape
    read = [_read_mask(part) for part in parts]
    for one in read:
        if tuple(one.shape[-2:]) != (height, width):
            size = f"{one.shape[-1]}x{one.shape[-2]}"
            raise UserError(f"mask: {size}; the model's images are {width}x{height}")
    return torch.cat([_binary(one) for one in read])


def _read_mask(mask: Picture) -> Tensor:
    """Return one mask, or a batch in one, as [N, 1, H, W], its values as they are."""
    last = False  # where an array of three axes has its channel
    if isinstance(mask, Image.Image):
        mask = np.asarray(mask.convert("L")) >= 128
    if isinstance(mask, np.ndarray):
        mask, last = torch.from_numpy(mask.copy()), True
    if not isinstance(mask, Tensor) or mask.dim() not in (2, 3, 4):
        raise UserError("mask: give a PIL image, or an array or a tensor of 2 to 4 axes")
    if mask.dim() == 2:
        return mask[None, None]
    channel = -1 if last else -3
    if mask.shape[channel] != 1:
        raise UserError(
            f"mask: of shape {tuple(mask.shape)}; a mask has one channel, "
            f"{'[H, W, 1]' if last else '[1, H, W]'}"
        )
    mask = mask.movedim(channel, -3)
    return mask if mask.dim() == 4 else mask[None]


def _binary(mask: Tensor) -> Tensor:
    if mask.dtype == torch.bool:
        return mask
    low, high = float(mask.min()), float(mask.max())
    if mask.is_floating_point():
        if not bool(((mask >= 0) & (mask <= 1)).all()):
            raise UserError(f"mask: values from {low:g} to {high:g}; floats must lie in [0, 1]")
        return mask >= 0.5
    values = set(torch.unique(mask).tolist())
    if not (values <= {0, 1} or values <= {0, 255}):
        other = sorted(values - {0, 255 if high > 1 else 1})[0]
        raise UserError(f"mask: holds {other}; whole numbers must be 0 and 1, or 0 and 255")
    return mask != 0


def one_per_image(what: str, given: Tensor, batch_size: int) -> Tensor:
    """Return what was given once for all, or once per image, as one for every image [B, ...].

    Raises:
        UserError: It is neither.
    """
    if len(given) not in (1, batch_size):
        raise UserError(
            f"{len(given)} {what}s for {batch_size} seeds; give one {what} for all or one per seed"
        )
    return given.expand(batch_size, *given.shape[1:])


def pasted(output_type: str, made: Tensor, known: Tensor, mask: Tensor) -> Any:
    """Return images as a caller asked for them, the known ones as they came where no mask is.

    Args:
        output_type: "pil", "np" or "pt".
        made: What was generated [B, C, H, W], in [-1, 1].
        known: What was handed in [B, C, H, W], in [0, 1].
        mask: Where `made` counts [B, 1, H, W]; the rest is `known` bit for bit, in its own type if
            that is finer.
    """
    known = known.to(made.device)
    if output_type == "pil":
        pixels = (known.to(torch.float32) * 255).round().to(torch.uint8)
        return pixels_to_pil(torch.where(mask, to_uint8(made), pixels))
    images: Tensor = torch.where(mask, OUTPUT_TYPES["pt"](made), known)
    return _FORMS[output_type](images)


_FORMS: dict[str, Callable[[Tensor], Any]] = {
    "np": lambda images: as_array(images.permute(0, 2, 3, 1)),
    "pt": lambda images: images,
}


def count_images(
    images: int, batch_size: int | None, seeds: Any, generator: Generators
) -> tuple[Generators, int]:
    """Return the source(s) of noise and the number of images to make.

    Args:
        images: How many were handed in; as many are made where neither of the next two tells.
        batch_size: How many to make.
        seeds: One seed per image.
        generator: A source of noise instead of seeds.

    Raises:
        UserError: Seeds, generator and batch size contradict each other.
    """
    told = seeds is not None or (images == 1 and isinstance(generator, list))
    batch_size = images if batch_size is None and not told else batch_size
    return generators_of(batch_size, seeds, generator)


def denoiser_of(
    unet: Any, class_labels: ClassLabels, guidance_scale: float | None, batch_size: int
) -> Denoiser:
    """Return a network as the denoiser of what is asked for, in the space of its own.

    Args:
        unet: A network of images or of currents.
        class_labels: As of `conditioned`, like the next two.
        guidance_scale: How far towards the class.
        batch_size: How many images there are.

    Raises:
        UserError: The network knows no classes, or not these.
    """
    axis = space_of(unet).batch_axis
    return conditioned(
        estimates_of(unet), unet, class_labels, guidance_scale, batch_size, batch_axis=axis
    )


def masked_images(
    image: Any,
    mask_image: Any,
    shape: tuple[int, ...],
    batch_size: int | None,
    seeds: Any,
    generator: Generators,
) -> tuple[Tensor, Tensor, Generators]:
    """Return images [B, C, H, W] in [0, 1], their masks [B, 1, H, W], and the source(s) of noise.

    Args:
        image: One image for all, or one per seed; see `read_images`.
        mask_image: One mask for all, or one per seed; see `read_mask`.
        shape: Channels, height and width of the model's images.
        batch_size: As of `count_images`, like the next two.
        seeds: One seed per image.
        generator: A source of noise instead of seeds.

    Raises:
        UserError: They do not fit together.
    """
    images, masks = read_images(image, shape), read_mask(mask_image, shape)
    count = max(len(images), len(masks))
    generator, batch_size = count_images(count, batch_size, seeds, generator)
    given = one_per_image("image", images, batch_size)
    return given, one_per_image("mask", masks, batch_size), generator

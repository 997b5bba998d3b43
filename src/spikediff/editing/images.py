"""Images and masks as callers pass them: PIL, NumPy or torch, checked against the model's shape.

Nothing is resized, converted or clipped, so an edit returns known pixels bit for bit.
"""

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from spikediff.data import to_uint8
from spikediff.diffusion.outputs import OUTPUT_TYPES, as_array, pixels_to_pil
from spikediff.diffusion.seeds import Generators, generators_of
from spikediff.errors import UserError, kind_of

Picture = Image.Image | np.ndarray | Tensor


def read_images(image: Picture | Sequence[Picture], shape: tuple[int, ...]) -> Tensor:
    """Return images as [N, C, H, W] in [0, 1].

    Args:
        image: A PIL image ("L" or "RGB"), an array [H, W, C] or [N, H, W, C], a tensor [C, H, W]
            or [N, C, H, W], or a list of them. Values are uint8 up to 255, or floats in [0, 1].
        shape: Channels, height and width of the model's images.

    Returns:
        uint8 divided by 255 in float32; floats unchanged.

    Raises:
        UserError: An image has another size, other channels or values out of range; or the model
            makes signals.

    Example:
        >>> read_images(Image.new("L", (8, 8), 255), (1, 8, 8)).shape
        torch.Size([1, 1, 8, 8])
    """
    if len(shape) != 3:
        raise UserError("image: the network makes signals, and only images can be edited")
    read = [_read_image(one, shape[0]) for one in _listed("image", image)]
    for one in read:
        if tuple(one.shape[-3:]) != shape:
            _, height, width = shape
            raise UserError(
                f"image: {_size(one.shape[-3:])}; the model makes {_size(shape)}; resize it "
                f"first, image.resize(({width}, {height}))"
            )
    return torch.cat([_unit(one) for one in read])


def read_mask(mask: Picture | Sequence[Picture], shape: tuple[int, ...]) -> Tensor:
    """Return masks as booleans [N, 1, H, W]: true where pixels are generated.

    White is true, as in diffusers. PIL images are true from grey level 128, floats from 0.5.
    Integers must be 0 and 1, or 0 and 255.

    Args:
        mask: A PIL image, an array or a tensor [H, W], optionally with an axis of one channel or a
            batch axis, or a list of them.
        shape: Channels, height and width of the model's images.

    Raises:
        UserError: A mask has another size, several channels, or other values.

    Example:
        >>> read_mask(torch.eye(2), (1, 2, 2)).flatten().tolist()
        [True, False, False, True]
    """
    read = [_read_mask(one) for one in _listed("mask", mask)]
    for one in read:
        if one.shape[-2:] != shape[1:]:
            size = f"{one.shape[-1]}x{one.shape[-2]}"
            raise UserError(f"mask: {size}; the model's images are {shape[2]}x{shape[1]}")
    return torch.cat([_binary(one) for one in read])


def one_per_seed(
    inputs: Mapping[str, Tensor],
    batch_size: int | None,
    seeds: Sequence[int] | None,
    generator: Generators,
) -> tuple[list[Tensor], Generators]:
    """Return every input [B, ...] with one item per generated image, and the source(s) of noise.

    Inputs, by their names in messages, are each given once for all images or once per image.
    """
    count = max(map(len, inputs.values()))
    if batch_size is None and seeds is None and (count > 1 or not isinstance(generator, list)):
        batch_size = count
    generator, batch_size = generators_of(batch_size, seeds, generator)
    for name, given in inputs.items():
        if len(given) not in (1, batch_size):
            raise UserError(
                f"{len(given)} {name}s for {batch_size} seeds; give one {name} for all or one per "
                "seed"
            )
    return [given.expand(batch_size, *given.shape[1:]) for given in inputs.values()], generator


def composite(output_type: str, generated: Tensor, known: Tensor, mask: Tensor) -> Any:
    """Return generated images [B, C, H, W] as output, with the known pixels outside the mask.

    `generated` lies in [-1, 1], `known` in [0, 1]; known pixels are copied bit for bit, in their
    own type if that is finer. The mask [B, 1, H, W] is true where `generated` counts.
    """
    known = known.to(generated.device)
    if output_type == "pil":
        pixels = (known.to(torch.float32) * 255).round().to(torch.uint8)
        return pixels_to_pil(torch.where(mask, to_uint8(generated), pixels))
    images: Tensor = torch.where(mask, OUTPUT_TYPES["pt"](generated), known)
    return as_array(images.permute(0, 2, 3, 1)) if output_type == "np" else images


def _listed(name: str, given: Any) -> Sequence[Any]:
    parts = given if isinstance(given, list | tuple) else [given]
    if not parts:
        raise UserError(f"{name}: an empty list; give at least one")
    return parts


def _size(shape: Sequence[int]) -> str:
    channels, height, width = shape
    return f"{width}x{height} with {channels} channel{'s' * (channels > 1)}"


def _read_image(image: Picture, channels: int) -> Tensor:
    """Return [N, C, H, W] with unchanged values."""
    if isinstance(image, Image.Image):
        mode = "L" if channels == 1 else "RGB"
        if image.mode != mode:
            raise UserError(
                f"image: mode {image.mode}; the model has {channels} channel"
                f"{'s' * (channels > 1)}; convert it first, image.convert({mode!r})"
            )
        image = np.asarray(image)
    if isinstance(image, np.ndarray):
        image = torch.from_numpy(image.copy())
        if image.dim() == 2:
            image = image[None]
        elif image.dim() > 2:
            image = image.movedim(-1, -3)
    if not isinstance(image, Tensor):
        raise UserError(f"image: {kind_of(image)}; give a PIL image, an array, a tensor or a list")
    if image.dim() not in (3, 4):
        raise UserError(f"image: {image.dim()} axes; give an image or a batch of images")
    return image if image.dim() == 4 else image[None]


def _read_mask(mask: Picture) -> Tensor:
    """Return [N, 1, H, W] with unchanged values."""
    channel = -3
    if isinstance(mask, Image.Image):
        mask = np.asarray(mask.convert("L")) >= 128
    if isinstance(mask, np.ndarray):
        mask, channel = torch.from_numpy(mask.copy()), -1
    if not isinstance(mask, Tensor) or mask.dim() not in (2, 3, 4):
        raise UserError("mask: give a PIL image, or an array or a tensor of 2 to 4 axes")
    if mask.dim() == 2:
        return mask[None, None]
    if mask.shape[channel] != 1:
        raise UserError(f"mask: shape {tuple(mask.shape)}; a mask has one channel")
    mask = mask.movedim(channel, -3)
    return mask if mask.dim() == 4 else mask[None]


def _unit(images: Tensor) -> Tensor:
    if images.dtype == torch.uint8:
        return images / 255
    if not images.is_floating_point():
        raise UserError(f"image: {images.dtype}; give uint8 up to 255 or floats in [0, 1]")
    return _check_unit("image", images)


def _binary(mask: Tensor) -> Tensor:
    if mask.dtype == torch.bool:
        return mask
    if mask.is_floating_point():
        return _check_unit("mask", mask) >= 0.5
    values = set(torch.unique(mask).tolist())
    if not (values <= {0, 1} or values <= {0, 255}):
        other = min(values - {0, 255 if max(values) > 1 else 1})
        raise UserError(f"mask: holds {other}; integers must be 0 and 1, or 0 and 255")
    return mask != 0


def _check_unit(name: str, values: Tensor) -> Tensor:
    if not bool(((values >= 0) & (values <= 1)).all()):  # NaN is in no range
        low, high = float(values.min()), float(values.max())
        raise UserError(f"{name}: values from {low:g} to {high:g}; floats must lie in [0, 1]")
    return values

"""What the editing pipelines share: images in, and the denoiser of what is asked for."""

from typing import Any

from torch import Tensor

from spikediff.pipelines.conditioning import ClassLabels, conditioned
from spikediff.pipelines.denoising import Denoiser, estimates_of
from spikediff.pipelines.editing.pictures_in import one_per_image, read_images, read_mask
from spikediff.pipelines.seeding import Generators, generators_of
from spikediff.pipelines.spaces import space_of


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

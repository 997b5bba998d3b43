r"""From one image to another through their noise, on the sphere where noise lies."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from spikediff.diffusion.loop import draws_noise, first_noise
from spikediff.diffusion.seeds import generators_of
from spikediff.errors import UserError

_PARALLEL = 1e-6  # sine of the angle below which a straight line is as good as the arc


def slerp(a: Tensor, b: Tensor, share: float) -> Tensor:
    r"""Return what lies a share of the way from a to b on the arc between them.

    $\mathrm{slerp}(a, b; s) = \frac{\sin((1 - s)\omega)}{\sin\omega}\,a
    + \frac{\sin(s\omega)}{\sin\omega}\,b$, with $\omega$ the angle between them. Two vectors of one
    norm keep it all the way, where a straight line would pass through shorter ones: noise of many
    elements has a norm of about the square root of their number, and a network knows no other.

    Args:
        a: [B, ...]; every image is a vector of its own.
        b: Of the same shape.
        share: s; 0 gives a and 1 gives b, bit for bit.

    Returns:
        [B, ...].

    Example:
        >>> slerp(torch.tensor([[1.0, 0.0]]), torch.tensor([[0.0, 1.0]]), 0.5)
        tensor([[0.7071, 0.7071]])

    Reference: Shoemake, "Animating rotation with quaternion curves", SIGGRAPH 1985; of latents:
    White, "Sampling generative networks", 2016.
    """
    if share in (0, 1):
        return b if share else a
    first, second = a.double().flatten(1), b.double().flatten(1)  # [B, C*H*W]
    omega = torch.nn.functional.cosine_similarity(first, second, eps=0.0).clamp(-1, 1).arccos()
    straight = ~(omega.sin() > _PARALLEL)  # true where a norm is 0, too
    of_a = torch.where(straight, 1 - share, ((1 - share) * omega).sin() / omega.sin())
    of_b = torch.where(straight, share, (share * omega).sin() / omega.sin())
    return (of_a[:, None] * first + of_b[:, None] * second).to(a.dtype).view_as(a)


def interpolate_noise(noise: Tensor, num_images: int) -> Tensor:
    """Return noise on the way from the first image's to the last one's, evenly by `slerp`.

    Args:
        noise: Of two or more images [K, C, H, W]; the way leads through all of them, each leg as
            long as the others.
        num_images: How many, both ends among them.

    Returns:
        [num_images, C, H, W].

    Raises:
        UserError: There are fewer than two ends, or fewer images than ends.
    """
    legs = len(noise) - 1
    if legs < 1 or num_images <= legs:
        raise UserError(
            f"interpolation: {num_images} images between {len(noise)}; give two ends or more, and "
            f"at least as many images"
        )
    places = [divmod(k * legs, num_images - 1) for k in range(num_images)]
    last = len(noise) - 1
    return torch.cat(
        [
            slerp(noise[leg, None], noise[min(leg + 1, last), None], rest / (num_images - 1))
            for leg, rest in places
        ]
    )


def interpolate_seeds(
    pipe: Any, seeds: Sequence[int], num_images: int = 9, batch_size: int = 64, **call: Any
) -> list[Any]:
    """Return images on the way from one seed's to another's.

    The ends are the images that the seeds themselves give, bit for bit.

    Args:
        pipe: A `SpikingDiffusionPipeline` or `SynapticCurrentPipeline`.
        seeds: Two or more.
        num_images: How many images, both ends among them.
        batch_size: Images at a time; it does not change them.
        call: Whatever the pipeline is to be told besides, the same for all images.

    Returns:
        The images, one after the other, as the pipeline's `output_type` has them.

    Raises:
        UserError: The pipeline starts from no noise, or its steps draw more of it.

    Example:
        >>> from spikediff import SpikingUNet
        >>> from spikediff.diffusion.denoising_pipeline import SpikingDiffusionPipeline
        >>> from spikediff import make_scheduler
        >>> unet = SpikingUNet(sample_size=8, in_channels=1, base_channels=8, channel_mult=(1, 2))
        >>> pipe = SpikingDiffusionPipeline(unet.eval(), make_scheduler("ddim"))
        >>> pipe.set_progress_bar_config(disable=True)
        >>> len(interpolate_seeds(pipe, seeds=[3, 7], num_images=5, num_inference_steps=2))
        5
    """
    check_interpolates(pipe, call.get("eta", 0.0))
    generator, count = generators_of(None, seeds, None)
    noise = first_noise(pipe.unet, count, generator, pipe._execution_device)
    way = interpolate_noise(noise, num_images)
    return [
        image
        for part in torch.split(way, batch_size)
        for image in pipe(latents=part, **call).images
    ]


def check_interpolates(pipe: Any, eta: float = 0.0) -> None:
    """Refuse a pipeline whose images are not a function of the noise that they start from.

    Raises:
        UserError: It starts from something else, or its steps draw more noise.
    """
    name = type(pipe).__name__
    if "unet" not in pipe.components:
        raise UserError(
            f"interpolation: a {name} starts from no noise that could be turned from one seed's to "
            f"another's; take a pipeline with a denoiser of images"
        )
    if draws_noise(pipe.scheduler, eta):
        raise UserError(
            f"interpolation: {type(pipe.scheduler).__name__} draws fresh noise in its steps, so an "
            f"image depends on more than its start; take a scheduler such as ddim, with eta 0"
        )

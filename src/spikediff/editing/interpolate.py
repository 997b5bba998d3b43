r"""Interpolation between seeds: noise on an arc, and the resulting images."""

from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor

from spikediff.diffusion.loop import draws_noise, first_noise, networks_of
from spikediff.diffusion.seeds import MOST_IMAGES, generators_of
from spikediff.errors import UserError, check_number, kind_of

_PARALLEL = 1e-6  # sine of the angle below which a straight line is as good as the arc


def interpolate_seeds(
    pipe: Any, seeds: Sequence[int], num_images: int = 9, batch_size: int = 64, **call: Any
) -> list[Any]:
    """Generate the images between those of several seeds.

    The ends are the images of the seeds themselves, bit for bit.

    Args:
        pipe: A `SpikingDiffusionPipeline` or `SynapticCurrentPipeline`.
        seeds: Two or more, visited in turn.
        num_images: The number of images, both ends included.
        batch_size: Images per batch; it does not change the images.
        call: Further arguments of the pipeline, the same for all images.

    Returns:
        The images, each in the form of the pipeline's `output_type`.

    Raises:
        UserError: The pipeline does not start from noise, or its steps draw more noise.

    Example:
        >>> from spikediff import SpikingDiffusionPipeline, SpikingUNet, make_scheduler
        >>> unet = SpikingUNet(sample_size=8, in_channels=1, base_channels=8, channel_mult=(1, 2))
        >>> pipe = SpikingDiffusionPipeline(unet.eval(), make_scheduler("ddim"))
        >>> pipe.set_progress_bar_config(disable=True)
        >>> len(interpolate_seeds(pipe, seeds=[3, 7], num_images=5, num_inference_steps=2))
        5
    """
    if "unet" not in networks_of(pipe):
        raise UserError(
            f"interpolation: {kind_of(pipe)} does not start from noise; use a "
            "pipeline with an image denoiser"
        )
    check_number("batch_size", batch_size, 1, whole=True)
    if draws_noise(pipe.scheduler, call.get("eta", 0.0)):
        raise UserError(
            f"interpolation: {type(pipe.scheduler).__name__} draws fresh noise in its steps, so an "
            "image depends on more than its start; take a scheduler such as ddim, with eta 0"
        )
    if not call.get("return_dict", True):
        raise UserError("interpolation: returns a list of images; omit return_dict=False")
    generator, count = generators_of(None, seeds, None)
    noise = first_noise(pipe.unet, count, generator, pipe._execution_device)
    return [
        image
        for part in torch.split(interpolate_noise(noise, num_images), batch_size)
        for image in pipe(latents=part, **call).images
    ]


def interpolate_noise(noise: Tensor, num_images: int) -> Tensor:
    """Return noise [num_images, C, H, W], evenly spaced from the first image's to the last one's.

    `noise` is that of two or more images, visited in turn by `slerp`, in legs of equal length.
    """
    check_number("num_images", num_images, 2, MOST_IMAGES, whole=True)
    legs = len(noise) - 1
    if legs < 1 or num_images <= legs:
        raise UserError(
            f"interpolation: {num_images} images between {len(noise)}; give two ends or more, and "
            "at least as many images"
        )
    places = [divmod(k * legs, num_images - 1) for k in range(num_images)]
    return torch.cat(
        [
            slerp(noise[leg, None], noise[min(leg + 1, legs), None], rest / (num_images - 1))
            for leg, rest in places
        ]
    )


def slerp(a: Tensor, b: Tensor, share: float) -> Tensor:
    r"""Return the point [B, ...] at a share of the arc from a to b; 0 gives a and 1 gives b.

    $\mathrm{slerp}(a, b; s) = \frac{\sin((1 - s)\omega)}{\sin\omega}\,a +
    \frac{\sin(s\omega)}{\sin\omega}\,b$, with $\omega$ the angle between them; each image is a
    separate vector. The arc preserves the norm, which a straight line would reduce: noise of n
    elements has a norm of about $\sqrt n$, and networks are trained only on such noise.

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

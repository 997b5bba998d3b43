r"""Variations of an image: noised part of the way and denoised again (SDEdit)."""

from collections.abc import Sequence
from typing import Any

from diffusers.pipelines.pipeline_utils import ImagePipelineOutput
from torch import Tensor

from spikediff.data import from_unit_range
from spikediff.diffusion.classes import ClassLabels
from spikediff.diffusion.exact_timesteps import visiting
from spikediff.diffusion.loop import (
    StepCallback,
    first_noise,
    image_shape,
    inference,
    space_of,
    step_options,
)
from spikediff.diffusion.outputs import OUTPUT_TYPES, check_output_type
from spikediff.diffusion.seeds import Generators
from spikediff.editing.images import Picture, one_per_seed, read_images
from spikediff.editing.loop import Asked, Denoising, edits_tokens, refuse_options
from spikediff.errors import UserError, check_number


@inference
def vary(
    pipe: Any,
    image: Picture | Sequence[Picture],
    strength: float = 0.5,
    num_inference_steps: int | None = None,
    batch_size: int | None = None,
    seeds: Sequence[int] | None = None,
    generator: Generators = None,
    eta: float = 0.0,
    output_type: str = "pil",
    return_dict: bool = True,
    callback_on_step_end: StepCallback | None = None,
    class_labels: ClassLabels = None,
    guidance_scale: float | None = None,
    callback_on_step_end_tensor_inputs: Sequence[str] | None = None,
    **draw: Any,
) -> ImagePipelineOutput | tuple[Any]:
    r"""Generate variations of an image.

    A denoiser starts from $x_t = a_t x_0 + \sigma_t \epsilon$, with $\epsilon$ from the seed, and
    makes only the last steps, a share `strength` of them. A low strength changes details, a high
    one keeps little but the composition. Currents start from $x_t$ as equal currents.

    Tokens are masked with probability `strength`, which is the forward process of absorbing-state
    diffusion, and drawn again.

    `strength` lies in (0, 1]; the other arguments are those of `inpaint`.

    Returns:
        An output whose `.images` are the images.

    Raises:
        UserError: Inputs do not fit, or a setting is out of range or belongs to the other kind of
            pipeline.

    Example:
        >>> import numpy as np
        >>> from spikediff import SpikingDiffusionPipeline, SpikingUNet, make_scheduler
        >>> unet = SpikingUNet(sample_size=8, in_channels=1, base_channels=8, channel_mult=(1, 2))
        >>> pipe = SpikingDiffusionPipeline(unet.eval(), make_scheduler("ddim"))
        >>> pipe.set_progress_bar_config(disable=True)
        >>> image = np.zeros((8, 8, 1), dtype=np.uint8)
        >>> len(vary(pipe, image, strength=0.5, num_inference_steps=4, seeds=[0, 1]).images)
        2

    Reference: Meng et al., "SDEdit: guided image synthesis and editing with stochastic differential
    equations", ICLR 2022.
    """
    check_output_type(output_type)
    tokens = edits_tokens(pipe)
    network = pipe.vqvae if tokens else pipe.unet
    inputs = {"image": read_images(image, image_shape(network))}
    (given,), generator = one_per_seed(inputs, batch_size, seeds, generator)
    known = from_unit_range(given).to(pipe._execution_device, network.dtype)
    asked = Asked(
        class_labels, guidance_scale, callback_on_step_end, callback_on_step_end_tensor_inputs
    )
    if tokens:
        refuse_options(pipe, eta=eta != 0.0)
        longest = int(pipe.scheduler.config.num_train_timesteps)
        steps = longest if num_inference_steps is None else num_inference_steps
        call = {
            "num_inference_steps": steps_of_strength(strength, steps),
            "generator": generator,
            **draw,
        }
        encoded = pipe.encode(known)
        size = (len(known), 1, *encoded.shape[1:])
        uniforms, _ = pipe.scheduler.draw(size, generator, pipe._execution_device)
        varied = pipe.redraw(encoded, uniforms < strength, **asked._asdict(), **call)
    else:
        refuse_options(pipe, **dict.fromkeys(draw, True))
        steps = 50 if num_inference_steps is None else num_inference_steps
        varied = _denoise_again(pipe, known, strength, steps, eta, generator, asked)
    images = OUTPUT_TYPES[output_type](varied)
    return ImagePipelineOutput(images=images) if return_dict else (images,)


def _denoise_again(
    pipe: Any,
    known: Tensor,
    strength: float,
    num_inference_steps: int,
    eta: float,
    generator: Generators,
    asked: Asked,
) -> Tensor:
    space_of(pipe.unet).check_scheduler(pipe.scheduler, eta)
    scheduler, timesteps = timesteps_of_strength(
        pipe.scheduler, num_inference_steps, strength, known.device
    )
    noise = first_noise(pipe.unet, len(known), generator, known.device)
    x_t = scheduler.add_noise(known, noise, timesteps[:1].expand(len(known)))
    denoising = Denoising(pipe, len(known), asked)
    options = step_options(scheduler, generator, eta)
    return denoising.run(scheduler, denoising.space.encode(x_t), timesteps, options)


def steps_of_strength(strength: float, num_inference_steps: int) -> int:
    """Return the number of steps of an edit: the share `strength` of all, rounded down.

    Example:
        >>> steps_of_strength(0.3, 50)
        15
    """
    check_number("strength", strength, above=0, most=1)
    check_number("num_inference_steps", num_inference_steps, 1, whole=True)
    count = int(round(num_inference_steps * strength, 6))  # 0.29 of 100 is 29 and not 28.99...
    if count == 0:
        raise UserError(
            f"strength = {strength} of {num_inference_steps} steps is less than one; raise either"
        )
    return count


def timesteps_of_strength(
    scheduler: Any, num_inference_steps: int, strength: float, device: Any
) -> tuple[Any, Tensor]:
    """Set a scheduler's timesteps; return the scheduler and the last share of them."""
    sampler = visiting(scheduler, num_inference_steps, device)
    count = steps_of_strength(strength, num_inference_steps)
    left_out = (num_inference_steps - count) * sampler.order  # Heun calls twice a step
    chosen: Tensor = sampler.timesteps[left_out:]
    return sampler, chosen

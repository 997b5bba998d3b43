r"""DDIM inversion: the noise that deterministic DDIM turns into an image, and the image again."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from math import sqrt
from typing import Any

from diffusers.pipelines.pipeline_utils import ImagePipelineOutput
from diffusers.utils import BaseOutput
from torch import Tensor

from spikediff.data import from_unit_range
from spikediff.diffusion.classes import ClassLabels
from spikediff.diffusion.loop import (
    AfterStep,
    Denoiser,
    StepCallback,
    finite,
    first_noise,
    image_shape,
    inference,
)
from spikediff.diffusion.outputs import OUTPUT_TYPES, check_output_type
from spikediff.diffusion.scheduler_config import image_and_noise
from spikediff.diffusion.schedulers import make_scheduler
from spikediff.editing.images import Picture, read_images
from spikediff.editing.loop import Asked, Denoising, check_denoises
from spikediff.errors import UserError, check_number

MOST_ITERATIONS = 1_000  # per step


@dataclass
class InversionOutput(BaseOutput):
    """The noise that an inversion found, `latents` [B, C, H, W]."""

    latents: Tensor


@inference
def invert(
    pipe: Any,
    image: Picture | Sequence[Picture],
    num_inference_steps: int = 50,
    num_iterations: int = 1,
    return_dict: bool = True,
    callback_on_step_end: StepCallback | None = None,
    class_labels: ClassLabels = None,
    guidance_scale: float | None = None,
    callback_on_step_end_tensor_inputs: Sequence[str] | None = None,
) -> InversionOutput | tuple[Tensor]:
    """Find the noise that deterministic DDIM turns into an image; `regenerate` goes back.

    The scheduler's noise schedule and prediction type are kept. The steps are DDIM's without noise
    and clipping, because only these can be inverted. The error of the round trip falls as the steps
    get shorter. Currents are decoded at the end and re-enter as equal currents.

    Use as many steps to go back. Each makes `num_iterations` network calls; see `ddim_inversion`.
    The other arguments are those of `inpaint`.

    Returns:
        An output with `.latents`.

    Raises:
        UserError: An image does not fit, a number is out of range, or the pipeline has no denoiser
            or a noise schedule that DDIM does not support.

    Reference: Song et al., "Denoising diffusion implicit models", ICLR 2021, section 4.3.
    """
    check_denoises(pipe)
    given = read_images(image, image_shape(pipe.unet))
    scheduler = ddim_of(pipe.scheduler)
    scheduler.set_timesteps(num_inference_steps, device=pipe._execution_device)
    asked = Asked(
        class_labels, guidance_scale, callback_on_step_end, callback_on_step_end_tensor_inputs
    )
    denoising = Denoising(pipe, len(given), asked)
    sample = ddim_inversion(
        denoising.denoiser,
        scheduler,
        denoising.space.encode(from_unit_range(given.to(pipe._execution_device, pipe.unet.dtype))),
        pipe.progress_bar(scheduler.timesteps.flip(0)),
        num_iterations,
        denoising.tell,
        lambda: bool(pipe._interrupt),
    )
    latents = denoising.space.decode(sample)
    return InversionOutput(latents=latents) if return_dict else (latents,)


@inference
def regenerate(
    pipe: Any,
    latents: Tensor,
    num_inference_steps: int = 50,
    output_type: str = "pil",
    return_dict: bool = True,
    callback_on_step_end: StepCallback | None = None,
    class_labels: ClassLabels = None,
    guidance_scale: float | None = None,
    callback_on_step_end_tensor_inputs: Sequence[str] | None = None,
) -> ImagePipelineOutput | tuple[Any]:
    """Generate images from noise [B, C, H, W] by the DDIM steps that `invert` reverses.

    The noise is the result of `invert`, or any other; for the other arguments see `invert` and
    `inpaint`.
    """
    check_output_type(output_type)
    check_denoises(pipe)
    if not isinstance(latents, Tensor):
        raise UserError("latents: not a tensor; give the noise that `invert` finds")
    noise = first_noise(pipe.unet, len(latents), None, pipe._execution_device, latents)
    scheduler = ddim_of(pipe.scheduler)
    scheduler.set_timesteps(num_inference_steps, device=pipe._execution_device)
    asked = Asked(
        class_labels, guidance_scale, callback_on_step_end, callback_on_step_end_tensor_inputs
    )
    denoising = Denoising(pipe, len(noise), asked)
    sample = denoising.run(scheduler, denoising.space.encode(noise), scheduler.timesteps, {})
    images = OUTPUT_TYPES[output_type](sample)
    return ImagePipelineOutput(images=images) if return_dict else (images,)


def ddim_of(scheduler: Any) -> Any:
    """Return deterministic DDIM without clipping, with the noise schedule of a scheduler."""
    if scheduler.config.get("rescale_betas_zero_snr"):
        raise UserError(
            "inversion: rescale_betas_zero_snr leaves no image at the last timestep, so none can "
            "be recovered from it"
        )
    return make_scheduler("synaptic-ddim", scheduler.config)


def ddim_inversion(
    denoiser: Denoiser,
    scheduler: Any,
    sample: Tensor,
    timesteps: Sequence[Tensor],
    num_iterations: int = 1,
    after_step: AfterStep | None = None,
    interrupted: Callable[[], bool] = lambda: False,
) -> Tensor:
    r"""Return the noise that deterministic DDIM turns into a sample: x_t at the last timestep.

    The step from t down to s is $x_s = a_s \hat x_0 + \sigma_s \hat\epsilon$, with the network's
    estimates at $x_t$, $a = \sqrt{\bar\alpha}$ and $\sigma = \sqrt{1 - \bar\alpha}$.
    Solved for $x_t$, on which the estimate also depends,

        x_t = a_t (x_s - sigma_s eps(x_t)) / a_s + sigma_t eps(x_t),

    it is a fixed-point equation. Started at $x_s$, one iteration is DDIM inversion, whose error is
    proportional to the step size; more iterations approach the exact inverse.

    Args:
        denoiser: Called as `denoiser(sample, timestep)`, `num_iterations` times per step.
        scheduler: Gives the prediction type and the noise level of a timestep.
        sample: x_0, images or currents, of any shape.
        timesteps: The timesteps to reach, increasing.
        num_iterations: Iterations of the fixed point in every step.
        after_step: Called as `after_step(i, timestep, sample)` after every step; the next step
            starts from its return value.
        interrupted: Whether to skip the remaining steps.

    Example:
        >>> import torch
        >>> scheduler = make_scheduler("synaptic-ddim", {"prediction_type": "epsilon"})
        >>> scheduler.alphas_cumprod[7] = 0.64
        >>> x_0, eps = torch.tensor(0.5), torch.tensor(-1.0)  # a denoiser that knows the noise
        >>> ddim_inversion(lambda x_t, t: eps, scheduler, x_0, [torch.tensor(7)])
        tensor(-0.2000)

    Reference: the fixed point: Pan et al., "Effective real image editing with accelerated iterative
    diffusion inversion", ICCV 2023.
    """
    check_number("num_iterations", num_iterations, 1, MOST_ITERATIONS, whole=True)
    alpha_bar_s = 1.0
    for i, timestep in enumerate(timesteps):
        if interrupted():
            continue
        alpha_bar_t = float(scheduler.alphas_cumprod[int(timestep)])
        x_t = sample
        for _ in range(num_iterations):
            output = finite(denoiser(x_t, timestep), timestep)
            _, eps = image_and_noise(output, x_t, alpha_bar_t, scheduler.config.prediction_type)
            x_0 = (sample - sqrt(1.0 - alpha_bar_s) * eps) / sqrt(alpha_bar_s)
            x_t = sqrt(alpha_bar_t) * x_0 + sqrt(1.0 - alpha_bar_t) * eps
        sample, alpha_bar_s = x_t, alpha_bar_t
        if after_step is not None:
            sample = after_step(i, timestep, sample)
    return sample

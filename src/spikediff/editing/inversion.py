r"""The step of deterministic DDIM the other way: from an image towards the noise it came from.

The step from t down to s is $x_s = a_s \hat x_0 + \sigma_s \hat\epsilon$, of the estimates that the
network makes of $x_t$, with $a = \sqrt{\bar\alpha}$ and $\sigma = \sqrt{1 - \bar\alpha}$. Solved
for $x_t$, which the estimate is made of too,

    x_t = a_t (x_s - sigma_s eps(x_t)) / a_s + sigma_t eps(x_t),

a fixed point. Started at $x_s$, one iteration is DDIM inversion; its error falls in proportion to
the length of the steps. More iterations come nearer to the exact inverse of the same steps.

Reference: Song et al., "Denoising diffusion implicit models", ICLR 2021, section 4.3; the fixed
point: Pan et al., "Effective real image editing with accelerated iterative diffusion inversion",
ICCV 2023.

DDIM inversion: the noise that an image comes from, and the image again.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from math import sqrt
from typing import Any

from diffusers.pipelines.pipeline_utils import ImagePipelineOutput
from diffusers.schedulers.scheduling_utils import SchedulerMixin
from diffusers.utils import BaseOutput
from torch import Tensor, nn

from spikediff.diffusion.classes import ClassLabels
from spikediff.diffusion.latent_space import space_of, telling
from spikediff.diffusion.loop import (
    Denoiser,
    StepCallback,
    TellsOfSteps,
    denoise,
    finite,
    first_noise,
    image_shape,
    inference,
)
from spikediff.diffusion.outputs import OUTPUT_TYPES, check_call
from spikediff.diffusion.pipeline import OwnPipeline
from spikediff.diffusion.scheduler_config import image_and_noise
from spikediff.diffusion.schedulers import make_scheduler
from spikediff.editing.images import Picture, denoiser_of, read_images
from spikediff.errors import UserError
from spikediff.systems.fsddim.scheduler import SynapticCurrentDDIMScheduler


def ddim_inversion_step(
    model_output: Tensor,
    guess: Tensor,
    sample: Tensor,
    alpha_bar_s: float,
    alpha_bar_t: float,
    prediction_type: str,
) -> Tensor:
    r"""Return one iteration of the fixed point: a better guess of $x_t$.

    Args:
        model_output: What the denoiser answered to `guess` at timestep t [...].
        guess: What is held for $x_t$ so far [...]; at first `sample`.
        sample: $x_s$ [...].
        alpha_bar_s: $\bar\alpha$ at the cleaner end; 1 stands for $x_0$ itself.
        alpha_bar_t: $\bar\alpha$ at the noisier end, in (0, 1).
        prediction_type: "epsilon", "sample" or "v_prediction".

    Returns:
        The next guess [...].

    Example:
        >>> import torch
        >>> x_0, eps = torch.tensor(0.5), torch.tensor(-1.0)  # a denoiser that knows the noise
        >>> ddim_inversion_step(eps, x_0, x_0, 1.0, 0.64, "epsilon")  # 0.8 x_0 + 0.6 eps
        tensor(-0.2000)
    """
    _, eps = image_and_noise(model_output, guess, alpha_bar_t, prediction_type)
    x_0 = (sample - sqrt(1.0 - alpha_bar_s) * eps) / sqrt(alpha_bar_s)
    return sqrt(alpha_bar_t) * x_0 + sqrt(1.0 - alpha_bar_t) * eps


@dataclass
class InversionOutput(BaseOutput):
    """What images come from.

    Attributes:
        latents: The noise [B, C, H, W].
    """

    latents: Tensor


def invert(
    denoiser: Denoiser,
    scheduler: SynapticCurrentDDIMScheduler,
    sample: Tensor,
    timesteps: Sequence[Tensor],
    num_iterations: int = 1,
    after_step: Any = None,
) -> Tensor:
    """Return the noise of which deterministic DDIM makes a sample.

    Args:
        denoiser: Called as `denoiser(sample, timestep)`, `num_iterations` times a step.
        scheduler: Says what the denoiser estimates, and the noise of a timestep.
        sample: x_0, images or currents, of any shape.
        timesteps: Those to reach, rising.
        num_iterations: Of the fixed point in every step; see `schedulers.ddim_inversion`.
        after_step: Called as `after_step(i, timestep, sample)` after every step; it returns what
            goes on.

    Returns:
        x_t at the last timestep.
    """
    prediction_type, alpha_bar_s = scheduler.config.prediction_type, 1.0
    for i, timestep in enumerate(timesteps):
        alpha_bar_t = float(scheduler.alphas_cumprod[int(timestep)])
        guess = sample
        for _ in range(num_iterations):
            output = finite(denoiser(guess, timestep), timestep)
            guess = ddim_inversion_step(
                output, guess, sample, alpha_bar_s, alpha_bar_t, prediction_type
            )
        sample, alpha_bar_s = guess, alpha_bar_t
        if after_step is not None:
            sample = after_step(i, timestep, sample)
    return sample


class SpikingInversionPipeline(TellsOfSteps, OwnPipeline):
    r"""The noise that an image comes from, by deterministic DDIM backwards; and the way there.

    Whatever scheduler the parts have, its noise schedule and `prediction_type` are kept and the
    steps are DDIM's without noise and without clipping, for nothing else can be walked back.
    The error of what comes back falls as the steps become shorter. Currents are decoded at the end,
    and go back as equal ones, as a network of currents starts.

    Args:
        unet: A denoiser of images, spiking or not, or of currents.
        scheduler: Any whose noise schedule is that of the network's training.

    Raises:
        UserError: The scheduler's noise schedule is none that DDIM knows.

    Example:
        >>> import numpy as np
        >>> from spikediff import SpikingUNet
        >>> from spikediff import make_scheduler
        >>> unet = SpikingUNet(sample_size=8, in_channels=1, base_channels=8, channel_mult=(1, 2))
        >>> pipe = SpikingInversionPipeline(unet.eval(), make_scheduler("ddim"))
        >>> pipe.set_progress_bar_config(disable=True)
        >>> noise = pipe.invert(np.zeros((8, 8, 1), dtype=np.uint8), num_inference_steps=4).latents
        >>> noise.shape, pipe(noise, num_inference_steps=4).images[0].size
        (torch.Size([1, 1, 8, 8]), (8, 8))

    Reference: Song et al., "Denoising diffusion implicit models", ICLR 2021, section 4.3.
    """

    model_cpu_offload_seq = "unet"

    def __init__(self, unet: nn.Module, scheduler: SchedulerMixin) -> None:
        super().__init__()
        if scheduler.config.get("rescale_betas_zero_snr"):
            raise UserError(
                "SpikingInversionPipeline: rescale_betas_zero_snr leaves no image at the last "
                "timestep, from which none can be found again"
            )
        self.register_modules(
            unet=unet, scheduler=make_scheduler("synaptic-ddim", scheduler.config)
        )

    @inference
    def invert(
        self,
        image: Picture | Sequence[Picture],
        num_inference_steps: int = 50,
        num_iterations: int = 1,
        return_dict: bool = True,
        callback_on_step_end: StepCallback | None = None,
        class_labels: ClassLabels = None,
        guidance_scale: float | None = None,
        callback_on_step_end_tensor_inputs: Sequence[str] | None = None,
    ) -> InversionOutput | tuple[Tensor]:
        """Find the noise of images.

        Args:
            image: One image or several; see `read_images`.
            num_inference_steps: Steps from image to noise. Go back in as many.
            num_iterations: Network calls a step: 1 is DDIM inversion, more come nearer to its exact
                inverse.
            return_dict: False returns a tuple.
            callback_on_step_end: Called as `callback(pipe, i, timestep, {"sample": x_t})`, with
                "currents" where the network denoises currents; what it returns may replace them.
            class_labels: The class of all images, or one for each; None for no class.
            guidance_scale: How far towards the class; see `conditioned`.
            callback_on_step_end_tensor_inputs: What it is shown, by name: "latents", "sample",
                "currents"; everything where it is not given.

        Returns:
            An output with `.latents`.

        Raises:
            UserError: An image does not fit, or a number is out of range.
        """
        if num_iterations < 1:
            raise UserError(f"num_iterations = {num_iterations} must be at least 1")
        given = read_images(image, image_shape(self.unet))
        space = space_of(self.unet)
        self.scheduler.set_timesteps(num_inference_steps, device=self._execution_device)
        rising = self.scheduler.timesteps.flip(0)
        sample = invert(
            denoiser_of(self.unet, class_labels, guidance_scale, len(given)),
            self.scheduler,
            space.encode(given.to(self._execution_device, self.unet.dtype) * 2 - 1),
            self.progress_bar(rising),
            num_iterations,
            telling(
                self,
                callback_on_step_end,
                space,
                callback_on_step_end_tensor_inputs,
                guidance_scale,
            ),
        )
        latents = space.decode(sample)
        return InversionOutput(latents=latents) if return_dict else (latents,)

    @inference
    def __call__(
        self,
        latents: Tensor,
        num_inference_steps: int = 50,
        output_type: str = "pil",
        return_dict: bool = True,
        callback_on_step_end: StepCallback | None = None,
        class_labels: ClassLabels = None,
        guidance_scale: float | None = None,
        callback_on_step_end_tensor_inputs: Sequence[str] | None = None,
    ) -> ImagePipelineOutput | tuple[Any]:
        """Make images of noise: what `invert` found, or any other.

        Args:
            latents: Noise [B, C, H, W].
            num_inference_steps: Steps from noise to image.
            output_type: "pil"; "np" for [B, H, W, C] or "pt" for [B, C, H, W], both in [0, 1].
            return_dict: False returns a tuple.
            callback_on_step_end: As of `invert`.
            class_labels: The class of all images, or one for each; None for no class.
            guidance_scale: How far towards the class; see `conditioned`.
            callback_on_step_end_tensor_inputs: What it is shown, by name: "latents", "sample",
                "currents"; everything where it is not given.

        Returns:
            An output whose `.images` are the images.

        Raises:
            UserError: The noise does not fit, or a setting is out of range.
        """
        check_call(output_type, num_inference_steps)
        space = space_of(self.unet)
        noise = first_noise(self.unet, len(latents), None, self._execution_device, latents)
        self.scheduler.set_timesteps(num_inference_steps, device=self._execution_device)
        sample = denoise(
            denoiser_of(self.unet, class_labels, guidance_scale, len(noise)),
            self.scheduler,
            space.encode(noise),
            self.progress_bar(self.scheduler.timesteps),
            {},
            telling(
                self,
                callback_on_step_end,
                space,
                callback_on_step_end_tensor_inputs,
                guidance_scale,
            ),
            lambda: self.interrupt,
        )
        images = OUTPUT_TYPES[output_type](space.decode(sample))
        return ImagePipelineOutput(images=images) if return_dict else (images,)

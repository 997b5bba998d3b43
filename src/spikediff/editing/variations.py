r"""How far an image is noised before it is denoised: the strength of an edit.

Variations of an image: noised part of the way, and denoised again (SDEdit).
"""

from collections.abc import Sequence
from typing import Any

from diffusers.pipelines.pipeline_utils import ImagePipelineOutput
from diffusers.schedulers.scheduling_utils import SchedulerMixin
from torch import Tensor, nn

from spikediff.diffusion.classes import ClassLabels
from spikediff.diffusion.exact_timesteps import visiting
from spikediff.diffusion.latent_space import check_scheduler, space_of, telling
from spikediff.diffusion.loop import (
    StepCallback,
    TellsOfSteps,
    denoise,
    first_noise,
    image_shape,
    inference,
    step_options,
)
from spikediff.diffusion.outputs import OUTPUT_TYPES, check_call
from spikediff.diffusion.pipeline import OwnPipeline
from spikediff.diffusion.seeds import Generators
from spikediff.editing.images import Picture, count_images, denoiser_of, one_per_image, read_images
from spikediff.errors import UserError


def steps_of_strength(strength: float, num_inference_steps: int) -> int:
    """Return how many of the steps an edit makes: the share `strength`, rounded down.

    Raises:
        UserError: The strength lies outside (0, 1], or leaves no step.

    Example:
        >>> steps_of_strength(0.3, 50)
        15
    """
    if not 0.0 < strength <= 1.0:
        raise UserError(f"strength = {strength} must lie in (0, 1]; 1 keeps nothing of the image")
    count = int(round(num_inference_steps * strength, 6))  # 0.29 of 100 is 29 and not 28.99...
    if count == 0:
        raise UserError(
            f"strength = {strength} of {num_inference_steps} steps is less than one; raise either"
        )
    return count


def timesteps_of_strength(
    scheduler: Any, num_inference_steps: int, strength: float, device: Any
) -> tuple[Any, Tensor]:
    """Set a scheduler's timesteps; return it as it visits them, and the last: the share `strength`.

    Args:
        scheduler: Any of diffusers' or ours.
        num_inference_steps: Steps from noise to image.
        strength: Share of them, in (0, 1].
        device: Where the timesteps shall lie.

    Raises:
        UserError: The strength lies outside (0, 1], or leaves no step.
    """
    count = steps_of_strength(strength, num_inference_steps)
    sampler = visiting(scheduler, num_inference_steps, device)
    left_out = (num_inference_steps - count) * sampler.order  # Heun calls twice a step
    chosen: Tensor = sampler.timesteps[left_out:]
    return sampler, chosen


class SpikingImg2ImgPipeline(TellsOfSteps, OwnPipeline):
    r"""Variations of an image: $x_t$ of it at a share `strength` of the way, and down again.

    $x_t = a_t x_0 + \sigma_t \epsilon$, with $\epsilon$ of the seed, is denoised by the steps that
    are left. A small strength changes details, a large one leaves little but the composition.
    FSDDIM's network gets $x_t$ as equal currents and stays in currents to the last step.

    Args:
        unet: A denoiser of images, spiking or not, or of currents.
        scheduler: A diffusers scheduler that fits the noise schedule of its training.

    Raises:
        UserError: The network denoises currents, and the scheduler clips or draws noise.

    Example:
        >>> import numpy as np
        >>> from spikediff import SpikingUNet
        >>> from spikediff import make_scheduler
        >>> unet = SpikingUNet(sample_size=8, in_channels=1, base_channels=8, channel_mult=(1, 2))
        >>> pipe = SpikingImg2ImgPipeline(unet.eval(), make_scheduler("ddim"))
        >>> pipe.set_progress_bar_config(disable=True)
        >>> image = np.zeros((8, 8, 1), dtype=np.uint8)
        >>> len(pipe(image, strength=0.5, num_inference_steps=4, seeds=[0, 1]).images)
        2

    Reference: Meng et al., "SDEdit: guided image synthesis and editing with stochastic differential
    equations", ICLR 2022.
    """

    model_cpu_offload_seq = "unet"

    def __init__(self, unet: nn.Module, scheduler: SchedulerMixin) -> None:
        super().__init__()
        check_scheduler(unet, scheduler)
        self.register_modules(unet=unet, scheduler=scheduler)

    @inference
    def __call__(
        self,
        image: Picture | Sequence[Picture],
        strength: float = 0.5,
        num_inference_steps: int = 50,
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
    ) -> ImagePipelineOutput | tuple[Any]:
        """Generate variations.

        Args:
            image: One image for all, or one per seed; see `read_images`.
            strength: Share of the steps that are made, in (0, 1].
            num_inference_steps: Steps from noise to image; `strength` times as many are made.
            batch_size: How many; as many as there are seeds or images where it is not given.
            seeds: One seed per image: image k depends on `seeds[k]` and on its input alone.
            generator: The source of noise instead of seeds, as in diffusers.
            eta: Share of fresh noise in DDIM's steps; other schedulers refuse it.
            output_type: "pil"; "np" for [B, H, W, C] or "pt" for [B, C, H, W], both in [0, 1].
            return_dict: False returns a tuple.
            callback_on_step_end: As of `SpikingDiffusionPipeline`, or of `SynapticCurrentPipeline`
                where the network denoises currents.
            class_labels: The class of all images, or one for each; None for no class.
            guidance_scale: How far towards the class; see `conditioned`.
            callback_on_step_end_tensor_inputs: What it is shown, by name: "latents", "sample",
                "currents"; everything where it is not given.

        Returns:
            An output whose `.images` are the images.

        Raises:
            UserError: Image, seeds and batch size do not fit, or a setting is out of range.
        """
        check_call(output_type, num_inference_steps)
        check_scheduler(self.unet, self.scheduler, eta)
        given = read_images(image, image_shape(self.unet))
        generator, batch_size = count_images(len(given), batch_size, seeds, generator)
        known = one_per_image("image", given, batch_size) * 2 - 1
        known = known.to(self._execution_device, self.unet.dtype)
        scheduler, timesteps = timesteps_of_strength(
            self.scheduler, num_inference_steps, strength, self._execution_device
        )
        noise = first_noise(self.unet, batch_size, generator, self._execution_device)
        x_t = scheduler.add_noise(known, noise, timesteps[:1].expand(batch_size))
        space = space_of(self.unet)
        sample = denoise(
            denoiser_of(self.unet, class_labels, guidance_scale, batch_size),
            scheduler,
            space.encode(x_t),
            self.progress_bar(timesteps),
            step_options(scheduler, generator, eta),
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

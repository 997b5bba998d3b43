r"""Inpainting: the masked part of an image made anew, the rest kept bit for bit (RePaint)."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from diffusers.pipelines.pipeline_utils import ImagePipelineOutput
from diffusers.schedulers.scheduling_utils import SchedulerMixin
from diffusers.utils.torch_utils import randn_tensor
from torch import Tensor, nn

from spikediff.diffusion.classes import ClassLabels
from spikediff.diffusion.latent_space import Space, check_scheduler, space_of, telling
from spikediff.diffusion.loop import (
    AfterStep,
    Denoiser,
    StepCallback,
    TellsOfSteps,
    denoise,
    first_noise,
    image_shape,
    inference,
    step_options,
)
from spikediff.diffusion.outputs import check_call
from spikediff.diffusion.pipeline import OwnPipeline
from spikediff.diffusion.schedules import CLEAN, noise_levels, renoise
from spikediff.diffusion.seeds import Generators
from spikediff.editing.images import Picture, denoiser_of, masked_images, pasted
from spikediff.editing.variations import timesteps_of_strength
from spikediff.errors import UserError


def resampling_walk(num_steps: int, num_resamples: int, jump_length: int) -> list[int]:
    """Return the steps in the order in which they are made, 0 for the one that leaves the noise.

    After every `jump_length` steps, RePaint goes as many back up by the forward process and makes
    them again, `num_resamples` times in all, so that what is new and what is known come to agree.

    Args:
        num_steps: Steps from noise to image.
        num_resamples: How often each is made; 1 does not go back.
        jump_length: How many steps at once.

    Raises:
        UserError: One of the two is not at least 1.

    Example:
        >>> resampling_walk(4, 1, 1), resampling_walk(4, 2, 2)
        ([0, 1, 2, 3], [0, 1, 2, 3, 2, 3])

    Reference: Lugmayr et al., "RePaint: inpainting using denoising diffusion probabilistic models",
    CVPR 2022, algorithm 1 and appendix.
    """
    if num_resamples < 1 or jump_length < 1:
        raise UserError(
            f"num_resamples = {num_resamples} and jump_length = {jump_length} must be at least 1"
        )
    left = dict.fromkeys(range(0, num_steps - jump_length, jump_length), num_resamples - 1)
    level, walk = num_steps, []  # level 0 is the image
    while level > 0:
        walk.append(num_steps - level)
        level -= 1
        if left.get(level, 0) > 0:
            left[level] -= 1
            level += jump_length
    return walk


def check_walk(scheduler: Any, walk: Sequence[int]) -> None:
    """Refuse to go back with a scheduler that remembers its steps.

    Raises:
        UserError: It counts its steps, or reckons with the last ones.
    """
    goes_back = any(later <= earlier for earlier, later in pairwise(walk))
    if goes_back and hasattr(scheduler, "step_index"):
        raise UserError(
            f"num_resamples: {type(scheduler).__name__} remembers the steps that it has made and "
            f"cannot go back; take ddim, ddpm, analytic-dpm or synaptic-ddim, or num_resamples=1"
        )


@dataclass
class _KnownPixels:
    """Puts the known pixels into every sample, as noisy as the sample is, and jumps back."""

    scheduler: Any
    space: Space
    known: Tensor  # x_0 [B, C, H, W] in [-1, 1]
    mask: Tensor  # true where pixels are made [B, 1, H, W]
    noise: Tensor  # of the known pixels [B, C, H, W]
    timesteps: Tensor
    walk: list[int]
    generator: Generators

    def put(self, sample: Tensor, step: int) -> Tensor:
        """Return a sample that a step is about to leave, known pixels put in."""
        if step == len(self.timesteps):
            return self.space.keep(sample, self.known, self.mask)
        timestep = self.timesteps[step].expand(len(self.known))
        x_t = self.scheduler.add_noise(self.known, self.noise, timestep)
        return self.space.keep(sample, x_t, self.mask)

    def jump(self, i: int, sample: Tensor) -> Tensor:
        """Return what the next step of the walk leaves from: the sample, or a noisier one."""
        reached = self.walk[i] + 1
        if i + 1 == len(self.walk) or self.walk[i + 1] == reached:
            return sample
        there, known = self.walk[i + 1], self.known
        self.noise = randn_tensor(known.shape, self.generator, known.device, known.dtype)
        noise = self.space.encode(self.noise)  # equal currents: decoded, the same noise
        noisier = renoise(sample, noise, self._levels(reached), self._levels(there))
        return self.put(noisier, there)

    def _levels(self, step: int) -> tuple[float, float]:
        if step == len(self.timesteps):
            return CLEAN
        return noise_levels(self.scheduler, self.timesteps[step])


class SpikingInpaintPipeline(TellsOfSteps, OwnPipeline):
    r"""Inpainting with a denoiser that knows nothing of masks.

    After every step the known pixels are put into $x_s$ as the forward process makes them,
    $a_s x_0 + \sigma_s \epsilon$, so that the network completes what it sees. The pixels that come
    out are the given ones wherever the mask is black, bit for bit, in every type of output. At
    strength 1 what stands behind the mask has no influence; with a mask that is white all over, the
    image is that which the seed has without one. Where the mask is black all over, the images come
    back and the network is not called.

    For FSDDIM's network the known pixels are put in as equal currents; a mask of pixels is one of
    currents too, because decoding acts on each pixel alone.

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
        >>> pipe = SpikingInpaintPipeline(unet.eval(), make_scheduler("ddim"))
        >>> pipe.set_progress_bar_config(disable=True)
        >>> image = np.full((8, 8, 1), 77, dtype=np.uint8)
        >>> mask = np.zeros((8, 8)); mask[:, 4:] = 1                # the right half anew
        >>> made = pipe(image, mask, num_inference_steps=4, seeds=[0]).images[0]
        >>> bool((np.asarray(made)[:, :4] == 77).all())
        True

    Reference: Lugmayr et al., "RePaint", CVPR 2022; without resampling: Song et al., "Score-based
    generative modeling through stochastic differential equations", ICLR 2021, appendix I.2.
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
        mask_image: Picture | Sequence[Picture],
        num_inference_steps: int = 50,
        strength: float = 1.0,
        batch_size: int | None = None,
        seeds: Sequence[int] | None = None,
        generator: Generators = None,
        num_resamples: int = 1,
        jump_length: int = 1,
        eta: float = 0.0,
        output_type: str = "pil",
        return_dict: bool = True,
        callback_on_step_end: StepCallback | None = None,
        class_labels: ClassLabels = None,
        guidance_scale: float | None = None,
        callback_on_step_end_tensor_inputs: Sequence[str] | None = None,
    ) -> ImagePipelineOutput | tuple[Any]:
        """Generate what is masked.

        Args:
            image: One image for all, or one per seed; see `read_images`.
            mask_image: White where pixels are made anew; one for all or per seed; see `read_mask`.
            num_inference_steps: Steps from noise to image.
            strength: Share of the steps that are made; below 1 from what is behind the mask.
            batch_size: How many; as many as there are seeds or images where it is not given.
            seeds: One seed per image: image k depends on `seeds[k]` and on its input alone.
            generator: The source of noise instead of seeds, as in diffusers.
            num_resamples: How often every step is made; network calls grow about as much.
            jump_length: After how many steps it goes back as many.
            eta: Share of fresh noise in DDIM's steps; other schedulers do not know it.
            output_type: "pil"; "np" for [B, H, W, C] or "pt" for [B, C, H, W], both in [0, 1].
            return_dict: False returns a tuple.
            callback_on_step_end: As of the pipeline that generates; it sees known pixels put in.
            class_labels: The class of all images, or one for each; None for no class.
            guidance_scale: How far towards the class; see `conditioned`.
            callback_on_step_end_tensor_inputs: What it is shown, by name: "latents", "sample",
                "currents"; everything where it is not given.

        Returns:
            An output whose `.images` are the images.

        Raises:
            UserError: Inputs do not fit, a setting is out of range, or the scheduler cannot jump.
        """
        check_call(output_type, num_inference_steps)
        check_scheduler(self.unet, self.scheduler, eta)
        given, mask, generator = masked_images(
            image, mask_image, image_shape(self.unet), batch_size, seeds, generator
        )
        mask = mask.to(self._execution_device)
        made = given.to(self._execution_device, self.unet.dtype) * 2 - 1
        if bool(mask.any()):
            scheduler, timesteps = timesteps_of_strength(
                self.scheduler, num_inference_steps, strength, self._execution_device
            )
            walk = resampling_walk(len(timesteps), num_resamples, jump_length)
            check_walk(scheduler, walk)
            noise = first_noise(self.unet, len(made), generator, self._execution_device)
            pixels = _KnownPixels(
                scheduler, space_of(self.unet), made, mask, noise, timesteps, walk, generator
            )
            denoiser = denoiser_of(self.unet, class_labels, guidance_scale, len(made))
            tell = telling(
                self,
                callback_on_step_end,
                pixels.space,
                callback_on_step_end_tensor_inputs,
                guidance_scale,
            )
            made = self._paint(denoiser, pixels, strength, eta, tell)
        images = pasted(output_type, made, given, mask)
        return ImagePipelineOutput(images=images) if return_dict else (images,)

    def _paint(
        self,
        denoiser: Denoiser,
        pixels: _KnownPixels,
        strength: float,
        eta: float,
        tell: AfterStep,
    ) -> Tensor:
        """Return the images [B, C, H, W] after all steps."""

        def after_step(i: int, timestep: Any, sample: Tensor) -> Tensor:
            return pixels.jump(i, tell(i, timestep, pixels.put(sample, pixels.walk[i] + 1)))

        sample = denoise(
            denoiser,
            pixels.scheduler,
            pixels.put(self._start(pixels, strength), 0),
            self.progress_bar(pixels.timesteps[pixels.walk]),
            step_options(pixels.scheduler, pixels.generator, eta),
            after_step,
            lambda: self.interrupt,
        )
        return pixels.space.decode(sample)

    def _start(self, pixels: _KnownPixels, strength: float) -> Tensor:
        """Return what the masked pixels start from: noise, or what is there, noised."""
        if strength == 1.0:
            return pixels.space.encode(pixels.noise * pixels.scheduler.init_noise_sigma)
        timestep = pixels.timesteps[:1].expand(len(pixels.known))
        x_t = pixels.scheduler.add_noise(pixels.known, pixels.noise, timestep)
        return pixels.space.encode(x_t)

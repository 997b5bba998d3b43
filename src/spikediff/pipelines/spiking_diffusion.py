"""Generating images with a spiking denoiser and any diffusers scheduler."""

from collections.abc import Sequence
from typing import Any

import torch
from diffusers.models.modeling_utils import ModelMixin
from diffusers.pipelines.pipeline_utils import DiffusionPipeline, ImagePipelineOutput
from diffusers.schedulers.scheduling_utils import SchedulerMixin
from torch import Tensor

import spikediff.pipelines.components  # noqa: F401 -- for from_pretrained, see there
from spikediff.pipelines.compiled import CompiledInference
from spikediff.pipelines.denoising import denoise, estimates_of, first_noise, step_options
from spikediff.pipelines.pictures import OUTPUT_TYPES, check_call
from spikediff.pipelines.seeding import generators_of
from spikediff.pipelines.spaces import ImageSpace, StepCallback, telling


class SpikingDiffusionPipeline(CompiledInference, DiffusionPipeline):
    """Unconditional generation: noise -> image, one network call per inference step.

    Args:
        unet: A denoiser, `unet(sample, timestep).sample`; spiking or not.
        scheduler: A diffusers scheduler that fits the noise schedule of its training.

    Example:
        >>> from spikediff.models import SpikingUNet
        >>> from spikediff.schedulers import make_scheduler
        >>> unet = SpikingUNet(sample_size=8, in_channels=1, base_channels=8, channel_mult=(1, 2))
        >>> pipe = SpikingDiffusionPipeline(unet.eval(), make_scheduler("ddim"))
        >>> pipe.set_progress_bar_config(disable=True)
        >>> pipe(batch_size=2, num_inference_steps=3, seeds=[0, 1]).images[0].size
        (8, 8)
    """

    model_cpu_offload_seq = "unet"

    def __init__(self, unet: ModelMixin, scheduler: SchedulerMixin) -> None:
        super().__init__()
        self.register_modules(unet=unet, scheduler=scheduler)

    @torch.no_grad()
    def __call__(
        self,
        batch_size: int | None = None,
        num_inference_steps: int = 50,
        seeds: Sequence[int] | None = None,
        generator: torch.Generator | list[torch.Generator] | None = None,
        latents: Tensor | None = None,
        eta: float = 0.0,
        output_type: str = "pil",
        return_dict: bool = True,
        callback_on_step_end: StepCallback | None = None,
    ) -> ImagePipelineOutput | tuple[Any]:
        """Generate images.

        Args:
            batch_size: How many; as many as there are seeds where it is not given, else 1.
            num_inference_steps: Network calls per image.
            seeds: One seed per image: image k depends on `seeds[k]` alone, whatever the batch.
            generator: The source of noise instead of seeds, as in diffusers.
            latents: The noise to start from [B, C, H, W], standard normal, instead of drawing it.
            eta: Share of fresh noise in DDIM's steps; other schedulers do not know it.
            output_type: "pil"; "np" for [B, H, W, C] or "pt" for [B, C, H, W], both in [0, 1].
            return_dict: False returns a tuple.
            callback_on_step_end: Called as `callback(pipe, i, timestep, {"sample": x_t})` after
                every step; a "sample" in what it returns replaces x_t.

        Returns:
            An output whose `.images` are the images.

        Raises:
            UserError: Seeds, latents and batch size contradict each other, or a name is unknown.
        """
        if latents is not None and batch_size is None and seeds is None:
            batch_size = len(latents)
        generator, batch_size = generators_of(batch_size, seeds, generator)
        check_call(output_type, num_inference_steps)
        self.scheduler.set_timesteps(num_inference_steps, device=self.device)
        noise = first_noise(self.unet, batch_size, generator, self.device, latents)
        sample = denoise(
            estimates_of(self.unet),
            self.scheduler,
            noise * self.scheduler.init_noise_sigma,
            self.progress_bar(self.scheduler.timesteps),
            step_options(self.scheduler, generator, eta),
            telling(self, callback_on_step_end, ImageSpace()),
        )
        images = OUTPUT_TYPES[output_type](sample)
        return ImagePipelineOutput(images=images) if return_dict else (images,)

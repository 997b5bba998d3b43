"""Generating images with a spiking denoiser and any diffusers scheduler."""

from collections.abc import Sequence
from typing import Any

import torch
from diffusers.models.modeling_utils import ModelMixin
from diffusers.pipelines.pipeline_utils import DiffusionPipeline, ImagePipelineOutput
from diffusers.schedulers.scheduling_utils import SchedulerMixin
from torch import Tensor

from spikediff.pipelines.compiled import CompiledInference
from spikediff.pipelines.conditioning import (
    Classifier,
    ClassLabels,
    classifier_guided,
    conditioned,
    number_of_classes,
    size_of_labels,
)
from spikediff.pipelines.denoising import (
    Denoiser,
    denoise,
    estimates_of,
    first_noise,
    step_options,
)
from spikediff.pipelines.pictures import OUTPUT_TYPES, check_call
from spikediff.pipelines.portable import PortablePipeline
from spikediff.pipelines.seeding import generators_of
from spikediff.pipelines.spaces import ImageSpace, StepCallback, telling


class SpikingDiffusionPipeline(CompiledInference, PortablePipeline, DiffusionPipeline):
    """Generation: noise -> image, one network call per inference step; of a class, if it knows any.

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
        class_labels: ClassLabels = None,
        guidance_scale: float | None = None,
        classifier: Classifier | None = None,
        classifier_scale: float = 1.0,
    ) -> ImagePipelineOutput | tuple[Any]:
        """Generate images.

        Args:
            batch_size: How many; where not given, as many as seeds, latents or labels, else 1.
            num_inference_steps: Network calls per image.
            seeds: One seed per image: image k depends on `seeds[k]` alone, whatever the batch.
            generator: The source of noise instead of seeds, as in diffusers.
            latents: The noise to start from [B, C, H, W], standard normal, instead of drawing it.
            eta: Share of fresh noise in DDIM's steps; other schedulers do not know it.
            output_type: "pil"; "np" for [B, H, W, C] or "pt" for [B, C, H, W], both in [0, 1].
            return_dict: False returns a tuple.
            callback_on_step_end: Called as `callback(pipe, i, timestep, {"sample": x_t})` after
                every step; a "sample" in what it returns replaces x_t.
            class_labels: The class of all images, or one for each; None for no class.
            guidance_scale: How far towards the class (classifier-free guidance): 1 is the network's
                own answer, as is None.
            classifier: A classifier of noisy images, `classifier(x_t, t)` -> logits [B, K], whose
                gradient guides the network instead (SDDPM, equation 8).
            classifier_scale: How strongly it does.

        Returns:
            An output whose `.images` are the images.

        Raises:
            UserError: Seeds, latents, labels and batch size contradict each other, the network
                knows no such class, or a name is unknown.
        """
        if batch_size is None and seeds is None:
            batch_size = size_of_labels(class_labels) if latents is None else len(latents)
        generator, batch_size = generators_of(batch_size, seeds, generator)
        check_call(output_type, num_inference_steps)
        self.scheduler.set_timesteps(num_inference_steps, device=self.device)
        noise = first_noise(self.unet, batch_size, generator, self.device, latents)
        sample = denoise(
            self._denoiser(class_labels, guidance_scale, classifier, classifier_scale, batch_size),
            self.scheduler,
            noise * self.scheduler.init_noise_sigma,
            self.progress_bar(self.scheduler.timesteps),
            step_options(self.scheduler, generator, eta),
            telling(self, callback_on_step_end, ImageSpace()),
        )
        images = OUTPUT_TYPES[output_type](sample)
        return ImagePipelineOutput(images=images) if return_dict else (images,)

    def _denoiser(
        self,
        class_labels: ClassLabels,
        guidance_scale: float | None,
        classifier: Classifier | None,
        classifier_scale: float,
        batch_size: int,
    ) -> Denoiser:
        """Return the network as the denoiser of the classes that are asked for."""
        known = class_labels if classifier is None or number_of_classes(self.unet) else None
        denoiser = conditioned(
            estimates_of(self.unet), self.unet, known, guidance_scale, batch_size
        )
        if classifier is None:
            return denoiser
        return classifier_guided(
            denoiser, self.scheduler, classifier, class_labels, classifier_scale, batch_size
        )

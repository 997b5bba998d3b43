"""Generate images or signals with a spiking denoiser and any diffusers scheduler."""

from collections.abc import Callable, Mapping, Sequence
from typing import Any

import torch
from diffusers.models.modeling_utils import ModelMixin
from diffusers.pipelines.pipeline_utils import DiffusionPipeline, ImagePipelineOutput
from diffusers.schedulers.scheduling_utils import SchedulerMixin
from torch import Tensor

from spikediff.diffusion.classes import (
    Classifier,
    ClassLabels,
    class_numbers,
    classifier_guided,
    conditioned,
    number_of_classes,
    size_of_labels,
)
from spikediff.diffusion.exact_timesteps import visiting
from spikediff.diffusion.loop import (
    Denoiser,
    StepCallback,
    TellsOfSteps,
    denoise,
    estimates_of,
    first_noise,
    inference,
    size_of_noise,
    step_options,
    telling,
)
from spikediff.diffusion.objective import RunParts
from spikediff.diffusion.outputs import OUTPUT_TYPES, check_output_type, signal_output
from spikediff.diffusion.pipeline import OwnPipeline
from spikediff.diffusion.return_dict import answering
from spikediff.diffusion.schedulers import make_scheduler
from spikediff.diffusion.seeds import generators_of
from spikediff.errors import UserError


class SpikingDiffusionPipeline(TellsOfSteps, OwnPipeline):
    """Generate images or signals from noise, with one network call per inference step.

    Args:
        unet: A denoiser, `unet(sample, timestep).sample`; spiking or not.
        scheduler: A diffusers scheduler that fits the noise schedule of its training.
        signal_range: Values that a network of signals sees as -1 and 1, in the unit of the signal;
            None to return signals in the network's range. Not for images.

    Example:
        >>> from spikediff import SpikingUNet
        >>> from spikediff import make_scheduler
        >>> unet = SpikingUNet(sample_size=8, in_channels=1, base_channels=8, channel_mult=(1, 2))
        >>> pipe = SpikingDiffusionPipeline(unet.eval(), make_scheduler("ddim"))
        >>> pipe.set_progress_bar_config(disable=True)
        >>> pipe(batch_size=2, num_inference_steps=3, seeds=[0, 1]).images[0].size
        (8, 8)
    """

    model_cpu_offload_seq = "unet"

    def __init__(
        self,
        unet: ModelMixin,
        scheduler: SchedulerMixin,
        signal_range: Sequence[float] | None = None,
    ) -> None:
        super().__init__()
        self.register_modules(unet=unet, scheduler=scheduler)
        self.register_to_config(signal_range=signal_range)
        if signal_range is not None and not self.makes_signals:
            raise UserError(f"signal_range = {tuple(signal_range)}: the network makes images")

    @property
    def makes_signals(self) -> bool:
        """Whether it generates signals [B, C, L]."""
        return getattr(self.unet.config, "dimensions", 2) == 1

    @answering
    @inference
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
        callback_on_step_end_tensor_inputs: Sequence[str] | None = None,
        timesteps: Sequence[int] | None = None,
    ) -> ImagePipelineOutput | tuple[Any]:
        """Generate images, or signals.

        Args:
            batch_size: The number of images; by default that of seeds, latents or labels, else 1.
            num_inference_steps: Network calls per image.
            seeds: One seed per image: image k depends only on `seeds[k]`, whatever the batch.
            generator: The source of noise instead of seeds, as in diffusers.
            latents: The initial noise [B, C, H, W], standard normal, instead of drawing it.
            eta: Share of fresh noise in DDIM's steps; other schedulers refuse it.
            output_type: "pil"; "np" for [B, H, W, C] or "pt" for [B, C, H, W], both in [0, 1]. For
                signals: "np" or "pt", [B, C, L] in the unit of `signal_range`, not clamped.
            return_dict: False returns a tuple.
            callback_on_step_end: Called as `callback(pipe, i, timestep, {"sample": x_t})` after
                every step; if it returns a "sample", this replaces x_t.
            class_labels: The class of all images, or one per image, by number or by name; None for
                no class.
            guidance_scale: Scale of classifier-free guidance; 1 and None give the network's own
                output.
            classifier: A classifier of noisy images, `classifier(x_t, t)` -> logits [B, K], whose
                gradient guides the network instead (SDDPM, equation 8).
            classifier_scale: The scale of this guidance.
            callback_on_step_end_tensor_inputs: Names of the tensors passed to the callback:
                "latents", "sample", "currents"; all by default.
            timesteps: Decreasing timesteps to visit instead of the scheduler's
                `num_inference_steps`.

        Returns:
            An output whose `.images` are the images or signals.

        Raises:
            UserError: Arguments contradict each other, the network, or the scheduler.
        """
        if batch_size is None and seeds is None:
            batch_size = size_of_labels(class_labels) if latents is None else size_of_noise(latents)
        generator, batch_size = generators_of(batch_size, seeds, generator)
        check_output_type(output_type)
        finish = self._output(output_type)
        if self.makes_signals and self.scheduler.config.get("clip_sample"):
            # A signal may leave its range, where DDPM and DDIM would clip their estimate of x_0.
            self.scheduler.register_to_config(clip_sample=False)
        device = self._execution_device
        scheduler = visiting(self.scheduler, num_inference_steps, device, timesteps)
        noise = first_noise(self.unet, batch_size, generator, device, latents)
        sample = denoise(
            self._denoiser(class_labels, guidance_scale, classifier, classifier_scale, batch_size),
            scheduler,
            noise * scheduler.init_noise_sigma,
            self.progress_bar(scheduler.timesteps),
            step_options(scheduler, generator, eta),
            telling(
                self,
                callback_on_step_end,
                lambda sample: {"sample": sample},
                callback_on_step_end_tensor_inputs,
                guidance_scale,
            ),
            lambda: self.interrupt,
        )
        images = finish(sample)
        return ImagePipelineOutput(images=images) if return_dict else (images,)

    def _output(self, output_type: str) -> Callable[[Tensor], Any]:
        if self.makes_signals:
            return signal_output(output_type, self.config.signal_range)
        return OUTPUT_TYPES[output_type]

    def _denoiser(
        self,
        class_labels: ClassLabels,
        guidance_scale: float | None,
        classifier: Classifier | None,
        classifier_scale: float,
        batch_size: int,
    ) -> Denoiser:
        known = class_labels if classifier is None or number_of_classes(self.unet) else None
        denoiser = conditioned(
            estimates_of(self.unet), self.unet, known, guidance_scale, batch_size
        )
        if classifier is None:
            if classifier_scale != 1.0:
                raise UserError("classifier_scale: give the classifier that it scales")
            return denoiser
        return classifier_guided(
            denoiser,
            self.scheduler,
            classifier,
            class_numbers(self.unet, class_labels),
            classifier_scale,
            batch_size,
        )


def sampled(pipeline: Callable[..., Any]) -> Callable[[Any, RunParts], DiffusionPipeline]:
    """Return a factory of `pipeline(denoiser, scheduler)` with the sampler of a run's recipe."""
    return lambda model, run: pipeline(model, run.sampler)


def with_noise(
    pipeline: Callable[..., Any], sampler: str, noise: Mapping[str, Any]
) -> Callable[[ModelMixin], DiffusionPipeline]:
    """Return a factory of pipelines for released denoisers, with their training noise schedule.

    The denoiser's timestep table determines the number of training timesteps.
    """

    def make(model: ModelMixin) -> DiffusionPipeline:
        config = model.config
        architecture = config.get("architecture", config)  # of the U-Net in a converted network
        clock = int(architecture["num_train_timesteps"])
        schedule = make_scheduler("ddpm", {**noise, "num_train_timesteps": clock})
        made: DiffusionPipeline = pipeline(model, make_scheduler(sampler, schedule.config))
        return made

    return make

"""Generation with FSDDIM: in synaptic currents from the first step to the last, decoded once."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from diffusers.pipelines.pipeline_utils import ImagePipelineOutput
from diffusers.schedulers.scheduling_utils import SchedulerMixin
from torch import Tensor, nn

from spikediff.diffusion.classes import ClassLabels, conditioned, size_of_labels
from spikediff.diffusion.exact_timesteps import visiting
from spikediff.diffusion.loop import (
    StepCallback,
    TellsOfSteps,
    denoise,
    estimates_of,
    first_noise,
    inference,
    size_of_noise,
    telling,
)
from spikediff.diffusion.outputs import OUTPUT_TYPES, check_output_type
from spikediff.diffusion.pipeline import OwnPipeline
from spikediff.diffusion.return_dict import answering
from spikediff.diffusion.seeds import Generators, generators_of
from spikediff.systems.fsddim.latent_space import CurrentSpace, check_linear


@dataclass
class SynapticCurrentOutput(ImagePipelineOutput):
    """Images, and the variance of the currents over the spiking steps.

    Attributes:
        images: The images.
        current_variance: Variance over the T spiking steps, averaged over all other axes: before
            the first step, where it is 0, and after every step. The consistency term of the loss
            limits it, because the network is trained with equal currents only.
    """

    current_variance: list[float]


class SynapticCurrentPipeline(TellsOfSteps, OwnPipeline):
    """Generation in currents: noise -> [T, B, C, H, W] -> ... -> image.

    Args:
        unet: A `SynapticCurrentUNet`; the result of `merge_synapses` or `carry_currents`; or
            another model from currents to currents with the methods `first_currents` and
            `image_currents`.
        scheduler: A scheduler with linear steps: `SynapticCurrentDDIMScheduler`, or a diffusers
            solver of `latent_space.LINEAR` (DPM-Solver++, UniPC, DEIS, Euler, ...) that does not
            clip; all others are refused.

    Example:
        >>> from spikediff import SynapticCurrentUNet
        >>> from spikediff import make_scheduler
        >>> unet = SynapticCurrentUNet(8, 1, base_channels=8, channel_mult=(1, 2), spiking_steps=4)
        >>> pipe = SynapticCurrentPipeline(unet.eval(), make_scheduler("synaptic-ddim"))
        >>> pipe.set_progress_bar_config(disable=True)
        >>> output = pipe(batch_size=2, num_inference_steps=3, seeds=[0, 1])
        >>> output.images[0].size, len(output.current_variance)
        ((8, 8), 4)
    """

    model_cpu_offload_seq = "unet"

    def __init__(self, unet: nn.Module, scheduler: SchedulerMixin) -> None:
        super().__init__()
        check_linear(scheduler)
        self.register_modules(unet=unet, scheduler=scheduler)

    @answering
    @inference
    def __call__(
        self,
        batch_size: int | None = None,
        num_inference_steps: int = 50,
        seeds: Sequence[int] | None = None,
        generator: Generators = None,
        latents: Tensor | None = None,
        eta: float = 0.0,
        output_type: str = "pil",
        return_dict: bool = True,
        callback_on_step_end: StepCallback | None = None,
        stream: bool = False,
        class_labels: ClassLabels = None,
        guidance_scale: float | None = None,
        callback_on_step_end_tensor_inputs: Sequence[str] | None = None,
    ) -> SynapticCurrentOutput | tuple[Any]:
        """Generate images.

        The arguments are those of `SpikingDiffusionPipeline`, with three differences. `eta` must be
        0, because currents allow no fresh noise. `stream` runs the network one spiking step at a
        time, as on a chip. The callback receives {"sample": x_t, "currents": I}, with x_t decoded
        from I; if it returns "currents", these replace I.

        Returns:
            An output with `.images` and `.current_variance`.
        """
        if batch_size is None and seeds is None:
            batch_size = size_of_labels(class_labels) if latents is None else size_of_noise(latents)
        generator, batch_size = generators_of(batch_size, seeds, generator)
        check_output_type(output_type)
        space = CurrentSpace(self.unet)
        space.check_scheduler(self.scheduler, eta)  # it may have been replaced since
        device = self._execution_device
        scheduler = visiting(self.scheduler, num_inference_steps, device)
        noise = first_noise(self.unet, batch_size, generator, device, latents)
        currents = space.encode(noise * scheduler.init_noise_sigma)
        variances = [self._variance(currents)]
        call = self._stream if stream else estimates_of(self.unet)
        tell = telling(
            self,
            callback_on_step_end,
            space.seen,
            callback_on_step_end_tensor_inputs,
            guidance_scale,
        )

        def observe(i: int, timestep: Tensor, currents: Tensor) -> Tensor:
            variances.append(self._variance(currents))
            return tell(i, timestep, currents)

        currents = denoise(
            conditioned(
                call, self.unet, class_labels, guidance_scale, batch_size, space.batch_axis
            ),
            scheduler,
            currents,
            self.progress_bar(scheduler.timesteps),
            {},
            observe,
            lambda: self.interrupt,
        )
        images = OUTPUT_TYPES[output_type](space.decode(currents))
        return SynapticCurrentOutput(images, variances) if return_dict else (images,)

    def _variance(self, currents: Tensor) -> float:
        return float(self.unet.image_currents(currents).var(0, unbiased=False).mean())

    def _stream(self, currents: Tensor, timestep: Tensor, **labels: Tensor) -> Tensor:
        outputs, state = [], None
        for current in currents:  # [B, C, H, W]
            output, state = self.unet.step(current, timestep, state, **labels)
            outputs.append(output)
        return torch.stack(outputs)

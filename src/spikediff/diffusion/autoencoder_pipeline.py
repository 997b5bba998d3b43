"""Generating images with a variational autoencoder: one call, no scheduler."""

from collections.abc import Sequence
from typing import Any

import torch
from diffusers.models.modeling_utils import ModelMixin
from diffusers.pipelines.pipeline_utils import ImagePipelineOutput
from torch import Tensor

from spikediff.data import change_range
from spikediff.diffusion.loop import inference
from spikediff.diffusion.outputs import OUTPUT_TYPES, check_output_type
from spikediff.diffusion.pipeline import OwnPipeline
from spikediff.diffusion.return_dict import answering
from spikediff.diffusion.seeds import generators_of
from spikediff.errors import UserError, check_number
from spikediff.files.tensors import check_values


class VAEPipeline(OwnPipeline):
    """Unconditional generation: the prior draws a latent, the decoder turns it into an image.

    Args:
        vae: An autoencoder with `generate(batch_size, generator)`, `FSVAE` or `VAE`; or a `VQSVAE`,
            which only reconstructs.

    Example:
        >>> from spikediff import FSVAE
        >>> vae = FSVAE(8, 1, channels=(4, 8), latent_channels=6, group_size=3, spiking_steps=4)
        >>> pipe = VAEPipeline(vae.eval())
        >>> pipe(seeds=[0, 1]).images[0].size
        (8, 8)
    """

    model_cpu_offload_seq = "vae"

    def __init__(self, vae: ModelMixin) -> None:
        super().__init__()
        self.register_modules(vae=vae)

    @answering
    @inference
    def __call__(
        self,
        batch_size: int | None = None,
        num_inference_steps: int = 1,
        seeds: Sequence[int] | None = None,
        generator: torch.Generator | list[torch.Generator] | None = None,
        output_type: str = "pil",
        return_dict: bool = True,
    ) -> ImagePipelineOutput | tuple[Any]:
        """Generate images.

        The arguments are those of `SpikingDiffusionPipeline`. `num_inference_steps` is accepted,
        for code that works with any pipeline, and ignored: an autoencoder has one step.
        """
        generator, batch_size = generators_of(batch_size, seeds, generator)
        check_output_type(output_type)
        check_number("num_inference_steps", num_inference_steps, 1, whole=True)
        if not hasattr(self.vae, "generate"):
            raise UserError(
                f"{type(self.vae).__name__}: reconstructs images and has no prior to draw new ones "
                f"from; train the second stage, which generates its tokens"
            )
        images = OUTPUT_TYPES[output_type](self.vae.generate(batch_size, generator))
        return ImagePipelineOutput(images=images) if return_dict else (images,)

    @inference
    def reconstruct(self, images: Tensor) -> Tensor:
        """Return reconstructions of images [B, C, H, W] in [-1, 1], with seed 0."""
        theirs = self.vae.config.get("input_range", (-1.0, 1.0))
        generator = torch.Generator().manual_seed(0)
        output = self.vae(change_range(images, new=theirs), generator)
        return check_values(change_range(output.sample, old=theirs), "reconstructions")

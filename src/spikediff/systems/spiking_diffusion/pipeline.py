"""Generate images from discrete tokens, with Spiking-Diffusion's two networks."""

from collections.abc import Sequence
from typing import Any

import torch
from diffusers.pipelines.pipeline_utils import ImagePipelineOutput
from torch import Tensor

from spikediff.data import change_range
from spikediff.diffusion.classes import ClassLabels, conditioned, size_of_labels
from spikediff.diffusion.loop import (
    AfterStep,
    Denoiser,
    StepCallback,
    TellsOfSteps,
    estimates_of,
    finite,
    inference,
    telling,
)
from spikediff.diffusion.outputs import OUTPUT_TYPES, check_output_type
from spikediff.diffusion.pipeline import OwnPipeline
from spikediff.diffusion.return_dict import answering
from spikediff.diffusion.seeds import generators_of
from spikediff.errors import UserError
from spikediff.files.tensors import check_values
from spikediff.systems.spiking_diffusion.absorbing import AbsorbingStateScheduler
from spikediff.systems.spiking_diffusion.decoder import SpikingImageDecoder
from spikediff.systems.spiking_diffusion.vq_svae import VQSVAE


class VQSpikingDiffusionPipeline(TellsOfSteps, OwnPipeline):
    """Generation and inpainting: masks -> tokens -> images.

    Args:
        vqvae: The first stage, tokens to images.
        decoder: The second stage, which predicts masked tokens.
        scheduler: The diffusion of the second stage's training. All three share one codebook.

    Example:
        >>> vqvae = VQSVAE(sample_size=8, widths=(8,), codebook_size=16, spiking_steps=4)
        >>> decoder = SpikingImageDecoder(codebook_size=16, widths=(8, 8), spiking_steps=4)
        >>> scheduler = AbsorbingStateScheduler(num_train_timesteps=16, mask_token=16)
        >>> pipe = VQSpikingDiffusionPipeline(vqvae.eval(), decoder.eval(), scheduler)
        >>> pipe.set_progress_bar_config(disable=True)
        >>> pipe(num_inference_steps=4, seeds=[0, 1], temperature=0.65).images[0].size
        (8, 8)
    """

    model_cpu_offload_seq = "decoder->vqvae"

    def __init__(
        self, vqvae: VQSVAE, decoder: SpikingImageDecoder, scheduler: AbsorbingStateScheduler
    ) -> None:
        super().__init__()
        sizes = (
            vqvae.config.codebook_size,
            decoder.config.codebook_size,
            scheduler.config.mask_token,
        )
        if len(set(sizes)) > 1:
            raise UserError(
                f"VQSpikingDiffusionPipeline: codebooks of {sizes[0]} (vqvae), {sizes[1]} (decoder)"
                f" and {sizes[2]} codes (scheduler's mask_token); they must be one"
            )
        self.register_modules(vqvae=vqvae, decoder=decoder, scheduler=scheduler)

    @answering
    @inference
    def __call__(
        self,
        batch_size: int | None = None,
        num_inference_steps: int | None = None,
        seeds: Sequence[int] | None = None,
        generator: torch.Generator | list[torch.Generator] | None = None,
        temperature: float | None = None,
        top_p: float | None = None,
        unmasking: str | None = None,
        tokens: Tensor | None = None,
        mask: Tensor | None = None,
        output_type: str = "pil",
        return_dict: bool = True,
        callback_on_step_end: StepCallback | None = None,
        class_labels: ClassLabels = None,
        guidance_scale: float | None = None,
        callback_on_step_end_tensor_inputs: Sequence[str] | None = None,
    ) -> ImagePipelineOutput | tuple[Any]:
        """Generate images, or fill the masked parts of given ones.

        Arguments not listed here are those of `SpikingDiffusionPipeline`. By default
        there are as many images as seeds, labels or grids of tokens, and one network call per
        training timestep. The callback receives, and may replace, the grid as "sample".

        - `temperature`, `top_p` and `unmasking` replace those of the scheduler; see there.
        - `tokens` are known tokens, for inpainting: of every image [B, h, w], or one grid for all
          [h, w]. `vqvae.encode(images)` makes them.
        - `mask` is boolean, shaped like `tokens`, and true where tokens are replaced. MASK in
          `tokens` is always replaced.
        - `output_type` may also be "tokens", for the tokens themselves [B, h, w].
        """
        check_output_type(output_type, (*OUTPUT_TYPES, "tokens"))
        if batch_size is None and seeds is None and tokens is not None and tokens.dim() == 3:
            batch_size = len(tokens)
        if batch_size is None and seeds is None:
            batch_size = size_of_labels(class_labels)
        generator, batch_size = generators_of(batch_size, seeds, generator)
        grid = self._start(batch_size, tokens, mask)
        steps = self.scheduler.config.num_train_timesteps
        steps = steps if num_inference_steps is None else num_inference_steps
        self.scheduler.set_timesteps(steps, device=self._execution_device)
        options: dict[str, Any] = {
            "temperature": temperature,
            "top_p": top_p,
            "unmasking": unmasking,
            "generator": generator,
        }
        denoiser = conditioned(
            estimates_of(self.decoder), self.decoder, class_labels, guidance_scale, batch_size
        )
        tell = telling(
            self,
            callback_on_step_end,
            lambda grid: {"sample": grid},
            callback_on_step_end_tensor_inputs,
            guidance_scale,
        )
        grid = self._unmask(denoiser, grid, options, tell)
        images = grid if output_type == "tokens" else OUTPUT_TYPES[output_type](self.decode(grid))
        return ImagePipelineOutput(images=images) if return_dict else (images,)

    def redraw(self, tokens: Tensor, mask: Tensor, **call: Any) -> Tensor:
        """Draw the masked tokens of grids [B, h, w] again; return images [B, C, H, W] in [-1, 1].

        Args:
            tokens: Known tokens.
            mask: Where to draw, boolean.
            **call: Further arguments of a call.
        """
        (drawn,) = VQSpikingDiffusionPipeline.__call__(
            self,
            tokens=tokens,
            mask=mask,
            batch_size=len(tokens),
            output_type="tokens",
            return_dict=False,
            **call,
        )
        return self.decode(drawn)

    @inference
    def encode(self, images: Tensor) -> Tensor:
        """Return the tokens [B, h, w] of images [B, C, H, W] in [-1, 1]."""
        tokens: Tensor = self.vqvae.encode(change_range(images, new=self.vqvae.config.input_range))
        return tokens

    @inference
    def reconstruct(self, images: Tensor) -> Tensor:
        """Return the reconstructions of images [B, C, H, W] in [-1, 1] from their tokens."""
        return self.decode(self.encode(images))

    def _unmask(
        self, denoiser: Denoiser, grid: Tensor, options: dict[str, Any], tell: AfterStep
    ) -> Tensor:
        # With known tokens there are fewer masks than usual at time t: as many as at a cleaner one.
        masks, positions = (grid == self.decoder.mask_token).sum((1, 2)), grid[0].numel()  # [B]
        clean = grid
        for i, timestep in enumerate(self.progress_bar(self.scheduler.timesteps)):
            if self.interrupt:
                continue
            seen = ((timestep * masks + positions - 1) // positions).clamp(min=1)
            logits = finite(denoiser(grid, seen), timestep)
            step = self.scheduler.step(logits, timestep, grid, **options)
            grid, clean = step.prev_sample, step.pred_original_sample
            grid = tell(i, timestep, grid)
        return clean if self.interrupt else grid  # masks have no image

    def _start(self, batch_size: int, tokens: Tensor | None, mask: Tensor | None) -> Tensor:
        """Return the initial grids [B, h, w]: masks and known tokens."""
        nothing = self.decoder.mask_token
        shape = (batch_size, *self.vqvae.latent_size)
        if tokens is None:
            if mask is not None:
                raise UserError("inpainting: give the known tokens too, not only the mask")
            return torch.full(shape, nothing, device=self._execution_device)
        if tokens.is_floating_point() or tokens.min() < 0 or tokens.max() > nothing:
            raise UserError(
                f"inpainting: tokens must be whole numbers from 0 to {nothing - 1}, or {nothing} "
                f"for MASK; vqvae.encode(images) makes them"
            )
        for what, given in (("tokens", tokens), ("mask", mask)):
            if given is not None and given.shape not in (shape, shape[1:]):
                raise UserError(
                    f"inpainting: {what} of shape {tuple(given.shape)}; give {shape} or {shape[1:]}"
                )
        grid = tokens.to(self._execution_device).long().expand(shape)
        if mask is None:
            return grid
        return grid.masked_fill(mask.to(self._execution_device).bool(), nothing)

    @inference
    def decode(self, tokens: Tensor) -> Tensor:
        """Return the images of tokens [B, h, w], in [-1, 1]."""
        images = change_range(self.vqvae.decode(tokens), old=self.vqvae.config.input_range)
        return check_values(images, "decoded tokens")

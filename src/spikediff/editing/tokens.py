r"""Editing with Spiking-Diffusion: tokens are masked and drawn anew."""

from collections.abc import Sequence
from typing import Any

import torch
from diffusers.pipelines.pipeline_utils import ImagePipelineOutput
from torch import Tensor

from spikediff.diffusion.loop import StepCallback, TellsOfSteps, begin, image_shape, inference
from spikediff.diffusion.outputs import OUTPUT_TYPES, check_output_type
from spikediff.diffusion.pipeline import OwnPipeline
from spikediff.diffusion.seeds import Generators
from spikediff.editing.images import (
    Picture,
    count_images,
    masked_images,
    one_per_image,
    pasted,
    read_images,
)
from spikediff.editing.variations import steps_of_strength
from spikediff.errors import UserError
from spikediff.systems.spiking_diffusion.absorbing import AbsorbingStateScheduler
from spikediff.systems.spiking_diffusion.decoder import SpikingImageDecoder
from spikediff.systems.spiking_diffusion.pipeline import VQSpikingDiffusionPipeline
from spikediff.systems.spiking_diffusion.vq_svae import VQSVAE

BLACK = -1.0  # what the encoder sees behind a mask


def token_mask(mask: Tensor, latent_size: tuple[int, int], margin: int = 0) -> Tensor:
    """Return which tokens a mask of pixels concerns: those of which any pixel is masked.

    Args:
        mask: Of pixels [B, 1, H, W], boolean.
        latent_size: Height and width of the grid of tokens.
        margin: How many tokens around them, too.

    Returns:
        [B, h, w], boolean.

    Raises:
        UserError: The margin is negative.

    Example:
        >>> pixels = torch.zeros(1, 1, 8, 8, dtype=torch.bool)
        >>> pixels[..., 3, 3] = True
        >>> token_mask(pixels, (2, 2)).flatten().tolist()
        [True, False, False, False]
    """
    if margin < 0:
        raise UserError(f"token_margin = {margin} must not be negative")
    marked = torch.nn.functional.adaptive_max_pool2d(mask.float(), latent_size)
    if margin:
        marked = torch.nn.functional.max_pool2d(marked, 2 * margin + 1, 1, margin)
    return marked[:, 0] > 0


class VQSpikingInpaintPipeline(TellsOfSteps, OwnPipeline):
    r"""Inpainting with tokens: those behind the mask are drawn anew, the others are the image's.

    A token is drawn wherever any of its pixels is masked. Its image then also differs from the
    given one beside the mask; there the given pixels are put back, so that they come out bit for
    bit, as in `SpikingInpaintPipeline`.

    The encoder sees a neighbourhood of every token, and sees black in place of what is masked: what
    stands behind a mask has no influence. A known token next to it speaks of that black, though;
    `token_margin` has such tokens drawn anew as well.

    Args:
        vqvae: The first stage, tokens to images.
        decoder: The second stage, which estimates the tokens behind masks.
        scheduler: The diffusion of the second stage's training.

    Example:
        >>> import numpy as np
        >>> vqvae = VQSVAE(sample_size=8, widths=(8,), codebook_size=16, spiking_steps=4)
        >>> decoder = SpikingImageDecoder(codebook_size=16, widths=(8, 8), spiking_steps=4)
        >>> scheduler = AbsorbingStateScheduler(num_train_timesteps=16, mask_token=16)
        >>> pipe = VQSpikingInpaintPipeline(vqvae.eval(), decoder.eval(), scheduler)
        >>> pipe.set_progress_bar_config(disable=True)
        >>> image = np.full((8, 8, 1), 77, dtype=np.uint8)
        >>> mask = np.zeros((8, 8)); mask[:, 4:] = 1                # the right half anew
        >>> made = pipe(image, mask, num_inference_steps=4, seeds=[0]).images[0]
        >>> bool((np.asarray(made)[:, :4] == 77).all())
        True
    """

    model_cpu_offload_seq = "decoder->vqvae"

    def __init__(
        self, vqvae: VQSVAE, decoder: SpikingImageDecoder, scheduler: AbsorbingStateScheduler
    ) -> None:
        super().__init__()
        self.register_modules(vqvae=vqvae, decoder=decoder, scheduler=scheduler)

    @inference
    def __call__(
        self,
        image: Picture | Sequence[Picture],
        mask_image: Picture | Sequence[Picture],
        num_inference_steps: int | None = None,
        batch_size: int | None = None,
        seeds: Sequence[int] | None = None,
        generator: Generators = None,
        token_margin: int = 0,
        output_type: str = "pil",
        return_dict: bool = True,
        callback_on_step_end: StepCallback | None = None,
        callback_on_step_end_tensor_inputs: Sequence[str] | None = None,
        **call: Any,
    ) -> ImagePipelineOutput | tuple[Any]:
        """Generate what is masked.

        Args:
            image: One image for all, or one per seed; see `read_images`.
            mask_image: White where pixels are made anew; one for all, or one per seed; see
                `read_mask`.
            num_inference_steps: Network calls per image; all timesteps of the training where it is
                not given.
            batch_size: How many; as many as there are seeds or images where it is not given.
            seeds: One seed per image: image k depends on `seeds[k]` and on its input alone.
            generator: The source of randomness instead of seeds, as in diffusers.
            token_margin: Tokens around the mask that are drawn anew, too.
            output_type: "pil"; "np" for [B, H, W, C] or "pt" for [B, C, H, W], both in [0, 1].
            return_dict: False returns a tuple.
            callback_on_step_end: As of `VQSpikingDiffusionPipeline`.
            callback_on_step_end_tensor_inputs: What it is shown, by name: "latents", "sample",
                "currents"; everything where it is not given.
            call: What else `VQSpikingDiffusionPipeline` takes: `temperature`, `class_labels`, ...

        Returns:
            An output whose `.images` are the images.

        Raises:
            UserError: Image, mask, seeds and batch size do not fit, or a setting is out of range.
        """
        check_output_type(output_type)
        given, mask, generator = masked_images(
            image, mask_image, image_shape(self.vqvae), batch_size, seeds, generator
        )
        mask = mask.to(self._execution_device)
        made = given.to(self._execution_device, self.vqvae.dtype) * 2 - 1
        if bool(mask.any()):
            generates = _generator_of(self)
            tokens = generates.encode(made.masked_fill(mask, BLACK))
            told = {
                "generator": generator,
                "num_inference_steps": num_inference_steps,
                "callback_on_step_end_tensor_inputs": callback_on_step_end_tensor_inputs,
                **call,
            }
            hidden = token_mask(mask, self.vqvae.latent_size, token_margin)
            tokens = _drawn(self, generates, tokens, hidden, callback_on_step_end, told)
            made = generates.decode(tokens)
        images = pasted(output_type, made, given, mask)
        return ImagePipelineOutput(images=images) if return_dict else (images,)


class VQSpikingImg2ImgPipeline(TellsOfSteps, OwnPipeline):
    r"""Variations of an image in tokens: a share of them masked by chance and drawn anew.

    It is `SpikingImg2ImgPipeline` for absorbing-state diffusion, whose forward process masks each
    token with probability $t / T_d$: a share `strength` of the way up, and down again.

    Args:
        vqvae: The first stage, tokens to images.
        decoder: The second stage, which estimates the tokens behind masks.
        scheduler: The diffusion of the second stage's training.
    """

    model_cpu_offload_seq = "decoder->vqvae"

    def __init__(
        self, vqvae: VQSVAE, decoder: SpikingImageDecoder, scheduler: AbsorbingStateScheduler
    ) -> None:
        super().__init__()
        self.register_modules(vqvae=vqvae, decoder=decoder, scheduler=scheduler)

    @inference
    def __call__(
        self,
        image: Picture | Sequence[Picture],
        strength: float = 0.5,
        num_inference_steps: int | None = None,
        batch_size: int | None = None,
        seeds: Sequence[int] | None = None,
        generator: Generators = None,
        output_type: str = "pil",
        return_dict: bool = True,
        callback_on_step_end: StepCallback | None = None,
        callback_on_step_end_tensor_inputs: Sequence[str] | None = None,
        **call: Any,
    ) -> ImagePipelineOutput | tuple[Any]:
        """Generate variations.

        Args:
            image: One image for all, or one per seed; see `read_images`.
            strength: How likely a token is masked, in (0, 1].
            num_inference_steps: Steps from nothing but masks to tokens; `strength` times as many
                are made. All timesteps of the training where it is not given.
            batch_size: How many; as many as there are seeds or images where it is not given.
            seeds: One seed per image: image k depends on `seeds[k]` and on its input alone.
            generator: The source of randomness instead of seeds, as in diffusers.
            output_type: "pil"; "np" for [B, H, W, C] or "pt" for [B, C, H, W], both in [0, 1].
            return_dict: False returns a tuple.
            callback_on_step_end: As of `VQSpikingDiffusionPipeline`.
            callback_on_step_end_tensor_inputs: What it is shown, by name: "latents", "sample",
                "currents"; everything where it is not given.
            call: What else `VQSpikingDiffusionPipeline` takes: `temperature`, `class_labels`, ...

        Returns:
            An output whose `.images` are the images.

        Raises:
            UserError: Image, seeds and batch size do not fit, or a setting is out of range.
        """
        check_output_type(output_type)
        given = read_images(image, image_shape(self.vqvae))
        generator, batch_size = count_images(len(given), batch_size, seeds, generator)
        known = one_per_image("image", given, batch_size) * 2 - 1
        known = known.to(self._execution_device, self.vqvae.dtype)
        longest = self.scheduler.config.num_train_timesteps
        steps = longest if num_inference_steps is None else num_inference_steps
        steps = steps_of_strength(strength, steps)
        generates = _generator_of(self)
        tokens = generates.encode(known)
        uniforms, _ = self.scheduler.draw(
            (batch_size, 1, *tokens.shape[1:]), generator, self._execution_device
        )
        told = {
            "generator": generator,
            "num_inference_steps": steps,
            "callback_on_step_end_tensor_inputs": callback_on_step_end_tensor_inputs,
            **call,
        }
        hidden = uniforms < strength
        tokens = _drawn(self, generates, tokens, hidden, callback_on_step_end, told)
        images = OUTPUT_TYPES[output_type](generates.decode(tokens))
        return ImagePipelineOutput(images=images) if return_dict else (images,)


def _generator_of(pipe: Any) -> VQSpikingDiffusionPipeline:
    """Return the pipeline that draws tokens, of the same parts and with the same progress bar."""
    generates = VQSpikingDiffusionPipeline(**pipe.components)
    generates.set_progress_bar_config(**getattr(pipe, "_progress_bar_config", {}))
    begin(pipe, None)
    return generates


def _drawn(
    pipe: Any,
    generates: VQSpikingDiffusionPipeline,
    tokens: Tensor,
    mask: Tensor,
    callback: StepCallback | None,
    call: dict[str, Any],
) -> Tensor:
    """Return tokens [B, h, w], those behind the mask drawn anew; a callback is told of `pipe`."""

    def tell(_: Any, i: int, timestep: Any, seen: dict[str, Tensor]) -> dict[str, Tensor]:
        if callback is None:
            return {}
        returned = dict(callback(pipe, i, timestep, seen) or {})
        generates._interrupt = pipe._interrupt
        return returned

    (drawn,) = generates(
        tokens=tokens,
        mask=mask,
        batch_size=len(tokens),
        output_type="tokens",
        return_dict=False,
        callback_on_step_end=tell,
        **call,
    )
    result: Tensor = drawn
    return result

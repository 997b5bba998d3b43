r"""Inpainting: generate the masked part of an image and keep the rest bit for bit."""

from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from typing import Any

from diffusers.pipelines.pipeline_utils import ImagePipelineOutput
from diffusers.utils.torch_utils import randn_tensor
from torch import Tensor
from torch.nn.functional import adaptive_max_pool2d, max_pool2d

from spikediff.data import from_unit_range
from spikediff.diffusion.classes import ClassLabels
from spikediff.diffusion.loop import (
    Space,
    StepCallback,
    first_noise,
    image_shape,
    inference,
    space_of,
    step_options,
)
from spikediff.diffusion.outputs import check_output_type
from spikediff.diffusion.schedules import CLEAN, noise_levels, renoise
from spikediff.diffusion.seeds import Generators
from spikediff.editing.images import Picture, composite, one_per_seed, read_images, read_mask
from spikediff.editing.loop import Asked, Denoising, edits_tokens, refuse_options
from spikediff.editing.vary import timesteps_of_strength
from spikediff.errors import UserError, check_number

BLACK = -1.0  # what the encoder of tokens sees behind a mask
MOST_RESAMPLES = 1_000


@inference
def inpaint(
    pipe: Any,
    image: Picture | Sequence[Picture],
    mask_image: Picture | Sequence[Picture],
    num_inference_steps: int | None = None,
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
    token_margin: int = 0,
    **draw: Any,
) -> ImagePipelineOutput | tuple[Any]:
    r"""Generate the masked part of an image; the other pixels stay bit for bit.

    A denoiser of images or currents needs no further training. After every step the known pixels,
    noised by the forward process as $a_s x_0 + \sigma_s \epsilon$, replace those of $x_s$, and the
    network completes the rest. In currents they enter as equal currents.

    A token is drawn if any of its pixels is masked; the known pixels are restored afterwards. The
    encoder sees black under the mask, which may affect known tokens beside it:
    `token_margin` draws such tokens too.

    At strength 1, pixels under the mask have no influence. A white mask gives the image that the
    seed gives without a mask. A black mask returns the input without calling the network.

    Args:
        pipe: A pipeline of a denoiser or of tokens.
        image: One image for all, or one per seed; see `read_images`.
        mask_image: White where pixels are generated; one for all or per seed; see `read_mask`.
        num_inference_steps: Steps from noise to image; by default 50, for tokens all training
            timesteps.
        strength: Share of the steps to make; below 1 they start from the image. Only for
            denoisers, like `num_resamples`, `jump_length` and `eta`.
        batch_size: The number of images; by default that of the seeds or inputs.
        seeds: One seed per image: image k depends on `seeds[k]` and on its input alone.
        generator: The source of noise instead of seeds, as in diffusers.
        num_resamples: How often a step is made (RePaint); the first `jump_length` steps, or fewer,
            are made once. It multiplies the network calls.
        jump_length: The number of steps after which the sampler goes back as many.
        eta: Share of fresh noise in DDIM's steps; other schedulers refuse it.
        output_type: "pil"; "np" for [B, H, W, C] or "pt" for [B, C, H, W], both in [0, 1].
        return_dict: False returns a tuple.
        callback_on_step_end: As for the generating pipeline; samples include the known pixels.
        class_labels: The class of all images, or one per image; None for no class.
        guidance_scale: Scale of classifier-free guidance; see `conditioned`.
        callback_on_step_end_tensor_inputs: Names of the tensors passed to the callback:
            "latents", "sample", "currents"; all by default.
        token_margin: Width of the border of tokens around the mask to draw as well; only for
            tokens, like `draw`.
        draw: `temperature`, `top_p` and `unmasking` of `VQSpikingDiffusionPipeline`.

    Returns:
        An output whose `.images` are the images.

    Raises:
        UserError: Inputs do not fit, a setting is out of range or belongs to the other kind of
            pipeline, or the scheduler cannot go back.

    Reference: Lugmayr et al., "RePaint: inpainting using denoising diffusion probabilistic models",
    CVPR 2022; without resampling: Song et al., "Score-based generative modeling through stochastic
    differential equations", ICLR 2021, appendix I.2.
    """
    check_output_type(output_type)
    tokens = edits_tokens(pipe)
    network = pipe.vqvae if tokens else pipe.unet
    shape = image_shape(network)
    inputs = {"image": read_images(image, shape), "mask": read_mask(mask_image, shape)}
    (given, mask), generator = one_per_seed(inputs, batch_size, seeds, generator)
    known = from_unit_range(given.to(pipe._execution_device, network.dtype))
    mask = mask.to(known.device)
    asked = Asked(
        class_labels, guidance_scale, callback_on_step_end, callback_on_step_end_tensor_inputs
    )
    if tokens:
        refuse_options(
            pipe,
            strength=strength != 1.0,
            num_resamples=num_resamples != 1,
            jump_length=jump_length != 1,
            eta=eta != 0.0,
        )
        call = {"num_inference_steps": num_inference_steps, "generator": generator, **draw}
        generated = _redraw(pipe, known, mask, token_margin, asked, call)
    else:
        refuse_options(pipe, token_margin=token_margin != 0, **dict.fromkeys(draw, True))
        steps = 50 if num_inference_steps is None else num_inference_steps
        resampling = (num_resamples, jump_length)
        generated = _repaint(pipe, known, mask, steps, strength, resampling, eta, generator, asked)
    images = composite(output_type, generated, given, mask)
    return ImagePipelineOutput(images=images) if return_dict else (images,)


def token_mask(mask: Tensor, latent_size: tuple[int, int], margin: int = 0) -> Tensor:
    """Return the tokens [B, h, w] that a boolean mask of pixels [B, 1, H, W] touches.

    `margin` also masks a border of this many tokens around them.

    Example:
        >>> import torch
        >>> pixels = torch.zeros(1, 1, 8, 8, dtype=torch.bool)
        >>> pixels[..., 3, 3] = True
        >>> token_mask(pixels, (2, 2)).flatten().tolist()
        [True, False, False, False]
    """
    check_number("token_margin", margin, 0, whole=True)
    touched = adaptive_max_pool2d(mask.float(), latent_size)
    if margin := min(margin, max(latent_size)):
        touched = max_pool2d(touched, 2 * margin + 1, 1, margin)
    return touched[:, 0] > 0


def _redraw(
    pipe: Any, known: Tensor, mask: Tensor, token_margin: int, asked: Asked, call: dict[str, Any]
) -> Tensor:
    if not bool(mask.any()):
        return known
    tokens = pipe.encode(known.masked_fill(mask, BLACK))
    hidden = token_mask(mask, pipe.vqvae.latent_size, token_margin)
    images: Tensor = pipe.redraw(tokens, hidden, **asked._asdict(), **call)
    return images


def _repaint(
    pipe: Any,
    known: Tensor,
    mask: Tensor,
    num_inference_steps: int,
    strength: float,
    resampling: tuple[int, int],
    eta: float,
    generator: Generators,
    asked: Asked,
) -> Tensor:
    space_of(pipe.unet).check_scheduler(pipe.scheduler, eta)
    if not bool(mask.any()):
        return known
    scheduler, timesteps = timesteps_of_strength(
        pipe.scheduler, num_inference_steps, strength, known.device
    )
    walk = resampling_walk(len(timesteps), *resampling)
    check_walk(scheduler, walk)
    noise = first_noise(pipe.unet, len(known), generator, known.device)
    denoising = Denoising(pipe, len(known), asked)
    pixels = _KnownPixels(
        scheduler, denoising.space, known, mask, noise, timesteps, walk, generator
    )

    def after_step(i: int, timestep: Any, sample: Tensor) -> Tensor:
        return pixels.jump(i, denoising.tell(i, timestep, pixels.put(sample, walk[i] + 1)))

    return denoising.run(
        scheduler,
        pixels.put(pixels.start(strength), 0),
        timesteps[walk],
        step_options(scheduler, generator, eta),
        after_step,
    )


def resampling_walk(num_steps: int, num_resamples: int, jump_length: int) -> list[int]:
    """Return the steps in the order in which RePaint makes them; step 0 leaves the noise.

    After every `jump_length` steps the forward process goes as many steps back, and they are made
    again, `num_resamples` times in all, so that new and known pixels become consistent.

    Example:
        >>> resampling_walk(4, 1, 1), resampling_walk(4, 2, 2)
        ([0, 1, 2, 3], [0, 1, 2, 3, 2, 3])

    Reference: Lugmayr et al., 2022, algorithm 1 and appendix.
    """
    check_number("num_resamples", num_resamples, 1, MOST_RESAMPLES, whole=True)
    check_number("jump_length", jump_length, 1, whole=True)
    if num_resamples > 1 and jump_length >= num_steps:
        raise UserError(
            f"num_resamples = {num_resamples} has no effect: jump_length = {jump_length} must be "
            f"less than the {num_steps} steps made"
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
    """Refuse to go back with a scheduler that uses its previous steps."""
    goes_back = any(later <= earlier for earlier, later in pairwise(walk))
    if goes_back and hasattr(scheduler, "step_index"):
        raise UserError(
            f"num_resamples: {type(scheduler).__name__} remembers its steps and cannot go back; "
            f"take ddim, ddpm, analytic-dpm or synaptic-ddim, or num_resamples=1"
        )


@dataclass
class _KnownPixels:
    """Inserts the known pixels into every sample, at the sample's noise level."""

    scheduler: Any
    space: Space
    known: Tensor  # x_0 [B, C, H, W] in [-1, 1]
    mask: Tensor  # true where pixels are generated [B, 1, H, W]
    noise: Tensor  # of the known pixels [B, C, H, W]
    timesteps: Tensor
    walk: list[int]
    generator: Generators

    def start(self, strength: float) -> Tensor:
        """Return the first sample: noise, or below strength 1 the noised image."""
        if strength == 1.0:
            return self.space.encode(self.noise * self.scheduler.init_noise_sigma)
        return self.space.encode(self._noised(0))

    def put(self, sample: Tensor, step: int) -> Tensor:
        """Return the sample before a step, with the known pixels."""
        x_t = self.known if step == len(self.timesteps) else self._noised(step)
        return self.space.keep(sample, x_t, self.mask)

    def jump(self, i: int, sample: Tensor) -> Tensor:
        """Return the starting point of the walk's next step: the sample, or a noisier one."""
        reached = self.walk[i] + 1
        if i + 1 == len(self.walk) or self.walk[i + 1] == reached:
            return sample
        there, known = self.walk[i + 1], self.known
        self.noise = randn_tensor(known.shape, self.generator, known.device, known.dtype)
        noise = self.space.encode(self.noise)  # equal currents: decoded, the same noise
        noisier = renoise(sample, noise, self._levels(reached), self._levels(there))
        return self.put(noisier, there)

    def _noised(self, step: int) -> Tensor:
        timestep = self.timesteps[step].expand(len(self.known))
        x_t: Tensor = self.scheduler.add_noise(self.known, self.noise, timestep)
        return x_t

    def _levels(self, step: int) -> tuple[float, float]:
        if step == len(self.timesteps):
            return CLEAN
        return noise_levels(self.scheduler, self.timesteps[step])

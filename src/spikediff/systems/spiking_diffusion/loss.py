"""The losses of Spiking-Diffusion: of its autoencoder, and of masked tokens."""

from typing import Literal

import torch
from torch import Tensor, nn

from spikediff.data import change_range, to_model_range
from spikediff.diffusion.objective import Losses, RunParts, check_not_negative
from spikediff.errors import UserError
from spikediff.systems.spiking_diffusion.absorbing import AbsorbingStateScheduler, absorbing_loss
from spikediff.systems.spiking_diffusion.vq_svae import VQSVAEOutput, vq_svae_terms

_VARIANCE_IMAGES = 10_000  # enough to know the variance of the pixels to a percent


class VQObjective:
    """Reconstruct an image from its tokens; see `vq_svae_terms`.

    Args:
        run: The run.
        commitment: Beta, the weight of the terms that keep the encoder close to its codes.

    Raises:
        UserError: The weight is negative, or all images are of one grey.
    """

    def __init__(self, run: RunParts, *, commitment: float = 0.25) -> None:
        check_not_negative(commitment=commitment)
        images = run.dataset
        count = min(len(images), _VARIANCE_IMAGES)
        pixels = torch.stack([images[i][0] for i in range(count)])
        if pixels.min() == pixels.max():
            raise UserError(f"data set {images.name}: all images are of one grey")
        self.input_range = run.recipe.model.input_range
        self.data_variance = float(self.prepare(pixels).var())
        self.commitment = commitment

    def prepare(self, items: Tensor) -> Tensor:
        """Return images in the model's range."""
        return change_range(to_model_range(items), new=self.input_range)

    def draw(
        self, shape: tuple[int, ...], progress: float, generator: torch.Generator
    ) -> tuple[Tensor, ...]:
        """Draw a seed for every image [B]; the first of a part seeds what it restarts."""
        return (torch.randint(2**31, shape[:1], generator=generator),)

    def __call__(self, model: nn.Module, x_0: Tensor, *drawn: Tensor) -> Losses:
        """Return the terms, and as watched the squared error and the perplexity."""
        generator = torch.Generator(x_0.device).manual_seed(int(drawn[0][0]))
        output = VQSVAEOutput(*model(x_0, generator, return_dict=False))
        terms = vq_svae_terms(output, self.data_variance, self.commitment)
        watched = {"mse": output.reconstruction_loss, "perplexity": output.perplexity}
        return Losses(terms, watched)


class TokenObjective:
    """Mask tokens, and predict them with the network.

    Args:
        run: The run; its items are tokens.
        weighting: The weight of the time in the loss, a key of `absorbing.LOSS_WEIGHTS`.
    """

    def __init__(
        self, run: RunParts, *, weighting: Literal["reweighted", "elbo", "released"] = "reweighted"
    ) -> None:
        height, width = run.dataset.tokens.shape[-2:]
        self.scheduler = AbsorbingStateScheduler(height * width, run.dataset.mask_token)
        self.weighting = weighting

    def prepare(self, items: Tensor) -> Tensor:
        """Return tokens [B, h, w]."""
        return items[:, 0].long()

    def draw(
        self, shape: tuple[int, ...], progress: float, generator: torch.Generator
    ) -> tuple[Tensor, ...]:
        """Draw a timestep of every grid [B], from 1 to T_d, and uniforms [B, h, w]."""
        longest = self.scheduler.config.num_train_timesteps
        timestep = torch.randint(1, longest + 1, shape[:1], generator=generator)
        return timestep, torch.rand((shape[0], *shape[2:]), generator=generator)

    def __call__(self, model: nn.Module, x_0: Tensor, *drawn: Tensor) -> Losses:
        """Return the weighted cross entropy of the masked tokens, and the accuracy."""
        timestep, uniforms = drawn
        noised = self.scheduler.add_noise(x_0, uniforms, timestep)
        masked = noised == self.scheduler.config.mask_token
        logits = model(noised, timestep).sample.float()
        steps = self.scheduler.config.num_train_timesteps
        loss = absorbing_loss(logits, x_0, masked, timestep, steps, self.weighting)
        right = ((logits.argmax(1) == x_0) & masked).sum() / masked.sum().clamp(min=1)
        return Losses({"absorbing": loss}, {"right": right})

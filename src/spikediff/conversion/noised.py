"""The inputs that a denoiser sees: noised images at timesteps of the whole clock."""

import torch
from torch import Tensor

from spikediff.errors import UserError


class NoisedImages:
    r"""Draws x_t and t: images with replacement, t uniform over every training timestep.

    The authors' fine-tuning drew t from {0, ..., 2^b - 2} and left the images clean.

    Args:
        images: In the model's range [N, C, H, W].
        alphas_cumprod: $\bar\alpha$ of every training timestep, as a scheduler has them.
        seed: What the draws depend on.

    Raises:
        UserError: There are no images.

    Example:
        >>> from spikediff.schedulers import make_scheduler
        >>> noised = NoisedImages(torch.zeros(5, 1, 2, 2), make_scheduler("ddpm").alphas_cumprod)
        >>> x_t, t = noised.draw(64)
        >>> x_t.shape, bool(t.max() > 900)
        (torch.Size([64, 1, 2, 2]), True)
    """

    def __init__(self, images: Tensor, alphas_cumprod: Tensor, seed: int = 0) -> None:
        if images.dim() != 4 or not len(images) or not images.is_floating_point():
            raise UserError(
                f"NoisedImages: needs floating-point images [N, C, H, W], at least one, got "
                f"{images.dtype} {tuple(images.shape)}"
            )
        self.images, self.alphas_cumprod = images, alphas_cumprod.to(images)
        self.generator = torch.Generator().manual_seed(seed)

    def draw(self, count: int) -> tuple[Tensor, Tensor]:
        """Return x_t [count, C, H, W] and t [count]; each call draws anew."""
        x_0 = self.images[torch.randint(len(self.images), (count,), generator=self.generator)]
        timestep = torch.randint(len(self.alphas_cumprod), (count,), generator=self.generator)
        eps = torch.randn(x_0.shape, generator=self.generator).to(x_0)
        alpha_bar = self.alphas_cumprod[timestep][:, None, None, None]  # [count, 1, 1, 1]
        x_t = alpha_bar.sqrt() * x_0 + (1.0 - alpha_bar).sqrt() * eps
        return x_t, timestep.to(x_0.device)

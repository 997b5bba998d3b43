"""The losses of the variational autoencoders: divergences of posterior and prior."""

from collections.abc import Callable

import torch
from torch import Tensor, nn

from spikediff.diffusion.objective import Losses, RunParts
from spikediff.errors import check_number
from spikediff.layers.coding import psp_mmd

_SMOOTHING = 1e-2


def bernoulli_kl(q: Tensor, p: Tensor) -> Tensor:
    r"""Return the smoothed Kullback-Leibler divergence of Bernoulli latents in nats, 0-dim.

    $\sum q\,\ln\frac{q + s}{p + s} + (1 - q)\,\ln\frac{1 - q + s}{1 - p + s}$, s = 0.01, over
    steps and units, then the mean over images; q and p [T, B, C] are the probabilities of a 1 under
    posterior and prior. The smoothing keeps it finite if all candidates of a unit agree, and may
    make it slightly negative.

    Reference: the alternative loss in the released code of Kamata et al., AAAI 2022.
    """
    ones = q * torch.log((q + _SMOOTHING) / (p + _SMOOTHING))
    zeros = (1 - q) * torch.log((1 - q + _SMOOTHING) / (1 - p + _SMOOTHING))
    return (ones + zeros).sum((0, 2)).mean()  # [T, B, C] -> [B] -> []


def gaussian_kl(mean: Tensor, log_variance: Tensor) -> Tensor:
    r"""Return $KL(N(\mu, \sigma^2) \| N(0, 1))$, summed over units, then the mean over images.

    $\frac{1}{2} \sum \mu^2 + \sigma^2 - 1 - \ln \sigma^2$.

    Reference: Kingma and Welling, "Auto-encoding variational Bayes", ICLR 2014, appendix B.
    """
    return 0.5 * (mean.square() + log_variance.exp() - 1 - log_variance).sum(1).mean()


# For spike trains: the distance, and its published weight relative to the squared error.
SPIKE_DIVERGENCES: dict[str, tuple[Callable[[Tensor, Tensor], Tensor], float]] = {
    "mmd": (psp_mmd, 1.0),
    "kl": (bernoulli_kl, 1e-4),
}


class AutoencoderObjective:
    """The ordinary autoencoder's loss: reconstruct, and keep the posterior near the prior."""

    def __init__(self, run: RunParts) -> None:
        self.prepare = run.to_model_range

    def draw(
        self, shape: tuple[int, ...], progress: float, generator: torch.Generator
    ) -> tuple[Tensor, ...]:
        """Draw a seed for every image [B]."""
        return (torch.randint(2**62, shape[:1], generator=generator),)

    def __call__(self, model: nn.Module, x_0: Tensor, *drawn: Tensor) -> Losses:
        """Return the squared error and the weighted divergence."""
        seeds, *probability = drawn
        generators = [torch.Generator().manual_seed(seed) for seed in seeds.tolist()]
        guess = {"scheduled_sampling": float(probability[0][0])} if probability else {}
        _, loss, reconstruction, divergence, *_ = model(x_0, generators, return_dict=False, **guess)
        terms = {"reconstruction": reconstruction, "divergence": loss - reconstruction}
        return Losses(terms, {"unweighted_divergence": divergence})


class FSVAEObjective(AutoencoderObjective):
    """FSVAE's loss, with scheduled sampling.

    Args:
        run: The run.
        scheduled_sampling: Probability that the prior continues from its own guess, at the first
            and at the last training step; linear between them. In the authors' code, epoch e of E
            has the share e / E of the way, from 0, so the last value is never reached.
    """

    def __init__(
        self, run: RunParts, *, scheduled_sampling: tuple[float, float] = (0.1, 0.3)
    ) -> None:
        for probability in scheduled_sampling:
            check_number("loss.scheduled_sampling", probability, 0, 1)
        super().__init__(run)
        self.scheduled_sampling = scheduled_sampling

    def draw(
        self, shape: tuple[int, ...], progress: float, generator: torch.Generator
    ) -> tuple[Tensor, ...]:
        """Draw a seed for every image [B], and repeat the probability of a guess [B]."""
        first, last = self.scheduled_sampling
        probability = torch.full(shape[:1], first + (last - first) * progress)
        return *super().draw(shape, progress, generator), probability

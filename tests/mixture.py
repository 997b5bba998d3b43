"""Data whose diffusion is known exactly: a one-dimensional mixture of Gaussians, in float64."""

from dataclasses import dataclass

import torch


@dataclass(frozen=True)
class Mixture:
    """x_0 ~ sum_k weights[k] N(means[k], stds[k]^2); x_t = sqrt(abar) x_0 + sqrt(1 - abar) eps."""

    weights: torch.Tensor
    means: torch.Tensor
    stds: torch.Tensor

    def _normals(self, abar):
        """The components of x_t."""
        return torch.distributions.Normal(
            self.means * abar**0.5, (self.stds**2 * abar + 1 - abar).sqrt()
        )

    def density(self, x, abar):
        return (self.weights * self._normals(abar).log_prob(x[..., None]).exp()).sum(-1)

    def cdf(self, x, abar):
        return (self.weights * self._normals(abar).cdf(x[..., None])).sum(-1)

    def variance(self, abar):
        normals = self._normals(abar)
        mean = (self.weights * normals.mean).sum()
        return (self.weights * (normals.variance + normals.mean**2)).sum() - mean**2

    def noise_estimate(self, x, abar):
        """What a perfect network answers: E[eps | x_t]."""
        normals = self._normals(abar)
        share = (self.weights.log() + normals.log_prob(x[..., None])).softmax(-1)
        return (share * (x[..., None] - normals.mean) / normals.variance).sum(-1) * (
            1 - abar
        ) ** 0.5

    def nodes(self, abar):
        """Points and weights that integrate a smooth function of x_t to about 12 digits."""
        x = torch.linspace(-12, 12, 2401, dtype=torch.float64)
        return x, self.density(x, abar) * (x[1] - x[0])

    def second_moment(self, abar):
        """h = E[eps_hat^2], by quadrature."""
        x, weights = self.nodes(abar)
        return float((weights * self.noise_estimate(x, abar) ** 2).sum())

    def flow(self, x, abar_t, abar_s):
        """Where the probability-flow ODE takes x_t: in one dimension, to the same quantile."""
        level = self.cdf(x, abar_t)
        low, high = torch.full_like(x, -10.0), torch.full_like(x, 10.0)
        for _ in range(60):  # bisection: 20 / 2^60 is below float64's rounding
            middle = (low + high) / 2
            below = self.cdf(middle, abar_s) < level
            low, high = torch.where(below, middle, low), torch.where(below, high, middle)
        return (low + high) / 2


def _mixture(weights, means, stds):
    return Mixture(*(torch.tensor(v, dtype=torch.float64) for v in (weights, means, stds)))


# Two lumps of unlike weight and width inside [-1, 1].
MIXTURE = _mixture([0.3, 0.7], [-0.6, 0.5], [0.15, 0.2])
GAUSSIAN = _mixture([1.0], [0.0], [0.25])

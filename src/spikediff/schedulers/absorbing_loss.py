r"""The loss of an absorbing-state diffusion: cross entropy behind the masks, weighted by time.

With $CE = -\sum_{masked} \log p_\theta(h_0 | h_t)$ of a grid, T_d timesteps and a weight w(t) the
loss is $mean_b\; w(t_b)\,CE_b / (T_d \ln 2)$, in bits per token where there are T_d tokens.
"""

import math
from collections.abc import Callable

from torch import Tensor
from torch.nn.functional import cross_entropy

from spikediff.errors import UserError, suggestion

# w(t, T_d). The bound (paper's equation 14) makes the loss of a nearly clean grid loud; Bond-Taylor
# et al. reweight by how much is masked. As released, that weight is 0 at t = T_d: the grid of
# nothing but masks, where every sample starts, is never trained. "reweighted" moves it by a step.
LOSS_WEIGHTS: dict[str, Callable[[Tensor, int], Tensor]] = {
    "elbo": lambda t, t_d: t_d / t,
    "reweighted": lambda t, t_d: 1.0 - (t - 1.0) / t_d,
    "released": lambda t, t_d: 1.0 - t / t_d,
}


def absorbing_loss(
    logits: Tensor,
    tokens: Tensor,
    masked: Tensor,
    timesteps: Tensor,
    num_train_timesteps: int,
    weighting: str = "reweighted",
) -> Tensor:
    r"""Return the loss of estimating masked tokens.

    Args:
        logits: Of every code at every position [B, K, h, w].
        tokens: The grid without masks, $h_0$ [B, h, w].
        masked: Which positions were masked [B, h, w], boolean; only they count.
        timesteps: t of every grid, from 1 to T_d [B].
        num_train_timesteps: T_d.
        weighting: Key of `LOSS_WEIGHTS`: "reweighted", "elbo" or "released".

    Returns:
        The loss, a scalar.

    Raises:
        UserError: The weighting is unknown, or the grids do not fit together.

    Example:
        >>> import torch
        >>> logits, tokens = torch.zeros(1, 2, 1, 4), torch.zeros(1, 1, 4, dtype=torch.long)
        >>> masked, t = torch.ones(1, 1, 4, dtype=torch.bool), torch.tensor([4])
        >>> absorbing_loss(logits, tokens, masked, t, 4, "elbo").item()  # one bit a token
        1.0

    Reference: Austin et al., "Structured denoising diffusion models in discrete state-spaces",
    NeurIPS 2021; Bond-Taylor et al., "Unleashing transformers", ECCV 2022 (the reweighted bound);
    Liu et al., "Spiking-Diffusion", arXiv 2308.10187, equation 14.
    """
    if weighting not in LOSS_WEIGHTS:
        raise UserError(f"unknown weighting {weighting!r}; {suggestion(weighting, LOSS_WEIGHTS)}")
    if tokens.shape != masked.shape or logits.shape[:1] + logits.shape[2:] != tokens.shape:
        raise UserError(
            f"absorbing loss: logits {tuple(logits.shape)}, tokens {tuple(tokens.shape)} and masks "
            f"{tuple(masked.shape)} do not fit; give [B, K, h, w], [B, h, w] and [B, h, w]"
        )
    per_token = cross_entropy(logits, tokens, reduction="none")  # [B, h, w]
    per_grid = (per_token * masked).sum((1, 2))  # [B]
    weight = LOSS_WEIGHTS[weighting](timesteps.to(per_grid.dtype), num_train_timesteps)
    return (weight * per_grid).mean() / (num_train_timesteps * math.log(2.0))

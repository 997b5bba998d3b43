r"""What a denoiser's output says: the image and the noise in $x_t$.

With $x_t = \sqrt{\bar\alpha_t}\,x_0 + \sqrt{1 - \bar\alpha_t}\,\epsilon$, either of the two gives
the other, and $v = \sqrt{\bar\alpha_t}\,\epsilon - \sqrt{1 - \bar\alpha_t}\,x_0$ gives both.
"""

from math import sqrt

from torch import Tensor

from spikediff.errors import UserError, suggestion

PREDICTION_TYPES = ("epsilon", "sample", "v_prediction")


def image_and_noise(
    output: Tensor, x_t: Tensor, alpha_bar: float, prediction_type: str
) -> tuple[Tensor, Tensor]:
    r"""Return the estimates of $x_0$ and $\epsilon$ that a denoiser's output stands for.

    Args:
        output: What the denoiser answered [...].
        x_t: What it was shown [...].
        alpha_bar: $\bar\alpha_t$ of the timestep, in (0, 1).
        prediction_type: "epsilon", "sample" ($x_0$) or "v_prediction".

    Returns:
        $\hat x_0$ [...] and $\hat\epsilon$ [...].

    Raises:
        UserError: The prediction type is unknown.

    Example:
        >>> import torch
        >>> x_0, eps = torch.tensor(0.5), torch.tensor(-1.0)
        >>> x_t = 0.8 * x_0 + 0.6 * eps
        >>> image_and_noise(0.8 * eps - 0.6 * x_0, x_t, 0.64, "v_prediction")
        (tensor(0.5000), tensor(-1.0000))

    Reference: Salimans and Ho, "Progressive distillation for fast sampling of diffusion models",
    ICLR 2022, appendix D.
    """
    a, sigma = sqrt(alpha_bar), sqrt(1.0 - alpha_bar)
    if prediction_type == "epsilon":
        return (x_t - sigma * output) / a, output
    if prediction_type == "sample":
        return output, (x_t - a * output) / sigma
    if prediction_type == "v_prediction":
        return a * x_t - sigma * output, a * output + sigma * x_t
    raise UserError(
        f"unknown prediction_type {prediction_type!r}; "
        f"{suggestion(prediction_type, PREDICTION_TYPES)}"
    )

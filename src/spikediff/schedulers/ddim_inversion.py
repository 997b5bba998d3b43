r"""The step of deterministic DDIM the other way: from an image towards the noise it came from.

The step from t down to s is $x_s = a_s \hat x_0 + \sigma_s \hat\epsilon$, of the estimates that the
network makes of $x_t$, with $a = \sqrt{\bar\alpha}$ and $\sigma = \sqrt{1 - \bar\alpha}$. Solved
for $x_t$, which the estimate is made of too,

    x_t = a_t (x_s - sigma_s eps(x_t)) / a_s + sigma_t eps(x_t),

a fixed point. Started at $x_s$, one iteration is DDIM inversion; its error falls in proportion to
the length of the steps. More iterations come nearer to the exact inverse of the same steps.

Reference: Song et al., "Denoising diffusion implicit models", ICLR 2021, section 4.3; the fixed
point: Pan et al., "Effective real image editing with accelerated iterative diffusion inversion",
ICCV 2023.
"""

from math import sqrt

from torch import Tensor

from spikediff.schedulers.prediction import image_and_noise


def ddim_inversion_step(
    model_output: Tensor,
    guess: Tensor,
    sample: Tensor,
    alpha_bar_s: float,
    alpha_bar_t: float,
    prediction_type: str,
) -> Tensor:
    r"""Return one iteration of the fixed point: a better guess of $x_t$.

    Args:
        model_output: What the denoiser answered to `guess` at timestep t [...].
        guess: What is held for $x_t$ so far [...]; at first `sample`.
        sample: $x_s$ [...].
        alpha_bar_s: $\bar\alpha$ at the cleaner end; 1 stands for $x_0$ itself.
        alpha_bar_t: $\bar\alpha$ at the noisier end, in (0, 1).
        prediction_type: "epsilon", "sample" or "v_prediction".

    Returns:
        The next guess [...].

    Example:
        >>> import torch
        >>> x_0, eps = torch.tensor(0.5), torch.tensor(-1.0)  # a denoiser that knows the noise
        >>> ddim_inversion_step(eps, x_0, x_0, 1.0, 0.64, "epsilon")  # 0.8 x_0 + 0.6 eps
        tensor(-0.2000)
    """
    _, eps = image_and_noise(model_output, guess, alpha_bar_t, prediction_type)
    x_0 = (sample - sqrt(1.0 - alpha_bar_s) * eps) / sqrt(alpha_bar_s)
    return sqrt(alpha_bar_t) * x_0 + sqrt(1.0 - alpha_bar_t) * eps

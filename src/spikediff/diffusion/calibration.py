"""Measure the second moment of a denoiser's noise estimates, for Analytic-DPM.

Every model needs its own curve: a spiking network's estimates are weaker or noisier than those of
the ordinary network of the same shape. The calibration is saved beside the weights.
"""

import json
from collections.abc import Callable, Sequence
from math import sqrt
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from spikediff.diffusion.analytic_dpm import check_measured
from spikediff.diffusion.scheduler_config import image_and_noise
from spikediff.errors import UserError, check_number, cut
from spikediff.files.reading import file_sha256, read_json
from spikediff.files.writing import write_whole
from spikediff.pretrained import name_of


def calibration_timesteps(num_train_timesteps: int = 1000, count: int = 51) -> list[int]:
    r"""Return timesteps at which to measure the second moment, dense near x_0.

    $t_i = (i / (count - 1))^2 (num\_train\_timesteps - 1)$, rounded, without repetitions: the curve
    bends at the clean end.
    """
    if count < 2 or num_train_timesteps < 2:
        raise UserError(f"calibration: {count} of {num_train_timesteps} timesteps; take 2 or more")
    last = num_train_timesteps - 1
    return sorted({round((i / (count - 1)) ** 2 * last) for i in range(count)})


@torch.no_grad()
def estimate_second_moment(
    denoiser: Callable[[Tensor, Any], Any],
    images: Tensor,
    alphas_cumprod: Tensor,
    timesteps: Sequence[int],
    seed: int = 0,
    batch_size: int = 64,
    prediction_type: str = "epsilon",
    device: torch.device | str | None = None,
) -> Tensor:
    r"""Estimate $h(t) = E \|\epsilon_\theta(x_t, t)\|^2 / d$ over training images.

    The mean over images k of $(\|\hat\epsilon_k\|^2 - \|\epsilon_k\|^2) / d$, plus 1. The drawn
    noise is a control variate, because $E \|\epsilon\|^2 / d = 1$: near pure noise the variance
    depends on the small $1 - h$, which the plain mean would drown. An image gets the same noise at
    every timestep, so the curve is smooth and does not depend on `batch_size`.

    Args:
        denoiser: `denoiser(x_t, t).sample`, in evaluation mode.
        images: Training images in the model's range [N, C, H, W]; a few hundred are enough.
        alphas_cumprod: $\bar\alpha$ of every timestep [num_train_timesteps].
        timesteps: Where to measure; see `calibration_timesteps`.
        seed: The seed of the noise.
        batch_size: Images per batch.
        prediction_type: What the denoiser estimates: "epsilon", "sample" or "v_prediction".
        device: The denoiser's device; by default the images' device.

    Returns:
        h [len(timesteps)], float64 on the CPU; not below 0.

    Raises:
        UserError: There are no images, a timestep does not exist, the denoiser is in training
            mode, or its outputs are not finite.

    Example:
        >>> from types import SimpleNamespace
        >>> def half(x_t, t):  # a denoiser that takes half of what it sees for noise
        ...     return SimpleNamespace(sample=0.5 * x_t)
        >>> images, alphas_cumprod = torch.zeros(100, 1, 8, 8), torch.tensor([0.9, 0.5, 0.2])
        >>> h = estimate_second_moment(half, images, alphas_cumprod, [0, 2])
        >>> torch.allclose(h, torch.tensor([0.025, 0.2]).double(), atol=0.05)
        True

    Reference: Bao et al., "Analytic-DPM", ICLR 2022, the Monte Carlo estimate Gamma (there of the
    score, which is eps over the standard deviation of the noise).
    """
    if images.ndim < 2 or not len(images) or not images.is_floating_point():
        raise UserError("calibration: give floating-point images [N, C, H, W], at least one")
    check_number("calibration: batch_size", batch_size, 1, whole=True)
    for t in timesteps:
        if not 0 <= t < len(alphas_cumprod):
            raise UserError(f"calibration: timestep {t} is not in 0 to {len(alphas_cumprod) - 1}")
    if getattr(denoiser, "training", False):
        # Batch norm in training mode would answer by the batch, and learn from it.
        raise UserError("calibration: the denoiser is in training mode; call `.eval()` first")
    moments = []
    for t in map(int, timesteps):
        alpha_bar, excess = float(alphas_cumprod[t]), 0.0
        generator = torch.Generator().manual_seed(seed)
        for x_0 in torch.split(images, batch_size):
            # One draw per image, so that an image's noise does not depend on its batch.
            noise = torch.stack([torch.randn(x.shape, generator=generator) for x in x_0])
            eps = noise.to(device or images.device, images.dtype)
            x_t = sqrt(alpha_bar) * x_0.to(eps.device) + sqrt(1.0 - alpha_bar) * eps
            output = denoiser(x_t, t).sample
            _, estimate = image_and_noise(output, x_t, alpha_bar, prediction_type)
            excess += float((estimate.double().square() - eps.double().square()).sum())
        moments.append(1.0 + excess / images.numel())
    h = torch.tensor(moments, dtype=torch.float64)  # [len(timesteps)]
    if not h.isfinite().all():
        raise UserError("calibration: the denoiser's outputs are not finite; check the weights")
    return h.clamp(min=0.0)


_NAME = "calibration.json"
_WEIGHTS = Path("unet") / "diffusion_pytorch_model.safetensors"
_SETTINGS = ("second_moment", "second_moment_timesteps", "clip_last_noise")


def save_calibration(
    folder: Path, settings: dict[str, Any], facts: dict[str, Any], kept: Path | None = None
) -> Path:
    """Write the calibration of a pipeline's folder; return its path.

    `settings` are those of `AnalyticDPMScheduler`; `facts` describe the measurement. Folders of
    shipped models are never written to: the file then goes to `kept`, named by the weights'
    SHA-256.
    """
    content = {"weights_sha256": weights_digest(folder), "measured": facts, "settings": settings}
    path = _path(folder, kept)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_whole(path, json.dumps(content, indent=1) + "\n")
    return path


def _path(folder: Path, kept: Path | None) -> Path:
    return folder / _NAME if kept is None else kept / f"{weights_digest(folder)}.json"


def load_calibration(
    folder: Path, kept: Path | None = None, source: Path | None = None
) -> dict[str, Any]:
    """Return the settings of `AnalyticDPMScheduler` that were measured on a pipeline's weights.

    Refuses a calibration that is missing, damaged, or for other weights. Messages name the
    `source` that the pipeline belongs to, such as a run.
    """
    path, named = _path(folder, kept), name_of(source or folder)
    advice = f"run `spikediff calibrate {named}`"
    if not path.is_file():
        raise UserError(f"{named}: analytic-dpm needs a calibration; {advice}")
    try:
        content = read_json(path)
        settings = {key: content["settings"][key] for key in _SETTINGS}
        measured_on = content["weights_sha256"]
        check_measured(**settings, last_timestep=settings["second_moment_timesteps"][-1])
    except (ValueError, LookupError, TypeError) as error:
        raise UserError(f"{path}: is damaged ({cut(str(error))}); {advice}") from error
    if measured_on != weights_digest(folder):
        raise UserError(f"{path}: was measured on other weights; {advice}")
    return settings


def weights_digest(folder: Path) -> str:
    """Return the SHA-256 of a pipeline's weights, which a calibration belongs to."""
    weights = folder / _WEIGHTS
    if not weights.is_file():
        raise UserError(f"{folder}: has no pipeline to calibrate; give a finished run")
    return file_sha256(weights)

"""The inputs that a denoiser sees: noised images at timesteps of the whole clock.

From any activation to quantised ones: where the clips start, and learning to live with them.
"""

from collections.abc import Callable
from typing import Any

import torch
from diffusers.models.unets.unet_2d import UNet2DModel
from torch import Tensor, nn

from spikediff.errors import UserError
from spikediff.files.tensors import check_step
from spikediff.systems.converted.network import ConvertedUNet
from spikediff.systems.converted.quantised import (
    AUTHORS_CLIP,
    QuantisedUNet,
    activations,
    quantise_activation,
)
from spikediff.systems.converted.replace_modules import own_config


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
        >>> from spikediff import make_scheduler
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


_SAMPLES = 100_000  # activations of a layer that decide its clip
_CANDIDATES = 64  # clips that are tried


def quantise(
    unet: UNet2DModel,
    bits: int | None = 2,
    noised: NoisedImages | None = None,
    *,
    clip: float = AUTHORS_CLIP,
    calibration_images: int = 64,
    attention: str = "refuse",
) -> QuantisedUNet:
    """Replace every activation of a U-Net by a clipped ReLU of `2^bits - 1` steps.

    What comes out computes something else than what went in, all the more if its activation was
    no ReLU: it wants training (`distil`, or the ordinary loop).

    Args:
        unet: The network; it stays as it is.
        bits: 2 to 4, as a rule; None does not round.
        noised: Where given, every clip starts at the value that suits the layer's currents best.
        clip: Where every clip starts otherwise.
        calibration_images: How many x_t to look at.
        attention: "refuse", or "real" to keep attention blocks as they are.

    Returns:
        The quantised network, in evaluation mode.

    Raises:
        UserError: The network has a part that cannot be converted.
    """
    if not isinstance(unet, UNet2DModel):
        raise UserError(f"quantise: expects a diffusers UNet2DModel, got {type(unet).__name__}")
    quantised: QuantisedUNet = QuantisedUNet(
        own_config(unet),
        bits=bits,
        clip=clip,
        batch_norm=any(isinstance(module, nn.BatchNorm2d) for module in unet.modules()),
        attention=attention,
    )
    ours = quantised.state_dict()
    named = {_plain_name(key): key for key in ours if not key.endswith(".clip")}
    quantised.load_state_dict(
        {named[key]: tensor for key, tensor in unet.state_dict().items()}
        | {key: tensor for key, tensor in ours.items() if key.endswith(".clip")}
    )
    nn.Module.to(quantised.eval(), unet.device, unet.dtype)  # ModelMixin's own warns of any cast
    if noised is not None:
        _calibrate(quantised, *noised.draw(calibration_images))
    return quantised


def _plain_name(key: str) -> str:
    """Return the name that one of our weights has in the `UNet2DModel`.

    Example:
        >>> _plain_name("unet.mid_block.resnets.0.conv1.layer.weight")
        'mid_block.resnets.0.conv1.weight'
    """
    return key.removeprefix("unet.").replace(".layer.", ".").replace(".attention.", ".")


@torch.no_grad()
def _calibrate(quantised: QuantisedUNet, sample: Tensor, timestep: Tensor) -> None:
    """Set every clip by the currents that reach it, layer by layer in the order of running."""

    def set_clip(module: Any, inputs: tuple[Tensor, ...]) -> None:
        current = inputs[0].flatten()
        stride = -(-len(current) // _SAMPLES)
        module.clip.fill_(best_clip(current[::stride], module.levels))

    hooks = [m.register_forward_pre_hook(set_clip) for m in activations(quantised).values()]
    try:
        quantised(sample, timestep)
    finally:
        for hook in hooks:
            hook.remove()


def best_clip(current: Tensor, levels: int | None) -> float:
    """Return the clip whose quantised activation is nearest to the ReLU, in mean square.

    Args:
        current: What the activation sees, any shape.
        levels: Steps between 0 and the clip; None for the largest current.

    Example:
        >>> round(best_clip(torch.tensor([0.0, 1.0, 2.0, 3.0]), levels=3), 2)
        3.0
    """
    rectified = current.relu()
    largest = rectified.max().item()
    if largest == 0.0:
        return AUTHORS_CLIP  # a silent layer: nothing tells
    if levels is None:
        return largest
    clips = [largest * (i + 1) / _CANDIDATES for i in range(_CANDIDATES)]
    return min(clips, key=lambda s: _squared_error(rectified, s, levels))


def _squared_error(rectified: Tensor, clip: float, levels: int) -> float:
    return (quantise_activation(rectified, clip, levels) - rectified).square().mean().item()


def distil(
    student: QuantisedUNet | ConvertedUNet,
    teacher: Callable[[Tensor, Tensor], Any],
    noised: NoisedImages,
    steps: int,
    *,
    batch_size: int = 32,
    lr: float = 1e-3,
    on_step: Callable[[float], None] | None = None,
) -> list[float]:
    """Train a network, weights and clips, to answer as another network does.

    Adam with a cosine schedule, on x_t of every timestep; the student is changed in place. A
    converted network learns through the neurons' surrogate gradient, T times as slowly.

    Args:
        student: The network that learns.
        teacher: `teacher(x_t, t).sample`, in evaluation mode.
        noised: Where x_t and t come from.
        steps: Optimizer steps.
        batch_size: Images per step.
        lr: Highest learning rate.
        on_step: Called with the loss after every step.

    Returns:
        The loss of every step, mean squared difference of the answers.

    Raises:
        UserError: A loss or a gradient is not finite.
    """
    optimizer = torch.optim.Adam(student.parameters(), lr=lr)
    schedule = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, max(1, steps))
    losses: list[float] = []
    student.train()
    for _ in range(steps):
        x_t, timestep = noised.draw(batch_size)
        with torch.no_grad():
            target = teacher(x_t, timestep).sample
        loss = nn.functional.mse_loss(student(x_t, timestep).sample, target)
        optimizer.zero_grad()
        loss.backward()  # type: ignore[no-untyped-call]
        norm = nn.utils.clip_grad_norm_(student.parameters(), 1.0)
        losses.append(check_step(loss, norm, len(losses) + 1, lr))
        optimizer.step()
        schedule.step()
        if on_step is not None:
            on_step(losses[-1])
    student.eval()
    return losses

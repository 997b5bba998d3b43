"""Classes: labels, classifier-free guidance, classifier guidance. Each wraps a denoiser."""

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from diffusers.schedulers.scheduling_utils import SchedulerMixin
from torch import Tensor

from spikediff.diffusion.loop import Denoiser, networks_of
from spikediff.errors import UserError, check_number, shown, suggestion

Network = Callable[..., Tensor]
Classifier = Callable[[Tensor, Tensor], Tensor]
ClassLabels = int | str | Sequence[int | str] | Tensor | None
_NAMES = "_class_names"  # in a network's configuration: private, so that no constructor sees it


def number_of_classes(network: Any) -> int:
    """Return the number of classes of a network, ours or a `UNet2DModel`; 0 for none.

    The last of a `UNet2DModel`'s embeddings stands for no class.
    """
    config = network.config
    return int(config.get("num_classes") or (config.get("num_class_embeds") or 1) - 1)


def name_classes(network: Any, names: Sequence[str]) -> None:
    """Store the names of a network's classes in its configuration, ordered by number."""
    if names:
        network.register_to_config(**{_NAMES: list(names)})


def class_names(network: Any) -> tuple[str, ...]:
    """Return the names of a network's classes; empty if it has none."""
    names = network.config.get(_NAMES) or ()
    if not isinstance(names, list | tuple) or not all(isinstance(name, str) for name in names):
        raise UserError(f"{type(network).__name__}: class names = {shown(names)} are damaged")
    return tuple(names)


def class_numbers(network: Any, class_labels: ClassLabels) -> int | Sequence[int] | Tensor | None:
    """Return labels (numbers, names, or both) as numbers.

    Example:
        >>> from spikediff import SpikingUNet
        >>> unet = SpikingUNet(8, 1, base_channels=8, channel_mult=(1, 2), num_classes=2)
        >>> name_classes(unet, ["cat", "dog"])
        >>> class_numbers(unet, ["dog", "cat", 1])
        [1, 0, 1]
    """
    if isinstance(class_labels, str):
        return _number(network, class_labels)
    if class_labels is None or isinstance(class_labels, Tensor) or not np.ndim(class_labels):
        return class_labels  # type: ignore[return-value]
    return [
        _number(network, label) if isinstance(label, str) else label
        for label in class_labels  # type: ignore[union-attr]
    ]


def _number(network: Any, name: str) -> int:
    names = class_names(network)
    if not names:
        classes = number_of_classes(network)
        which = f"numbers, 0 to {classes - 1}" if classes else "numbers"
        raise UserError(f"class {name!r}: the model has no class names; give {which}")
    if name not in names:
        raise UserError(f"class {name!r}: the model has no such class; {suggestion(name, names)}")
    return names.index(name)


def class_network(pipe: Any) -> Any:
    """Return the network of a pipeline that has classes; None if there is none."""
    networks = networks_of(pipe).values()
    return next((network for network in networks if number_of_classes(network)), None)


def classes_in_turn(pipe: Any, seeds: Sequence[int]) -> dict[str, Any]:
    """Return the argument for image k of class `seeds[k]` modulo K; empty without classes."""
    network = class_network(pipe)
    classes = 0 if network is None else number_of_classes(network)
    return {"class_labels": [seed % classes for seed in seeds]} if classes else {}


def size_of_labels(class_labels: ClassLabels) -> int | None:
    """Return the number of labels, one per image; None for a single label, or no labels."""
    if class_labels is None or isinstance(class_labels, int | str):
        return None
    return None if not np.ndim(class_labels) else len(class_labels)


def conditioned(
    call: Network,
    network: Any,
    class_labels: ClassLabels,
    guidance_scale: float | None,
    batch_size: int,
    batch_axis: int = 0,
) -> Denoiser:
    r"""Return a network as a denoiser for given classes.

    With guidance $w$ the estimate is $e_\varnothing + w\,(e_c - e_\varnothing)$, from the network's
    outputs for the class and for no class, computed in one call with twice the batch. $w = 1$
    gives the plain output. The formula holds for noise, velocity, image, current and logits, which
    are all linear in the score.

    Args:
        call: `call(x_t, t)` or `call(x_t, t, class_labels=labels)` -> estimate.
        network: The network that `call` runs, whose configuration has its classes.
        class_labels: A class for all images, one per image, or None for no class; by number or
            name.
        guidance_scale: w; None for no guidance.
        batch_size: The number of images.
        batch_axis: The axis of x_t over images.

    Reference: Ho and Salimans, "Classifier-free diffusion guidance", 2022, equation 6, whose w is
    one less.
    """
    classes = number_of_classes(network)
    _check(type(network).__name__, classes, class_labels, guidance_scale)
    if not classes:
        return call
    class_labels = class_numbers(network, class_labels)
    nothing = torch.full((batch_size,), classes)
    labels = nothing
    if class_labels is not None:
        labels = _labels(class_labels, nothing)
        _check_range(labels, classes)
    if guidance_scale is None or guidance_scale == 1.0:
        return lambda sample, t: call(sample, t, class_labels=labels.to(sample.device))
    both = torch.cat([labels, nothing])

    def guided(sample: Tensor, timestep: Tensor) -> Tensor:
        twice = torch.cat([sample, sample], dim=batch_axis)
        of_class, of_all = call(twice, timestep, class_labels=both.to(sample.device)).chunk(
            2, dim=batch_axis
        )
        return of_all + guidance_scale * (of_class - of_all)

    return guided


def classifier_guided(
    denoiser: Denoiser,
    scheduler: SchedulerMixin,
    classifier: Classifier,
    class_labels: ClassLabels,
    scale: float,
    batch_size: int,
) -> Denoiser:
    r"""Return a denoiser guided towards classes by a classifier of noisy images.

    $\hat\epsilon = \epsilon - s\,\sigma_t \nabla_{x_t} \log p(c \mid x_t, t)$ with
    $\sigma_t = \sqrt{1 - \bar\alpha_t}$; velocity and image estimates move accordingly.
    `classifier(x_t, t)` returns logits [B, K].

    Reference: Cao et al., "Spiking denoising diffusion probabilistic models", WACV 2024,
    equation 8; Dhariwal and Nichol, "Diffusion models beat GANs", 2021, algorithm 2.
    """
    if class_labels is None:
        raise UserError("classifier: guidance needs class_labels")
    check_number("classifier_scale", scale)
    labels = _labels(class_labels, torch.zeros(batch_size))

    def guided(sample: Tensor, timestep: Tensor) -> Tensor:
        estimate = denoiser(sample, timestep)
        alpha_bar = scheduler.alphas_cumprod[int(timestep)].to(sample)
        alpha, sigma = alpha_bar.sqrt(), (1 - alpha_bar).sqrt()
        with torch.enable_grad():
            x = sample.detach().requires_grad_()
            log_p = classifier(x, timestep).log_softmax(-1)  # [B, K]
            _check_range(labels, log_p.shape[1])
            of_class = log_p[torch.arange(batch_size), labels.to(log_p.device)]
            gradient = torch.autograd.grad(of_class.sum(), x)[0]
        shift = -scale * sigma * gradient  # of epsilon
        moves = {"epsilon": shift, "v_prediction": shift / alpha, "sample": -sigma / alpha * shift}
        moved: Tensor = estimate + moves[scheduler.config.prediction_type]
        return moved

    return guided


def _check(name: str, classes: int, labels: ClassLabels, guidance_scale: float | None) -> None:
    if not classes and (labels is not None or guidance_scale is not None):
        given = "guidance_scale" if labels is None else "class_labels"
        raise UserError(
            f"{given}: the {name} was trained without classes; leave it out, or train with "
            f"model.num_classes"
        )
    if guidance_scale is None:
        return
    check_number("guidance_scale", guidance_scale, 0)
    if labels is None:
        raise UserError(f"guidance_scale = {guidance_scale}: guidance needs class_labels")


def _labels(class_labels: ClassLabels, like: Tensor) -> Tensor:
    """Return labels as int64 [B], with the length and device of another tensor."""
    try:
        labels = torch.as_tensor(class_labels, device=like.device)
    except (TypeError, ValueError, RuntimeError):
        raise UserError(f"class_labels = {shown(class_labels)} must be whole numbers") from None
    if labels.is_floating_point() or labels.dim() > 1 or labels.numel() not in (1, len(like)):
        raise UserError(
            f"class_labels of shape {tuple(labels.shape)} ({labels.dtype}) for {len(like)} images; "
            f"give one whole number for all, or one for each"
        )
    return labels.long().reshape(-1).expand(like.shape)


def _check_range(labels: Tensor, classes: int) -> None:
    if not 0 <= int(labels.min()) <= int(labels.max()) < classes:
        raise UserError(
            f"class_labels from {int(labels.min())} to {int(labels.max())}: the model knows 0 to "
            f"{classes - 1}"
        )

"""What a denoiser denoises: images, or FSDDIM's currents. Pipelines of editing work in both.

A network of currents says so by `first_currents`, which makes equal currents of an image, and
`image_currents`, of which the mean is the image. Both are linear, and so is a step of a scheduler;
hence decode(step(encode(x))) = step(x), and noise that is added to an image may be encoded and
added to its currents.
"""

import inspect
from collections.abc import Sequence
from typing import Any, Protocol

import torch
from diffusers.schedulers.scheduling_utils import SchedulerMixin
from torch import Tensor

from spikediff.diffusion.loop import AfterStep, StepCallback, begin, told
from spikediff.errors import UserError
from spikediff.layers.coding import mean


class Space(Protocol):
    """How images [B, C, H, W] become what a network denoises, and back.

    Attributes:
        batch_axis: The axis of a sample that counts images.
    """

    batch_axis: int

    def encode(self, images: Tensor) -> Tensor:
        """Return the samples of images, or of noise."""

    def decode(self, sample: Tensor) -> Tensor:
        """Return the images of samples."""

    def seen(self, sample: Tensor) -> dict[str, Tensor]:
        """Return what a callback is shown; the last of it is what it may replace."""

    def keep(self, sample: Tensor, known: Tensor, mask: Tensor) -> Tensor:
        """Return samples with images [B, C, H, W] where the mask [B, 1, H, W] is false."""


class ImageSpace:
    """The samples are the images."""

    batch_axis = 0

    def encode(self, images: Tensor) -> Tensor:
        """Return the images."""
        return images

    def decode(self, sample: Tensor) -> Tensor:
        """Return the images."""
        return sample

    def seen(self, sample: Tensor) -> dict[str, Tensor]:
        """Return what a callback is shown: "sample"."""
        return {"sample": sample}

    def keep(self, sample: Tensor, known: Tensor, mask: Tensor) -> Tensor:
        """Return images with the known ones where the mask is false."""
        return torch.where(mask, sample, known)


class CurrentSpace:
    """The samples are currents [T, B, C, H, W] of a network.

    Args:
        unet: A network with `first_currents` and `image_currents`.
    """

    batch_axis = 1

    def __init__(self, unet: Any) -> None:
        self._unet = unet

    def encode(self, images: Tensor) -> Tensor:
        """Return currents of images, equal at all spiking steps."""
        currents: Tensor = self._unet.first_currents(images)
        return currents

    def decode(self, sample: Tensor) -> Tensor:
        """Return the mean of the currents over the spiking steps."""
        return mean(self._unet.image_currents(sample))

    def seen(self, sample: Tensor) -> dict[str, Tensor]:
        """Return what a callback is shown: "sample", the decoded image, and "currents"."""
        return {"sample": self.decode(sample), "currents": sample}

    def keep(self, sample: Tensor, known: Tensor, mask: Tensor) -> Tensor:
        """Return currents with those of the known images, equal ones, where the mask is false.

        Raises:
            UserError: The currents hold more than the image's, which pixels do not tell apart.
        """
        currents = self.encode(known)
        if currents.shape[1:] != known.shape:
            raise UserError(
                f"{type(self._unet).__name__}: carries the stem's currents beside the image's, and "
                f"a mask tells pixels apart only; inpaint with the network that it was made of"
            )
        return torch.where(mask, sample, currents)


def space_of(unet: Any) -> Space:
    """Return the space in which a network denoises."""
    return CurrentSpace(unet) if hasattr(unet, "first_currents") else ImageSpace()


def check_linear(scheduler: SchedulerMixin) -> None:
    """Refuse a scheduler whose step is not linear in the currents.

    Raises:
        UserError: It clips its estimates or draws noise.
    """
    name = type(scheduler).__name__
    # A configuration also keeps settings that another scheduler had and this one does not know.
    known = inspect.signature(type(scheduler).__init__).parameters
    config = {key: value for key, value in scheduler.config.items() if key in known}
    if config.get("clip_sample") or config.get("thresholding"):
        raise UserError(
            f"{name}: clips its estimates of x_0, which synaptic currents cannot do; "
            f"take synaptic-ddim, or a solver with clip_sample=False"
        )
    if name == "DDPMScheduler" or str(config.get("algorithm_type", "")).startswith("sde"):
        raise UserError(f"{name}: draws fresh noise, which synaptic currents do not take")


def check_scheduler(unet: Any, scheduler: SchedulerMixin, eta: float = 0.0) -> None:
    """Refuse a scheduler that does not go with the space of a network.

    Raises:
        UserError: The network denoises currents, and the scheduler clips or draws noise.
    """
    if isinstance(space_of(unet), ImageSpace):
        return
    check_linear(scheduler)
    if eta != 0.0:
        raise UserError(f"eta = {eta}: synaptic currents take no fresh noise; leave it at 0")


def telling(
    pipe: Any,
    callback: StepCallback | None,
    space: Space,
    inputs: Sequence[str] | None = None,
    guidance_scale: float | None = None,
) -> AfterStep:
    """Return what tells a callback of every step, and goes on with what it puts in its place.

    Args:
        pipe: The pipeline that is called.
        callback: Whom to tell; None for nobody.
        space: What the sample is.
        inputs: Names of what the callback is shown; everything where it is not given.
        guidance_scale: Of the call.
    """
    begin(pipe, guidance_scale)

    def tell(i: int, timestep: Any, sample: Tensor) -> Tensor:
        if callback is None:
            return sample
        return told(pipe, callback, inputs, (i, timestep), space.seen(sample))

    return tell

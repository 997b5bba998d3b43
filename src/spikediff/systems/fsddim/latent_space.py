"""FSDDIM's latent space: the samples are synaptic currents whose mean is the image.

All maps are linear (see `scheduler`), so noise for an image can be encoded and added to its
currents.
"""

from typing import Any

import torch
from diffusers.configuration_utils import ConfigMixin
from diffusers.schedulers.scheduling_utils import SchedulerMixin
from torch import Tensor

from spikediff.diffusion.loop import Space
from spikediff.errors import UserError
from spikediff.layers.coding import mean

# Classes whose steps are linear, and draw no noise unless `algorithm_type` or `eta` says so.
LINEAR = (
    *("SynapticCurrentDDIMScheduler", "DDIMScheduler", "DDIMParallelScheduler", "PNDMScheduler"),
    *("DPMSolverMultistepScheduler", "DPMSolverSinglestepScheduler", "UniPCMultistepScheduler"),
    *("DEISMultistepScheduler", "EulerDiscreteScheduler", "HeunDiscreteScheduler"),
    *("KDPM2DiscreteScheduler", "LMSDiscreteScheduler"),
)


class CurrentSpace(Space):
    """The samples are currents [T, B, C, H, W], `first_currents` of a network."""

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
        """Return the tensors for a callback: "sample", the decoded image, and "currents"."""
        return {"sample": self.decode(sample), "currents": sample}

    def keep(self, sample: Tensor, known: Tensor, mask: Tensor) -> Tensor:
        """Return currents with those of the known images, equal ones, where the mask is false."""
        currents = self.encode(known)
        if currents.shape[1:] != known.shape:
            raise UserError(
                f"{type(self._unet).__name__}: carries the stem's currents beside the image's, and "
                f"a mask tells pixels apart only; inpaint with the network that it was made of"
            )
        return torch.where(mask, sample, currents)

    def check_scheduler(self, scheduler: SchedulerMixin, eta: float = 0.0) -> None:
        """Refuse a scheduler whose step is not linear: it clips its estimates or draws noise."""
        check_linear(scheduler)
        if eta != 0.0:
            raise UserError(f"eta = {eta}: synaptic currents allow no fresh noise; leave it at 0")


def check_linear(scheduler: SchedulerMixin) -> None:
    """Refuse a scheduler whose step is not linear; see `CurrentSpace.check_scheduler`."""
    name = type(scheduler).__name__
    # A configuration may also have settings of another scheduler that this one does not support.
    known = ConfigMixin._get_init_keys(type(scheduler))
    config = {key: value for key, value in scheduler.config.items() if key in known}
    if config.get("clip_sample") or config.get("thresholding"):
        raise UserError(
            f"{name}: clips its estimates of x_0, which synaptic currents cannot do; "
            f"take synaptic-ddim, or a solver with clip_sample=False"
        )
    sde = str(config.get("algorithm_type", "")).startswith("sde")
    if sde or not any(kind.__name__ in LINEAR for kind in type(scheduler).__mro__):
        raise UserError(
            f"{name}: is not known to be linear and to draw no fresh noise, as synaptic currents "
            f"need; take synaptic-ddim, dpmsolver++, unipc or deis"
        )

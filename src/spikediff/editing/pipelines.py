"""The editing functions as diffusers pipelines."""

from diffusers.schedulers.scheduling_utils import SchedulerMixin
from torch import nn

from spikediff.diffusion.loop import TellsOfSteps, space_of
from spikediff.diffusion.pipeline import OwnPipeline
from spikediff.editing.inpaint import inpaint
from spikediff.editing.invert import ddim_of, invert, regenerate
from spikediff.editing.vary import vary


class EditingPipeline(TellsOfSteps, OwnPipeline):
    """The parts of a pipeline that edits with a denoiser; `from_pipe` shares another's parts.

    Args:
        unet: A denoiser of images, spiking or not, or of currents.
        scheduler: A diffusers scheduler that fits the noise schedule of its training.

    Raises:
        UserError: The network denoises currents, and the scheduler clips or draws noise.
    """

    model_cpu_offload_seq = "unet"

    def __init__(self, unet: nn.Module, scheduler: SchedulerMixin) -> None:
        super().__init__()
        space_of(unet).check_scheduler(scheduler)
        self.register_modules(unet=unet, scheduler=scheduler)


class SpikingInpaintPipeline(EditingPipeline):
    """`inpaint` with a denoiser."""

    __call__ = inpaint


class SpikingImg2ImgPipeline(EditingPipeline):
    """`vary` with a denoiser."""

    __call__ = vary


class SpikingInversionPipeline(EditingPipeline):
    """`invert` as a method; calling the pipeline goes back, as `regenerate`.

    Args:
        unet: A denoiser of images, spiking or not, or of currents.
        scheduler: Any scheduler with a noise schedule that DDIM supports; DDIM replaces it.

    Raises:
        UserError: DDIM does not support the noise schedule, or it leaves no signal to invert.
    """

    invert = invert
    __call__ = regenerate

    def __init__(self, unet: nn.Module, scheduler: SchedulerMixin) -> None:
        super().__init__(unet, ddim_of(scheduler))

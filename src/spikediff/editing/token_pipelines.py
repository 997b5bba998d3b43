"""The editing functions as pipelines of Spiking-Diffusion's tokens."""

from spikediff.editing.inpaint import inpaint
from spikediff.editing.vary import vary
from spikediff.systems.spiking_diffusion.pipeline import VQSpikingDiffusionPipeline


class VQSpikingInpaintPipeline(VQSpikingDiffusionPipeline):
    """`inpaint` with tokens."""

    __call__ = inpaint  # type: ignore[assignment]


class VQSpikingImg2ImgPipeline(VQSpikingDiffusionPipeline):
    """`vary` with tokens."""

    __call__ = vary  # type: ignore[assignment]

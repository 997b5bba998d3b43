"""What every pipeline of this library is."""

from diffusers.pipelines.pipeline_utils import DiffusionPipeline

from spikediff.pipelines.compiled import CompiledInference
from spikediff.pipelines.portable import PortablePipeline
from spikediff.pipelines.takes_parts import TakesParts


class OwnPipeline(TakesParts, CompiledInference, PortablePipeline, DiffusionPipeline):
    """A diffusers pipeline, made of parts, portable, and event-driven where that is asked for."""

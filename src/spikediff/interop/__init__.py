"""Other formats: the authors' checkpoints as models and pipelines; NIR, ONNX and torch.export."""

from spikediff.interop.authors import SYSTEMS, load_authors_checkpoint
from spikediff.interop.pipelines import load_authors_pipeline
from spikediff.interop.recognition import likely_system

__all__ = ["SYSTEMS", "likely_system", "load_authors_checkpoint", "load_authors_pipeline"]

"""Other people's formats: the authors' checkpoints, NIR graphs, ONNX and torch.export."""

from spikediff.interop.authors import SYSTEMS, load_authors_checkpoint

__all__ = ["SYSTEMS", "load_authors_checkpoint"]

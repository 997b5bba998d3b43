"""Other people's formats: the authors' checkpoints, and (later) NIR and diffusers U-Nets."""

from spikediff.interop.authors import SYSTEMS, load_authors_checkpoint

__all__ = ["SYSTEMS", "load_authors_checkpoint"]

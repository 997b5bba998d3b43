"""Denoisers as graphs of the neuromorphic intermediate representation (NIR)."""

from spikediff.interop.nir_export.export import Exported, export_nir, to_nir
from spikediff.interop.nir_export.files import write_nir
from spikediff.interop.nir_export.offences import Offence, offences

__all__ = ["Exported", "Offence", "export_nir", "offences", "to_nir", "write_nir"]

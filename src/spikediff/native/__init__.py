"""The C kernels: sources, build, and the loader. What they compute is defined in plain torch."""

from spikediff.native.library import NeuronOptions, library_of, native, native_name, pointer

__all__ = ["NeuronOptions", "library_of", "native", "native_name", "pointer"]

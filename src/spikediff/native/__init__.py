"""The C kernels: sources, build, and the loader. What they compute is defined in plain torch."""

from spikediff.native.library import WORD as WORD
from spikediff.native.library import NeuronOptions as NeuronOptions
from spikediff.native.library import check_tensor as check_tensor
from spikediff.native.library import library_of as library_of
from spikediff.native.library import native as native
from spikediff.native.library import native_name as native_name
from spikediff.native.library import pointer as pointer

"""Packed spikes: one bit per spike, passed between the layers of an event-driven network."""

from collections.abc import Callable, Mapping, Sequence
from ctypes import c_int, c_int64
from dataclasses import dataclass, replace
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import interpolate

from spikediff.errors import UserError, shown
from spikediff.native import WORD, check_tensor, library_of, pointer

GROUP = 4  # spiking steps that a synapse processes together, as in spikediff.h


@dataclass(frozen=True, eq=False)
class PackedSpikes:
    """Spikes [T, B, C, H, W] or [T*B, C, H, W], one bit each, channels-last.

    Folding time, concatenating channels and repeating pixels operate on the bits, and synapses read
    the bits (`spike_conv2d`). Any other torch operation unpacks them first, so networks that mix
    spikes with currents compute the same results.

    Attributes:
        words: int64 [T, B, H, W, words]; every segment of the channels starts a word, and bit
            c % 64 of its word c // 64 is its channel c.
        segments: Channels of each concatenated tensor; they sum to C.
        activity: Share of the channels that fire within a group of four spiking steps, which is the
            work of an event-driven synapse relative to a dense one.
        folded: Whether the shape presented to layers is [T*B, C, H, W].
        doubled: Whether every pixel is presented twice along height and width.
    """

    words: Tensor
    segments: tuple[int, ...]
    activity: float
    folded: bool = False
    doubled: bool = False

    def __post_init__(self) -> None:
        """Check the words and make them contiguous."""
        sizes = self.segments
        if not sizes or any(type(n) is not int or n < 1 for n in sizes):
            raise UserError(f"PackedSpikes: segments = {shown(sizes)} must be positive numbers")
        words = sum(-(-n // WORD) for n in sizes)
        check_tensor(self.words, "PackedSpikes: words", torch.int64, (None,) * 4 + (words,))
        if not all(self.words.shape[i] for i in (0, 2, 3)):
            raise UserError(f"PackedSpikes: a window {list(self.words.shape)} holds no spikes")
        object.__setattr__(self, "words", self.words.contiguous())

    @property
    def channels(self) -> int:
        """C."""
        return sum(self.segments)

    @property
    def shape(self) -> torch.Size:
        """The shape of the dense tensor."""
        steps, batch, height, width, _ = self.words.shape
        lead = (steps * batch,) if self.folded else (steps, batch)
        times = 2 if self.doubled else 1
        return torch.Size((*lead, self.channels, times * height, times * width))

    @property
    def spiking_steps(self) -> int:
        """T, folded or not."""
        return self.words.shape[0]

    def __len__(self) -> int:
        return self.shape[0]

    def dim(self) -> int:
        """Return the number of axes of the dense tensor."""
        return len(self.shape)

    def flatten(self, start: int = 0, end: int = -1) -> Any:
        """Fold time into the batch; other arguments unpack the spikes."""
        if (start, end) == (0, 1) and not self.folded:
            return self._with(folded=True)
        return self.dense().flatten(start, end)

    def view(self, *shape: int) -> Any:
        """Unfold time; other arguments unpack the spikes."""
        unfolded = (self.spiking_steps, -1, *self.shape[1:])
        if self.folded and tuple(shape) == unfolded:
            return self._with(folded=False)
        return self.dense().view(*shape)

    def dense(self) -> Tensor:
        """Return the spikes as float32, in channels-last order."""
        if self.doubled:
            return self.repeated().dense()
        slots = WORD * self.words.shape[-1]
        spikes = torch.empty(*self.words.shape[:-1], slots)  # [T, B, H, W, slots]
        sizes = c_int64(self.words[..., 0].numel()), c_int64(slots), c_int(torch.get_num_threads())
        library_of().synapse_unpack(pointer(self.words), pointer(spikes), *sizes)
        if slots != self.channels:
            spikes = spikes.index_select(-1, slots_of(self.segments))
        spikes = spikes.movedim(-1, 2)  # [T, B, C, H, W]
        return spikes.flatten(0, 1) if self.folded else spikes

    def upsampled(self) -> "PackedSpikes":
        """Return the window with every pixel repeated twice along height and width.

        The words do not change; synapses use summed weights instead.
        """
        return self.repeated()._with(doubled=True)

    def repeated(self) -> "PackedSpikes":
        """Return the window with separate words for every repeated pixel."""
        if not self.doubled:
            return self
        words = self.words.repeat_interleave(2, dim=2).repeat_interleave(2, dim=3)
        return self._with(words=words, doubled=False)

    def images(self, chosen: Tensor) -> "PackedSpikes":
        """Return the images selected by a mask [B]; `activity` stays that of all images."""
        return self._with(words=self.words[:, chosen])

    def activity_by_image(self) -> Tensor:
        """Return the activity of every image [B]."""
        steps, batch, height, width, _ = self.words.shape
        counts = torch.empty(batch, dtype=torch.int64)
        sizes = (steps, batch, self.words[0, 0].numel() if batch else 0)
        library_of().synapse_activity(pointer(self.words), pointer(counts), *map(c_int64, sizes))
        return counts / (-(-steps // GROUP) * height * width * self.channels)

    def _with(self, **changes: Any) -> "PackedSpikes":
        return replace(self, **changes)

    def __getattr__(self, name: str) -> Any:
        """Return an attribute of the dense tensor."""
        if name.startswith("__"):
            raise AttributeError(name)
        return getattr(self.dense(), name)

    @classmethod
    def __torch_function__(
        cls,
        function: Callable[..., Any],
        types: Sequence[type],
        args: Sequence[Any] = (),
        kwargs: Mapping[str, Any] | None = None,
    ) -> Any:
        """Concatenate and repeat as bits; unpack for everything else."""
        kwargs = kwargs or {}
        if function is torch.cat and (joined := _concatenated(*args, **kwargs)) is not None:
            return joined
        if function is interpolate and args[0].folded and _repeats_twice(kwargs):
            return args[0].upsampled()
        return function(*_dense(args), **{key: _dense(value) for key, value in kwargs.items()})


def _concatenated(tensors: Sequence[Any], dim: int = 0) -> PackedSpikes | None:
    """Return windows concatenated along channels; None unless all are packed."""
    if not all(isinstance(x, PackedSpikes) for x in tensors) or dim != tensors[0].dim() - 3:
        return None
    tensors = [x.repeated() for x in tensors]
    channels = sum(x.channels for x in tensors)
    activity = sum(x.activity * x.channels for x in tensors) / channels
    words = torch.cat([x.words for x in tensors], dim=-1)
    segments = tuple(n for x in tensors for n in x.segments)
    return PackedSpikes(words, segments, activity, tensors[0].folded)


def _repeats_twice(kwargs: Mapping[str, Any]) -> bool:
    return kwargs.get("scale_factor") == 2.0 and kwargs.get("mode") == "nearest"


def _dense(value: Any) -> Any:
    if isinstance(value, PackedSpikes):
        return value.dense()
    if isinstance(value, list | tuple):
        return type(value)(_dense(item) for item in value)
    return value


# Python looks operators up in the class, not through `__getattr__`.
_NAMES = """
    add radd sub rsub mul rmul truediv rtruediv pow neg abs matmul rmatmul getitem iter bool float
    eq ne lt le gt ge
"""
OPERATORS = _NAMES.split()


def _of_dense(name: str) -> Callable[..., Any]:
    def operator(self: PackedSpikes, *others: Any) -> Any:
        return getattr(self.dense(), name)(*_dense(others))

    return operator


for _name in OPERATORS:
    setattr(PackedSpikes, f"__{_name}__", _of_dense(f"__{_name}__"))


def pack(spikes: Tensor, only_if_binary: bool = False) -> Any:
    """Pack a dense real-valued window [T, B, C, H, W] on the CPU: a bit is set where not zero.

    With `only_if_binary`, return None if a value is neither 0 nor 1.

    Example:
        >>> spikes = (torch.rand(4, 1, 3, 2, 2) < 0.5).float()
        >>> torch.equal(pack(spikes).dense(), spikes)
        True
    """
    if not isinstance(spikes, Tensor) or spikes.dim() != 5 or spikes.is_complex():
        found = list(spikes.shape) if isinstance(spikes, Tensor) else shown(spikes)
        raise UserError(f"pack: needs spikes [T, B, C, H, W], got {found}")
    check_tensor(spikes, "pack: spikes", spikes.dtype, (None,) * 5)
    steps, batch, channels, height, width = spikes.shape
    last = spikes.detach().float().movedim(2, -1).contiguous()  # [T, B, H, W, C]
    words = empty_words(steps, batch, channels, height, width)
    sizes = map(c_int64, (steps, batch * height * width, channels))
    options = c_int(only_if_binary), c_int(torch.get_num_threads())
    active = library_of().synapse_pack(pointer(last), pointer(words), *sizes, *options)
    return None if active < 0 else window_of(words, channels, active)


def empty_words(steps: int, batch: int, channels: int, height: int, width: int) -> Tensor:
    """Return uninitialised words for a window [T, B, C, H, W]."""
    return torch.empty(steps, batch, height, width, -(-channels // WORD), dtype=torch.int64)


def window_of(words: Tensor, channels: int, active: int) -> PackedSpikes:
    """Return a window from words; `active` counts firing channels over pixels and step groups."""
    steps, batch, height, width, _ = words.shape
    all_of_them = -(-steps // GROUP) * batch * height * width * channels
    return PackedSpikes(words, (channels,), active / max(all_of_them, 1))


def slots_of(segments: Sequence[int]) -> Tensor:
    """Return the bit position [C] of every channel in the words of a pixel.

    Example:
        >>> slots_of((2, 1)).tolist()
        [0, 1, 64]
    """
    words = [-(-channels // WORD) for channels in segments]
    starts = [WORD * sum(words[:i]) for i in range(len(segments))]
    return torch.cat([start + torch.arange(n) for start, n in zip(starts, segments, strict=True)])

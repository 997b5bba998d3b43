"""Arithmetic that gives an image the same bits in every batch and with any number of threads.

On a CPU, torch chooses among kernels that round differently. For a convolution the choice depends
on whether there is one image or several, and for kernel size 1 on the number of threads; for a
matrix product it depends on the number of rows and, on some processors, on the number of threads. A
difference in rounding may flip a spike.
"""

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import torch
from diffusers.models.modeling_utils import ModelMixin
from torch import Tensor, nn
from torch.nn import functional as F
from torch.utils._python_dispatch import _get_current_dispatch_mode

_SHARE = 32768  # elements that torch gives to one thread at least
_VECTOR = 64  # elements: a multiple of every processor's vectors, two at once
_REPLACED = ("forward", "dilation")
_changing_threads = threading.Lock()
_CONVOLUTIONS = {nn.Conv1d.forward, nn.Conv2d.forward}


def _matters(x: Tensor) -> bool:
    """Whether images are sampled here: on a CPU, and not for training, a compiler or an instrument.

    The energy meter, a dispatch mode, must count only what the network computes.
    """
    sampled = x.device.type == "cpu" and not torch.is_grad_enabled()
    return sampled and not torch.compiler.is_compiling() and _get_current_dispatch_mode() is None


def never_alone(convolve: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """Return a convolution of images [N, C, ...]; one image is convolved as one of two."""
    if not _matters(x) or len(x) != 1:
        return convolve(x)
    channels_last = x.dim() == 4 and x.shape[1] > 1 and x.stride(1) == 1
    order = torch.channels_last if channels_last else torch.contiguous_format
    return convolve(torch.cat([x, x]).contiguous(memory_format=order))[:1]


def elementwise(function: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """Return a function of every element of images [N, ...], such as SiLU.

    torch computes whole vectors differently from the remainder of a thread's share. So each
    thread gets shares of whole vectors, or one image if an image does not fill them.
    """
    if not _matters(x):  # checked first: an exported program must work for every batch
        return function(x)
    whole = not x[:1].numel() % _VECTOR
    if x.numel() <= _SHARE and (whole or len(x) == 1):
        return function(x)
    channels_last = x.dim() == 4 and x.is_contiguous(memory_format=torch.channels_last)
    order = torch.channels_last if channels_last else torch.contiguous_format
    out = torch.empty_like(x, memory_format=order)
    images, results = (_in_memory(y, channels_last) for y in (x, out))
    if whole:
        images, results = images.reshape(1, -1), results.reshape(1, -1)
    for image, result in zip(images, results, strict=True):
        for share, written in zip(image.split(_SHARE), result.split(_SHARE), strict=True):
            written.copy_(function(share))
    return out


def _in_memory(x: Tensor, channels_last: bool) -> Tensor:
    """Return images [N, ...] as rows in memory order."""
    return x.permute(0, 2, 3, 1).flatten(1) if channels_last else x.contiguous().flatten(1)


def each_alone(multiply: Callable[[Tensor], Tensor], x: Tensor, dim: int = 0) -> Tensor:
    """Return a matrix product of rows [..., E], with each image along `dim` multiplied alone."""
    if not _matters(x) or x.dim() < 2 or x.shape[dim] == 1:
        return on_one_thread(multiply, x)
    return on_one_thread(partial(_one_by_one, multiply, dim), x)


def _one_by_one(multiply: Callable[[Tensor], Tensor], dim: int, x: Tensor) -> Tensor:
    return torch.cat([multiply(image) for image in torch.split(x, 1, dim)], dim)


def on_one_thread(multiply: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """Return a matrix product, computed on one thread.

    With three threads, for example, the shares are not whole vectors and are summed in another
    order.
    """
    if not _matters(x) or torch.get_num_threads() == 1:
        return multiply(x)
    with _changing_threads:
        threads = torch.get_num_threads()
        torch.set_num_threads(1)
        try:
            return multiply(x)
        finally:
            torch.set_num_threads(threads)


def linear_by_image(linear: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """Return a linear layer of x [..., B, E]; when sampling on a CPU, image by image.

    One timestep for all images gives one row, but labels give a row per image, and a
    product of many rows rounds differently. Unlike `each_alone`, this also applies under an
    instrument.
    """
    alone = x.shape[-2] == 1 or x.device.type != "cpu"
    if alone or torch.is_grad_enabled() or torch.compiler.is_compiling():
        return on_one_thread(linear, x)
    return on_one_thread(partial(_one_by_one, linear, -2), x)


@contextmanager
def batch_invariant(network: nn.Module) -> Iterator[None]:
    """Let a network, of this library or of another, give an image the same bits in every batch.

    Convolutions are computed by `never_alone`, transposed ones as convolutions, linear layers by
    `on_one_thread`. In networks of other libraries, linear layers are computed by `each_alone` and
    SiLU by `elementwise`, which networks of this library call themselves. All layers are restored
    afterwards. Compiled networks are left unchanged. Layers must have images along the first axis.

    Example:
        >>> network, x = nn.Sequential(nn.Linear(64, 64)), torch.randn(9, 64)
        >>> with torch.no_grad(), batch_invariant(network):
        ...     torch.equal(network(x)[:1], network(x[:1]))
        True
    """
    modules: list[Any] = list(network.modules())
    others = {m for other in _others(modules) for m in other.modules()}
    changed: list[tuple[Any, dict[str, Any]]] = []
    for module in [] if _is_compiled(modules) else modules:
        before = {name: module.__dict__.get(name) for name in _REPLACED}
        if _make_invariant(module, module in others):
            changed.append((module, before))
    try:
        yield
    finally:
        for module, attributes in changed:
            for name, value in attributes.items():
                if value is None:
                    module.__dict__.pop(name, None)
                else:
                    setattr(module, name, value)


def _make_invariant(module: Any, of_others: bool) -> bool:
    """Replace the computation of a layer that needs it, and return whether it does."""
    if type(module).forward in _CONVOLUTIONS:
        _never_alone(module)
    elif type(module).forward is nn.ConvTranspose2d.forward:
        _compute(module, partial(_as_convolution, module, module.forward))
    elif of_others and isinstance(module, nn.Linear):
        _compute(module, partial(each_alone, module.forward))
    elif type(module).forward is nn.Linear.forward:
        _compute(module, partial(on_one_thread, module.forward))
    elif of_others and isinstance(module, nn.GroupNorm):
        _compute(module, partial(_in_order, module.forward))
    elif of_others and isinstance(module, nn.SiLU):
        _compute(module, partial(elementwise, module.forward))
    else:
        return False
    return True


def _compute(layer: Any, forward: Callable[..., Tensor]) -> None:
    layer.forward = forward


def _is_compiled(modules: list[nn.Module]) -> bool:
    """Whether a network, the first module, is compiled: changed layers would be recompiled."""
    whole = "_orig_mod" in modules[0]._modules  # what `torch.compile` returns
    return whole or any(m._compiled_call_impl is not None for m in modules)


def _others(modules: list[nn.Module]) -> list[nn.Module]:
    """Return the networks in a network, the first module, that are not from this library."""
    networks = [m for m in modules if m is modules[0] or isinstance(m, ModelMixin)]
    return [m for m in networks if not type(m).__module__.startswith("spikediff.")]


def _never_alone(convolution: Any) -> None:
    """Compute a convolution by `never_alone`; with kernel size 1, independently of threads."""
    if set(convolution.kernel_size) == {1}:
        convolution.dilation = (2,) * len(convolution.kernel_size)  # see `pointwise_conv`
    forward = convolution.forward

    def forward_as_one_of_two(x: Tensor, *args: Any) -> Tensor:
        return never_alone(lambda images: forward(images, *args), x)

    _compute(convolution, forward_as_one_of_two)


def _as_convolution(
    layer: nn.ConvTranspose2d, forward: Callable[..., Tensor], x: Tensor, output_size: Any = None
) -> Tensor:
    """Compute a transposed convolution as one of the image with zeros between its pixels.

    torch splits transposed convolutions so that sums depend on the number of threads.
    """
    elsewhere = layer.weight.device != x.device  # weights that a hook has not loaded yet
    if layer.groups > 1 or output_size is not None or elsewhere or not _matters(x):
        return forward(x, output_size)
    height, width = ((n - 1) * s + 1 for n, s in zip(x.shape[2:], layer.stride, strict=True))
    spread = x.new_zeros(*x.shape[:2], height, width)
    spread[:, :, :: layer.stride[0], :: layer.stride[1]] = x
    sides = []  # left, right, top, bottom
    for axis in (1, 0):
        margin = layer.dilation[axis] * (layer.kernel_size[axis] - 1) - int(layer.padding[axis])
        sides += [margin, margin + layer.output_padding[axis]]
    kernel = layer.weight.flip(2, 3).transpose(0, 1)
    convolve = partial(F.conv2d, weight=kernel, bias=layer.bias, dilation=layer.dilation)
    return never_alone(convolve, F.pad(spread, sides))


def _in_order(forward: Callable[[Tensor], Tensor], x: Tensor) -> Tensor:
    """Normalise a single image in the memory layout of a larger batch."""
    return forward(x.contiguous()) if _matters(x) else forward(x)

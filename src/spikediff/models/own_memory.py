"""Weights in memory of their own, whatever file they came from."""

from collections.abc import Mapping
from typing import Any

from torch import nn


def with_own_memory(loaded: Any, options: Mapping[str, Any]) -> Any:
    """Copy the weights of a model that was loaded out of the file that they are mapped from.

    A file starts its tensors wherever the one before ends. The product of a matrix and a single
    vector, as in an autoencoder that makes one image, is rounded by where its memory starts; so a
    model that was loaded would differ, in the last bit, from the one that was saved. The copy has
    the type that was asked for: without accelerate, diffusers keeps that of the file where the
    file's first tensor, a counter of batch norm, is none of floating point.

    Args:
        loaded: What `from_pretrained` returns: the model, or a tuple that starts with it.
        options: The keyword arguments of `from_pretrained`.

    Returns:
        The same.
    """
    model: nn.Module = loaded[0] if isinstance(loaded, tuple) else loaded
    dtype = options.get("dtype") or options.get("torch_dtype")
    for tensor in (*model.parameters(), *model.buffers()):
        kept = tensor.dtype if dtype is None or not tensor.is_floating_point() else dtype
        tensor.data = tensor.data.to(kept, copy=True)
    return loaded

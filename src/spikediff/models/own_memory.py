"""Weights in memory of their own, whatever file they came from."""

from typing import Any

from torch import nn


def with_own_memory(loaded: Any) -> Any:
    """Copy the weights of a model that was loaded out of the file that they are mapped from.

    A file starts its tensors wherever the one before ends. The product of a matrix and a single
    vector, as in an autoencoder that makes one image, is rounded by where its memory starts; so a
    model that was loaded would differ, in the last bit, from the one that was saved.

    Args:
        loaded: What `from_pretrained` returns: the model, or a tuple that starts with it.

    Returns:
        The same.
    """
    model: nn.Module = loaded[0] if isinstance(loaded, tuple) else loaded
    for tensor in (*model.parameters(), *model.buffers()):
        tensor.data = tensor.data.clone()
    return loaded

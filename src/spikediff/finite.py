"""Refusing NaN and infinity, before a picture, a file or a decision is made of them."""

from collections.abc import Mapping

from torch import Tensor

from spikediff.errors import UserError

_SHOWN = 3  # names that an error lists


def check_values(tensor: Tensor, where: str) -> Tensor:
    """Return a tensor that a network made, if all of it is finite.

    Args:
        tensor: Floating point, any shape.
        where: What it is, for the message.

    Raises:
        UserError: A value is NaN or infinite.
    """
    bad = int((~tensor.isfinite()).sum())
    if bad:
        raise UserError(
            f"{where}: {bad} of {tensor.numel()} values are NaN or infinite; the weights of the "
            f"network, or what it was given, are damaged"
        )
    return tensor


def check_finite(tensors: Mapping[str, Tensor], where: str) -> None:
    """Refuse weights that are not finite; whoever writes weights asks here first.

    Args:
        tensors: Weights and buffers by name; whole numbers pass.
        where: What they are, for the message.

    Raises:
        UserError: A value is NaN or infinite; the message names the first tensors.

    Example:
        >>> import torch
        >>> check_finite({"a": torch.ones(2), "b": torch.tensor(torch.nan)}, "example")
        Traceback (most recent call last):
        ...
        spikediff.errors.UserError: example: 1 of 2 tensors hold NaN or infinity: b
    """
    bad = [name for name, tensor in tensors.items() if not bool(tensor.isfinite().all())]
    if bad:
        shown = ", ".join(bad[:_SHOWN]) + (", ..." if len(bad) > _SHOWN else "")
        raise UserError(
            f"{where}: {len(bad)} of {len(tensors)} tensors hold NaN or infinity: {shown}"
        )


def check_step(loss: Tensor, grad_norm: Tensor, step: int, lr: float) -> float:
    """Return the loss, if the optimizer may step: its gradients would spoil the weights otherwise.

    Args:
        loss: Of the step, 0-dim.
        grad_norm: Of all gradients, 0-dim.
        step: Number of the step, for the message.
        lr: Learning rate, for the message.

    Raises:
        UserError: One of the two is NaN or infinite.
    """
    if not bool((loss.detach() + grad_norm).isfinite()):
        raise UserError(
            f"the loss is {loss.item():g} and the gradient's norm {grad_norm.item():g} at step "
            f"{step}; take a smaller learning rate than {lr:g}"
        )
    return loss.item()

"""Gradient checkpointing: blocks are recomputed in the backward pass to save memory.

Dropout draws the same mask again, and the norms' running statistics count a batch once, so
neither gradients nor statistics change.
"""

from collections.abc import Callable, Iterable, Iterator
from contextlib import AbstractContextManager, contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint

from spikediff.errors import UserError
from spikediff.layers.norm import ThresholdNorm

_NORMS = (nn.BatchNorm1d, nn.BatchNorm2d, ThresholdNorm)


def computed(block: nn.Module, *args: Any) -> Tensor:
    """Return a block's output; with `gradient_checkpointing`, the backward pass recomputes it."""
    if not block.gradient_checkpointing or not torch.is_grad_enabled():
        out: Tensor = block(*args)
        return out

    def contexts() -> tuple[AbstractContextManager[None], AbstractContextManager[None]]:
        return nullcontext(), _frozen_statistics(block)

    again: Tensor = checkpoint(block, *args, use_reentrant=False, context_fn=contexts)
    return again


@contextmanager
def _frozen_statistics(module: nn.Module) -> Iterator[None]:
    norms: list[Any] = [norm for norm in module.modules() if isinstance(norm, _NORMS)]
    kept = [(norm.momentum, norm.num_batches_tracked.clone()) for norm in norms]
    for norm in norms:
        norm.momentum = 0.0
    try:
        yield
    finally:
        for norm, (momentum, count) in zip(norms, kept, strict=True):
            norm.momentum = momentum
            norm.num_batches_tracked.copy_(count)


class ComputesBlocksAgain:
    """A network with such blocks; it precedes `ModelMixin` in the bases.

    `enable_gradient_checkpointing()` and `disable_gradient_checkpointing()` are diffusers'.
    """

    _supports_gradient_checkpointing = True

    def enable_gradient_checkpointing(
        self, gradient_checkpointing_func: Callable[..., Any] | None = None
    ) -> None:
        """Recompute the residual blocks in the backward pass.

        A custom checkpointing function is refused, because norms would see a batch twice.
        """
        if gradient_checkpointing_func is not None:
            raise UserError(
                f"{type(self).__name__}: gradient_checkpointing_func would let norms see a batch "
                f"twice; leave it out"
            )
        self._set_gradient_checkpointing()

    def _set_gradient_checkpointing(self, enable: bool = True, **_options: Any) -> None:
        modules: Iterable[Any] = self.modules()  # type: ignore[attr-defined]
        for module in modules:
            if hasattr(module, "gradient_checkpointing"):
                module.gradient_checkpointing = enable

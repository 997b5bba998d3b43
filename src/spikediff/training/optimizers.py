"""Optimizers: Muon with AdamW, and the running average of a network.

The average includes buffers. An average of the parameters alone (diffusers' `EMAModel`) leaves
batch norm's running statistics at their initial values, which ruins a spiking network.
"""

from collections.abc import Callable, Iterable, Sequence
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from spikediff.training.recipe import EMARecipe


class MuonWithAdamW(torch.optim.Optimizer):
    """Muon for convolution kernels, as matrices [C_out, C_in k k], and AdamW for the rest.

    Muon's steps are scaled to the size of AdamW's, so both use the same learning rate. The first
    beta is also Muon's momentum.

    Reference: Jordan et al., "Muon: an optimizer for hidden layers in neural networks", 2024.
    """

    def __init__(
        self,
        params: Iterable[nn.Parameter],
        lr: float,
        betas: tuple[float, float] = (0.9, 0.999),
        weight_decay: float = 0.0,
        fused: bool | None = None,
    ) -> None:
        params = list(params)
        self._kernels = [p for p in params if p.dim() >= 3]
        self._matrices = [nn.Parameter(_as_matrix(p.data)) for p in self._kernels]
        for kernel, matrix in zip(self._kernels, self._matrices, strict=True):
            # The gradient lies like its kernel, so a scaler of gradients mends both at once.
            share = partial(_share_gradient, matrix)
            kernel.register_post_accumulate_grad_hook(share)  # type: ignore[no-untyped-call]
        rest = [p for p in params if p.dim() < 3]
        self._parts = (
            torch.optim.Muon(
                self._matrices,
                lr=lr,
                momentum=betas[0],
                weight_decay=weight_decay,
                adjust_lr_fn="match_rms_adamw",
            ),
            torch.optim.AdamW(rest, lr=lr, betas=betas, weight_decay=weight_decay, fused=fused),
        )
        super().__init__(params, {"lr": lr})
        self.param_groups = [group for part in self._parts for group in part.param_groups]

    @torch.no_grad()
    def step(self, closure: Callable[[], float] | None = None) -> float | None:  # type: ignore[override]
        """Make one step, after calling the closure."""
        loss = None if closure is None else torch.enable_grad()(closure)()
        for part in self._parts:
            part.step()  # type: ignore[no-untyped-call]
        return loss

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Clear the gradients of all parameters."""
        for part in self._parts:
            part.zero_grad(set_to_none)
        for kernel in self._kernels:
            kernel.grad = None

    def state_dict(self) -> dict[str, Any]:
        """Return the states of both optimizers as one: Muon's parameters first."""
        muon, adamw = (part.state_dict() for part in self._parts)
        offset = len(self._matrices)
        moved = {i + offset: state for i, state in adamw["state"].items()}
        (group,) = adamw["param_groups"]
        group = {**group, "params": [i + offset for i in group["params"]]}
        return {"state": muon["state"] | moved, "param_groups": [*muon["param_groups"], group]}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Load the result of `state_dict`."""
        offset, (muon, adamw) = len(self._matrices), state_dict["param_groups"]
        states = state_dict["state"]
        of_muon = {i: state for i, state in states.items() if i < offset}
        of_adamw = {i - offset: state for i, state in states.items() if i >= offset}
        own = {**adamw, "params": [i - offset for i in adamw["params"]]}
        self._parts[0].load_state_dict({"state": of_muon, "param_groups": [muon]})
        self._parts[1].load_state_dict({"state": of_adamw, "param_groups": [own]})
        self.param_groups = [group for part in self._parts for group in part.param_groups]


def _as_matrix(kernel: Tensor, like: Tensor | None = None) -> Tensor:
    """Return a kernel as a matrix [C_out, ...]: a view, with columns in memory order."""
    like = kernel if like is None else like
    last = like.dim() == 4 and like.is_contiguous(memory_format=torch.channels_last)
    return (kernel.permute(0, 2, 3, 1) if last else kernel).reshape(len(kernel), -1)


def _share_gradient(matrix: nn.Parameter, kernel: Tensor) -> None:
    assert kernel.grad is not None
    matrix.grad = _as_matrix(kernel.grad, like=kernel)


def averaged(model: nn.Module, recipe: EMARecipe) -> AveragedModel:
    """Return the running average of a model; `update_parameters(model)` updates it.

    Its `.module` is the network to sample with. A decay of 0 makes it a copy of the model.
    """

    @torch.no_grad()
    def update(
        averages: Sequence[Tensor], current: Sequence[Tensor], updates: Tensor | int
    ) -> None:
        if averages[0].is_floating_point():
            weight = 1.0 - decay_at(recipe, int(updates))
            torch._foreach_lerp_(list(averages), list(current), weight)
        else:  # counters
            torch._foreach_copy_(list(averages), list(current))

    return AveragedModel(model, multi_avg_fn=update, use_buffers=True)


def decay_at(recipe: EMARecipe, updates: int) -> float:
    """Return the decay of an update after `updates` earlier ones.

    Example:
        >>> decay_at(EMARecipe(decay=0.999), updates=8)
        0.5
    """
    return min(recipe.decay, (1 + updates) / (10 + updates)) if recipe.warmup else recipe.decay

"""Muon for convolution kernels, AdamW for everything else.

An optimizer's state as named tensors, so that it can be kept without a pickle.

The running average of a network: parameters and buffers.

Batch norm's running statistics are buffers. An average of the parameters alone (as diffusers'
`EMAModel` keeps) leaves them at their initial values and ruins a spiking network.
"""

from collections.abc import Callable, Iterable, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim.swa_utils import AveragedModel

from spikediff.training.recipe import EMARecipe


class MuonWithAdamW(torch.optim.Optimizer):
    """Muon on convolution kernels, seen as matrices [C_out, C_in k k]; AdamW on the rest.

    Muon's steps are scaled to the size of AdamW's (`adjust_lr_fn="match_rms_adamw"`), so one
    learning rate serves both.

    Args:
        params: The parameters that learn.
        lr: Learning rate.
        betas: AdamW's; the first is Muon's momentum, too.
        weight_decay: Decoupled weight decay.
        fused: Of AdamW.

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
        """Make one step; a closure is called first."""
        loss = None if closure is None else torch.enable_grad()(closure)()
        for kernel, matrix in zip(self._kernels, self._matrices, strict=True):
            matrix.grad = None if kernel.grad is None else _as_matrix(kernel.grad, like=kernel)
        for part in self._parts:
            part.step()  # type: ignore[no-untyped-call]
        return loss

    def zero_grad(self, set_to_none: bool = True) -> None:
        """Drop the gradients of all parameters."""
        for part in self._parts:
            part.zero_grad(set_to_none)
        for kernel in self._kernels:
            kernel.grad = None

    def state_dict(self) -> dict[str, Any]:
        """Return the states of both optimizers as one: Muon's parameters first."""
        muon, adamw = (part.state_dict() for part in self._parts)
        offset = len(self._matrices)
        moved = {index + offset: state for index, state in adamw["state"].items()}
        groups = [
            muon["param_groups"][0],
            {
                **adamw["param_groups"][0],
                "params": [i + offset for i in adamw["param_groups"][0]["params"]],
            },
        ]
        return {"state": muon["state"] | moved, "param_groups": groups}

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Take back what `state_dict` returned."""
        offset, (muon, adamw) = len(self._matrices), state_dict["param_groups"]
        states = state_dict["state"]
        of_muon = {i: state for i, state in states.items() if i < offset}
        of_adamw = {i - offset: state for i, state in states.items() if i >= offset}
        own = {**adamw, "params": [i - offset for i in adamw["params"]]}
        self._parts[0].load_state_dict({"state": of_muon, "param_groups": [muon]})
        self._parts[1].load_state_dict({"state": of_adamw, "param_groups": [own]})
        self.param_groups = [group for part in self._parts for group in part.param_groups]


def _as_matrix(kernel: Tensor, like: Tensor | None = None) -> Tensor:
    """Return a kernel as a matrix [C_out, ...]: a view of it, columns in the order of memory."""
    like = kernel if like is None else like
    last = like.dim() == 4 and like.is_contiguous(memory_format=torch.channels_last)
    return (kernel.permute(0, 2, 3, 1) if last else kernel).reshape(len(kernel), -1)


def flatten_optimizer(state_dict: dict[str, Any]) -> dict[str, Tensor]:
    """Return the moments as `"<parameter number>.<name>"` -> tensor."""
    return {
        f"{index}.{name}": value.contiguous()
        for index, moments in state_dict["state"].items()
        for name, value in moments.items()
    }


def unflatten_optimizer(
    tensors: dict[str, Tensor], param_groups: list[dict[str, Any]]
) -> dict[str, Any]:
    """Return the state dict that `flatten_optimizer` took apart.

    Args:
        tensors: What it returned.
        param_groups: The groups of the optimizer that will load it.
    """
    state: dict[int, dict[str, Tensor]] = {}
    for key, value in tensors.items():
        index, name = key.split(".", 1)
        state.setdefault(int(index), {})[name] = value
    return {"state": state, "param_groups": param_groups}


def decay_at(recipe: EMARecipe, updates: int) -> float:
    """Return the decay of the update that follows `updates` earlier ones.

    Example:
        >>> decay_at(EMARecipe(decay=0.999), updates=8)
        0.5
    """
    return min(recipe.decay, (1 + updates) / (10 + updates)) if recipe.warmup else recipe.decay


def averaged(model: nn.Module, recipe: EMARecipe) -> AveragedModel:
    """Return the average of a model, which `update_parameters(model)` moves.

    Args:
        model: The network.
        recipe: Decay and warm-up; a decay of 0 makes the average a copy of the model.

    Returns:
        The average; its `.module` is the network to sample with.
    """
    return AveragedModel(model, multi_avg_fn=_update(recipe), use_buffers=True)


def _update(
    recipe: EMARecipe,
) -> Callable[[Sequence[Tensor], Sequence[Tensor], Tensor | int], None]:
    @torch.no_grad()
    def update(
        averages: Sequence[Tensor], current: Sequence[Tensor], updates: Tensor | int
    ) -> None:
        if averages[0].is_floating_point():
            weight = 1.0 - decay_at(recipe, int(updates))
            torch._foreach_lerp_(list(averages), list(current), weight)
        else:  # counters
            torch._foreach_copy_(list(averages), list(current))

    return update

"""Muon for convolution kernels, AdamW for everything else."""

from collections.abc import Callable, Iterable
from typing import Any

import torch
from torch import Tensor, nn


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

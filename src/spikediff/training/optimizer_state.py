"""An optimizer's state as named tensors, so that it can be kept without a pickle."""

from typing import Any

from torch import Tensor


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

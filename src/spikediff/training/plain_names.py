"""Names of weights as the network has them, whatever wraps it in training."""

from collections.abc import Mapping

from torch import Tensor, nn

_COMPILED = "_orig_mod"  # torch.compile, of the whole network or of a part
_PARALLEL = "module"  # DistributedDataParallel, around the whole network


def plain_names(state: Mapping[str, Tensor]) -> dict[str, Tensor]:
    """Return tensors without what wrappers put before their names.

    Example:
        >>> list(plain_names({"module._orig_mod.stem.weight": 0, "down._orig_mod.bias": 1}))
        ['stem.weight', 'down.bias']
    """
    return {plain_name(name): tensor for name, tensor in state.items()}


def plain_name(name: str) -> str:
    """Return a name without what wrappers put before it."""
    parts = [part for part in name.split(".") if part != _COMPILED]
    return ".".join(parts[1:] if parts[0] == _PARALLEL and len(parts) > 1 else parts)


def load_plain(network: nn.Module, state: Mapping[str, Tensor]) -> None:
    """Load weights into a network, whatever wrapped it or wraps it now.

    Args:
        network: The network.
        state: Its weights, by names of this or of an earlier version.
    """
    theirs = {plain_name(name): name for name in network.state_dict()}
    network.load_state_dict({theirs.get(n, n): x for n, x in plain_names(state).items()})

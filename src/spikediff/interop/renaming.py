"""Loading a state dict of other names into one of our models."""

from collections.abc import Callable, Mapping

from torch import Tensor, nn

from spikediff.errors import UserError


def load_renamed(
    model: nn.Module,
    state: Mapping[str, Tensor],
    their_name: Callable[[str], str],
    what: str,
    convert: Callable[[Tensor, str], Tensor] = lambda tensor, _name: tensor,
) -> None:
    """Copy weights of other names into a model, all of them or none.

    Args:
        model: Our model.
        state: The others' state dict.
        their_name: Turns the name of our parameter or buffer into theirs.
        what: What the state dict is, for the message.
        convert: Brings one of their tensors, given with their name, into our shape.

    Raises:
        UserError: Keys are missing or unknown, or shapes differ; all of them are listed.

    Example:
        >>> import torch
        >>> layer = nn.Linear(1, 1, bias=False)
        >>> load_renamed(layer, {"fc.w": torch.ones(1, 1)}, {"weight": "fc.w"}.get, "example")
        >>> layer.weight.item()
        1.0
    """
    ours = model.state_dict()
    theirs = {key: their_name(key) for key in ours}
    faults = [f"missing {key}" for key in theirs.values() if key not in state]
    known = set(theirs.values())
    faults += [f"unknown {key}" for key in state if key not in known]
    if not faults:
        loaded = {key: convert(state[name], name) for key, name in theirs.items()}
        faults = [
            f"{theirs[key]} has shape {tuple(tensor.shape)}, not {tuple(ours[key].shape)}"
            for key, tensor in loaded.items()
            if tensor.shape != ours[key].shape
        ]
    if faults:
        raise UserError(f"{what}: {len(faults)} keys do not fit: {'; '.join(faults)}")
    model.load_state_dict(loaded)

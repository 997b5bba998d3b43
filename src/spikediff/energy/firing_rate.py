"""How often neurons fire: an observer around any spiking model."""

from types import TracebackType

from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from spikediff.errors import UserError
from spikediff.neurons import NeuronLayer


class FiringRates:
    """Measure the firing rate of every neuron layer while it is entered.

    The rate is the share of spikes (of either sign) among all neurons, spiking steps, images and
    calls that were seen.

    Args:
        model: Any model with layers of `spikediff.neurons`.

    Raises:
        UserError: The model has no neuron layer.

    Example:
        >>> import torch
        >>> from spikediff.neurons import IF
        >>> model = nn.Sequential(IF())
        >>> with FiringRates(model) as rates:
        ...     _ = model(torch.tensor([0.5, 0.5, 0.5, 0.5]))
        >>> rates.by_layer()
        {'0': 0.5}
    """

    def __init__(self, model: nn.Module) -> None:
        self._layers = {n: m for n, m in model.named_modules() if isinstance(m, NeuronLayer)}
        if not self._layers:
            raise UserError(f"{type(model).__name__}: has no spiking neurons to observe")
        self._spikes = dict.fromkeys(self._layers, 0)
        self._sites = dict.fromkeys(self._layers, 0)
        self._hooks: list[RemovableHandle] = []

    def __enter__(self) -> "FiringRates":
        for name, layer in self._layers.items():

            def count(_layer: nn.Module, _inputs: object, out: Tensor, name: str = name) -> None:
                self._spikes[name] += int(out.count_nonzero())
                self._sites[name] += out.numel()

            self._hooks.append(layer.register_forward_hook(count))
        return self

    def __exit__(
        self,
        _kind: type[BaseException] | None,
        _error: BaseException | None,
        _trace: TracebackType | None,
    ) -> None:
        while self._hooks:
            self._hooks.pop().remove()

    def by_layer(self) -> dict[str, float]:
        """Return the rate of every layer that ran, in the model's order, in [0, 1]."""
        return {name: self._spikes[name] / n for name, n in self._sites.items() if n}

    def mean(self) -> float:
        """Return the rate over all neurons of all layers."""
        return sum(self._spikes.values()) / max(1, sum(self._sites.values()))

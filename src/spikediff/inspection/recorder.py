"""The spike recorder: hooks that watch the neurons of a model without changing its outputs."""

import zlib
from collections.abc import Callable, Iterable
from contextlib import ExitStack
from typing import Any

import torch
from torch import Tensor, nn

from spikediff.errors import UserError
from spikediff.inspection.record import LayerRecord, SpikeRecord, Window
from spikediff.neurons import NeuronState, SpikeEmitter
from spikediff.targets import arguments_of, as_timestep, choose_by_name, modules_of, neurons_of

_WHOLE = "(model)"  # name of a layer of neurons that is the whole model


class SpikeRecorder:
    """Record the firing of a model's neurons inside a `with` block; outputs do not change.

    The recorder stores counts, so memory grows with the network and the denoising steps, not with
    the images. For a few chosen neurons and the first image it also keeps spikes and membranes; the
    membranes are computed by the neuron's own equations.

    The `timestep` of a model's call identifies the denoising step; a second batch adds to the steps
    of the first. Calls without a timestep share one separate column.

    Args:
        target: A model, or a pipeline, whose models are all watched.
        layers: Patterns of the layers to watch, as for `spikediff.targets.choose_by_name`.
        neurons_per_layer: K, the number of neurons to choose in each layer.
        seed: Seed of the choice.

    Raises:
        UserError: The target has no neurons, or was compiled for inference; a pattern matches no
            layer; K is below 1.

    Example:
        >>> from spikediff import IF
        >>> model = nn.Sequential(nn.Identity(), IF())
        >>> with SpikeRecorder(model) as record:
        ...     _ = model(torch.tensor([0.5, 2.0]).expand(4, 1, 2))  # [T, B, C]
        >>> record.layers["1"].rate, record.layers["1"].saturated
        (0.75, 0.5)
    """

    def __init__(
        self,
        target: Any,
        *,
        layers: str | Iterable[str] = "*",
        neurons_per_layer: int = 40,
        seed: int = 0,
    ) -> None:
        if neurons_per_layer < 1:
            raise UserError(f"SpikeRecorder: neurons_per_layer = {neurons_per_layer} is below 1")
        self._models = modules_of(target, "SpikeRecorder")
        patterns = [layers] if isinstance(layers, str) else layers
        found = neurons_of(self._models, SpikeEmitter)
        if not found:
            raise UserError(
                f"{', '.join(type(m).__name__ for m in self._models.values())}: has no spiking "
                "neurons; there is nothing to record"
            )
        chosen = choose_by_name(found, patterns, "SpikeRecorder")
        self._neurons = {name or _WHOLE: layer for name, layer in chosen.items()}
        self._choice = (neurons_per_layer, seed)
        self._timestep: float | None = None  # of the call that is running
        self._exit = ExitStack()
        self.record = SpikeRecord()

    def __enter__(self) -> SpikeRecord:
        for model in self._models.values():
            self._on_call(model, self._begin, self._end)
        for name, layer in self._neurons.items():
            watch = _Watch(self, name)
            self._on_call(layer, watch.before, watch.after)
        return self.record

    def __exit__(self, *raised: Any) -> None:
        self._exit.__exit__(*raised)
        self._timestep = None
        ran = {layer.name for layer in self.record.layers.values()}
        self.record.not_called = [name for name in self._neurons if name not in ran]

    def _on_call(
        self, module: nn.Module, before: Callable[..., None], after: Callable[..., None]
    ) -> None:
        # prepend: an energy meter, which ignores operations inside neurons, ignores ours too.
        hooks = [
            module.register_forward_pre_hook(before, with_kwargs=True),
            module.register_forward_hook(after, with_kwargs=True, always_call=True, prepend=True),
        ]
        for hook in hooks:
            self._exit.callback(hook.remove)

    def _begin(self, model: nn.Module, inputs: tuple[Any, ...], options: dict[str, Any]) -> None:
        """Begin a call of a model; one with a timestep is a denoising step."""
        self._timestep = as_timestep(arguments_of(model, inputs, options).get("timestep"))

    def _end(self, *_: object) -> None:
        self._timestep = None

    def column(self) -> int:
        """Return the index of the denoising step that is running."""
        return self.record.column(self._timestep)

    def layer(self, name: str, layer: SpikeEmitter, spikes: Tensor) -> LayerRecord:
        """Return the record of a layer; a layer called with another shape has a second one."""
        shape = tuple(spikes.shape[2:])
        known = self.record.layers.get(name)
        if known is not None and known.shape != shape:
            return self.layer(f"{name} [{', '.join(map(str, shape))}]", layer, spikes)
        if known is None:
            known = LayerRecord(
                name=name,
                neuron=layer.describe(),
                shape=shape,
                units=self._choose(name, spikes[0, 0].numel()),
                fired=torch.zeros(shape, dtype=torch.int64),
            )
            self.record.layers[name] = known
        return known

    def _choose(self, name: str, neurons: int) -> Tensor:
        """Return the sorted indices of a layer's chosen neurons, by seed and name [K]."""
        count, seed = self._choice
        source = torch.Generator().manual_seed(zlib.crc32(f"{seed} {name}".encode()))
        return torch.randperm(neurons, generator=source)[:count].sort().values


class _Watch:
    """The recorder's hooks at one layer."""

    def __init__(self, recorder: SpikeRecorder, name: str) -> None:
        self._recorder = recorder
        self._name = name
        self._before: NeuronState | None = None
        self._open: tuple[LayerRecord, int] | None = None  # where the last window may continue

    def before(self, layer: SpikeEmitter, inputs: tuple[Any, ...], options: dict[str, Any]) -> None:
        """Save the state that the window continues, before the layer changes it."""
        memory = arguments_of(layer, inputs, options).get("memory")
        self._before = None if memory is None else memory.get(layer)

    @torch.no_grad()
    def after(
        self, layer: SpikeEmitter, inputs: tuple[Any, ...], options: dict[str, Any], out: Any
    ) -> None:
        """Count the spikes [T, B, ...]; keep the first complete window of each denoising step.

        A window has spikes and membranes of the chosen neurons for the first image.
        """
        if not isinstance(out, Tensor):  # None if the neurons raised an error
            return
        current = arguments_of(layer, inputs, options)["current"].detach()
        spikes = layer.unrolled(out.detach())
        record, step = self._recorder.layer(self._name, layer, spikes), self._recorder.column()
        record.add(step, spikes)
        units = record.units.to(current.device)
        trace = layer.trace(current, units, self._before)
        fired = spikes[:, 0].flatten(1)[:, units]  # [T, K]
        membranes = trace._replace(u=trace.u.cpu(), v=trace.v.cpu())
        window = Window(fired.to("cpu", torch.int8), *membranes)
        if step not in record.windows:
            record.windows[step] = window
            self._open = record, step
        elif self._before is not None and self._open == (record, step):
            record.windows[step] = record.windows[step].followed_by(window)
        else:
            self._open = None

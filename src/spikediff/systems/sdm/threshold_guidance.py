r"""Threshold guidance: sampling with scaled thresholds, without training.

A neuron's equations are homogeneous: multiplying the current and every potential (the
threshold, the reset, the initial membrane, the negative threshold) by k multiplies each membrane
by k and leaves the spikes unchanged,

    spikes(k I; k v_threshold, k v_reset, k v_init, k v_negative) = spikes(I; v_threshold, ...)

so guidance with scale k is equivalent to dividing the input current of every neuron by k. All
potentials scale, not only the threshold: for the papers' neurons (hard or soft reset
to 0, membrane from rest) this makes no difference, and for other neurons the law requires it.

Reference: Cao et al., "Spiking denoising diffusion probabilistic models", WACV 2024, and "SDM",
IEEE TAI 2025, section 4.3; there k < 1 is called inhibitory and k > 1 excitatory guidance.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import AbstractContextManager, ExitStack, contextmanager
from dataclasses import replace
from math import inf
from numbers import Real
from typing import Any

import torch
from torch import nn

from spikediff.errors import UserError
from spikediff.neurons import Dynamics, NeuronLayer
from spikediff.targets import as_timestep, choose_by_name, neurons_of

Schedule = Callable[[float], float]
"""Maps the timestep to the scale."""
Scale = float | Mapping[str, float] | Sequence[float] | Schedule
"""One for all layers; by name of a layer; one a denoising step; or a function of the timestep."""


@contextmanager
def threshold_guidance(
    model: nn.Module, scale: Scale, *, layers: str | Iterable[str] | None = None
) -> Iterator[None]:
    """Scale the thresholds of a model's neurons inside a `with` block.

    Each scale is relative to the layer's own threshold. After the block, even after an exception,
    the thresholds are restored. Nested blocks multiply. A schedule changes the model only during
    its calls.

    Args:
        model: Any model with layers of `spikediff.neurons`.
        scale: k, positive: below 1 neurons fire more, above 1 less. Or a mapping from layer
            patterns to k, where the last matching pattern applies and other layers keep their
            thresholds. Or a schedule over the denoising steps: a function from the timestep to k,
            or one k for every step of a run, in the order of sampling. A lower timestep (the second
            argument of the model, `timestep`) begins a new step, a higher one a new run.
        layers: Patterns (`fnmatch`) of the layers to scale, all by default. They are compared
            with the names of neuron layers and of the modules that contain them: "stem",
            "up_blocks.*", "*.neuron2".

    Yields:
        Nothing.

    Raises:
        UserError: The model has no neurons; a pattern matches no layer; a scale is not positive
            and finite, or too near 1 for the model's precision (unless a function returns it); or
            the number of steps differs from the schedule's.

    Example:
        >>> from spikediff import IF
        >>> neuron = IF()
        >>> current = torch.tensor([0.5, 0.499, 0.5, 0.5])
        >>> neuron(current).tolist()
        [0.0, 0.0, 1.0, 0.0]
        >>> with threshold_guidance(neuron, 0.997):
        ...     neuron(current).tolist()
        [0.0, 1.0, 0.0, 1.0]
        >>> neuron.dynamics.v_threshold
        1.0
    """
    with _guided(model, _plain(scale), layers):
        yield


def _guided(
    model: nn.Module, scale: Any, layers: str | Iterable[str] | None
) -> AbstractContextManager[None]:
    if not isinstance(model, nn.Module):
        raise UserError(
            f"threshold_guidance: {type(model).__name__} is no network; give a network, such "
            f"as pipe.unet"
        )
    if isinstance(scale, Mapping):
        if layers is not None:
            raise UserError("threshold_guidance: a mapping names its layers; omit `layers`")
        _choose(model, scale)
        chosen = ((_choose(model, [pattern]), k) for pattern, k in scale.items())
        return _constant(model, {layer: _checked(k) for found, k in chosen for layer in found})
    found = _choose(
        model, ["*"] if layers is None else [layers] if isinstance(layers, str) else layers
    )
    if isinstance(scale, Real):
        return _constant(model, dict.fromkeys(found, _checked(scale)))
    if callable(scale):
        return _scheduled(model, found, scale)
    if isinstance(scale, Iterable) and not isinstance(scale, str):
        steps = [_checked(k) for k in scale]
        for k in steps:
            _check_precision(model, dict.fromkeys(found, k))
        return _scheduled(model, found, StepSchedule(steps))
    raise UserError(
        f"threshold_guidance: scale = {scale!r} must be a number, a mapping from layers to "
        "numbers, one number a step, or a function of the timestep"
    )


def _choose(model: nn.Module, patterns: Iterable[str]) -> list[NeuronLayer]:
    """Return the neuron layers that match a pattern; see `choose_by_name`."""
    layers, patterns = neurons_of({"": model}, NeuronLayer), list(patterns)
    if not layers:
        raise UserError(
            f"{type(model).__name__}: has no spiking neurons to guide; threshold "
            "guidance needs layers of IF, LIF or other neurons with a fixed threshold"
        )
    if not patterns:
        raise UserError("threshold_guidance: no layer is named; give a pattern, or nothing for all")
    return list(choose_by_name(layers, patterns, "threshold_guidance").values())


def _plain(scale: Any) -> Any:
    """Return the numbers of a tensor or an array; anything else unchanged."""
    return scale.tolist() if hasattr(scale, "tolist") else scale


def _checked(scale: Any) -> float:
    """Return a scale as a float; refuse one that is not positive and finite."""
    k = _plain(scale)
    if not isinstance(k, Real) or not 0.0 < float(k) < inf:
        raise UserError(f"threshold_guidance: scale = {scale} must be a positive number")
    return float(k)


_POTENTIALS = ("v_threshold", "v_reset", "v_init", "v_negative")


def scale_potentials(dynamics: Dynamics, scale: float) -> Dynamics:
    """Return a neuron's constants with every potential `scale` times as large."""
    k = _checked(scale)
    held = {name: getattr(dynamics, name) for name in _POTENTIALS}
    return replace(dynamics, **{name: k * v for name, v in held.items() if v is not None})


def _constant(
    model: nn.Module, scales: Mapping[NeuronLayer, float]
) -> AbstractContextManager[None]:
    _check_precision(model, scales)
    return _scaled(scales)


def _check_precision(model: nn.Module, scales: Mapping[NeuronLayer, float]) -> None:
    """Refuse scales that change no threshold in the model's precision."""
    dtype = next((p.dtype for p in model.parameters() if p.is_floating_point()), torch.float32)
    for layer, k in scales.items():
        before = layer.dynamics.v_threshold
        held = torch.tensor([before, k * before], dtype=dtype)
        if k != 1.0 and held[0] == held[1]:
            name = str(dtype).removeprefix("torch.")
            raise UserError(
                f"threshold_guidance: in {name} a threshold of {k * before:g} is the same as "
                f"{before:g}; use the model in float32, or a scale further from 1"
            )


@contextmanager
def _scaled(scales: Mapping[NeuronLayer, float]) -> Iterator[None]:
    """Scale layers, and restore them afterwards."""
    before = {layer: layer.dynamics for layer in scales}
    try:
        for layer, scale in scales.items():
            layer.dynamics = scale_potentials(layer.dynamics, scale)
        yield
    finally:
        for layer, dynamics in before.items():
            layer.dynamics = dynamics


@contextmanager
def _scheduled(
    model: nn.Module, layers: Sequence[NeuronLayer], schedule: Schedule
) -> Iterator[None]:
    """Scale layers during each call of the model, by the timestep of the call."""
    calls: list[ExitStack] = []

    def begin(_model: nn.Module, inputs: tuple[Any, ...], options: dict[str, Any]) -> None:
        timestep = as_timestep(options.get("timestep", inputs[1] if len(inputs) > 1 else None))
        if timestep is None:
            raise UserError(
                "threshold_guidance: a schedule needs model(sample, timestep) with one timestep "
                "for all images"
            )
        k = schedule(timestep)
        calls.append(ExitStack())
        calls[-1].enter_context(_scaled(dict.fromkeys(layers, k)))

    def end(*_: object) -> None:
        if calls:  # not where `begin` itself failed
            calls.pop().close()

    # prepend: of two schedules the one that scaled last is the first to put back.
    hooks = [
        model.register_forward_pre_hook(begin, with_kwargs=True),
        model.register_forward_hook(end, prepend=True, always_call=True),
    ]
    try:
        yield
    finally:
        while calls:  # a keyboard interrupt skips torch's hooks
            end()
        for hook in hooks:
            hook.remove()
    if isinstance(schedule, StepSchedule):
        schedule.finish()


class StepSchedule:
    """One scale for every denoising step of a run, in the order of sampling.

    A step ends when the timestep decreases, so two calls at one timestep belong to one
    step. A timestep that increases begins a new run.

    Example:
        >>> schedule = StepSchedule([0.98, 1.0])
        >>> [schedule(t) for t in (900, 400, 900, 400)]
        [0.98, 1.0, 0.98, 1.0]
    """

    def __init__(self, scales: Sequence[float]) -> None:
        if not scales:
            raise UserError("threshold_guidance: the schedule is empty; give a scale for each step")
        self._scales = tuple(scales)
        self._step = 0
        self._timestep: float | None = None  # of the call before

    def __call__(self, timestep: float) -> float:
        """Return the scale of a call; refuse a run of more or fewer steps than scales."""
        if self._timestep is None or timestep > self._timestep:
            self.finish()
            self._step = 0
        elif timestep < self._timestep:
            self._step += 1
        self._timestep = timestep
        if self._step >= len(self._scales):
            raise self._error("a step beyond")
        return self._scales[self._step]

    def finish(self) -> None:
        """Refuse a run that ended before the schedule did."""
        if self._timestep is not None and self._step + 1 < len(self._scales):
            raise self._error(f"only {self._step + 1} steps")

    def _error(self, steps: str) -> UserError:
        return UserError(
            f"threshold_guidance: the schedule has {len(self._scales)} scales, but the run has "
            f"{steps}; give one each"
        )


def parse_scale(text: str) -> float | dict[str, float] | tuple[float, ...]:
    """Read the scale of `threshold_guidance`.

    `0.997` applies to all layers, `up_blocks.*=0.99,stem=1.01` to layers by name; `0.98,0.99,1`
    has one scale per denoising step.

    Example:
        >>> parse_scale("0.997"), parse_scale("0.98,1"), parse_scale("stem=1.01")
        (0.997, (0.98, 1.0), {'stem': 1.01})
    """
    parts = [part.strip() for part in text.split(",")]
    if all("=" in part for part in parts):
        return {name: _number(k, text) for name, _, k in (p.rpartition("=") for p in parts)}
    scales = parse_numbers(text)
    return scales[0] if len(scales) == 1 else scales


def parse_numbers(text: str) -> tuple[float, ...]:
    """Read positive numbers separated by commas."""
    return tuple(_number(part.strip(), text) for part in text.split(","))


def _number(part: str, text: str) -> float:
    try:
        number = float(part)
    except ValueError:
        number = -1.0
    if not 0.0 < number < inf:
        raise UserError(
            f"threshold {text!r}: {part!r} is not a positive number; write 0.997, or "
            "0.98,0.99 (one per step), or stem=1.01,up_blocks.*=0.99"
        )
    return number

"""The energy meter, which observes every tensor operation of a model from outside."""

from collections.abc import Callable, Iterable, Sequence
from contextlib import ExitStack
from functools import cache, partial
from inspect import signature
from typing import Any

from torch import Tensor, nn
from torch.utils._python_dispatch import TorchDispatchMode, _get_current_dispatch_mode

from spikediff.energy.accounting import make_report
from spikediff.energy.changes import Changes, QuantisedActivations
from spikediff.energy.costs import CostTable
from spikediff.energy.elementwise import (
    BIT_SHIFTS,
    GAINS,
    LOOKUPS,
    NORMS,
    SAME_VALUES,
    SHIFTS,
    arithmetic,
)
from spikediff.energy.ledger import REAL, Cell, Ledger
from spikediff.energy.provenance import Provenance, first, tensors_of
from spikediff.energy.report import EnergyReport
from spikediff.energy.synapses import SYNAPSES, one_to_one
from spikediff.errors import UserError, check_number
from spikediff.neurons import SpikeEmitter
from spikediff.targets import arguments_of, as_timestep, modules_of


class EnergyMeter:
    """Count the operations of a model inside a `with` block.

    The meter sees every tensor operation, in layers and in functions, and recognises spikes by the
    values of the inputs. Outputs are unchanged, bit for bit.

    Args:
        target: A model; or a pipeline, whose models and scheduler steps are all counted.
        neurons: Further types of neuron layers, for models of other libraries: modules that take
            and return windows [T, ...]. Everything inside them counts as neuron updates.
        spiking_steps: T, used to recognise identical copies of an input; by default the leading
            axis of the first layer of neurons.
        images: The number of images made in the block; by default the rows of the scheduler's
            samples, or of the model's inputs. Needed where a pipeline calls neither, as
            `VAEPipeline` does.
        changes: Whether to compare the inputs of synapses with those of the last call, for
            `report(changes=True)`. This keeps a copy of every synapse's input.
        activations: With `changes`, quantisers of real-valued inputs, which are then also compared;
            see `spikediff.energy.measure_differences`.

    Raises:
        UserError: The target holds no module, or was compiled for inference; inside the block, a
            parameter took part in an operation that the meter cannot count; `images` is below 1.

    Example:
        >>> import torch
        >>> from spikediff import SpikingUNet
        >>> model = SpikingUNet(sample_size=8, in_channels=1, base_channels=8, channel_mult=(1, 2))
        >>> with EnergyMeter(model.eval()) as meter, torch.no_grad():
        ...     _ = model(torch.randn(1, 1, 8, 8), timestep=10)
        >>> report = meter.report(accounting="strict", costs="45nm")
        >>> report.energy_pj == 4.6 * report.macs + 0.9 * report.acs
        True
    """

    def __init__(
        self,
        target: Any,
        *,
        neurons: Iterable[type[nn.Module]] = (),
        spiking_steps: int | None = None,
        images: int | None = None,
        changes: bool = False,
        activations: QuantisedActivations | None = None,
    ) -> None:
        if images is not None:
            check_number("EnergyMeter: images", images, 1, whole=True)
        if spiking_steps is not None:
            check_number("EnergyMeter: spiking_steps", spiking_steps, 1, whole=True)
        self.ledger = Ledger(spiking_steps, images)
        self._roots = modules_of(target, "EnergyMeter")
        configs = (getattr(root, "config", None) for root in self._roots.values())
        self._takes_windows = spiking_steps is not None or any(
            hasattr(config, "spiking_steps") for config in configs
        )
        self._scheduler = getattr(target, "scheduler", None)
        self._neurons: tuple[type[nn.Module], ...] = (SpikeEmitter, *neurons)
        self._place: list[str] = []  # the modules that are running, outermost first
        parameters = (p for root in self._roots.values() for p in root.parameters())
        followed = Changes(activations) if changes else None
        self._provenance = Provenance(parameters, spiking_steps, followed)
        self._observer = _Observer(self._see)
        self._images_without_calls = (images or 1) if self._scheduler is None else 1
        self._step: int | None = None
        self._read: set[int] = set()  # weights that the running call has read, by address
        self._exit = ExitStack()

    def __enter__(self) -> "EnergyMeter":
        for number, (prefix, root) in enumerate(self._roots.items()):
            begin = partial(self._new_step, number)
            hook = root.register_forward_pre_hook(begin, with_kwargs=True)
            self._exit.callback(hook.remove)
            for name, module in root.named_modules():
                watch = self._watch_neurons if isinstance(module, self._neurons) else self._watch
                watch(module, ".".join(part for part in (prefix, name) if part))
        if self._scheduler is not None:
            self._watch_scheduler(self._scheduler)
        self._exit.enter_context(self._observer)
        return self

    def __exit__(self, *raised: Any) -> None:
        self._exit.__exit__(*raised)
        self._place.clear()

    def report(
        self,
        accounting: str = "strict",
        costs: str | CostTable = "45nm",
        *,
        batch_norm: str = "folded",
        padding: bool = True,
        changes: bool | None = None,
    ) -> EnergyReport:
        """Price the counts so far.

        Args:
            accounting: A key of `spikediff.energy.ACCOUNTINGS`: "strict" or "paper".
            costs: A key of `spikediff.energy.COST_TABLES`, a table, or the path of a YAML file.
            batch_norm: "folded" into the preceding convolution, or "billed" at one MAC per element.
                Only batch norm in evaluation mode after a convolution or a linear layer can be
                folded; the audit lists all other norms.
            padding: Whether the MACs of a real-valued input include the padding's zeros, as in FLOP
                counters. Accumulates never do, because the padding contains no spikes.
            changes: True prices an execution that keeps the sums of synapses from call to call and
                adds the changes, False one that does not, None the observed execution.

        Raises:
            UserError: A name is unknown; nothing was observed; the number of images is unknown; the
                table lacks a price; changes were not tracked, or are combined with the paper's
                accounting.
        """
        return make_report(self.ledger, accounting, costs, batch_norm, padding, changes)

    def _watch(self, module: nn.Module, name: str) -> None:
        def enter(_module: nn.Module, _inputs: object) -> None:
            self._place.append(name)

        def leave(_module: nn.Module, _inputs: object, _out: object) -> None:
            self._place.pop()

        self._on_call(module, enter, leave)

    def _watch_neurons(self, module: nn.Module, name: str) -> None:
        """Ignore operations inside neurons; an update counts once, however it is computed."""

        def enter(_module: nn.Module, _inputs: object) -> None:
            self._observer.look_away()

        def leave(_module: nn.Module, _inputs: object, out: Any) -> None:
            try:
                if isinstance(out, Tensor):  # None if the neurons raised an error
                    ours = module if isinstance(module, SpikeEmitter) else None
                    self._count_neurons(name, out, ours)
            finally:
                self._observer.look_again()

        self._on_call(module, enter, leave)

    def _on_call(self, module: nn.Module, enter: Any, leave: Any) -> None:
        self._exit.callback(module.register_forward_pre_hook(enter).remove)
        self._exit.callback(module.register_forward_hook(leave, always_call=True).remove)

    def _watch_scheduler(self, scheduler: Any) -> None:
        """Attribute the operations of a scheduler's step to "scheduler"; count its images."""
        step: Callable[..., Any] = scheduler.step
        names = tuple(signature(step).parameters)

        def watched(*arguments: Any, **options: Any) -> Any:
            given = dict(zip(names, arguments, strict=False)) | options
            images = self._images_in(given.get("sample"))
            self.ledger.stepped[as_timestep(given.get("timestep"))] += images
            self._provenance.images = images
            self._place.append("scheduler")
            try:
                return step(*arguments, **options)
            finally:
                self._place.pop()

        # Keep the signature visible; a pipeline reads a step's options from it.
        watched.__wrapped__ = step  # type: ignore[attr-defined]
        outer = vars(scheduler).get("step")  # the wrapper of another active meter
        scheduler.step = watched
        if outer is None:
            self._exit.callback(partial(delattr, scheduler, "step"))
        else:
            self._exit.callback(partial(setattr, scheduler, "step", outer))

    def _new_step(
        self, number: int, root: nn.Module, inputs: tuple[Any, ...], options: dict[str, Any]
    ) -> None:
        given = arguments_of(root, inputs, options)
        sample = next(iter(given.values()), None)
        timestep = as_timestep(given.get("timestep"))
        self._step = self.ledger.step(timestep)
        rows = self._images_in(sample)
        self._read.clear()
        self.ledger.rows[timestep] += rows
        afresh = timestep is None or self._step == 0
        self._provenance.begin_call(number, rows, afresh)

    def _images_in(self, sample: Any) -> int:
        """Return the images of a sample: B of [B, ...], or of a window [T, B, C, H, W]."""
        if not isinstance(sample, Tensor):
            return 1
        return sample.shape[1] if self._takes_windows and sample.dim() == 5 else len(sample)

    def _count_neurons(self, name: str, spikes: Tensor, ours: SpikeEmitter | None) -> None:
        """Count the output of a layer of neurons; a neuron of D levels emits up to D spikes."""
        known = self._provenance
        levels, steps = (1, len(spikes))
        if ours is not None:
            levels, steps = ours.levels, ours.spiking_steps(spikes)
        if self.ledger.spiking_steps is None:
            self.ledger.spiking_steps = known.spiking_steps = steps
        if spikes.isnan().any():
            raise UserError(
                f"{name or 'the model'}: its neurons emitted NaN; a weight or input is not finite"
            )
        fired = spikes.count_nonzero() if ours is None else known.add_spikes(spikes, levels)
        self.ledger.levels[levels] += spikes.numel()
        updates = levels * spikes.numel()
        cell = Cell(operation="neuron", kind="neuron", events=int(fired), sites=updates)
        cell.neuron_updates = updates
        self._add(cell, name)

    def _add(self, cell: Cell, layer: str) -> None:
        cell.step = self._step if self._step is not None else self.ledger.step(None)
        cell.layer = layer
        self.ledger.add(cell)

    def _see(self, name: str, arguments: Sequence[Any], out: Any) -> None:
        if not self._place:
            return
        known = self._provenance
        if name in SAME_VALUES:
            known.follow_copy(arguments[0], out)
            return
        sources = tensors_of(arguments)
        if not sources:
            return
        of_weights = [known.is_weight(source) for source in sources]
        if all(of_weights):  # the result of weights alone is a weight, too
            known.add_weights(tensors_of([out]))
            return
        known.follow(name, sources, out)
        if name in SYNAPSES:
            self._count_synapse(SYNAPSES[name](arguments, out, known), sources, first(out))
        elif name in NORMS:
            self._count_norm(name, arguments, first(out))
        elif any(of_weights) and name in GAINS:
            self._count_gain(out, of_current=any(map(known.is_current, sources)))
        elif any(of_weights) and name not in LOOKUPS | SHIFTS | BIT_SHIFTS:
            raise UserError(
                f"{self._place[-1] or 'the model'}: a parameter takes part in {name!r}, which the "
                "energy meter cannot count; give the operation a row in spikediff.energy"
            )
        else:
            self._count_arithmetic(name, arguments, out)

    def _count_synapse(self, cell: Cell, sources: Sequence[Tensor], out: Tensor) -> None:
        """Count a synapse; a weight read in parts is read once per call and image."""
        weights = {s.data_ptr() for s in sources if self._provenance.is_weight(s)}
        images = self._provenance.images or self._images_without_calls
        reads = 0 if weights and weights <= self._read else images
        self._read |= weights
        cell.outputs, cell.weight_reads = out.numel(), cell.weights * reads
        self._add(cell, self._place[-1])
        self._provenance.add_current(out)

    def _count_gain(self, out: Tensor, of_current: bool) -> None:
        """Count a learned factor: a multiply-accumulate per element."""
        if of_current:  # a scaled current is still a current, so batch norm can fold into it
            self._provenance.add_current(out)
        n, copies = out.numel(), self._provenance.copies(out)
        gain = Cell.of_synapse("scaling by a parameter", REAL, n, n, 0, n, n, copies)
        gain.outputs = n
        self._add(gain, self._place[-1])

    def _count_norm(self, name: str, arguments: Sequence[Any], out: Tensor) -> None:
        x, operation = arguments[0], NORMS[name]
        trains = len(arguments) > 5 and arguments[5] is True
        frozen = operation == "batch norm" and ("no_training" in name or not trains)
        signal = self._provenance.read(x) if frozen else None
        if signal is not None and signal.events is not None:  # one weight per spike, and a shift
            self._count_synapse(one_to_one(x, signal), tensors_of(arguments), out)
            return
        norm = Cell(operation=operation, kind="norm", elements=x.numel())
        norm.foldable = frozen and self._provenance.is_current(x)
        norm.copies = self._provenance.copies(x)
        self._add(norm, self._place[-1])

    def _count_arithmetic(self, name: str, arguments: Sequence[Any], out: Any) -> None:
        found = arithmetic(name, arguments, out)
        if found is not None and _is_floating(out):
            operation, elements = found
            cell = Cell(operation=operation, kind="arithmetic", elements=elements)
            self._add(cell, self._place[-1])


class _Observer(TorchDispatchMode):  # type: ignore[no-untyped-call]
    """Pass every tensor operation to a function after it has run."""

    def __init__(self, show: Callable[[str, Sequence[Any], Any], None]) -> None:
        super().__init__()  # type: ignore[no-untyped-call]
        self._show = show
        self._away: list[bool] = []  # per `look_away`: whether it left the stack of modes

    def __torch_dispatch__(
        self, func: Any, types: Any, args: Sequence[Any] = (), kwargs: dict[str, Any] | None = None
    ) -> Any:
        out = func(*args, **(kwargs or {}))
        if not self._away:
            self._show(_name(func.overloadpacket), args, out)
        return out

    def look_away(self) -> None:
        """Stop observing until `look_again`; leave the stack of modes if possible, to save time."""
        on_top = not self._away and _get_current_dispatch_mode() is self
        if on_top:
            self.__exit__(None, None, None)  # type: ignore[no-untyped-call]
        self._away.append(on_top)

    def look_again(self) -> None:
        """Resume observing."""
        if self._away.pop():
            self.__enter__()  # type: ignore[no-untyped-call]


@cache
def _name(operation: Any) -> str:
    """Return "add" for "aten::add_", because the in-place form has the same arithmetic."""
    name: str = operation.__name__
    return name.rstrip("_")


def _is_floating(out: Any) -> bool:
    out = out[0] if isinstance(out, list | tuple) and out else out
    return isinstance(out, Tensor) and out.is_floating_point()

"""What was counted, by denoising step and layer, before anything is priced."""

from collections import Counter
from dataclasses import dataclass, field

from spikediff.energy.synapses import Count


@dataclass
class SynapseEntry:
    """All calls of one operation of one layer in one denoising step.

    Attributes:
        operation: What it is, such as "conv2d 3x3", or "scaling" and "shift" by a parameter.
        signals: Kinds of input that were seen.
        real_dense: Dense multiply-accumulates of real-valued inputs, by the number of times that
            an input repeated itself.
        real_inner: The same without the padding's zeros.
        spiking_dense: Dense multiply-accumulates that spikes spared.
        synops: Accumulates that spikes caused, exactly.
        rated_dense: Dense multiply-accumulates times the share of active inputs, call by call.
        events: Spikes that arrived, or real values.
        sites: Input elements.
        outputs: Output elements.
        weights: Elements of the weight, at the largest.
        calls: Calls.
    """

    operation: str
    signals: set[str] = field(default_factory=set)
    real_dense: Counter[int] = field(default_factory=Counter)
    real_inner: Counter[int] = field(default_factory=Counter)
    spiking_dense: int = 0
    synops: int = 0
    rated_dense: float = 0.0
    events: int = 0
    sites: int = 0
    outputs: int = 0
    weights: int = 0
    calls: int = 0

    def add(self, count: Count, outputs: int) -> None:
        """Enter one call."""
        self.signals.add(count.signal)
        if count.spiking:
            self.spiking_dense += count.dense_macs
        else:
            self.real_dense[count.copies] += count.dense_macs
            self.real_inner[count.copies] += count.inner_macs
        self.synops += count.synops
        self.rated_dense += count.dense_macs * count.events / max(1, count.sites)
        self.events += count.events
        self.sites += count.sites
        self.outputs += outputs
        self.weights = max(self.weights, count.weights)
        self.calls += 1

    def real_macs(self, spiking_steps: int, padding: bool) -> int:
        """Return the MACs of real-valued inputs, T identical copies counted once."""
        by_copies = self.real_dense if padding else self.real_inner
        return sum(once(macs, copies, spiking_steps) for copies, macs in by_copies.items())


@dataclass
class NormEntry:
    """A norm: elements by the number of times that its input repeated itself."""

    operation: str
    foldable: bool
    elements: Counter[int] = field(default_factory=Counter)


@dataclass
class NeuronEntry:
    """A layer of neurons."""

    updates: int = 0
    spikes: int = 0


@dataclass
class StepLedger:
    """One denoising step: everything that ran between one timestep and the next.

    Attributes:
        timestep: The model's `timestep` argument; None for a model without one.
        rows: Images that entered the model.
        synapses: By layer and operation.
        norms: By layer.
        neurons: By layer.
        arithmetic: Elements of element-by-element arithmetic, by layer and kind.
    """

    timestep: float | None
    rows: int = 0
    synapses: dict[tuple[str, str], SynapseEntry] = field(default_factory=dict)
    norms: dict[str, NormEntry] = field(default_factory=dict)
    neurons: dict[str, NeuronEntry] = field(default_factory=dict)
    arithmetic: dict[str, Counter[str]] = field(default_factory=dict)


@dataclass
class Ledger:
    """Every step that was observed, in the order of its first call.

    Attributes:
        spiking_steps: T, as given or as the first layer of neurons saw it; None where neither.
        steps: One entry per distinct timestep.
    """

    spiking_steps: int | None = None
    steps: dict[float | None, StepLedger] = field(default_factory=dict)

    def step(self, timestep: float | None) -> StepLedger:
        """Return the entry of a timestep, new if need be."""
        return self.steps.setdefault(timestep, StepLedger(timestep))

    @property
    def images(self) -> int:
        """Images that were generated: those that entered the first step."""
        return next((step.rows for step in self.steps.values() if step.rows), 1)


def once(amount: int, copies: int, spiking_steps: int) -> int:
    """Return the amount with T identical copies counted as one."""
    return amount // spiking_steps if copies % spiking_steps == 0 else amount

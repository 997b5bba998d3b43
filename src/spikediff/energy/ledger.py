"""One operation of one layer in one denoising step, priced.

What was counted, by denoising step and layer, before anything is priced.
"""

from collections import Counter
from dataclasses import dataclass, field, replace

from spikediff.energy.synapses import Count


@dataclass(frozen=True)
class Cell:
    """One operation of one layer in one denoising step, over all images.

    Attributes:
        step: Index of the denoising step.
        layer: Name of the module that ran the operation; "" for the model itself.
        operation: "conv2d 3x3", "linear", "batch norm", "neuron", "addition", "function", ...
        signal: Kinds of input: "real", "binary", "ternary", "integer", "silent", or several.
        macs: Multiply-accumulates, as the accounting has them.
        acs: Accumulates, as the accounting has them.
        dense_macs: What a dense engine would do, at every spiking step, with the padding's zeros.
        events: Spikes (of a neuron: that it emitted; else: that arrived, or what changed of them).
        sites: Elements that could have been one.
        neuron_updates: Updates of neurons, one per neuron, spiking step and image.
        elements: Elements of arithmetic that is counted, and named in the audit, but not billed.
        weights: Elements of the weight.
        outputs: Elements of the result.
        calls: Calls.
        synops: Synaptic operations of the spikes that arrived, or of what changed of them.
        pass_macs: Dense operations of one pass with T = 1 through the synapses that saw spikes,
            without the padding's zeros.
        compared: Input elements that were compared with those of the last call.
        changed: Input elements that differed.
        kept: Whether the sums of the last call are kept, and what changed is added to them.
        weight_reads: Elements of the weight, times the images and network calls that need them.
        input_bits: Bits of the inputs whose width is known: of spikes, and in fixed point.
        real_inputs: Real-valued input elements, T identical copies counted once.
        results: Elements of the result, T identical copies counted once.
    """

    step: int
    layer: str
    operation: str
    signal: str
    macs: int = 0
    acs: int = 0
    dense_macs: int = 0
    events: int = 0
    sites: int = 0
    neuron_updates: int = 0
    elements: int = 0
    weights: int = 0
    outputs: int = 0
    calls: int = 0
    synops: int = 0
    pass_macs: float = 0
    compared: int = 0
    changed: int = 0
    kept: bool = False
    weight_reads: int = 0
    input_bits: int = 0
    real_inputs: int = 0
    results: int = 0

    @property
    def spikes_per_synapse(self) -> float | None:
        """T x rate: spikes per synapse and call; None where no synapse saw spikes."""
        return self.synops / self.pass_macs if self.pass_macs else None

    @property
    def changed_share(self) -> float | None:
        """Share of the input that differs from that of the last call; None where nobody looked."""
        return self.changed / self.compared if self.compared else None

    @property
    def rate(self) -> float:
        """Share of active sites: the firing rate where spikes were counted."""
        return self.events / self.sites if self.sites else 0.0

    def __add__(self, other: "Cell") -> "Cell":
        signals = set(self.signal.split("+")) | set(other.signal.split("+"))
        sums = {name: getattr(self, name) + getattr(other, name) for name in _SUMMED}
        weights = max(self.weights, other.weights)
        return replace(self, signal="+".join(sorted(signals)), weights=weights, **sums)


_SUMMED = (
    *("macs", "acs", "dense_macs", "events", "sites", "neuron_updates", "elements", "outputs"),
    *("calls", "synops", "pass_macs", "compared", "changed", "weight_reads", "input_bits"),
    *("real_inputs", "results"),
)


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
        spiking_inner: Dense operations through the synapses that saw spikes, of all T steps,
            without the padding's zeros. Counts that are run spike by spike pass once.
        spike_changes: Accumulates that the spikes of change would cause.
        real_changes: Multiply-accumulates of quantised values that changed; all, where they were
            not followed.
        change_events: Spikes of change that arrived, or values that changed.
        followed: Whether inputs are compared with those of the last call.
        compared: Elements that were compared.
        changed: Elements that differed.
        kept: Whether the calls started from the sums of the last one.
        weight_reads: Elements of the weight, times the images that need them.
        input_bits: Bits of the inputs whose width is known: of spikes, and in fixed point.
        real_inputs: Real-valued input elements, by the times that an input repeated itself.
        results: Output elements, by the same number.
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
    spiking_inner: int = 0
    spike_changes: int = 0
    real_changes: Counter[int] = field(default_factory=Counter)
    change_events: int = 0
    followed: bool = False
    compared: int = 0
    changed: int = 0
    kept: bool = False
    weight_reads: int = 0
    input_bits: int = 0
    real_inputs: Counter[int] = field(default_factory=Counter)
    results: Counter[int] = field(default_factory=Counter)

    def add(self, count: Count, outputs: int, passes: int = 1, weight_reads: int = 0) -> None:
        """Enter one call.

        Args:
            count: What it cost.
            outputs: Elements of its result.
            passes: Spikes that an element's count was made of: 1, where it came as a count.
            weight_reads: Images that need its weight and have not read it yet.
        """
        self.signals.add(count.signal)
        if count.spiking:
            self.spiking_dense += count.dense_macs
            self.spiking_inner += count.inner_macs // passes
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
        changes = count.full if count.changes is None else count.changes
        if count.spiking:
            self.spike_changes += changes
        else:
            self.real_changes[count.copies] += changes
        events = count.events if count.change_events is None else count.change_events
        self.change_events += events
        self.followed = self.followed or count.changes is not None
        self.compared += count.compared
        self.changed += count.changed
        self.kept = self.kept or count.kept
        self.weight_reads += count.weights * weight_reads
        if count.bits:
            self.input_bits += count.bits * count.sites
        elif not count.spiking:
            self.real_inputs[count.copies] += count.sites
        self.results[count.copies] += outputs

    def real_macs(self, spiking_steps: int, padding: bool) -> int:
        """Return the MACs of real-valued inputs, T identical copies counted once."""
        return total_once(self.real_dense if padding else self.real_inner, spiking_steps)


@dataclass
class NormEntry:
    """A norm: elements by the number of times that its input repeated itself."""

    operation: str
    foldable: bool
    elements: Counter[int] = field(default_factory=Counter)


@dataclass
class NeuronEntry:
    """A layer of neurons, which emit up to D = `levels` spikes a step."""

    levels: int = 1
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
    def activation_bits(self) -> int:
        """Bits that a window of most neurons carries: those of 0 to T D."""
        neurons: Counter[int] = Counter()
        for step in self.steps.values():
            for entry in step.neurons.values():
                neurons[entry.levels] += entry.updates // entry.levels
        most = max(neurons, key=neurons.__getitem__, default=1)
        return ((self.spiking_steps or 1) * most).bit_length()

    @property
    def follows_changes(self) -> bool:
        """Whether the inputs of synapses were compared with those of the last call."""
        entries = (entry for step in self.steps.values() for entry in step.synapses.values())
        return any(entry.followed for entry in entries)

    @property
    def images(self) -> int:
        """Images that were generated: those that entered the first step."""
        return next((step.rows for step in self.steps.values() if step.rows), 1)


def total_once(amounts: Counter[int], spiking_steps: int) -> int:
    """Return the sum of amounts by their copies, T identical copies counted as one."""
    return sum(once(amount, copies, spiking_steps) for copies, amount in amounts.items())


def once(amount: int, copies: int, spiking_steps: int) -> int:
    """Return the amount with T identical copies counted as one."""
    return amount // spiking_steps if copies % spiking_steps == 0 else amount

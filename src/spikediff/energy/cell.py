"""One operation of one layer in one denoising step, priced."""

from dataclasses import dataclass, replace


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

r"""The two ways to turn counts into MACs and ACs.

strict: a real-valued input is a multiply-accumulate wherever it enters, whatever a paper called it;
a spike is an accumulate per target that it really reaches.

paper: $E = E_{MAC}\,\mathrm{FLOP}_{conv1} + E_{AC} \sum_l r_l\,T\,\mathrm{FLOP}_l$ with $r_l$ the
share of active inputs of layer l: only the first convolution multiplies (Cao et al., SDM, IEEE TAI
2025, section 5, after Zhou et al., Spikformer, ICLR 2023). Where the input of a layer is
real-valued, the formula is silent; $r_l$ is 1 there.
"""

from collections.abc import Callable, Iterator
from dataclasses import replace

from spikediff.energy.costs import CostTable, load_costs
from spikediff.energy.ledger import Cell, Ledger, StepLedger, SynapseEntry, once, total_once
from spikediff.energy.report import EnergyReport
from spikediff.errors import UserError, suggestion

Accounting = Callable[[SynapseEntry, bool, int, bool], tuple[int, int]]


def strict(entry: SynapseEntry, first: bool, spiking_steps: int, padding: bool) -> tuple[int, int]:
    """Return (MACs, ACs): MACs of real-valued inputs, and exact synaptic operations of spikes."""
    return entry.real_macs(spiking_steps, padding), entry.synops


def paper(entry: SynapseEntry, first: bool, spiking_steps: int, padding: bool) -> tuple[int, int]:
    """Return (MACs, ACs): the first convolution, and rate times FLOPs of everything else."""
    if first:
        return entry.real_macs(spiking_steps, padding), entry.synops
    return 0, round(entry.rated_dense)


def paper_ann(
    entry: SynapseEntry, first: bool, spiking_steps: int, padding: bool
) -> tuple[int, int]:
    """Return (MACs, 0): the paper's figure for a network without neurons is E_MAC times FLOPs."""
    return entry.real_macs(spiking_steps, padding) + entry.spiking_dense, 0


def by_changes(
    entry: SynapseEntry, first: bool, spiking_steps: int, padding: bool
) -> tuple[int, int]:
    """Return (MACs, ACs) of what changed since the last call; all, where that is not known."""
    return total_once(entry.real_changes, spiking_steps), entry.spike_changes


ACCOUNTINGS: dict[str, Accounting] = {"strict": strict, "paper": paper}


def make_report(
    ledger: Ledger,
    accounting: str,
    costs: str | CostTable,
    batch_norm: str = "folded",
    padding: bool = True,
    changes: bool | None = None,
) -> EnergyReport:
    """Price a ledger; see `spikediff.energy.EnergyMeter.report` for the arguments."""
    if accounting not in ACCOUNTINGS:
        raise UserError(f"unknown accounting {accounting!r}; {suggestion(accounting, ACCOUNTINGS)}")
    if batch_norm not in ("folded", "billed"):
        raise UserError(f"batch_norm = {batch_norm!r}; choose from folded, billed")
    if changes and accounting != "strict":
        raise UserError("what changes is counted in the strict accounting only")
    if not ledger.steps:
        raise UserError("nothing was observed: call the model inside the `with` block")
    if changes and not ledger.follows_changes:
        raise UserError(
            "no changes were followed: make the meter with EnergyMeter(changes=True), of a network "
            "whose neurons emit spikes, or with quantised activations"
        )
    table = load_costs(costs)
    spiking = any(step.neurons for step in ledger.steps.values())
    count = paper_ann if accounting == "paper" and not spiking else ACCOUNTINGS[accounting]
    first = _first_convolution(ledger)
    cells = tuple(
        cell
        for index, step in enumerate(ledger.steps.values())
        for cell in _cells(
            index, step, ledger.spiking_steps or 1, count, first, batch_norm, padding, changes
        )
    )
    return EnergyReport(
        accounting=accounting,
        costs=table,
        batch_norm=batch_norm,
        padding=padding,
        spiking_steps=ledger.spiking_steps,
        images=ledger.images,
        timesteps=tuple(step.timestep for step in ledger.steps.values()),
        cells=cells,
    )


def _first_convolution(ledger: Ledger) -> tuple[str, str] | None:
    """Return the layer and operation of the first convolution that ran."""
    for step in ledger.steps.values():
        for key in step.synapses:
            if key[1].startswith("conv"):
                return key
    return None


def _cells(
    index: int,
    step: StepLedger,
    spiking_steps: int,
    count: Accounting,
    first: tuple[str, str] | None,
    batch_norm: str,
    padding: bool,
    changes: bool | None,
) -> Iterator[Cell]:
    """Price one denoising step, layer by layer."""
    for (layer, operation), entry in step.synapses.items():
        kept = entry.kept if changes is None else changes and entry.followed
        rule = by_changes if kept and count is strict else count
        macs, acs = rule(entry, (layer, operation) == first, spiking_steps, padding)
        cell = _synapses(entry, spiking_steps, kept)
        yield replace(cell, step=index, layer=layer, macs=macs, acs=acs)
    for layer, norm in step.norms.items():
        elements = sum(once(n, c, spiking_steps) for c, n in norm.elements.items())
        folded = batch_norm == "folded" and norm.foldable
        yield Cell(
            step=index,
            layer=layer,
            operation=f"{norm.operation}, folded" if folded else norm.operation,
            signal="real",
            macs=elements if batch_norm == "billed" else 0,
            elements=elements,
        )
    for layer, neuron in step.neurons.items():
        yield Cell(
            step=index,
            layer=layer,
            operation="neuron",
            signal="real",
            events=neuron.spikes,
            sites=neuron.updates,
            neuron_updates=neuron.updates,
        )
    for layer, kinds in step.arithmetic.items():
        for kind, elements in kinds.items():
            yield Cell(step=index, layer=layer, operation=kind, signal="real", elements=elements)


def _synapses(entry: SynapseEntry, spiking_steps: int, kept: bool) -> Cell:
    """Return what one operation of a layer was, before it is priced."""
    return Cell(
        step=0,
        layer="",
        operation=entry.operation,
        signal="+".join(sorted(entry.signals)),
        dense_macs=sum(entry.real_dense.values()) + entry.spiking_dense,
        events=entry.change_events if kept else entry.events,
        sites=entry.sites,
        weights=entry.weights,
        outputs=entry.outputs,
        calls=entry.calls,
        synops=entry.spike_changes if kept else entry.synops,
        pass_macs=entry.spiking_inner / spiking_steps,
        compared=entry.compared,
        changed=entry.changed,
        kept=kept,
        weight_reads=entry.weight_reads,
        input_bits=entry.input_bits,
        real_inputs=total_once(entry.real_inputs, spiking_steps),
        results=total_once(entry.results, spiking_steps),
    )

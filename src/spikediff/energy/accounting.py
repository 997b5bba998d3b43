r"""The two ways to turn counts into MACs and ACs.

strict: a real-valued input costs multiply-accumulates wherever it enters, whatever a paper calls
it. A spike costs one accumulate per target that it reaches.

paper: $E = E_{MAC}\,\mathrm{FLOP}_{conv1} + E_{AC} \sum_l r_l\,T\,\mathrm{FLOP}_l$ with $r_l$ the
share of active inputs of layer l: only the first convolution multiplies (Cao et al., SDM, IEEE TAI
2025, section 5, after Zhou et al., Spikformer, ICLR 2023). The formula does not cover layers with
real-valued input; there $r_l$ is 1.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from functools import reduce
from operator import add

from spikediff.energy.costs import CostTable, load_costs
from spikediff.energy.ledger import REAL, Cell, Ledger
from spikediff.energy.report import EnergyReport
from spikediff.errors import UserError, check_known

Accounting = Callable[[Cell, int, bool], tuple[int, float]]
"""Called with `(cell, T, padding)`."""


def strict(cell: Cell, spiking_steps: int, padding: bool) -> tuple[int, float]:
    """Return (MACs, ACs): MACs of real-valued inputs, and exact synaptic operations of spikes."""
    if cell.signal != REAL:
        return 0, cell.synops
    return cell.once(cell.dense_macs if padding else cell.inner_macs, spiking_steps), 0


def paper(cell: Cell, spiking_steps: int, padding: bool) -> tuple[int, float]:
    """Return (0, ACs): rate times FLOPs of everything but the first convolution (`strict`)."""
    return 0, cell.rated_macs


def paper_ann(cell: Cell, spiking_steps: int, padding: bool) -> tuple[int, float]:
    """Return (MACs, 0), because a network without neurons costs E_MAC times FLOPs in the paper."""
    if cell.signal != REAL:
        return cell.dense_macs, 0
    return strict(cell, spiking_steps, padding)


def by_changes(cell: Cell, spiking_steps: int, padding: bool) -> tuple[int, float]:
    """Return (MACs, ACs) of the changes since the last call; if unknown, those of all inputs."""
    if cell.signal != REAL:
        return 0, cell.changes
    changes = cell.changes + (cell.changes_in_padding if padding else 0)
    return cell.once(changes, spiking_steps), 0


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
    check_known("accounting", accounting, ACCOUNTINGS)
    check_known("batch_norm", batch_norm, ("folded", "billed"))
    if changes and accounting != "strict":
        raise UserError("changes are counted only in the strict accounting")
    if not ledger.rows:
        raise UserError("nothing was observed: call the model inside the `with` block")
    if changes and not ledger.follows_changes:
        raise UserError(
            "changes were not tracked: make the meter with EnergyMeter(changes=True) for a network "
            "whose neurons emit spikes, or with quantised activations"
        )
    table = load_costs(costs)
    observed = ledger.cells
    spiking = any(cell.kind == "neuron" for cell in observed)
    count = paper_ann if accounting == "paper" and not spiking else ACCOUNTINGS[accounting]
    convolutions = (cell for cell in observed if cell.operation.startswith("conv"))
    first = next(((cell.layer, cell.operation) for cell in convolutions), None)
    steps = ledger.spiking_steps or 1

    def price(group: Sequence[Cell]) -> Cell:
        """Return one operation of one layer in one denoising step."""
        cell = group[0]
        if cell.kind == "norm":
            return _norm(group, steps, batch_norm)
        if cell.kind != "synapse":
            return replace(cell)
        kept = any(part.kept for part in group)
        if changes is not None:
            kept = changes and any(part.followed for part in group)
        rule = by_changes if kept and count is strict else count
        if count is paper and (cell.layer, cell.operation) == first:
            rule = strict
        priced = [rule(part, steps, padding) for part in group]
        return _synapse(group, priced, steps, kept)

    return EnergyReport(
        accounting=accounting,
        costs=table,
        batch_norm=batch_norm,
        padding=padding,
        spiking_steps=ledger.spiking_steps,
        images=ledger.images,
        timesteps=tuple(ledger.rows),
        cells=tuple(map(price, _groups(observed))),
    )


def _groups(cells: Iterable[Cell]) -> Iterable[list[Cell]]:
    """Group the cells of a report row; kinds of input and numbers of copies stay separate."""
    groups: dict[tuple[int, str, str, str], list[Cell]] = {}
    for cell in cells:
        groups.setdefault((cell.step, cell.kind, cell.layer, cell.operation), []).append(cell)
    return groups.values()


def _synapse(
    group: Sequence[Cell], priced: Sequence[tuple[int, float]], spiking_steps: int, kept: bool
) -> Cell:
    """Return one synapse with its MACs and ACs, T identical copies counted once."""
    parts = (
        replace(
            cell,
            events=cell.change_events if kept else cell.events,
            synops=cell.changes if kept and cell.signal != REAL else cell.synops,
            real_inputs=cell.once(cell.real_inputs, spiking_steps),
            results=cell.once(cell.outputs, spiking_steps),
            kept=kept,
        )
        for cell in group
    )
    total = reduce(add, parts)
    macs, acs = (sum(amounts) for amounts in zip(*priced, strict=True))
    passes = total.pass_macs / spiking_steps
    return replace(total, macs=round(macs), acs=round(acs), pass_macs=passes)


def _norm(group: Sequence[Cell], spiking_steps: int, batch_norm: str) -> Cell:
    """Return a norm, folded or billed, T identical copies counted once."""
    elements = sum(cell.once(cell.elements, spiking_steps) for cell in group)
    folded = batch_norm == "folded" and all(cell.foldable for cell in group)
    return replace(
        group[0],
        operation=f"{group[0].operation}, folded" if folded else group[0].operation,
        elements=elements,
        macs=elements if batch_norm == "billed" else 0,
    )

"""What synaptic operations move to and from memory."""

from collections.abc import Sequence
from dataclasses import dataclass

from spikediff.energy.cell import Cell
from spikediff.energy.costs import CostTable


@dataclass(frozen=True)
class Traffic:
    """What the synaptic operations move to and from memory, in bytes, one image at a time.

    Attributes:
        weights: Weights.
        activations: Inputs of synapses.
        sums: Results of synapses; in a spiking network they are the membranes.
    """

    weights: float
    activations: float
    sums: float

    @property
    def total(self) -> float:
        """All of it."""
        return self.weights + self.activations + self.sums


def traffic_of(cells: Sequence[Cell], costs: CostTable, reuse: bool) -> Traffic:
    """Return the memory traffic of the synaptic operations.

    Args:
        cells: What ran.
        costs: Says how wide weights, real values and sums are.
        reuse: True moves every tensor once: a weight is read once per image and call; an input is
            written once and read once, spikes packed in the bits that their counts need; a result
            is written once and read once, at every spiking step. Where sums are kept from call to
            call, the earlier inputs and sums are read besides. False reuses nothing: every
            operation reads its weight, and besides a multiply-accumulate reads its input again,
            and an accumulate reads and writes its sum again.
    """
    synapses = [cell for cell in cells if cell.calls]
    weights = sum(cell.weight_reads for cell in synapses)
    activations = sum(
        (2 + cell.kept) * (cell.input_bits + cell.real_inputs * costs.value_bits)
        for cell in synapses
    )
    sums = sum((2 + cell.kept) * cell.results for cell in synapses)
    if not reuse:
        weights = sum(cell.macs + cell.acs for cell in cells)
        activations += sum(cell.macs for cell in cells) * costs.value_bits
        sums += 2 * sum(cell.acs for cell in cells)
    return Traffic(weights * costs.weight_bits / 8, activations / 8, sums * costs.sum_bits / 8)

"""Cost tables: the energy of one operation, and the source of the number."""

from dataclasses import dataclass, fields, replace
from pathlib import Path

from spikediff.errors import UserError, suggestion
from spikediff.files.yaml import build, read_yaml


@dataclass(frozen=True)
class CostTable:
    """Energy per operation.

    Example:
        >>> CostTable("mine", mac_pj=2.0, ac_pj=0.5, source="my simulator").ac_pj
        0.5
    """

    name: str  # name in reports
    # One multiply-accumulate; None if the hardware has none. This and all other prices are in
    # picojoules; None if unknown.
    mac_pj: float | None
    ac_pj: float  # one accumulate, or synaptic operation
    source: str  # source of the numbers
    neuron_update_pj: float | None = None  # one update of one neuron in one spiking step
    # One byte of activations, sums or membranes, read or written.
    sram_pj_per_byte: float | None = None
    # One byte of weights, read from the memory that holds all of them; None takes
    # `sram_pj_per_byte`.
    weight_pj_per_byte: float | None = None
    weight_bits: int = 32
    # Width of a real-valued activation. Spikes take as many bits as their counts need.
    value_bits: int = 32
    sum_bits: int = 32  # width of a sum or membrane
    int8_multiply_pj: float | None = None  # one product of 8-bit integers
    int32_add_pj: float | None = None  # one addition to a 32-bit integer

    def __post_init__(self) -> None:
        prices = {f.name: getattr(self, f.name) for f in fields(self) if f.name.endswith(_UNITS)}
        for name, price in prices.items():
            if price is None and name != "ac_pj":
                continue
            if isinstance(price, bool) or not isinstance(price, int | float) or not price >= 0:
                raise UserError(f"cost table {self.name!r}: {name} = {price!r} must be >= 0, in pJ")
        for name in ("weight_bits", "value_bits", "sum_bits"):
            bits = getattr(self, name)
            if bits < 1:
                raise UserError(f"cost table {self.name!r}: {name} = {bits} is below 1")
        if not self.source:
            raise UserError(
                f"cost table {self.name!r}: state the origin of its numbers in `source`"
            )

    def quantised(self, activation_bits: int, weight_bits: int = 8) -> "CostTable | None":
        r"""Return integer prices in the same technology; None if the table has none.

        $E_{MAC} = E_{mul8}\, b_w b_a / 64 + E_{add32}$ for weights of $b_w$ and activations of
        $b_a$ bits. The number of cells of an array multiplier is the product of its operands'
        widths (8 to 32 bits: 0.2 to 3.1 pJ in Horowitz's table, a factor of 15.5 for 16 times the
        cells). Sums stay 32 bits wide.

        Example:
            >>> table = COST_TABLES["45nm"].quantised(activation_bits=3)
            >>> round(table.mac_pj, 3), table.ac_pj, table.weight_bits
            (0.175, 0.1, 8)
        """
        if self.int8_multiply_pj is None or self.int32_add_pj is None:
            return None
        product = self.int8_multiply_pj * activation_bits * weight_bits / 64
        return replace(
            self,
            name=f"{self.name}, {weight_bits} x {activation_bits} bits",
            mac_pj=product + self.int32_add_pj,
            ac_pj=self.int32_add_pj,
            weight_bits=weight_bits,
            value_bits=activation_bits,
            sum_bits=32,
        )


_UNITS = ("_pj", "_pj_per_byte")

_HOROWITZ = "M. Horowitz, Computing's energy problem, ISSCC 2014, figure 1.1.9 (45 nm, 0.9 V)"
_JOUPPI = "N. Jouppi et al., Ten lessons from three generations shaped Google's TPUv4i, ISCA 2021"

# 64 bits of an SRAM of 32 KiB (activations, sums) and of 1 MiB (weights): 20 and 100 pJ; products
# of 8 bits, sums of 32 bits: 0.2 and 0.1 pJ.
_45NM = CostTable(
    "45nm",
    4.6,  # float32: multiply 3.7 + add 0.9
    0.9,
    _HOROWITZ,
    sram_pj_per_byte=2.5,
    weight_pj_per_byte=12.5,
    int8_multiply_pj=0.2,
    int32_add_pj=0.1,
)

COST_TABLES: dict[str, CostTable] = {
    "45nm": _45NM,
    # float16: multiply 1.1 + add 0.4.
    "45nm-float16": replace(
        _45NM,
        name="45nm-float16",
        mac_pj=1.5,
        ac_pj=0.4,
        weight_bits=16,
        value_bits=16,
        sum_bits=16,
    ),
    # 8-bit multiply 0.2 + 32-bit add 0.1; the accumulator stays 32 bits wide.
    "45nm-int8": replace(
        _45NM, name="45nm-int8", mac_pj=0.3, ac_pj=0.1, weight_bits=8, value_bits=8
    ),
    # float32: multiply 1.31 + add 0.38; 64 bits of 32 KiB and of 1 MiB: 8.5 and 14 pJ; products of
    # 8 bits, sums of 32 bits: 0.07 and 0.03 pJ.
    "7nm": CostTable(
        "7nm",
        1.69,
        0.38,
        f"{_JOUPPI}, table 2",
        sram_pj_per_byte=1.0625,
        weight_pj_per_byte=1.75,
        int8_multiply_pj=0.07,
        int32_add_pj=0.03,
    ),
    # Pre-silicon simulation. The update of a neuron that does not spike costs 52 pJ. A synaptic
    # operation includes the reading of its weight. The chip has no multiply-accumulate.
    "loihi": CostTable(
        "loihi",
        None,
        23.6,
        "M. Davies et al., Loihi: a neuromorphic manycore processor with on-chip learning, "
        "IEEE Micro 38(1), 2018, table 2 (14 nm, 0.75 V)",
        neuron_update_pj=81.0,
    ),
}


def load_costs(costs: str | Path | CostTable) -> CostTable:
    """Return a cost table: a key of `COST_TABLES`, a table, or a YAML file of `CostTable`'s fields.

    A file may omit `name`.
    """
    if isinstance(costs, CostTable):
        return costs
    if str(costs) in COST_TABLES:
        return COST_TABLES[str(costs)]
    path = Path(costs)
    if path.suffix not in (".yaml", ".yml"):
        raise UserError(f"unknown cost table {str(costs)!r}; {suggestion(str(costs), COST_TABLES)}")
    content = read_yaml(path)
    named = {"name": path.stem} | content if isinstance(content, dict) else content
    table: CostTable = build(CostTable, named, str(path))
    return table

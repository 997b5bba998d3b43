"""What one operation costs, and where the number comes from."""

from dataclasses import dataclass, fields
from pathlib import Path

from spikediff.errors import UserError, suggestion
from spikediff.yaml_file import build, read_yaml


@dataclass(frozen=True)
class CostTable:
    """Energy per operation.

    Attributes:
        name: Name in reports.
        mac_pj: One multiply-accumulate, in picojoules; None where the hardware has none.
        ac_pj: One accumulate, or synaptic operation, in picojoules.
        source: Where the numbers are from.
        neuron_update_pj: One update of one neuron in one spiking step, in picojoules, where known.
        sram_pj_per_byte: One byte from on-chip memory, in picojoules, where known.

    Raises:
        UserError: A price is negative, or the source is missing.

    Example:
        >>> CostTable("mine", mac_pj=2.0, ac_pj=0.5, source="my simulator").ac_pj
        0.5
    """

    name: str
    mac_pj: float | None
    ac_pj: float
    source: str
    neuron_update_pj: float | None = None
    sram_pj_per_byte: float | None = None

    def __post_init__(self) -> None:
        prices = {f.name: getattr(self, f.name) for f in fields(self) if f.name.endswith(_UNITS)}
        for name, price in prices.items():
            optional = name != "ac_pj"
            if price is None and optional:
                continue
            if isinstance(price, bool) or not isinstance(price, int | float) or not price >= 0:
                raise UserError(f"cost table {self.name!r}: {name} = {price!r} must be >= 0, in pJ")
        if not self.source:
            raise UserError(f"cost table {self.name!r}: say in `source` where its numbers are from")


_UNITS = ("_pj", "_pj_per_byte")

_HOROWITZ = "M. Horowitz, Computing's energy problem, ISSCC 2014, figure 1.1.9 (45 nm, 0.9 V)"
_JOUPPI = "N. Jouppi et al., Ten lessons from three generations shaped Google's TPUv4i, ISCA 2021"

COST_TABLES: dict[str, CostTable] = {
    # float32: multiply 3.7 + add 0.9; a 32 KiB SRAM gives 64 bits for 20 pJ.
    "45nm": CostTable("45nm", 4.6, 0.9, _HOROWITZ, sram_pj_per_byte=2.5),
    # float16: multiply 1.1 + add 0.4.
    "45nm-float16": CostTable("45nm-float16", 1.5, 0.4, _HOROWITZ, sram_pj_per_byte=2.5),
    # 8-bit multiply 0.2 + 32-bit add 0.1; the accumulator stays 32 bits wide.
    "45nm-int8": CostTable("45nm-int8", 0.3, 0.1, _HOROWITZ, sram_pj_per_byte=2.5),
    # float32: multiply 1.31 + add 0.38; a 32 KiB SRAM gives 64 bits for 8.5 pJ.
    "7nm": CostTable("7nm", 1.69, 0.38, f"{_JOUPPI}, table 2", sram_pj_per_byte=1.0625),
    # Pre-silicon simulation; an update of a neuron that does not spike costs 52 pJ. A synaptic
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
    """Return a cost table.

    Args:
        costs: A key of `COST_TABLES`, a table, or the path of a YAML file with the attributes of
            `CostTable` (`name` is the file's, where it is not given).

    Raises:
        UserError: There is no such table or file, or the file is not a cost table.
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

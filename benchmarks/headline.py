"""The headline rows: quality of 10,000 images, energy, T x rate, time, over training seeds.

    python benchmarks/headline.py measure --data-dir DIR --feature-weights DIR [--only NAME ...]
    python benchmarks/headline.py time
    python benchmarks/headline.py write

`measure` compares every source of headline.yaml that benchmarks/headline/NAME.json lacks, one
training seed at a time, by `spikediff.compare` and the protocol headline_protocol.yaml. `write`
puts the tables between their marks in docs/results.md and draws the fronts. `time` measures the
CPU seconds of an image again, of all sources that are there, on a machine without other work.
"""

import argparse
import json
from collections.abc import Callable, Iterator
from itertools import pairwise
from pathlib import Path
from statistics import mean, median, stdev
from typing import Any

import yaml
from headline_pictures import FIGURES, Point, draw
from results import between, grid, training_of
from results_pictures import draw_sheet

import spikediff as sd
from spikediff.hub.load import load_pipeline

HERE = Path(__file__).parent
RESULTS, PAGE = HERE / "headline", HERE.parent / "docs" / "results.md"
IMAGES = PAGE.parent / "images"
FAD = "fad/published/frechet"
METRICS = {
    FAD: ("FAD, published", "{:.2f}"),
    "fad/clean/frechet": ("FAD, clean", "{:.2f}"),
    "classifier/clean/frechet": ("classifier", "{:.2f}"),
    "classifier/clean/precision": ("precision", "{:.3f}"),
    "classifier/clean/recall": ("recall", "{:.3f}"),
}


def measure(row: dict[str, Any], dataset: str, args: Any) -> None:
    """Write what a row's JSON lacks."""
    path = RESULTS / f"{row['name']}.json"
    found: dict[str, Any] = {"dataset": dataset, "seeds": []}
    if path.exists():
        found = json.loads(path.read_text())
    known = {each["source"] for each in found["seeds"]}
    for source, run in zip(row["sources"], row["runs"], strict=True):
        finished = Path(source).exists() and (Path(run) / "pipeline").is_dir()
        if source in known or not finished:
            continue
        compared = sd.compare(
            drawn_from(source, row),
            protocol=str(HERE / "headline_protocol.yaml"),
            dataset=dataset,
            data_dir=args.data_dir,
            feature_weights=args.feature_weights,
            batch_size=250,
            seed=row.get("seed", 0),
        )
        models = [essential(model) for model in compared.to_dict()["models"]]
        trained = training_of({**row, "run": run})
        found["seeds"].append({"source": source, "trained": trained, "models": models})
        RESULTS.mkdir(exist_ok=True)
        path.write_text(json.dumps(found, indent=1) + "\n")
        print(row["name"], source, [m["quality"]["metrics"][FAD]["mean"] for m in models])
        if "sheet" in row:
            pipe = load_pipeline(Path(source), to_generate=True)
            if "scheduler" in row:
                pipe.scheduler = sd.make_scheduler(row["scheduler"], pipe.scheduler.config)
            sheet = IMAGES / "sheets" / f"{row['name']}.png"
            draw_sheet(pipe, {"steps": row["sheet"]}, dataset, args.data_dir, sheet)


def measure_time(row: dict[str, Any]) -> None:
    """Replace the seconds per image in a row's JSON: medians of five times."""
    path = RESULTS / f"{row['name']}.json"
    found = json.loads(path.read_text()) if path.exists() else {"seeds": []}
    for seed in found["seeds"]:
        if Path(seed["source"]).exists():
            each = drawn_from(seed["source"], row)
            again = [sd.compare(each, quality=False).to_dict()["models"] for _ in range(5)]
            for model, *times in zip(seed["models"], *again, strict=True):
                model["seconds_per_image"] = median(new["seconds_per_image"] for new in times)
    if found["seeds"]:
        path.write_text(json.dumps(found, indent=1) + "\n")


def drawn_from(source: str, row: dict[str, Any]) -> list[str]:
    """Return a source as `spikediff compare` reads it, once per number of network calls."""
    scheduler = f",scheduler={row['scheduler']}" if "scheduler" in row else ""
    return [f"{source}@steps={steps}{scheduler}" for steps in row["steps"]]


def essential(model: dict[str, Any]) -> dict[str, Any]:
    """Return a model's measurements, of its quality the numbers and what they were made of."""
    kept = ("metrics", "floor", "counts", "seeds", "source", "versions")
    return {**model, "quality": {key: model["quality"][key] for key in kept}}


class Row:
    """A row of the table: a system at some network calls, over its training seeds."""

    def __init__(self, row: dict[str, Any], found: dict[str, Any], index: int) -> None:
        self.row = row
        self.trained = found["seeds"][0]["trained"]
        self.models = [seed["models"][index] for seed in found["seeds"]]

    @property
    def calls(self) -> int:
        """Network calls per image."""
        calls: int = self.models[0]["network_calls"]
        return calls

    def values(self, of: Callable[[dict[str, Any]], float | None]) -> list[float]:
        """Return a quantity of every training seed that has it."""
        return [value for value in map(of, self.models) if value is not None]

    def metric(self, name: str) -> list[float]:
        """Return a metric of every training seed."""
        return self.values(lambda model: model["quality"]["metrics"][name]["mean"])

    def energy(self, key: str, whole: bool = False) -> list[float]:
        """Return an energy per image of every training seed, in microjoules."""
        table = "energy_whole_pj" if whole else "energy_pj"
        return [value / 1e6 for value in self.values(lambda model: model[table].get(key))]

    def point(self) -> Point:
        """Return its place in the figures; its energy is by changes where it can."""
        keys = ("spiking_by_changes", "spiking", "ordinary")
        energy = next(mean(found) for key in keys if (found := self.energy(key)))
        fad = self.metric(FAD)
        spread = stdev(fad) if len(fad) > 2 else 0.0
        seconds = mean(self.values(lambda model: model["seconds_per_image"]))
        images = self.trained["images"]
        return Point(self.row["group"], self.calls, mean(fad), spread, energy, seconds, images)

    def cells(self) -> list[str]:
        """Return the cells of the table of quality and cost."""
        return [
            f"{self.row['system']}",
            str(self.calls),
            *(told(self.metric(name), form) for name, (_, form) in METRICS.items()),
            told(self.energy("ordinary"), "{:,.0f}"),
            told(self.energy("spiking"), "{:,.0f}"),
            told(self.energy("spiking_by_changes"), "{:,.1f}"),
            told(self.energy("quantised", whole=True), "{:,.0f}"),
            told(self.energy("spiking_by_changes", whole=True), "{:,.1f}"),
            told(self.values(lambda m: m["spikes_per_synapse"]), "{:.3f}"),
            told(self.values(lambda m: m["spikes_per_synapse_by_changes"]), "{:.3f}"),
            told([1000 * s for s in self.values(lambda m: m["seconds_per_image"])], "{:.1f}"),
        ]


def told(values: list[float], form: str) -> str:
    """Return a mean, with the deviation of three or more values that differ."""
    if not values:
        return "-"
    spread = form.format(stdev(values)) if len(values) > 2 else form.format(0)
    return form.format(mean(values)) + (f" ± {spread}" if spread != form.format(0) else "")


class OlderRow:
    """A row of other scripts: quality, in FAD at least, and cost."""

    def __init__(self, row: dict[str, Any]) -> None:
        self.row = row
        self.calls: int = row["calls"]
        found = json.loads((HERE / row["quality"]).read_text())
        self.metrics: dict[str, Any] = found["metrics"]
        self.cost = json.loads((HERE / row["cost"]).read_text())
        self.trained = self.cost["trained"]

    def cells(self) -> list[str]:
        """Return the cells of the table of quality and cost."""
        energy = f"{self.cost['energy_per_image_uj']:,.0f}"
        spiking = bool(self.cost["spiking_steps"])
        quality = [
            form.format(self.metrics[name]["mean"]) if name in self.metrics else "-"
            for name, (_, form) in METRICS.items()
        ]
        energies = ["-", energy] if spiking else [energy, "-"]
        speed = f"{1000 * self.cost['seconds_per_image']:.1f}"
        return [self.row["system"], str(self.calls), *quality, *energies, *("-",) * 5, speed]

    def training_cells(self) -> list[str]:
        """Return the cells of the table of training."""
        made = self.cost.get("make") or self.row["make"]
        paper = self.cost.get("paper", "none")
        if made.startswith("train "):
            recipes = made.removeprefix("train ").replace(", then train ", ", ").split(", ")
            made = ", then ".join(f"`spikediff train {recipe}`" for recipe in recipes)
        return [
            self.row["system"],
            made,
            "1",
            f"{self.trained['images']:,}",
            f"{self.trained['hours']:.2f}",
            {"none": "-"}.get(paper, paper),
        ]

    def point(self) -> Point:
        """Return its place in the figures."""
        energy, seconds = self.cost["energy_per_image_uj"], self.cost["seconds_per_image"]
        fad, images = self.metrics[FAD]["mean"], self.trained["images"]
        group = self.row.get("group", self.row["system"])
        return Point(group, self.calls, fad, 0.0, energy, seconds, images)


def rows_of(table: dict[str, Any]) -> Iterator[Row]:
    """Yield the rows that are measured: systems, then network calls."""
    for row in table["rows"]:
        path = RESULTS / f"{row['name']}.json"
        if path.exists():
            found = json.loads(path.read_text())
            for index in range(len(row["steps"])):
                yield Row(row, found, index)


def quality_table(rows: list[Row], older: list[OlderRow]) -> str:
    """Return the table of quality, energy in microjoules, T x rate and milliseconds."""
    head = [
        *("system", "calls", *(name for name, _ in METRICS.values())),
        *("µJ, ordinary", "µJ, counts", "µJ, changes", "µJ, quantised", "µJ, integer, changes"),
        *("T x rate", "by changes", "ms/image"),
    ]
    floor = rows[0].models[0]["quality"]["floor"]
    reals = [form.format(floor[name]) for name, (_, form) in METRICS.items()]
    last = ["floor: real images", "-", *reals]
    last += ["-"] * (len(head) - len(last))
    cells = [*(row.cells() for row in rows), *(row.cells() for row in older), last]
    for before, row in reversed(list(pairwise(cells))):
        row[0] = "" if row[0] == before[0] else row[0]  # a system stands once
    return grid([head, *cells])


def training_table(rows: list[Row], older: list[OlderRow]) -> str:
    """Return the table of what each model was trained with, and what its paper reports."""
    head = ["system", "made by", "seeds", "images seen", "hours of one thread", "its paper"]
    once = {row.row["name"]: row for row in rows}
    cells = [
        [
            f"[{row.row['system']}](images/sheets/{name}.png)"
            if "sheet" in row.row
            else row.row["system"],
            f"`{row.row.get('script', 'spikediff')} {row.row['make']}`",
            str(len(row.models)),
            f"{row.trained['images']:,}",
            f"{row.trained['hours']:.2f}",
            row.row.get("paper", "-"),
        ]
        for name, row in once.items()
    ]
    made = [row.training_cells() for row in older if "make" in {**row.cost, **row.row}]
    return grid([head, *cells, *made])


def write(tables: dict[str, Any]) -> None:
    """Put every table into the page and draw the fronts."""
    page = PAGE.read_text(encoding="utf-8")
    for name, table in tables.items():
        rows = list(rows_of(table))
        if not rows:
            continue
        older = [OlderRow(row) for row in table.get("older", [])]
        text = f"{quality_table(rows, older)}\n\n{training_table(rows, older)}"
        page = between(page, f"headline-{name}", text)
        points = [row.point() for row in rows] + [row.point() for row in older]
        floor = rows[0].models[0]["quality"]["floor"][FAD]
        for figure, of in FIGURES.items():
            draw(points, of, floor, IMAGES / f"{figure}_{name}.svg")
    PAGE.write_text(page, encoding="utf-8")


def main() -> None:
    """Measure, time or write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=["measure", "time", "write"])
    parser.add_argument("--data-dir", type=Path)
    parser.add_argument("--feature-weights", type=Path)
    parser.add_argument("--only", nargs="+")
    args = parser.parse_args()
    tables = yaml.safe_load((HERE / "headline.yaml").read_text(encoding="utf-8"))["tables"]
    if args.what == "write":
        write(tables)
        return
    for table in tables.values():
        for row in table["rows"]:
            if args.only and row["name"] not in args.only:
                continue
            if args.what == "time":
                measure_time(row)
            else:
                data_dir = args.data_dir / table["dataset"]
                given = argparse.Namespace(**{**vars(args), "data_dir": data_dir})
                measure(row, table["dataset"], given)


if __name__ == "__main__":
    main()

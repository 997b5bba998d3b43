"""All systems on the same data under the same protocol: the tables of docs/results.md.

    python benchmarks/results.py measure --data-dir DIR --feature-weights WEIGHTS [--only NAME ...]
    python benchmarks/results.py write

`measure` makes benchmarks/results/NAME.json for every row of results.yaml whose file is missing,
and its sheet of pictures in docs/images/sheets; WEIGHTS holds the folders of the metrics' networks.
`write` puts the tables between their marks in docs/results.md and draws the quality-energy fronts.
Seconds per image are of one thread with compiled networks, on 16 images after one that is not
counted.
"""

import argparse
import csv
import json
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
import yaml
from results_pictures import draw_front, draw_sheet
from sampler_table import loaded, told
from sampler_table import measure as measure_quality

from spikediff.cli.options import Sampling
from spikediff.energy import EnergyMeter
from spikediff.training.recipe import load_recipe

HERE = Path(__file__).parent
RESULTS, PAGE = HERE / "results", HERE.parent / "docs" / "results.md"
IMAGES = PAGE.parent / "images"
TIMED = 16  # images
# Folder of a metric network's weights below WEIGHTS; the classifier is trained here.
FOLDERS = {"fad": "fad_autoencoder", "resnet20": "cifar10_resnet"}
JUDGES = {"classifier": "classifier, Frechet", "resnet20": "ResNet-20, Frechet"}
OF_FAD = {"fad/published/frechet": "FAD, published", "fad/clean/frechet": "FAD, clean"}


def measure(row: dict[str, Any], table: dict[str, Any], args: Any) -> dict[str, Any]:
    """Return what one row of a table says."""
    source = source_of(row)
    features = table["features"]
    asked = SimpleNamespace(
        dataset=table["dataset"],
        data_dir=args.data_dir,
        feature_weights=args.feature_weights / FOLDERS[features[-1]],
        features=tuple(features),
        num_samples=table["num_samples"],
        repeats=row["repeats"],
        seed=20_000,
        event_driven=True,
    )
    measured = row.get("measured")
    quality = (
        found_in(HERE / measured, row)
        if measured
        else measure_quality(source, row.get("threshold"), row["solver"], row["steps"], asked)
    )
    pipe = loaded(source, row["solver"])
    if "energy_paper_uj" not in quality:
        quality["energy_paper_uj"] = energy_as_papers_count(pipe, row["steps"])
    networks = [part for part in pipe.components.values() if isinstance(part, torch.nn.Module)]
    return {
        **{key: row[key] for key in ("name", "system", "solver", "steps", "make", "paper")},
        "parameters": sum(p.numel() for network in networks for p in network.parameters()),
        "spiking_steps": max(int(part.config.get("spiking_steps") or 0) for part in networks),
        "trained": training_of(row),
        **quality,
        "seconds_per_image": seconds_per_image(pipe.compile_for_inference(), row["steps"]),
    }


def source_of(row: dict[str, Any]) -> Path:
    """Return the folder of a row's pipeline: an integer network's deployment form, or its run."""
    return Path(row.get("form", row["run"]))


def training_of(row: dict[str, Any]) -> dict[str, Any]:
    """Return what went into a model: the runs that it began from, its own run, its conversion."""
    runs = [*row.get("after", []), *([] if "converted" in row else [row["run"]])]
    steps, images, seconds = [], 0, 0.0
    for run in map(Path, runs):
        batch_size, last = load_recipe(run / "recipe.yaml").data.batch_size, 0
        with (run / "loss.csv").open(encoding="utf-8") as file:
            for point in csv.DictReader(file):
                seen = (int(point["step"]) - last) * batch_size
                seconds += seen / float(point["images_per_second"])
                last = int(point["step"])
        steps.append(last)
        images += last * batch_size
    if "converted" in row:
        conversion = json.loads((HERE / row["converted"]).read_text())
        steps.append(int(conversion["options"]["quantise_steps"]))
        images += steps[-1] * int(conversion["options"]["batch_size"])
        seconds += conversion["seconds"]
    return {"steps": steps, "images": images, "hours": seconds / 3600}


def found_in(path: Path, row: dict[str, Any]) -> dict[str, Any]:
    """Return what `sampler_table.py` has measured for this row already."""
    for found in json.loads(path.read_text()):
        if (found["solver"], found["steps"]) == (row["solver"], row["steps"]):
            keys = ("metrics", "floor", "counts", "seeds", "energy_per_image_uj", "firing_rate")
            return {key: found[key] for key in keys}
    raise SystemExit(f"{path}: holds no row of {row['solver']}, {row['steps']} steps")


def energy_as_papers_count(pipe: Any, steps: int) -> float:
    """Return the energy per image in microjoules, in the accounting of the systems' papers."""
    with EnergyMeter(pipe, images=TIMED) as meter:
        pipe(seeds=range(TIMED), num_inference_steps=steps, output_type="pt")
    return meter.report("paper", "45nm").energy_per_image_pj / 1e6


def seconds_per_image(pipe: Any, steps: int) -> float:
    """Return how long one thread takes for an image, in a batch."""
    torch.set_num_threads(1)
    pipe(seeds=[0], num_inference_steps=steps, output_type="pt")
    started = time.perf_counter()
    pipe(seeds=range(TIMED), num_inference_steps=steps, output_type="pt")
    return (time.perf_counter() - started) / TIMED


def quality_table(rows: list[dict[str, Any]], judge: str) -> str:
    """Return the table of quality and cost, with the floor as its last row."""
    of_fad = {key: name for key, name in OF_FAD.items() if key in rows[0]["metrics"]}
    head = [
        *("system", "parameters", "T", "steps", *of_fad.values(), JUDGES[judge]),
        *("precision, recall", "µJ, strict", "µJ, paper", "firing", "s/image", "in the paper"),
    ]
    floor = rows[0]["floor"]
    last = [
        *("floor: real images of the training split", "-", "-", "-"),
        *(f"{floor[key]:.1f}" for key in (*of_fad, "frechet")),
        *(f"{floor['precision']:.2f}, {floor['recall']:.2f}", "-", "-", "-", "-", "-"),
    ]
    return grid([head, *(quality_cells(row, list(of_fad)) for row in rows), last])


def quality_cells(row: dict[str, Any], of_fad: list[str]) -> list[str]:
    """Return the cells of a row: what it is, its distances, its neighbours, its costs."""
    metrics, rate = row["metrics"], row["firing_rate"]
    return [
        row["system"],
        f"{row['parameters'] / 1e6:.2f} M",
        str(row["spiking_steps"] or "-"),
        str(row["steps"]),
        *(told(metrics[key], 1) for key in (*of_fad, "frechet")),
        f"{metrics['precision']['mean']:.2f}, {metrics['recall']['mean']:.2f}",
        f"{row['energy_per_image_uj']:.0f}",
        f"{row['energy_paper_uj']:.0f}",
        "-" if rate is None else f"{rate:.1%}",
        f"{row['seconds_per_image']:.2f}",
        "-" if row["paper"] == "none" else row["paper"],
    ]


def training_table(rows: list[dict[str, Any]]) -> str:
    """Return the table of what each model was trained with."""
    head = ["system", "made by `spikediff ...`", "steps", "images seen", "hours of one thread"]
    cells = [
        [
            f"[{row['system']}](images/sheets/{row['name']}.png)",
            row["make"],
            " + ".join(f"{steps:,}" for steps in row["trained"]["steps"]),
            f"{row['trained']['images']:,}",
            f"{row['trained']['hours']:.2f}",
        ]
        for row in rows
    ]
    return grid([head, *cells])


def grid(rows: list[list[str]]) -> str:
    """Return cells as a table, the first row as its head."""
    lines = ["| " + " | ".join(cells) + " |" for cells in rows]
    return "\n".join([lines[0], "|---" * len(rows[0]) + "|", *lines[1:]])


def between(page: str, name: str, text: str) -> str:
    """Return the page with a text between the marks of a table."""
    begin, end = f"<!-- table {name}: written by its script -->", f"<!-- end of {name} -->"
    before, rest = page.split(begin)
    return f"{before}{begin}\n{text}\n{end}{rest.split(end)[1]}"


def write(tables: dict[str, Any]) -> None:
    """Put every table into the page, and draw the front of those that have one."""
    page = PAGE.read_text(encoding="utf-8")
    for name, table in tables.items():
        files = [RESULTS / f"{row['name']}.json" for row in table["rows"]]
        rows = [json.loads(path.read_text()) for path in files if path.exists()]
        text = quality_table(rows, table["features"][0])
        page = between(page, name, f"{text}\n\n{training_table(rows)}")
        if "front" in table:
            more = [
                found for file in table["front"] for found in json.loads((HERE / file).read_text())
            ]
            draw_front(rows, more, IMAGES / f"quality_energy_{name}.png")
    PAGE.write_text(page, encoding="utf-8")


def main() -> None:
    """Measure or write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=["measure", "write"])
    parser.add_argument("--data-dir", type=Path)
    parser.add_argument("--feature-weights", type=Path)
    parser.add_argument("--only", nargs="+")
    args = parser.parse_args()
    tables = yaml.safe_load((HERE / "results.yaml").read_text(encoding="utf-8"))["tables"]
    if args.what == "write":
        write(tables)
        return
    RESULTS.mkdir(exist_ok=True)
    for table in tables.values():
        for row in table["rows"]:
            path = RESULTS / f"{row['name']}.json"
            if path.exists() or (args.only and row["name"] not in args.only):
                continue
            found = measure(row, table, args)
            path.write_text(json.dumps(found, indent=1) + "\n")
            sheet = IMAGES / "sheets" / f"{row['name']}.png"
            pipe = loaded(source_of(row), row["solver"])
            with Sampling(threshold=row.get("threshold")).guided(pipe):
                pipe = pipe.compile_for_inference()
            draw_sheet(pipe, row, table["dataset"], args.data_dir, sheet)
            print(json.dumps({key: found["metrics"][key]["mean"] for key in found["metrics"]}))


if __name__ == "__main__":
    main()

"""All systems on the same data under the same protocol: the table of docs/results.md.

    python benchmarks/results.py measure --data-dir DIR --feature-weights WEIGHTS [--only NAME ...]
    python benchmarks/results.py write

`measure` makes benchmarks/results/NAME.json for every row of results.yaml whose file is missing;
`write` puts the table between the marks in docs/results.md and draws the quality-energy front.
Seconds per image are of one thread, measured on 16 images after one that is not counted.
"""

import argparse
import json
import time
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import torch
import yaml
from sampler_table import measure as measure_quality
from sampler_table import told

from spikediff.cli.models import load_pipeline
from spikediff.energy import EnergyMeter
from spikediff.training.recipe import load_recipe

HERE = Path(__file__).parent
RESULTS, PAGE = HERE / "results", HERE.parent / "docs" / "results.md"
PICTURE = PAGE.parent / "images" / "quality_energy.png"
BEGIN, END = "<!-- table: benchmarks/results.py write -->", "<!-- end of table -->"
TIMED = 16  # images


def measure(row: dict[str, Any], settings: dict[str, Any], args: Any) -> dict[str, Any]:
    """Return what one row of the table says."""
    run = Path(row["run"])
    asked = SimpleNamespace(
        dataset=settings["dataset"],
        data_dir=args.data_dir,
        feature_weights=args.feature_weights,
        num_samples=settings["num_samples"],
        repeats=row["repeats"],
        seed=20_000,
    )
    measured = row.get("measured")
    quality = (
        found_in(HERE / measured, row)
        if measured
        else measure_quality(run, None, row["solver"], row["steps"], asked)
    )
    pipe = load_pipeline(run, None if row["solver"] == "own" else row["solver"])
    pipe.set_progress_bar_config(disable=True)
    if "energy_paper_uj" not in quality:
        quality["energy_paper_uj"] = energy_as_papers_count(pipe, row["steps"])
    networks = [part for part in pipe.components.values() if isinstance(part, torch.nn.Module)]
    recipe = load_recipe(run / "recipe.yaml")
    return {
        **{key: row[key] for key in ("name", "system", "solver", "steps", "paper")},
        "parameters": sum(p.numel() for network in networks for p in network.parameters()),
        "spiking_steps": max(int(part.config.get("spiking_steps") or 0) for part in networks),
        "trained": {"steps": recipe.training.steps, "batch_size": recipe.data.batch_size},
        "seconds_per_image": seconds_per_image(pipe, row["steps"]),
        **quality,
    }


def found_in(path: Path, row: dict[str, Any]) -> dict[str, Any]:
    """Return what `sampler_table.py` has measured for this row already."""
    for found in json.loads(path.read_text()):
        if (found["solver"], found["steps"]) == (row["solver"], row["steps"]):
            keys = ("metrics", "floor", "counts", "seeds", "energy_per_image_uj", "firing_rate")
            return {key: found[key] for key in keys}
    raise SystemExit(f"{path}: holds no row of {row['solver']}, {row['steps']} steps")


def energy_as_papers_count(pipe: Any, steps: int) -> float:
    """Return the energy per image in microjoules, in the accounting of the systems' papers."""
    with EnergyMeter(pipe) as meter:
        pipe(seeds=range(TIMED), num_inference_steps=steps, output_type="pt")
    return meter.report("paper", "45nm").energy_per_image_pj / 1e6


def seconds_per_image(pipe: Any, steps: int) -> float:
    """Return how long one thread takes for an image, in a batch."""
    torch.set_num_threads(1)
    pipe(seeds=[0], num_inference_steps=steps, output_type="pt")
    started = time.perf_counter()
    pipe(seeds=range(TIMED), num_inference_steps=steps, output_type="pt")
    return (time.perf_counter() - started) / TIMED


def line(row: dict[str, Any]) -> str:
    """Return a row of the table."""
    metrics = row["metrics"]
    neighbours = f"{metrics['precision']['mean']:.2f}, {metrics['recall']['mean']:.2f}"
    rate = "-" if row["firing_rate"] is None else f"{row['firing_rate']:.1%}"
    cells = [
        row["system"],
        f"{row['parameters'] / 1e6:.2f} M",
        row["spiking_steps"] or "-",
        row["steps"],
        told(metrics["fad/published/frechet"], 1),
        told(metrics["fad/clean/frechet"], 1),
        told(metrics["frechet"], 1),
        neighbours,
        f"{row['energy_per_image_uj']:.0f}",
        f"{row['energy_paper_uj']:.0f}",
        rate,
        f"{row['seconds_per_image']:.2f}",
        "-" if row["paper"] == "none" else row["paper"],
    ]
    return "| " + " | ".join(map(str, cells)) + " |"


def table(rows: list[dict[str, Any]]) -> str:
    """Return the table, with the floor as its last row."""
    floor = rows[0]["floor"]
    head = (
        "| system | parameters | T | steps | FAD, published | FAD, clean | classifier, Frechet | "
        "precision, recall | µJ, strict | µJ, paper | firing | s/image | in the paper |\n"
        "|---|---|---|---|---|---|---|---|---|---|---|---|---|"
    )
    last = (
        f"| floor: real images of the training split | - | - | - | "
        f"{floor['fad/published/frechet']:.1f} | {floor['fad/clean/frechet']:.1f} | "
        f"{floor['frechet']:.1f} | {floor['precision']:.2f}, {floor['recall']:.2f} | "
        "- | - | - | - | - |"
    )
    return "\n".join([head, *map(line, rows), last])


def draw(rows: list[dict[str, Any]]) -> None:
    """Draw quality over energy; what is lower and further left is better."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    measures = {"fad/published/frechet": "FAD, published mode", "frechet": "classifier, Frechet"}
    figure, panels = plt.subplots(1, 2, figsize=(10, 4), layout="constrained")
    for axes, (key, name) in zip(panels, measures.items(), strict=True):
        for row in rows:
            x, y = row["energy_per_image_uj"], row["metrics"][key]["mean"]
            right = x > 2000  # its label goes to the left, into the picture
            axes.scatter(x, y, s=36)
            axes.annotate(
                f"{row['system']} ({row['steps']})",
                (x, y),
                xytext=(-7 if right else 7, -13 if right or x < 350 else 5),  # clear of others
                textcoords="offset points",
                ha="right" if right else "left",
                fontsize=8,
            )
        axes.axhline(rows[0]["floor"][key], color="grey", lw=0.8, ls="--")
        axes.set(xscale="log", yscale="log", xlabel="energy per image, µJ (strict, 45 nm)")
        axes.set_ylabel(name)
        axes.set_xticks([300, 1000, 3000], ["300", "1,000", "3,000"])
        axes.minorticks_off()
        axes.margins(x=0.15, y=0.15)
    figure.suptitle("MNIST: quality over energy; denoising steps in brackets, the floor dashed")
    figure.savefig(PICTURE, dpi=110)


def main() -> None:
    """Measure or write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("what", choices=["measure", "write"])
    parser.add_argument("--data-dir", type=Path)
    parser.add_argument("--feature-weights", type=Path)
    parser.add_argument("--only", nargs="+")
    args = parser.parse_args()
    settings = yaml.safe_load((HERE / "results.yaml").read_text(encoding="utf-8"))
    files = {row["name"]: RESULTS / f"{row['name']}.json" for row in settings["rows"]}
    if args.what == "measure":
        RESULTS.mkdir(exist_ok=True)
        for row in settings["rows"]:
            if files[row["name"]].exists() or row["name"] not in (args.only or files):
                continue
            found = measure(row, settings, args)
            files[row["name"]].write_text(json.dumps(found, indent=1) + "\n")
            print(line(found), flush=True)
        return
    rows = [json.loads(path.read_text()) for path in files.values() if path.exists()]
    page = PAGE.read_text(encoding="utf-8")
    before, rest = page.split(BEGIN)
    PAGE.write_text(f"{before}{BEGIN}\n{table(rows)}\n{END}{rest.split(END)[1]}", encoding="utf-8")
    draw(rows)


if __name__ == "__main__":
    main()

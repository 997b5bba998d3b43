r"""Quality and energy of trained runs under several samplers and numbers of steps: one table.

    python benchmarks/sampler_table.py SDDPM=runs/sddpm-digits TSM=runs/sdm-digits \
        TG=runs/sddpm-digits@1.02 --solvers ddpm,ddim --steps 10,20 \
        --output benchmarks/sdm_digits.json

A model is NAME=RUN, or NAME=RUN@THRESHOLD with threshold guidance. A solver is a name of
`spikediff info`, or `own` for the one that the pipeline has; with /decoded behind it, a network of
synaptic currents is decoded after every step, and its currents are equal again before the next.
Quality is the protocol `fair` (the first of --features, or a classifier; and FAD with
--feature-weights, also as FSDDIM measures it) on the data set of the run, mean and standard
deviation over repeats of other seeds; energy is `strict`, 45 nm, counted on 16 images. Rows that
the output file has already are kept, so that an interrupted run goes on and models can be added.
"""

import argparse
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

from spikediff.cli.evaluate import guided_images
from spikediff.cli.options import Sampling
from spikediff.diffusion.denoising_pipeline import SpikingDiffusionPipeline
from spikediff.energy import EnergyMeter
from spikediff.evaluation.plan import EvaluationSettings
from spikediff.evaluation.protocol import load_protocol
from spikediff.evaluation.run import evaluate
from spikediff.evaluation.shards import fingerprint_of
from spikediff.evaluation.sources import ImageSource
from spikediff.hub.load import load_pipeline
from spikediff.hub.run_data import cache_folder, find_dataset
from spikediff.systems.sdm.threshold_guidance import parse_scale

_HEADER = (
    "| model | sampler | steps | Frechet | inception score | precision, recall | FAD | energy |\n"
    "|---|---|---|---|---|---|---|---|"
)
BATCH = 71  # 355 images in five batches of the same size
_DECODED = "/decoded"


def measure(run: Path, threshold: str | None, solver: str, steps: int, args: Any) -> dict[str, Any]:
    """Return one row: metrics with their spread, the floor, energy and firing rate."""
    pipe = loaded(run, solver)
    dataset, data_dir = find_dataset(run, args.dataset, args.data_dir)
    cache = cache_folder(None)
    default = ["classifier", "fad"] if args.feature_weights else ["classifier"]
    features = tuple(args.features or default)
    fad, judge = "fad" in features, f"{features[0]}/clean/"
    settings = EvaluationSettings(
        protocol=load_protocol("fair"),
        dataset=dataset,
        cache_dir=cache,
        work_dir=cache / "work",
        data_dir=data_dir,
        num_samples=args.num_samples,
        repeats=args.repeats,
        spool_size=BATCH,
        features=features,
        feature_weights=args.feature_weights,
    )
    if args.event_driven:
        images = compiled_images(run, threshold, solver, steps, args.seed)
    else:
        scale = None if threshold is None else parse_scale(threshold)
        images = guided_images(pipe, scale, args.seed, steps, BATCH)
    result = evaluate(images, settings)
    assert result is not None  # one process
    if fad:
        published = replace(settings, protocol=load_protocol("fsddim"), features=("fad",))
        also = evaluate(images, published)
        assert also is not None
        for part in ("metrics", "floor"):
            result[part] |= also[part]
    seeds = range(16)
    with Sampling(threshold=threshold).guided(pipe), EnergyMeter(pipe, images=len(seeds)) as meter:
        pipe(seeds=seeds, num_inference_steps=steps, output_type="pt")
    energy = meter.report("strict", "45nm")
    return {
        "metrics": {key.removeprefix(judge): value for key, value in result["metrics"].items()},
        "floor": {key.removeprefix(judge): value for key, value in result["floor"].items()},
        "counts": result["counts"],
        "seeds": result["seeds"],
        "energy_per_image_uj": energy.energy_per_image_pj / 1e6,
        "energy_paper_uj": meter.report("paper", "45nm").energy_per_image_pj / 1e6,
        "firing_rate": energy.firing_rate if energy.neuron_updates else None,
    }


def loaded(run: Path, solver: str, event_driven: bool = False) -> Any:
    """Return the pipeline of a run with a solver, without a progress bar."""
    name = None if solver == "own" else solver.removesuffix(_DECODED)
    pipe = load_pipeline(run, name, event_driven=event_driven)
    if solver.endswith(_DECODED):
        pipe = SpikingDiffusionPipeline(pipe.unet, pipe.scheduler)
    pipe.set_progress_bar_config(disable=True)
    return pipe


def compiled_images(
    run: Path, threshold: str | None, solver: str, steps: int, seed: int
) -> ImageSource:
    """Return images that compiled networks make, under a constant guidance or none."""
    pipe = loaded(run, solver)
    with Sampling(threshold=threshold).guided(pipe):  # the compiled copy keeps the thresholds
        images = guided_images(pipe.compile_for_inference(), None, seed, steps, BATCH)
    if threshold is None:
        return images
    return replace(
        images, fingerprint=fingerprint_of(images=images.fingerprint, threshold=threshold)
    )


def main() -> None:
    """Measure what is missing; write after every row; print the table."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("models", nargs="*", metavar="NAME=RUN[@THRESHOLD]")
    parser.add_argument("--solvers", default="ddpm,ddim,dpmsolver++,unipc,analytic-dpm")
    parser.add_argument("--steps", default="10,20,50,100")
    parser.add_argument("--num-samples", type=int)
    parser.add_argument("--repeats", type=int, default=3)
    parser.add_argument("--seed", type=int, default=20_000)
    parser.add_argument(
        "--dataset", help="for pipelines, which do not say what they were trained on"
    )
    parser.add_argument("--data-dir", type=Path)
    parser.add_argument("--feature-weights", type=Path, help="folder of FAD's autoencoders")
    parser.add_argument("--features", nargs="+", help="networks to look through; the first judges")
    parser.add_argument("--event-driven", action="store_true", help="sample by compiled networks")
    parser.add_argument("--output", type=Path, required=True)
    args = parser.parse_args()
    rows = json.loads(args.output.read_text()) if args.output.is_file() else []
    known = {(row["model"], row["solver"], row["steps"]) for row in rows}
    for steps in map(int, args.steps.split(",")):
        for solver in args.solvers.split(","):
            for name, _, where in (model.rpartition("=") for model in args.models):
                if (name, solver, steps) in known:
                    continue
                run, _, threshold = where.partition("@")
                row = measure(Path(run), threshold or None, solver, steps, args)
                key = {"model": name, "threshold": threshold or None, "solver": solver}
                rows.append({**key, "steps": steps, **row})
                args.output.write_text(json.dumps(rows, indent=1) + "\n")
                print(line(rows[-1]), flush=True)
    print("\n".join([_HEADER, *map(line, rows)]))


def line(row: dict[str, Any]) -> str:
    """Return a row of the table."""
    metrics = row["metrics"]
    frechet, score = told(metrics["frechet"], 1), told(metrics["inception_score"], 2)
    both = f"{metrics['precision']['mean']:.2f}, {metrics['recall']['mean']:.2f}"
    fad = ", ".join(
        f"{metrics[f'fad/{mode}/frechet']['mean']:.1f} {mode}"
        for mode in ("clean", "published")
        if f"fad/{mode}/frechet" in metrics
    )
    return (
        f"| {row['model']} | {row['solver']} | {row['steps']} | {frechet} | {score} | "
        f"{both} | {fad} | {row['energy_per_image_uj']:.0f} µJ |"
    )


def told(value: dict[str, Any], digits: int) -> str:
    """Return a mean, and its deviation where there were repeats."""
    mean, std = value["mean"], value["std"]
    return f"{mean:.{digits}f}" + ("" if std is None else f" ± {std:.{digits}f}")


if __name__ == "__main__":
    main()

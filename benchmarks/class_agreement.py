"""Does a model make the class that it is asked for? One row per guidance scale.

    python benchmarks/class_agreement.py mnist --data-dir DIR --guidance-scales 1 2 \
        --num-samples 200 --seed 0 --json FILE

Image k has seed SEED + k and class (SEED + k) modulo K. The judge is the small classifier of
`spikediff evaluate`, which sees real training images only; its accuracy on the held-out tenth
stands beside.
"""

import argparse
import json
from pathlib import Path
from typing import Any

import torch

from spikediff.data import load_images
from spikediff.diffusion.classes import classes_in_turn
from spikediff.evaluation.class_scores import class_agreement
from spikediff.evaluation.features import load_features
from spikediff.hub.load import load_pipeline, steps_of
from spikediff.hub.run_data import cache_folder, find_dataset
from spikediff.pretrained import find_source

BATCH = 50


def judge_of(source: Path, args: Any) -> Any:
    """Return the classifier of the run's data set."""
    dataset, data_dir = find_dataset(source, args.dataset, args.data_dir)
    real = load_images(dataset, data_dir=data_dir)
    return load_features("classifier", dataset=real, cache_dir=cache_folder(None))


def measure(pipe: Any, judge: Any, scale: float, args: Any) -> dict[str, Any]:
    """Return one row."""
    says, labels = [], []
    for first in range(args.seed, args.seed + args.num_samples, BATCH):
        seeds = range(first, min(first + BATCH, args.seed + args.num_samples))
        told = classes_in_turn(pipe, seeds)
        images = pipe(
            seeds=seeds,
            num_inference_steps=steps_of(pipe, args.num_inference_steps),
            output_type="pt",
            guidance_scale=scale,
            **told,
        ).images
        says.append(judge((images * 255).round().to(torch.uint8).cpu()).probabilities)
        labels += told["class_labels"]
    agreement = class_agreement(torch.cat(says), torch.tensor(labels))
    return {"guidance_scale": scale, "images": agreement.count} | vars(agreement)


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("source", type=Path, help="a run, or a model that ships: digits, mnist")
    parser.add_argument("--dataset")
    parser.add_argument("--data-dir", type=Path)
    parser.add_argument("--guidance-scales", type=float, nargs="+", default=[1.0])
    parser.add_argument("--num-samples", type=int, default=200)
    parser.add_argument("--num-inference-steps", type=int)
    parser.add_argument("--scheduler")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    source = find_source(args.source)
    judge = judge_of(source, args)
    pipe = load_pipeline(source, args.scheduler, event_driven=True)
    pipe.set_progress_bar_config(disable=True)
    rows = [measure(pipe, judge, scale, args) for scale in args.guidance_scales]
    print(f"judge: right on {judge.held_out_accuracy:.2%} of held-out real images\n")
    print("| guidance | as asked | least of a class |\n|---|---|---|")
    for row in rows:
        least = min(share for share in row["by_class"] if share is not None)
        print(f"| {row['guidance_scale']:g} | {row['rate']:.1%} | {least:.0%} |")
    if args.json:
        facts = {
            "source": args.source.name,
            "seed": args.seed,
            "num_inference_steps": steps_of(pipe, args.num_inference_steps),
            "scheduler": type(pipe.scheduler).__name__,
            "judge_held_out_accuracy": judge.held_out_accuracy,
            "rows": rows,
        }
        args.json.write_text(json.dumps(facts, indent=2) + "\n")


if __name__ == "__main__":
    main()

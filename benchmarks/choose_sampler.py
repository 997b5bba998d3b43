"""Which sampler? FAD (published mode) against the held-out tenth of the training split.

    python benchmarks/choose_sampler.py RUN --data-dir DIR --feature-weights WEIGHTS \
        --num-samples 512 --json FILE SOLVER:STEPS[:SPACING[:GUIDANCE]] ...

SPACING is `own`, `trailing` or `linspace`. The reference is not the test split, so the
choice may be used in the table of results. Image k has seed 50,000 + k and class k modulo K.
"""

import argparse
import json
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from spikediff.data import load_images
from spikediff.diffusion.classes import classes_in_turn
from spikediff.evaluation.features import FEATURES, load_features
from spikediff.evaluation.features.network import prepare
from spikediff.evaluation.frechet import Moments, frechet_distance
from spikediff.hub.load import load_pipeline
from spikediff.pretrained import find_source

SEED, BATCH = 50_000, 64
FEATURES_BATCH = 256  # of the published mode, whose norms see a batch
SPACINGS: dict[str, dict[str, Any]] = {
    "own": {},
    "trailing": {"timestep_spacing": "trailing"},
    "linspace": {"timestep_spacing": "linspace"},
}


def parts_of(sampler: str) -> list[str]:
    """Return solver, steps, spacing and guidance, as typed or by default."""
    typed, default = sampler.split(":"), ["own", "20", "own", ""]
    return [*typed, *default[len(typed) :]]


def images_of(pipe: Any, steps: int, guidance: float | None, count: int) -> Tensor:
    """Return generated images, uint8 [N, C, H, W]."""
    parts = []
    for first in range(SEED, SEED + count, BATCH):
        seeds = range(first, min(first + BATCH, SEED + count))
        told = classes_in_turn(pipe, seeds)
        if guidance is not None:
            told["guidance_scale"] = guidance
        made = pipe(seeds=seeds, num_inference_steps=steps, output_type="pt", **told).images
        parts.append((made * 255).round().to(torch.uint8))
    return torch.cat(parts)


def moments_of(network: Any, images: Tensor) -> Moments:
    """Return the moments of the features of images, resized as the network wants them."""
    fitted = prepare(images, network.image_size, network.channels, "bilinear")
    batches = fitted.split(FEATURES_BATCH)
    return Moments.of(torch.cat([network(batch).features for batch in batches]))


def main() -> None:
    """Measure every sampler; print and write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("source", type=Path)
    parser.add_argument("samplers", nargs="+")
    parser.add_argument("--dataset", default="mnist")
    parser.add_argument("--data-dir", type=Path)
    parser.add_argument("--feature-weights", type=Path, required=True)
    parser.add_argument("--num-samples", type=int, default=512)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    weights = args.feature_weights / FEATURES["fad"].files[args.dataset]
    network = load_features("fad", weights=weights, mode="published")
    held_out = load_images(args.dataset, data_dir=args.data_dir, held_out=True).stack()
    reference = moments_of(network, held_out)
    rows = []
    for text in args.samplers:
        solver, steps, spacing, guidance = parts_of(text)
        pipe = load_pipeline(find_source(args.source), solver, event_driven=True)
        pipe.set_progress_bar_config(disable=True)
        pipe.scheduler = type(pipe.scheduler).from_config(
            pipe.scheduler.config, **SPACINGS[spacing]
        )
        scale = float(guidance) if guidance else None
        images = images_of(pipe, int(steps), scale, args.num_samples)
        distance = frechet_distance(moments_of(network, images), reference)
        rows.append({"sampler": text, "fad_published_held_out": distance})
        print(f"{text}: {distance:.2f}", flush=True)
    if args.json:
        args.json.write_text(
            json.dumps({"images": args.num_samples, "rows": rows}, indent=1) + "\n"
        )


if __name__ == "__main__":
    main()

"""What each choice of the integer system does: short runs on MNIST that differ in one setting.

    PYTHONPATH=benchmarks python benchmarks/integer_ablation.py --data-dir DIR --feature-weights DIR

Every run trains `integer/mnist` at widths of 24 and 48 on as many images. A run that is there is
kept, so that an interrupted ablation goes on. Written to --output: held-out loss of the float
network and of its deployment form (4,096 draws), FAD (protocol fsddim, --num-samples images, UniPC,
10 calls), spikes per synapse and call (T x rate) by counts and by changes, and seconds of training.
`base` runs three times, by other seeds of training: smaller differences than theirs are noise.
"""

import argparse
import json
import time
from pathlib import Path
from typing import Any

import torch
from integer_table import held_out_loss, metered

import spikediff as sd
from spikediff.data import load_images, to_model_range
from spikediff.diffusion.denoising_pipeline import SpikingDiffusionPipeline
from spikediff.systems.integer import to_integer

CALLS = 10
SHORT = {
    "model.block_out_channels": [24, 48],
    "optimizer.schedule": "cosine",
    "optimizer.decay_steps": 0,
    "optimizer.warmup_steps": 100,
    "ema.decay": 0.99,
    "sampling.every": 0,
    "sampling.num_images": 16,
    "training.steps": 1000,
    "training.checkpoint_every": 1000,
    "training.compile": False,
}
VARIANTS: dict[str, dict[str, Any]] = {
    "base": {},
    "base, seed 1": {"seed": 1},
    "base, seed 2": {"seed": 2},
    "D = 1": {"model.levels": 1},
    "D = 2": {"model.levels": 2},
    "D = 8": {"model.levels": 8},
    "a threshold per layer": {"model.per_channel": False},
    "4 head levels": {"model.head_levels": 4},
    "31 head levels": {"model.head_levels": 31},
    "no price of spikes": {"loss.rate_penalty": 0.0},
    "price of spikes 0.05": {"loss.rate_penalty": 0.05},
    "price of changes 0.05": {"loss.change_penalty": 0.05},
    "min-SNR 5": {"loss.min_snr_gamma": 5.0},
    "Muon": {"optimizer.name": "muon"},
    "no average": {"ema.decay": 0.0},
    "ordinary (SiLU)": {"model.activation": "silu", "loss.rate_penalty": 0.0},
}


def measure(name: str, settings: dict[str, Any], args: Any) -> dict[str, Any]:
    """Train one variant, unless it is there, and return its row."""
    run = args.work / name.replace(" ", "-").replace(",", "").replace("=", "")
    started = time.process_time()
    if not (run / "pipeline").is_dir():
        given = {**SHORT, "data.data_dir": str(args.data_dir), **settings}
        sd.train("integer/mnist", output=run, resume=(run / "recipe.yaml").is_file(), **given)
    seconds = time.process_time() - started
    pipe = sd.load(run)
    pipe.set_progress_bar_config(disable=True)
    noise = sd.make_scheduler("ddpm", pipe.scheduler.config)
    held = load_images("mnist", "train", data_dir=args.data_dir, held_out=True)
    images = to_model_range(held.stack())
    row: dict[str, Any] = {"name": name, "settings": settings, "training_seconds": round(seconds)}
    row["loss"] = held_out_loss(pipe.unet, noise, images, None)
    judged = run
    if pipe.unet.config.activation == "integer":
        form = to_integer(pipe.unet)
        row["loss_deployed"] = held_out_loss(form, noise, images, None)
        whole = SpikingDiffusionPipeline(form, pipe.scheduler)
        whole.set_progress_bar_config(disable=True)
        met = metered(whole, CALLS, changes=True)
        row["t_x_rate"] = met.report().spikes_per_synapse
        row["t_x_rate_by_changes"] = met.report(changes=True).spikes_per_synapse
        judged = run / "deployed"
        if not judged.exists():
            whole.save_pretrained(judged)
    found = sd.evaluate(
        judged,
        protocol="fsddim",
        features=("fad",),
        feature_weights=args.feature_weights,
        data_dir=args.data_dir,
        dataset="mnist",
        num_samples=args.num_samples,
        num_inference_steps=CALLS,
        batch_size=50,
    )
    row["fad"] = found["metrics"]["fad/published/frechet"]["mean"]
    row["fad_floor"] = found["floor"]["fad/published/frechet"]
    return row


def main() -> None:
    """Measure what is missing; write after every row."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--data-dir", type=Path, required=True)
    parser.add_argument("--feature-weights", type=Path, required=True)
    parser.add_argument("--num-samples", type=int, default=1000)
    parser.add_argument("--work", type=Path, default=Path("runs/integer-ablation"))
    parser.add_argument("--output", type=Path, default=Path("benchmarks/integer_ablation.json"))
    args = parser.parse_args()
    torch.set_num_threads(1)
    rows = json.loads(args.output.read_text()) if args.output.is_file() else []
    for name, settings in VARIANTS.items():
        if any(row["name"] == name for row in rows):
            continue
        rows.append(measure(name, settings, args))
        args.output.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
        shown = ("name", "loss", "fad", "t_x_rate", "t_x_rate_by_changes", "training_seconds")
        print({key: rows[-1].get(key) for key in shown}, flush=True)


if __name__ == "__main__":
    main()

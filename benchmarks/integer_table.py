"""An integer network, every execution of its deployment form, and its ordinary counterpart.

    PYTHONPATH=benchmarks python benchmarks/integer_table.py RUN --ordinary RUN --data-dir DIR \
        --feature-weights DIR --output benchmarks/integer_mnist.json

Loss is that of training, on the held-out tenth, at 4,096 draws of image, timestep and noise. FAD is
the protocol fsddim on --num-samples images; executions share one figure, after a check that they
give the same bits. Energy per image is that of `spikediff energy --compare`. Images per second are
of one thread, compiled where there is a compiled form, on 16 images after a first generation.
"""

import argparse
import json
import time
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

import spikediff as sd
from spikediff.data import load_images, to_model_range
from spikediff.diffusion.classes import classes_in_turn
from spikediff.diffusion.denoising_pipeline import SpikingDiffusionPipeline
from spikediff.diffusion.objective import target_of
from spikediff.energy import EnergyMeter, compare, load_costs
from spikediff.hub.run_data import find_dataset
from spikediff.systems.integer import EXECUTIONS, to_integer

DRAWS, TIMED, METERED = 4096, 16, 16


def held_out_loss(unet: Any, scheduler: Any, images: Tensor, labels: Tensor | None) -> float:
    """Return the mean squared error of a network's estimate, of the same draws for each."""
    generator = torch.Generator().manual_seed(0)
    chosen = torch.randint(len(images), (DRAWS,), generator=generator)
    timesteps = torch.randint(scheduler.config.num_train_timesteps, (DRAWS,), generator=generator)
    noise = torch.randn(DRAWS, *images.shape[1:], generator=generator)
    total = 0.0
    with torch.no_grad():
        for part in torch.arange(DRAWS).split(64):
            x_0, t, eps = images[chosen[part]], timesteps[part], noise[part]
            classes = None if labels is None else labels[chosen[part]]
            x_t = scheduler.add_noise(x_0, eps, t)
            error = unet(x_t, t, classes).sample - target_of(scheduler, x_0, eps, t)
            total += error.square().mean(dim=(1, 2, 3)).sum().item()
    return total / DRAWS


def generate(pipe: Any, steps: int, images: int) -> Tensor:
    """Return images of the first seeds, of all classes in turn."""
    seeds = range(images)
    classes = classes_in_turn(pipe, seeds)
    made = pipe(seeds=seeds, num_inference_steps=steps, output_type="pt", **classes)
    drawn: Tensor = made.images
    return drawn


def images_per_second(pipe: Any, steps: int) -> float:
    """Return the speed of one thread."""
    generate(pipe, steps, TIMED)
    started = time.perf_counter()
    generate(pipe, steps, TIMED)
    return TIMED / (time.perf_counter() - started)


def metered(pipe: Any, steps: int, changes: bool) -> EnergyMeter:
    """Generate under a meter."""
    with EnergyMeter(pipe, changes=changes) as meter:
        generate(pipe, steps, METERED)
    return meter


def row(name: str, pipe: Any, steps: int, fast: Any = None) -> dict[str, Any]:
    """Return what one way to run says, but for quality and energy."""
    speed = images_per_second(fast or pipe, steps)
    return {"name": name, "steps": steps, "images_per_second": round(speed, 2)}


def measure(args: Any) -> list[dict[str, Any]]:
    """Return all rows."""
    torch.set_num_threads(1)
    dataset, data_dir = find_dataset(args.run, None, args.data_dir)
    held = load_images(dataset, "train", data_dir=data_dir, held_out=True)
    images = to_model_range(held.stack())
    quiet = {"disable": True}

    def fad(source: Any) -> float:
        found = sd.evaluate(
            source,
            protocol="fsddim",
            features=("fad",),
            feature_weights=args.feature_weights,
            data_dir=data_dir,
            dataset=dataset,
            num_samples=args.num_samples,
            num_inference_steps=steps,
        )
        value: float = found["metrics"]["fad/published/frechet"]["mean"]
        return value

    floating = sd.load(args.run)
    noise = sd.make_scheduler("ddpm", floating.scheduler.config)
    labels = held.labels if floating.unet.config.num_classes else None
    form = to_integer(floating.unet, args.weight_bits)
    folder = args.work / f"form-{args.weight_bits}"
    if not folder.exists():
        SpikingDiffusionPipeline(form, floating.scheduler).save_pretrained(folder)
    losses = {
        "integer": held_out_loss(floating.unet, noise, images, labels),
        "deployed": held_out_loss(form, noise, images, labels),
    }
    ordinary = None if args.ordinary is None else sd.load(args.ordinary)
    unet = floating.unet.ann_counterpart().eval() if ordinary is None else ordinary.unet
    counterpart = SpikingDiffusionPipeline(unet, floating.scheduler)
    if ordinary is not None:
        losses["ordinary"] = held_out_loss(unet, noise, images, labels)
    rows = []
    for steps in args.steps:
        for pipe in (floating, counterpart):
            pipe.set_progress_bar_config(**quiet)
        known = {"ordinary": None if ordinary is None else fad(args.ordinary)}
        known |= {"integer": fad(args.run), "deployed": fad(folder)}
        against = metered(counterpart, steps, changes=False)
        rows.append(row("ordinary", counterpart, steps))
        rows[-1] |= {"loss": losses.get("ordinary"), "fad": known["ordinary"]}
        rows.append(row("integer, float32", floating, steps))
        rows[-1] |= {"loss": losses["integer"], "fad": known["integer"]}
        wanted = None
        for execution in EXECUTIONS:
            pipe = SpikingDiffusionPipeline(form.with_execution(execution), floating.scheduler)
            pipe.set_progress_bar_config(**quiet)
            fast = SpikingDiffusionPipeline(pipe.unet, pipe.scheduler).compile_for_inference()
            fast.set_progress_bar_config(**quiet)
            made = generate(pipe, steps, METERED)
            wanted = made if wanted is None else wanted
            assert torch.equal(made, wanted), execution
            assert torch.equal(generate(fast, steps, METERED), wanted), execution
            rows.append(row(execution, pipe, steps, fast))
            rows[-1] |= {"loss": losses["deployed"], "fad": known["deployed"]}
            if execution == "counts":
                met = metered(pipe, steps, changes=True)
                compared = compare(met, against, load_costs("45nm"), trained=ordinary is not None)
                rows[-1]["comparison"] = compared.to_dict()
    return rows


def main() -> None:
    """Measure, write, print."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("run", type=Path)
    parser.add_argument("--ordinary", type=Path)
    parser.add_argument("--data-dir", type=Path)
    parser.add_argument("--feature-weights", type=Path, required=True)
    parser.add_argument("--steps", type=int, nargs="+", default=[10, 20])
    parser.add_argument("--num-samples", type=int, default=1000)
    parser.add_argument("--weight-bits", type=int, default=8)
    parser.add_argument("--work", type=Path, default=Path("runs"))
    parser.add_argument("--output", type=Path, required=True)
    args = parser.parse_args()
    rows = measure(args)
    args.output.write_text(json.dumps(rows, indent=1) + "\n", encoding="utf-8")
    for each in rows:
        print({key: value for key, value in each.items() if key != "comparison"})


if __name__ == "__main__":
    main()

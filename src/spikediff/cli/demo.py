"""`spikediff demo`: from nothing to generated digits, and figures of how good they are."""

import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any

import tyro

from spikediff.cli.arguments import parse
from spikediff.cli.outputs import write_json
from spikediff.errors import UserError
from spikediff.pretrained import find_recipe
from spikediff.training.recipe import load_recipe

_SEEDS = 256
_SHOWN = 64
_CONFIDENCE = 0.7


@dataclass(frozen=True)
class DemoOptions:
    """Train a spiking diffusion model on real handwritten digits and show what it generates."""

    output: Path = Path("runs/demo")
    """Folder for the run and its pictures; a demo that is there is replaced."""
    steps: int | None = None
    """Optimizer steps; those of the recipe sddpm/digits where it is not given."""
    resume: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Go on with a demo that was interrupted."""
    json: Path | None = None
    """Also write the figures for a program to read."""


def run(arguments: list[str]) -> int:
    """Train, sample, measure, show."""
    options = parse(DemoOptions, arguments, "spikediff demo")
    if options.steps is not None and options.steps < 1:
        raise UserError(f"--steps {options.steps} must be at least 1")
    recipe = load_recipe(find_recipe("sddpm/digits"))
    if options.steps is not None:
        recipe = replace(recipe, training=replace(recipe.training, steps=options.steps))
    print("Loading ...", flush=True)  # torch and diffusers take seconds to import

    from spikediff.training.trainer import Trainer

    trainer = Trainer(recipe, options.output, options.resume, overwrite=not options.resume)
    model = trainer.accelerator.unwrap_model(trainer.model)
    print(
        f"Training {type(model).__name__}: {model.num_parameters():,} parameters, "
        f"T = {recipe.model.spiking_steps}, on {len(trainer.dataset):,} real digits, "
        f"{recipe.training.steps} steps of {recipe.data.batch_size}",
        flush=True,
    )
    started, first = time.perf_counter(), trainer.step
    if not trainer.train():
        return 1
    seconds = time.perf_counter() - started
    figures = _measure(options.output, trainer.dataset)
    figures["training_seconds"] = round(seconds, 1)
    figures["steps_per_second"] = round((trainer.step - first) / seconds, 2)
    _tell(figures, options.output)
    write_json(options.json, figures)
    return 0


def _measure(folder: Path, training: Any) -> dict[str, Any]:
    """Generate 256 digits; write the pictures; return the figures."""
    import torch

    from spikediff.data import load_images, to_model_range
    from spikediff.diffusion.outputs import image_grid, record_frames, save_gif, to_pil
    from spikediff.energy import EnergyMeter
    from spikediff.evaluation import nearest_images
    from spikediff.hub.load import load_pipeline

    print(f"Generating {_SEEDS} digits ...", flush=True)
    pipe = load_pipeline(folder)
    frames: list[Any] = []

    with EnergyMeter(pipe) as meter:
        images = pipe(
            seeds=range(_SEEDS),
            num_inference_steps=25,
            output_type="pt",
            callback_on_step_end=record_frames(frames, _SHOWN),
        ).images
    generated = to_model_range((images * 255).round().to(torch.uint8)).cpu()  # as a PNG has it

    real = to_model_range(training.stack())
    held_out = load_images("digits", "test")
    known = load_images("digits")  # all of them: those that training held out too
    real_rate, _ = _recognised(known, to_model_range(held_out.stack()))
    rate, per_class = _recognised(known, generated)
    shown = generated[:_SHOWN]
    nearest = nearest_images(generated, real)
    image_grid(to_pil(shown)).save(folder / "digits.png")
    beside = torch.stack([shown, real[nearest.index[:_SHOWN]]], dim=1).flatten(0, 1)
    image_grid(to_pil(beside), columns=16).save(folder / "digits_and_nearest.png")
    save_gif(frames, folder / "denoising.gif")
    energy = meter.report()
    return {
        "recognised_generated": round(rate, 4),
        "recognised_real_held_out": round(real_rate, 4),
        "ratio": round(rate / real_rate, 4),
        "digits_per_class": per_class,
        "every_class": min(per_class) > 0,
        "nearest_distance_median": round(nearest.distance.median().item(), 4),
        "nearest_distance_minimum": round(nearest.distance.min().item(), 4),
        "nearest_distance_real_held_out_median": round(
            nearest_images(to_model_range(held_out.stack()), real).distance.median().item(), 4
        ),
        "firing_rate": round(energy.firing_rate, 4),
        "firing_rate_by_layer": {k: round(v, 4) for k, v in energy.firing_rates.items()},
        "energy_per_image_uj": round(energy.energy_per_image_pj / 1e6, 2),
    }


def _recognised(known: Any, images: Any) -> tuple[float, list[int]]:
    """Classify images [N, C, H, W] in [-1, 1] by a logistic regression of real digits' pixels.

    Returns:
        The share of images classified with confidence, and the images of every class.
    """
    import torch
    from sklearn.linear_model import LogisticRegression

    from spikediff.data import to_model_range

    classifier = LogisticRegression(max_iter=5000)
    classifier.fit(to_model_range(known.stack()).flatten(1).numpy(), known.labels.numpy())
    best = torch.from_numpy(classifier.predict_proba(images.flatten(1).numpy())).max(dim=1)
    per_class = torch.bincount(best.indices, minlength=len(classifier.classes_)).tolist()
    return (best.values >= _CONFIDENCE).float().mean().item(), per_class


def _tell(figures: dict[str, Any], folder: Path) -> None:
    """Print the figures and name the pictures."""
    print("\nFiring rate per layer (share of neurons and spiking steps that fire):")
    for layer, rate in figures["firing_rate_by_layer"].items():
        print(f"  {layer:<32} {rate:6.1%}  {'#' * round(60 * rate)}")
    print(f"  {'all neurons':<32} {figures['firing_rate']:6.1%}")
    print(
        f"\nEnergy: {figures['energy_per_image_uj']} uJ per image by the strict accounting "
        f"(`spikediff energy {folder}` tells where it goes)\n"
        f"Speed: {figures['steps_per_second']} steps a second, "
        f"{figures['training_seconds']:.0f} s of training\n"
        f"Recognised with confidence of at least {_CONFIDENCE} by a classifier of real digits:\n"
        f"  {figures['recognised_generated']:6.1%} of {_SEEDS} generated digits\n"
        f"  {figures['recognised_real_held_out']:6.1%} of real held-out digits "
        f"(ratio {figures['ratio']:.2f})\n"
        f"Digits per class 0-9: {figures['digits_per_class']}\n"
        f"Distance to the nearest training image (RMS per pixel, 2 is black against white):\n"
        f"  {figures['nearest_distance_median']} generated, "
        f"{figures['nearest_distance_minimum']} at the least; "
        f"{figures['nearest_distance_real_held_out_median']} real held-out\n"
        f"\nPictures:\n"
        f"  {folder / 'digits.png'}              {_SHOWN} generated digits\n"
        f"  {folder / 'digits_and_nearest.png'}  each beside its nearest training image\n"
        f"  {folder / 'denoising.gif'}           from noise to digits\n"
        f"  {folder / 'loss.png'}                the loss curve"
    )

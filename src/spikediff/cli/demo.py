"""`spikediff demo`: run the shipped spiking model, then train a small one on real digits."""

import time
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from spikediff.cli.options import COUNT, Flat, Report
from spikediff.errors import UserError
from spikediff.pretrained import find_recipe, find_source
from spikediff.training.recipe import load_recipe

if TYPE_CHECKING:
    from PIL import Image

    from spikediff.inspection import SpikeRecord

_RECIPE = "integer/digits"
_CALLS = 10  # network calls of an image whose energy is measured
_STEPS = 2 * _CALLS  # of an image that is shown
_GRID = "mnist.png"  # which only a demo writes
_ROWS = 5  # of digits 0 to 9 in a grid
_SEEDS = 200  # digits that are measured
_METERED = 4
_CONFIDENCE = 0.7
_LAYERS, _NEURONS = 3, 24  # in the raster
_DOT = (4, 4)  # pixels of a spike in the raster, [width, height]
_GREYS = 8  # of the GIF


@dataclass(frozen=True)
class DemoOptions:
    """Show digits of the shipped spiking model, then train a small one and show what it learned."""

    output: Path = Path("runs/demo")
    """Folder for the run and its pictures; an earlier demo in it is replaced."""
    steps: Annotated[int | None, COUNT] = None
    """Optimizer steps; by default those of the recipe integer/digits."""
    resume: Annotated[bool, tyro.conf.FlagCreatePairsOff] = False
    """Continue an interrupted demo."""
    report: Flat[Report] = Report()


def run(options: DemoOptions) -> int:
    recipe, folder = load_recipe(find_recipe(_RECIPE)), options.output
    if options.steps is not None:
        recipe = replace(recipe, training=replace(recipe.training, steps=options.steps))
    trained = (folder / "pipeline").is_dir() or any(folder.glob("checkpoints/step-*"))
    if trained and not (folder / _GRID).is_file():
        raise UserError(f"{folder}: contains a run that is not a demo; choose another --output")
    print("Loading ...", flush=True)  # torch and diffusers take seconds to import

    from spikediff.training.trainer import Trainer

    trainer = Trainer(recipe, folder, options.resume, overwrite=not options.resume)
    shown = None if options.resume else _show_shipped(folder)
    model = trainer.accelerator.unwrap_model(trainer.model)
    print(
        f"\nNow a network of {model.num_parameters():,} parameters learns "
        f"{len(trainer.dataset):,} real digits of 8x8 pixels: {recipe.training.steps} steps of "
        f"{recipe.data.batch_size}.\nIts progress: {(folder / 'samples').resolve()}",
        flush=True,
    )
    started, first = time.perf_counter(), trainer.step
    if not trainer.train():
        print(f"Interrupted. To go on: spikediff demo --output {folder} --resume")
        return 1
    seconds = time.perf_counter() - started
    figures = _measure(folder, trainer.dataset)
    figures["training_seconds"] = round(seconds, 1)
    figures["steps_per_second"] = round((trainer.step - first) / seconds, 2)
    _tell(figures, folder)
    options.report.write(figures | {"shipped": shown})
    return 0


def _show_shipped(folder: Path) -> dict[str, Any]:
    """Generate with the model `mnist`; write a grid and a GIF, and print the energy of an image."""
    import torch

    from spikediff.diffusion.outputs import image_grid, pixels_to_pil, record_frames, save_gif
    from spikediff.hub.load import load_pipeline
    from spikediff.inspection import SpikeRecorder

    pipe = load_pipeline(find_source(Path("mnist")))
    pipe.set_progress_bar_config(disable=True)
    frames: list[Image.Image] = []
    count = 10 * _ROWS
    with torch.no_grad(), SpikeRecorder(pipe, neurons_per_layer=_NEURONS) as record:
        images = pipe(
            seeds=range(count),
            class_labels=[i % 10 for i in range(count)],
            num_inference_steps=_STEPS,
            output_type="pt",
            callback_on_step_end=record_frames(frames, count, columns=10),
        ).images
    folder.mkdir(parents=True, exist_ok=True)
    image_grid(pixels_to_pil((images * 255).round().to(torch.uint8)), 10).save(folder / _GRID)
    save_gif(_beside_raster(frames, record), folder / "mnist.gif")
    energies = _energies(pipe)
    print(
        f"\n{count} handwritten digits by the shipped spiking model `mnist` (28x28):\n"
        f"  {(folder / _GRID).resolve()}\n"
        f"  {(folder / 'mnist.gif').resolve()}  from noise to digits, beside its spikes\n"
        f"{_energy_line(energies)}",
        flush=True,
    )
    return energies


def _beside_raster(frames: "list[Image.Image]", record: "SpikeRecord") -> "list[Image.Image]":
    """Return every grid beside the spikes so far of some neurons of the three busiest layers."""
    from PIL import Image

    from spikediff.inspection.plots import busiest, raster_image

    whole = raster_image(busiest(record, _LAYERS), _DOT)
    pictures = []
    for step, grid in enumerate(frames):
        digits = grid.convert("L")
        seen = whole.width * (step + 1) // len(frames)
        page = Image.new(
            "L", (digits.width + 8 + whole.width, max(digits.height, whole.height)), 255
        )
        page.paste(digits, (0, 0))
        page.paste(whole.crop((0, 0, seen, whole.height)), (digits.width + 8, 0))
        pictures.append(page.quantize(_GREYS))
    return pictures


def _energies(pipe: Any) -> dict[str, Any]:
    """Return the energy of an image in microjoules: the spiking network's and its counterparts'."""
    from spikediff.hub.results import compare_with_ordinary

    labels = list(range(_METERED))
    columns = compare_with_ordinary(
        pipe, seeds=range(_METERED), class_labels=labels, num_inference_steps=_CALLS
    ).columns
    changes = columns["spiking_by_changes"]

    def microjoule(report: Any) -> float:
        return round(float(report.energy_per_image_pj) / 1e6, 2)

    return {
        "calls": _CALLS,
        "ordinary_uj": microjoule(columns["ordinary"].plain),
        "spiking_uj": microjoule(changes.plain),
        "ordinary_quantised_uj": microjoule(columns["quantised"].whole),
        "spiking_quantised_uj": microjoule(changes.whole),
        "t_x_rate": round(columns["spiking"].spikes_per_synapse or 0.0, 4),
        "t_x_rate_by_changes": round(changes.spikes_per_synapse or 0.0, 4),
    }


def _energy_line(energies: dict[str, Any]) -> str:
    return (
        f"Energy per image, {energies['calls']} calls, 45 nm: {energies['spiking_uj']} uJ; the "
        f"ordinary network {energies['ordinary_uj']} uJ;\n"
        f"in integer arithmetic: {energies['spiking_quantised_uj']} uJ; the ordinary network "
        f"quantised {energies['ordinary_quantised_uj']} uJ."
    )


def _measure(folder: Path, training: Any) -> dict[str, Any]:
    """Generate 200 digits with the trained network; write the pictures; return the figures."""
    import torch

    from spikediff.data import load_images, to_model_range
    from spikediff.diffusion.outputs import image_grid, to_pil
    from spikediff.evaluation.neighbours import nearest_images
    from spikediff.hub.load import load_pipeline
    from spikediff.inspection import SpikeRecorder

    print(f"Generating {_SEEDS} digits ...", flush=True)
    pipe = load_pipeline(folder)
    pipe.set_progress_bar_config(disable=True)
    pipe.unet = pipe.unet.to_integer()
    with SpikeRecorder(pipe) as record:
        images = pipe(
            seeds=range(_SEEDS),
            class_labels=[i % 10 for i in range(_SEEDS)],
            num_inference_steps=_STEPS,
            output_type="pt",
        ).images
    generated = to_model_range((images * 255).round().to(torch.uint8)).cpu()  # as a PNG has it
    real = to_model_range(training.stack())
    held_out = to_model_range(load_images("digits", "test").stack())
    judge = _judge(load_images("digits"))  # all of them: those that training held out too
    real_rate, _ = _recognised(judge, held_out)
    rate, per_class = _recognised(judge, generated)
    shown = generated[: 10 * _ROWS]
    nearest = nearest_images(generated, real)
    image_grid(to_pil(shown), 10).save(folder / "digits.png")
    beside = torch.stack([shown, real[nearest.index[: len(shown)]]], dim=1).flatten(0, 1)
    image_grid(to_pil(beside), columns=20).save(folder / "digits_and_nearest.png")
    return {
        "recognised_generated": round(rate, 4),
        "recognised_real_held_out": round(real_rate, 4),
        "ratio": round(rate / real_rate, 4),
        "digits_per_class": per_class,
        "every_class": min(per_class) > 0,
        "nearest_distance_median": round(nearest.distance.median().item(), 4),
        "nearest_distance_minimum": round(nearest.distance.min().item(), 4),
        "nearest_distance_real_held_out_median": round(
            nearest_images(held_out, real).distance.median().item(), 4
        ),
        "firing_rate": round(record.rate, 4),
        "firing_rate_by_layer": {k: round(v.rate, 4) for k, v in record.layers.items()},
        "energy": _energies(pipe),
    }


def _judge(digits: Any) -> Any:
    """Return a logistic regression of real digits' pixels, in [-1, 1]."""
    from sklearn.linear_model import LogisticRegression

    from spikediff.data import to_model_range

    pixels = to_model_range(digits.stack()).flatten(1).numpy()
    return LogisticRegression(max_iter=5000).fit(pixels, digits.labels.numpy())


def _recognised(judge: Any, images: Any) -> tuple[float, list[int]]:
    """Classify images [N, C, H, W] in [-1, 1].

    Return the share of images classified with confidence, and the images of every class.
    """
    import torch

    best = torch.from_numpy(judge.predict_proba(images.flatten(1).numpy())).max(dim=1)
    per_class = torch.bincount(best.indices, minlength=len(judge.classes_)).tolist()
    return (best.values >= _CONFIDENCE).float().mean().item(), per_class


def _tell(figures: dict[str, Any], folder: Path) -> None:
    print("\nFiring rate per layer (spikes per neuron and step of its window):")
    for layer, rate in figures["firing_rate_by_layer"].items():
        print(f"  {layer:<32} {rate:6.1%}  {'#' * round(30 * rate)}")
    print(f"  {'all neurons':<32} {figures['firing_rate']:6.1%}")
    print(
        f"\n{_energy_line(figures['energy'])}\n"
        f"Training: {figures['training_seconds']:.0f} s, "
        f"{figures['steps_per_second']} steps a second\n"
        f"Recognised with confidence of at least {_CONFIDENCE} by a classifier of real digits:\n"
        f"  {figures['recognised_generated']:6.1%} of {_SEEDS} generated digits\n"
        f"  {figures['recognised_real_held_out']:6.1%} of real held-out digits "
        f"(ratio {figures['ratio']:.2f})\n"
        f"Digits per class 0-9: {figures['digits_per_class']}\n"
        f"Distance to the nearest training image (RMS per pixel, 2 is black on white):\n"
        f"  {figures['nearest_distance_median']} generated, "
        f"{figures['nearest_distance_minimum']} at the least; "
        f"{figures['nearest_distance_real_held_out_median']} real held-out\n"
        f"\nPictures, in {folder.resolve()}:\n"
        f"  digits.png              {10 * _ROWS} generated digits, 0 to 9 in turn\n"
        f"  digits_and_nearest.png  each beside its nearest training image\n"
        f"  loss.png                the loss curve\n"
        f"\nNext: spikediff sample {folder} --class-labels 3 1 4\n"
        f"      spikediff inspect mnist"
    )

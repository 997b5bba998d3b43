"""The pictures beside the tables of results.py: samples with their nearest images; the front."""

from pathlib import Path
from typing import Any

import torch

from spikediff.data import load_images
from spikediff.diffusion.classes import classes_in_turn
from spikediff.diffusion.outputs import image_grid, pixels_to_pil
from spikediff.evaluation.neighbours import nearest_images

SEEDS = range(64)


def draw_sheet(pipe: Any, row: dict[str, Any], dataset: str, data_dir: Path, path: Path) -> None:
    """Draw images of the seeds 0 to 63, each with the nearest training image to its right."""
    images = pipe(
        seeds=SEEDS,
        num_inference_steps=row["steps"],
        output_type="pt",
        **classes_in_turn(pipe, SEEDS),
    ).images
    size, channels = images.shape[-1], images.shape[1]
    training = load_images(
        dataset, image_size=size, channels=channels, data_dir=data_dir, held_out=False
    ).stack()
    found = nearest_images(images, training.float() / 255)
    pixels = (images * 255).round().to(torch.uint8)
    pairs = torch.stack([pixels, training[found.index]], dim=1).flatten(0, 1)
    path.parent.mkdir(parents=True, exist_ok=True)
    image_grid(pixels_to_pil(pairs), columns=16).save(path)


def draw_front(rows: list[dict[str, Any]], more: list[dict[str, Any]], path: Path) -> None:
    """Draw quality over energy; what is lower and further left is better.

    Args:
        rows: Those of the table.
        more: Measurements of `sampler_table.py`; those of a system and solver of the table at other
            denoising steps are joined to it by a line.
        path: Of the picture.
    """
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    measures = {"fad/published/frechet": "FAD, published mode", "frechet": "classifier, Frechet"}
    figure, panels = plt.subplots(1, 2, figsize=(11, 5), layout="constrained")
    for axes, (key, label) in zip(panels, measures.items(), strict=True):
        for row in rows:
            points = sorted([row, *at_other_steps(row, more)], key=lambda point: point["steps"])
            x = [point["energy_per_image_uj"] for point in points]
            y = [point["metrics"][key]["mean"] for point in points]
            (line,) = axes.plot(x, y, "o-", ms=5, lw=1, label=row["system"])
            for point, *place in zip(points, x, y, strict=True):
                axes.annotate(
                    str(point["steps"]),
                    place,
                    xytext=(4, 4),
                    textcoords="offset points",
                    fontsize=7,
                    color=line.get_color(),
                )
        axes.axhline(rows[0]["floor"][key], color="grey", lw=0.8, ls="--")
        axes.set(xscale="log", yscale="log", xlabel="energy per image, µJ (strict, 45 nm)")
        axes.set_ylabel(label)
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside lower center", ncols=5)
    figure.suptitle("quality over energy; denoising steps at the points, the floor dashed")
    figure.savefig(path, dpi=100)
    plt.close(figure)


def at_other_steps(row: dict[str, Any], more: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """Return the measurements of a row's system and solver at other denoising steps."""
    what = (row["system"], row["solver"])
    return [
        found
        for found in more
        if (found["model"], found["solver"]) == what
        and found["steps"] != row["steps"]
        and "fad/published/frechet" in found["metrics"]
    ]

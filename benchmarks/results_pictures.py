"""The pictures beside the tables of results.py: samples with their nearest images; the front."""

from pathlib import Path
from typing import Any

import torch

from spikediff.cli.guided import guided
from spikediff.data import load_images
from spikediff.evaluation import nearest_images
from spikediff.pipelines import classes_in_turn, image_grid
from spikediff.pipelines.pictures import pixels_to_pil

SEEDS = range(64)


def draw_sheet(pipe: Any, row: dict[str, Any], dataset: str, data_dir: Path, path: Path) -> None:
    """Draw images of the seeds 0 to 63, each with the nearest training image to its right."""
    with guided(pipe, row.get("threshold")):
        compiled = pipe.compile_for_inference()
    images = compiled(
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


def draw_front(rows: list[dict[str, Any]], name: str, path: Path) -> None:
    """Draw quality over energy; what is lower and further left is better."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot as plt

    measures = {"fad/published/frechet": "FAD, published mode", "frechet": "classifier, Frechet"}
    figure, panels = plt.subplots(1, 2, figsize=(10, 4), layout="constrained")
    for axes, (key, label) in zip(panels, measures.items(), strict=True):
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
        axes.set_ylabel(label)
        axes.minorticks_off()
        axes.margins(x=0.15, y=0.15)
    figure.suptitle(f"{name}: quality over energy; denoising steps in brackets, the floor dashed")
    figure.savefig(path, dpi=110)
    plt.close(figure)

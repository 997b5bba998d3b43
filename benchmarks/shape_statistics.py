"""What generated digits have too little or too much of: place, ink and slant beside real ones.

    python benchmarks/shape_statistics.py NAME=RUN ... --data-dir DIR --steps 10 --json FILE

Real digits are the held-out tenth of the training split. MNIST's are centred by their mass, so that
the spread of the centre tells how exactly a network knows where it draws. Images 50,000 and on.
"""

import argparse
import json
from pathlib import Path

import torch
from choose_sampler import images_of
from torch import Tensor

from spikediff.data import load_images
from spikediff.hub.load import load_pipeline
from spikediff.pretrained import find_source


def shapes_of(images: Tensor) -> dict[str, Tensor]:
    """Return the statistics of images, uint8 [N, 1, H, W], of each [N], in pixels and grey levels.

    centre_x and centre_y: of mass; ink: mean grey level; slant: covariance of x and y over the
    variance of y, the pixels right that a stroke goes in one pixel down.
    """
    grey = images.squeeze(1).double()  # [N, H, W]
    mass = grey.sum((1, 2))
    y, x = (torch.arange(size, dtype=torch.double) for size in grey.shape[1:])
    centre_x, centre_y = (grey.sum(1) @ x) / mass, (grey.sum(2) @ y) / mass
    dx, dy = x[None, None, :] - centre_x[:, None, None], y[None, :, None] - centre_y[:, None, None]
    slant = (grey * dx * dy).sum((1, 2)) / (grey * dy.square()).sum((1, 2))
    return {"centre_x": centre_x, "centre_y": centre_y, "ink": grey.mean((1, 2)), "slant": slant}


def main() -> None:
    """Measure, print, write."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("models", nargs="+", metavar="NAME=RUN")
    parser.add_argument("--data-dir", type=Path)
    parser.add_argument("--solver", default="dpmsolver++")
    parser.add_argument("--steps", type=int, default=10)
    parser.add_argument("--num-samples", type=int, default=512)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    real = load_images("mnist", data_dir=args.data_dir, held_out=True).stack()
    sets = {"real, held out": real}
    for name, _, run in (model.rpartition("=") for model in args.models):
        pipe = load_pipeline(find_source(Path(run)), args.solver, event_driven=True)
        pipe.set_progress_bar_config(disable=True)
        sets[name] = images_of(pipe, args.steps, None, args.num_samples)
    rows = {
        name: {
            key: {"mean": value.mean().item(), "std": value.std().item()}
            for key, value in shapes_of(images).items()
        }
        for name, images in sets.items()
    }
    for name, row in rows.items():
        print(
            name, *(f"{key} {v['mean']:.2f} ± {v['std']:.2f}" for key, v in row.items()), sep="  "
        )
    if args.json:
        settings = {"solver": args.solver, "steps": args.steps, "images": args.num_samples}
        args.json.write_text(json.dumps({**settings, "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()

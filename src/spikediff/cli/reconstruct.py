"""`spikediff reconstruct SOURCE`: measure the reconstruction error of an autoencoder."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

from spikediff.cli.options import (
    COUNT,
    OUTPUTS,
    BatchSize,
    CompilableSource,
    DataDir,
    Dataset,
    Flat,
    FolderReport,
    Split,
)
from spikediff.cli.outputs import say_where
from spikediff.errors import UserError, kind_of
from spikediff.pretrained import name_of


@dataclass(frozen=True)
class ReconstructOptions:
    """Reconstruct real images with an autoencoder, measure the error, and write a grid of pairs.

    The source is a model of vq_svae, spiking_image_decoder, fsvae or vae.
    """

    model: Flat[CompilableSource]
    report: Flat[FolderReport] = FolderReport(output=OUTPUTS / "reconstruct")
    dataset: Dataset = None
    data_dir: DataDir = None
    split: Split = None
    num_images: Annotated[int | None, COUNT] = None
    """The number of images, starting with the first; by default all."""
    batch_size: BatchSize = 100


def run(options: ReconstructOptions) -> None:
    model = options.model
    for name in ("scheduler", "execution"):
        if getattr(model, name) is not None:
            raise UserError(f"--{name}: an autoencoder has no denoiser; omit it")

    import torch

    from spikediff.data import to_model_range
    from spikediff.hub.run_data import find_dataset, images_for

    dataset, data_dir = find_dataset(model.source, options.dataset, options.data_dir)
    pipe = model.load()
    if not hasattr(pipe, "reconstruct"):
        raise UserError(f"{name_of(model.source)}: {kind_of(pipe)} has no autoencoder")
    split = options.split or "test"
    images = images_for(pipe, dataset, split, data_dir)
    count = min(options.num_images or len(images), len(images))
    real = to_model_range(torch.stack([images[i][0] for i in range(count)]))
    made = _reconstructed(pipe, real, options.batch_size)
    figures: dict[str, Any] = {"dataset": dataset, "split": split, "images": len(real)}
    if model.event_driven:
        figures["event_driven"] = True
    if model.event_driven_weights != "float32":
        figures["event_driven_weights"] = model.event_driven_weights
    figures |= _measure(real, made)
    _draw(real, made, options.report.folder("pictures"))
    for name, value in figures.items():
        print(f"{name:<28} {value if not isinstance(value, float) else round(value, 6)}")
    options.report.write(figures)


def _reconstructed(pipe: Any, real: Any, batch_size: int) -> Any:
    """Return the reconstructions [N, C, H, W], clipped to [-1, 1]."""
    import torch

    parts = [pipe.reconstruct(part.to(pipe.device)).cpu() for part in real.split(batch_size)]
    return torch.cat(parts).clamp(-1, 1)


def _measure(real: Any, made: Any) -> dict[str, float]:
    """Return the errors for images of range 1, such as [0, 1] or [-0.5, 0.5]."""
    from spikediff.data import to_unit_range
    from spikediff.evaluation.reconstruction import WINDOW, mse, ssim

    a, b = to_unit_range(real), to_unit_range(made)
    figures = {"mse": mse(a, b), "mse_of_range_2": mse(real, made)}
    if min(a.shape[-2:]) >= WINDOW:
        figures["ssim_loss"] = 1 - ssim(a, b, data_range=1.0)
        # The released code of Spiking-Diffusion centres images at 0 and pads them with zeros.
        published = ssim(a - 0.5, b - 0.5, data_range=1.0, overhang=True)
        figures["ssim_loss_as_published"] = 1 - published
    return figures


def _draw(real: Any, made: Any, folder: Path) -> None:
    """Write 32 images, each followed by its reconstruction."""
    import torch

    from spikediff.diffusion.outputs import image_grid, to_pil

    pairs = torch.stack([real[:32], made[:32]], dim=1).flatten(0, 1)  # [64, C, H, W]
    image_grid(to_pil(pairs)).save(folder / "reconstructions.png")
    say_where("pairs of image and reconstruction", folder / "reconstructions.png")

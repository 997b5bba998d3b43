"""`spikediff reconstruct SOURCE`: how well an autoencoder gives images back."""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from spikediff.cli.arguments import EventDriven, EventDrivenWeights, parse
from spikediff.cli.outputs import Overwrite, check_new_folder, new_folder, write_json
from spikediff.errors import UserError
from spikediff.hub.run_data import find_dataset


@dataclass(frozen=True)
class ReconstructOptions:
    """Encode and decode real images; write them side by side, and say how far apart they are."""

    source: Annotated[Path, tyro.conf.Positional]
    """A pipeline's or a run folder of vq_svae, spiking_image_decoder, fsvae or vae."""
    output: Path = Path("reconstructions")
    """Folder for the picture."""
    overwrite: Overwrite = False
    dataset: str | None = None
    """Whose images; the data set of the run's recipe where it is not given."""
    data_dir: Path | None = None
    """Folder that holds the data sets; that of the run's recipe where it is not given."""
    split: str = "test"
    """Split of the data set."""
    num_images: int | None = None
    """How many images, from the first on; all where it is not given."""
    batch_size: int = 100
    """Images at a time."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where to compute."""
    event_driven: EventDriven = False
    event_driven_weights: EventDrivenWeights = "float32"
    json: Path | None = None
    """Also write the figures for a program to read."""


def run(arguments: list[str]) -> int:
    """Reconstruct and measure."""
    options = parse(ReconstructOptions, arguments, "spikediff reconstruct")
    check_new_folder(options.output, options.overwrite)
    dataset, data_dir = find_dataset(options.source, options.dataset, options.data_dir)

    from spikediff.hub.load import load_pipeline

    weights = options.event_driven_weights
    pipe = load_pipeline(options.source, None, options.device, options.event_driven, weights)
    if not hasattr(pipe, "reconstruct"):
        raise UserError(f"{options.source}: a {type(pipe).__name__} has no autoencoder")
    real = _images(pipe, dataset, data_dir, options)
    made = _reconstructed(pipe, real, options.batch_size)
    figures = {"dataset": dataset, "split": options.split, "images": len(real)}
    figures |= {"event_driven": True} if options.event_driven else {}
    figures |= {"event_driven_weights": weights} if weights != "float32" else {}
    figures |= _measure(real, made)
    _draw(real, made, new_folder(options.output, "pictures", options.overwrite))
    for name, value in figures.items():
        print(f"{name:<28} {value if not isinstance(value, float) else round(value, 6)}")
    write_json(options.json, figures)
    return 0


def _images(pipe: Any, dataset: str, data_dir: Path | None, options: ReconstructOptions) -> Any:
    """Return real images in [-1, 1], of the size that the autoencoder makes."""
    import torch

    from spikediff.data import load_images, to_model_range
    from spikediff.hub.load import networks_of

    networks = networks_of(pipe)
    config = networks.get("vqvae", networks.get("vae")).config  # type: ignore[union-attr]
    images = load_images(
        dataset,
        options.split,
        image_size=config.sample_size,
        channels=config.in_channels,
        data_dir=data_dir,
    )
    count = min(options.num_images or len(images), len(images))
    return to_model_range(torch.stack([images[i][0] for i in range(count)]))


def _reconstructed(pipe: Any, real: Any, batch_size: int) -> Any:
    """Return what comes back of the images [N, C, H, W], clipped to [-1, 1]."""
    import torch

    parts = [pipe.reconstruct(part.to(pipe.device)).cpu() for part in real.split(batch_size)]
    return torch.cat(parts).clamp(-1, 1)


def _measure(real: Any, made: Any) -> dict[str, float]:
    """Return the errors, in the units of [0, 1] images, which are those of [-0.5, 0.5]."""
    from spikediff.data import to_unit_range
    from spikediff.evaluation import mse, ssim
    from spikediff.evaluation.reconstruction import WINDOW

    a, b = to_unit_range(real), to_unit_range(made)
    figures = {"mse": mse(a, b), "mse_of_range_2": mse(real, made)}
    if min(a.shape[-2:]) >= WINDOW:
        figures["ssim_loss"] = 1 - ssim(a, b, data_range=1.0)
        # The released code of Spiking-Diffusion has images centred at 0, and zeros around them.
        published = ssim(a - 0.5, b - 0.5, data_range=1.0, overhang=True)
        figures["ssim_loss_as_published"] = 1 - published
    return figures


def _draw(real: Any, made: Any, folder: Path) -> None:
    """Write 32 images, each followed by its reconstruction."""
    import torch

    from spikediff.diffusion.outputs import image_grid, to_pil

    pairs = torch.stack([real[:32], made[:32]], dim=1).flatten(0, 1)  # [64, C, H, W]
    image_grid(to_pil(pairs)).save(folder / "reconstructions.png")
    print(f"pairs of image and reconstruction: {folder / 'reconstructions.png'}")

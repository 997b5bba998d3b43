"""What the commands of editing share: which pictures, how they are sampled, where they go."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any, Literal

import tyro

from spikediff.cli.arguments import EventDriven
from spikediff.cli.outputs import new_folder
from spikediff.errors import UserError
from spikediff.hub.run_data import find_dataset

if TYPE_CHECKING:
    from collections.abc import Sequence

    from PIL import Image


@dataclass(frozen=True)
class Picture:
    """The picture to edit: a file, or an image of a data set."""

    image: Path | None = None
    """A picture of the size and mode that the model makes."""
    data_index: int | None = None
    """Instead of a file: this image of the data set."""
    dataset: str | None = None
    """Whose images; the data set of the run's recipe where it is not given."""
    data_dir: Path | None = None
    """Folder that holds the data sets; that of the run's recipe where it is not given."""
    split: str = "test"
    """Split of the data set."""


@dataclass(frozen=True)
class Sampling:
    """How to compute."""

    num_inference_steps: int | None = None
    """Steps from noise to image; 50, or as many as the model has, where it is not given."""
    scheduler: str | None = None
    """A sampler of `spikediff info`; the pipeline's own where it is not given."""
    class_label: int | None = None
    """The class to ask for, of a model that knows classes."""
    guidance_scale: float | None = None
    """How far towards the class (classifier-free guidance); 1 is the network's own answer."""
    batch_size: int = 64
    """Images at a time; it does not change them."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where to compute."""
    event_driven: EventDriven = False


# Groups of options whose names on the command line have no prefix.
PictureOptions = Annotated[Picture, tyro.conf.arg(name="")]
SamplingOptions = Annotated[Sampling, tyro.conf.arg(name="")]


def check_picture(picture: Picture) -> None:
    """Refuse what could not end well, before anything is loaded.

    Raises:
        UserError: No picture, or two of them.
    """
    if (picture.image is None) == (picture.data_index is None):
        raise UserError("give --image FILE or --data-index N, one of them")
    if picture.image is not None and not picture.image.exists():
        raise UserError(f"--image {picture.image}: no such file")


def conditions_of(sampling: Sampling) -> dict[str, Any]:
    """Return what a pipeline is told of classes; nothing where nothing was asked for."""
    asked = {"class_labels": sampling.class_label, "guidance_scale": sampling.guidance_scale}
    return {name: value for name, value in asked.items() if value is not None}


def load_editor(source: Path, sampling: Sampling, editors: dict[str, str]) -> Any:
    """Load a model as a pipeline that edits.

    Args:
        source: A pipeline's folder or a run folder.
        sampling: Scheduler and device.
        editors: The editing pipeline's name for "unet", a network of images or currents, and for
            "decoder", one of tokens.

    Raises:
        UserError: There is no model, or it cannot be edited with in this way.
    """
    import spikediff
    from spikediff.hub.load import load_pipeline

    pipe = load_pipeline(
        source, sampling.scheduler, sampling.device, sampling.event_driven, to_generate=True
    )
    part = next((part for part in editors if part in pipe.components), None)
    if part is None:
        raise UserError(
            f"{source}: a {type(pipe).__name__} has no diffusion that could do this; take a run of "
            f"{' or '.join(_SYSTEMS[part] for part in editors)}"
        )
    return getattr(spikediff, editors[part]).from_pipe(pipe)


_SYSTEMS = {"unet": "SDDPM, SDM, FSDDIM or DDPM", "decoder": "Spiking-Diffusion"}


def open_picture(source: Path, picture: Picture, pipe: Any) -> "Image.Image":
    """Return the picture, as it is in its file or as the model's training saw it.

    Raises:
        UserError: The file holds no picture, or the data set no such image.
    """
    if picture.image is not None:
        return open_file(picture.image, "--image")
    from spikediff.data import load_images
    from spikediff.diffusion.outputs import pixels_to_pil

    dataset, data_dir = find_dataset(source, picture.dataset, picture.data_dir)
    config = _network_of(pipe).config
    images = load_images(
        dataset,
        picture.split,
        image_size=config.sample_size,
        channels=config.in_channels,
        data_dir=data_dir,
    )
    index = picture.data_index or 0
    if not 0 <= index < len(images):
        raise UserError(f"--data-index {index}: {dataset} has images 0 to {len(images) - 1}")
    return pixels_to_pil(images[index][0][None])[0]


def _network_of(pipe: Any) -> Any:
    return pipe.components.get("unet") or pipe.components["vqvae"]


def open_file(path: Path, option: str, ground: int = 255) -> "Image.Image":
    """Return a picture in memory, in grey or RGB.

    Args:
        path: The file.
        option: What named it, for messages.
        ground: Grey level that a transparent picture is laid over.

    Raises:
        UserError: The file holds none.
    """
    from spikediff.data.decoding import read_image

    try:
        return read_image(path, ground)
    except UserError as error:
        raise UserError(f"{option} {error}") from None


def edited(pipe: Any, seeds: "Sequence[int]", batch_size: int, **call: Any) -> "list[Image.Image]":
    """Return the images of seeds, so many at a time."""
    images = []
    for first in range(0, len(seeds), batch_size):
        images += pipe(seeds=seeds[first : first + batch_size], **call).images
    return images


def write_pictures(
    folder: Path,
    overwrite: bool,
    named: "dict[str, Image.Image]",
    shown: "list[Image.Image] | None" = None,
) -> list[str]:
    """Write pictures under their names, and a grid of those to look at; return the paths."""
    from spikediff.diffusion.outputs import image_grid

    new_folder(folder, "pictures", overwrite)
    for name, image in named.items():
        image.save(folder / f"{name}.png")
    files = [str(folder / f"{name}.png") for name in named]
    if shown:
        image_grid(shown, columns=min(len(shown), 12)).save(folder / "grid.png")
        files.append(str(folder / "grid.png"))
    return files

"""Shared by the editing commands: the picture to edit, and the output files."""

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from spikediff.cli.arguments import Range
from spikediff.cli.options import DataDir, Dataset, FolderReport, Sampling, Split
from spikediff.cli.outputs import counted, say_where
from spikediff.errors import UserError

if TYPE_CHECKING:
    from PIL import Image

Strength = Annotated[
    float,
    Range(1e-12, 1),
    tyro.conf.arg(
        help="Share of the steps that are made, above 0 up to 1; below 1 they start from the "
        "picture. In `vary`, also the share of tokens that are drawn again."
    ),
]


@dataclass(frozen=True)
class Picture:
    """The picture to edit: a file, or an image of a data set."""

    image: Path | None = None
    """A picture of the model's size and mode."""
    data_index: Annotated[int | None, Range(0, 10**9)] = None
    """Instead of a file: the image of the data set with this index."""
    dataset: Dataset = None
    data_dir: DataDir = None
    split: Split = None

    def check(self) -> None:
        """Refuse a wrong choice."""
        if (self.image is None) == (self.data_index is None):
            raise UserError("give either --image FILE or --data-index N")
        if self.image is None:
            return
        of_data = {"--dataset": self.dataset, "--data-dir": self.data_dir, "--split": self.split}
        for option in (option for option, given in of_data.items() if given is not None):
            raise UserError(f"{option}: goes with --data-index, not with --image")
        if not self.image.exists():
            raise UserError(f"--image {self.image}: no such file")

    def open(self, source: Path, pipe: Any) -> "Image.Image":
        """Return the picture, as it is in its file or as the model saw it in training."""
        if self.image is not None:
            return open_file(self.image, "--image")
        from spikediff.data import Resize, find_row, read_pictures
        from spikediff.data.resize import resize_picture
        from spikediff.diffusion.outputs import pixels_to_pil
        from spikediff.hub.run_data import find_dataset, network_shape

        dataset, data_dir = find_dataset(source, self.dataset, self.data_dir)
        split = self.split or "test"
        size, channels = network_shape(pipe)
        resize = Resize(size, channels, find_row(dataset, split).crop)
        pictures = read_pictures(dataset, split, data_dir)
        index = self.data_index or 0
        if index >= len(pictures):
            raise UserError(f"--data-index {index}: {dataset} has images 0 to {len(pictures) - 1}")
        stored = pictures[index]
        made = pixels_to_pil(resize_picture(stored, resize, pictures.where(index))[None])[0]
        if (stored.size, stored.mode) != (made.size, made.mode):
            before, after = (f"{p.width}x{p.height}, mode {p.mode}" for p in (stored, made))
            print(f"image {index} of {dataset}: {before}; resized to the model's {after}")
        return made


def open_file(path: Path, option: str, ground: int = 255) -> "Image.Image":
    """Return a picture in grey or RGB; `ground` is the grey level behind a transparent one."""
    from spikediff.data.decoding import read_image

    try:
        return read_image(path, ground)
    except UserError as error:
        raise UserError(f"{option} {error}") from None


def edit_seeds(
    pipe: Any, seeds: range, sampling: Sampling, edit: Callable[..., Any]
) -> "dict[str, Image.Image]":
    """Return the edited images by file name, one per seed."""
    with sampling.guided(pipe):
        outputs = sampling.generate(pipe, seeds, edit)
        images = [image for output in outputs for image in output.images]
    return {f"seed-{seed:06d}": image for seed, image in zip(seeds, images, strict=True)}


def write_edit(
    source: Path,
    sampling: Sampling,
    report: FolderReport,
    pipe: Any,
    pictures: "dict[str, Image.Image]",
    grid: "list[Image.Image]",
    facts: dict[str, Any],
    more_files: tuple[str, ...] = (),
) -> None:
    """Write pictures under their file names, a grid of some of them, and the report.

    The report also contains `facts` and lists the files in `more_files`.
    """
    from spikediff.diffusion.outputs import image_grid

    folder = report.folder("pictures")
    for name, image in pictures.items():
        image.save(folder / f"{name}.png")
    image_grid(grid, columns=min(len(grid), 12)).save(folder / "grid.png")
    report.write(
        {
            "source": str(source),
            "pipeline": type(pipe).__name__,
            "scheduler": type(pipe.scheduler).__name__,
            **sampling.facts(pipe),
            **facts,
            "files": [
                *(str(folder / f"{name}.png") for name in (*pictures, "grid")),
                *(str(folder / name) for name in more_files),
            ],
        }
    )
    say_where(f"{counted(len(pictures), 'picture')} and grid.png", folder)

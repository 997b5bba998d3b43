"""`spikediff data DATA`: inspect images before training on them."""

import shlex
import statistics
import warnings
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Any

import tyro

from spikediff.cli.arguments import OutputFile
from spikediff.cli.options import DataDir, Flat, Report
from spikediff.errors import UserError

if TYPE_CHECKING:
    from PIL import Image

    from spikediff.data import Pictures
    from spikediff.data.dataset import PictureShape
    from spikediff.training.recipe import Recipe

_SHEET = 64  # pictures on it
_NAMED = 5  # files that are named in print; the JSON names all


@dataclass(frozen=True)
class DataOptions:
    """Inspect images: counts, sizes, colours, classes, unusable files, and how to train on them.

    Every picture is decoded once.
    """

    data: Annotated[str, tyro.conf.Positional, tyro.conf.arg(metavar="DATA")]
    """A folder of images, the name of a data set, or hf:DATASET_ID."""
    data_dir: DataDir = None
    recipe: str = "integer/images"
    """The recipe whose choice of size and channels is shown."""
    sheet: Annotated[Path | None, OutputFile((".png", ".jpg", ".jpeg"))] = None
    """Also write a picture of samples as a network would see them: .png or .jpg."""
    report: Flat[Report] = Report()


def run(options: DataOptions) -> None:
    facts = look(options)
    options.report.write(facts)
    _print(facts)


def look(options: DataOptions) -> dict[str, Any]:
    """Return the facts about the data set, ready for JSON."""
    with warnings.catch_warnings(action="ignore"):  # of files that are passed over: listed here
        splits = dict(_splits(options))
    shapes, skipped = _decode(splits)
    skipped = _passed_over(options.data) + skipped
    usable = [shape for found in shapes.values() for shape in found.values()]
    if not usable:
        raise UserError(f"{options.data}: none of its pictures can be used; {_named(skipped)}")
    recipe, told, refused = _choice(options, list(shapes["train"].values()) or usable)
    facts: dict[str, Any] = {
        "data": options.data,
        "images": {split: len(pictures) for split, pictures in splits.items()},
        "width": _spread(shape.width for shape in usable),
        "height": _spread(shape.height for shape in usable),
        "shorter_side": _spread(shape.side for shape in usable),
        "grey": sum(shape.grey for shape in usable),
        "classes": _classes(splits),
        "skipped": skipped,
        "training": {
            "recipe": options.recipe,
            "image_size": recipe.data.image_size,
            "channels": recipe.data.channels,
            "choice": told,
            "refused": refused,
        },
    }
    if options.sheet is not None and refused is None:
        options.sheet.parent.mkdir(parents=True, exist_ok=True)
        _sheet(splits["train"], list(shapes["train"]), recipe).save(options.sheet)
        facts["sheet"] = str(options.sheet)
    return facts


def _splits(options: DataOptions) -> Iterator[tuple[str, "Pictures"]]:
    """Yield the splits with their pictures; a small folder may have no test split."""
    from spikediff.data import DATASETS, find_row, read_pictures

    listed = options.data in DATASETS
    for split in find_row(options.data).splits if listed else ("train", "test"):
        try:
            yield split, read_pictures(options.data, split, options.data_dir)
        except UserError:
            if listed or split == "train":
                raise


def _decode(
    splits: dict[str, "Pictures"],
) -> tuple[dict[str, dict[int, "PictureShape"]], list[dict[str, str]]]:
    """Decode all pictures; return the shapes by index, and those that cannot be decoded."""
    from spikediff.data.dataset import PictureShape
    from spikediff.progress import at_work

    shapes: dict[str, dict[int, PictureShape]] = {split: {} for split in splits}
    damaged = []
    with at_work("decoding pictures", sum(map(len, splits.values()))) as work:
        for split, pictures in splits.items():
            for index in range(len(pictures)):
                try:
                    picture = pictures[index]
                except UserError as error:
                    name = pictures.where(index)
                    reason = str(error).removeprefix(f"{name}: ")
                    damaged.append({"file": name, "reason": reason})
                else:
                    shape = PictureShape(*picture.size, grey=picture.mode == "L")
                    shapes[split][index] = shape
                work.advance()
    return shapes, damaged


def _passed_over(data: str) -> list[dict[str, str]]:
    from spikediff.data import DATASETS
    from spikediff.data.decoding import IMAGE_SUFFIXES
    from spikediff.data.folder import FOLDER_PREFIX, list_files

    folder = Path(data.removeprefix(FOLDER_PREFIX)).expanduser()
    if data in DATASETS or not folder.is_dir():
        return []
    reason = f"is skipped; images are {', '.join(sorted(IMAGE_SUFFIXES))}"
    return [{"file": str(folder / name), "reason": reason} for name in list_files(folder)[1]]


def _choice(
    options: DataOptions, shapes: "Sequence[PictureShape]"
) -> tuple["Recipe", str | None, str | None]:
    """Return the recipe as training would complete it, its message, and why it would refuse."""
    from spikediff.data import DATASETS
    from spikediff.pretrained import find_recipe
    from spikediff.training.own_images import choose_shape
    from spikediff.training.recipe import load_recipe

    recipe = load_recipe(find_recipe(options.recipe))
    known = DATASETS.get(options.data)
    size, channels = (None, None) if known is None else (known.native_size, known.channels)
    data = replace(recipe.data, dataset=options.data, image_size=size, channels=channels)
    recipe = replace(recipe, data=data)
    try:
        return *choose_shape(recipe, shapes), None
    except UserError as error:
        return recipe, None, str(error)


def _spread(values: "Iterator[int]") -> dict[str, int]:
    """Return the smallest, the median and the largest of some numbers."""
    numbers = sorted(values)
    return {"min": numbers[0], "median": statistics.median_low(numbers), "max": numbers[-1]}


def _classes(splits: dict[str, "Pictures"]) -> dict[str, int]:
    """Return how many pictures each class has; nothing without classes."""
    names = splits["train"].class_names
    labels = [p.labels.tolist() for p in splits.values() if p.labels is not None]
    return {name: sum(part.count(label) for part in labels) for label, name in enumerate(names)}


def _sheet(pictures: "Pictures", usable: list[int], recipe: "Recipe") -> "Image.Image":
    """Return pictures that are spread over a split, at the size and with the channels chosen."""
    import torch

    from spikediff.data import Resize, find_row
    from spikediff.data.resize import resize_picture
    from spikediff.diffusion.outputs import image_grid, pixels_to_pil

    data = recipe.data
    size, channels = data.image_size, data.channels
    assert size is not None  # the choice is made
    assert channels is not None
    resize = Resize(size, channels, find_row(data.dataset).crop, data.resize_filter)
    chosen = usable[:: -(-len(usable) // _SHEET)]
    pixels = [resize_picture(pictures[i], resize, pictures.where(i)) for i in chosen]
    return image_grid(pixels_to_pil(torch.stack(pixels)))


def _named(skipped: list[dict[str, str]]) -> str:
    """Return the first of the files that are not used, with the reasons."""
    first = "; ".join(f"{row['file']}: {row['reason']}" for row in skipped[:_NAMED])
    return f"{first}; ..." if len(skipped) > _NAMED else first


def _print(facts: dict[str, Any]) -> None:
    training, classes = facts["training"], facts["classes"]
    total = sum(facts["images"].values())
    sides = "{min} to {max} pixels, median {median}"
    rows = {
        "images": ", ".join(f"{count:,} {split}" for split, count in facts["images"].items()),
        "width": sides.format(**facts["width"]),
        "height": sides.format(**facts["height"]),
        "colours": f"{facts['grey']:,} of {total:,} are grey" if facts["grey"] else "all in colour",
        "classes": ", ".join(f"{name} {count:,}" for name, count in classes.items()) or "none",
        "not used": f"{len(facts['skipped']):,} files",
    }
    print(f"{facts['data']}:")
    for name, value in rows.items():
        print(f"  {name:<9} {value}")
    for row in facts["skipped"][:_NAMED]:
        print(f"    {row['file']}: {row['reason']}")
    if len(facts["skipped"]) > _NAMED:
        print("    ... (--json FILE lists all)")
    if training["refused"] is not None:
        print(f"  {training['recipe']} cannot train on them: {training['refused']}")
        return
    size, channels = training["image_size"], training["channels"]
    shape = f"{size} x {size}, {channels} channel{'s' if channels > 1 else ''}"
    print(f"  training  {training['recipe']} at {shape}")
    command = f"spikediff train {training['recipe']} --data.dataset {shlex.quote(facts['data'])}"
    by_class = f" --model.num-classes {len(classes)}" if classes else ""
    print(f"\n{command}{by_class}")

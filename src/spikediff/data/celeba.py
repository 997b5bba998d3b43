"""CelebA, aligned and cropped faces."""

from pathlib import Path

from spikediff.data.arrays import candidate_folders, find_first, missing_files
from spikediff.data.dataset import DatasetSpec, Pictures
from spikediff.data.decoding import image_files
from spikediff.data.folder import list_files
from spikediff.errors import UserError
from spikediff.files.reading import MIB, read_regular

IMAGES = "img_align_celeba"
PARTITION = "list_eval_partition.txt"
NEEDS = f"the folder {IMAGES} of jpg files and {PARTITION}"
PARTS = {"train": "0", "valid": "1", "test": "2"}
MOST_LIST = 64 * MIB


def read_celeba(data_dir: Path | None, split: str) -> Pictures:
    """Read the faces of one official split, 178x218 RGB: 162,770, 19,867 and 19,962 images."""
    folders = candidate_folders("celeba", data_dir, NEEDS)
    images = find_first(folders, [IMAGES])
    partition = find_first(folders, [PARTITION, f"Eval/{PARTITION}"])
    if images is None or partition is None:
        raise missing_files("celeba", split, [IMAGES, PARTITION], folders, NEEDS)
    names = _names_of(partition, split)
    _check_present(names, images, partition)
    return image_files([images / name for name in names], str(images))


def _names_of(partition: Path, split: str) -> list[str]:
    """Return the file names that the list assigns to the split, in the order of the list."""
    names = []
    lines = read_regular(partition, MOST_LIST).decode("utf-8", "replace").splitlines()
    for number, line in enumerate(lines, start=1):
        fields = line.split()
        if fields and (len(fields) != 2 or fields[1] not in PARTS.values()):
            raise UserError(
                f"{partition}, line {number}: expected 'NAME.jpg 0|1|2', found {line[:40]!r}; "
                "fetch the file again"
            )
        if fields and fields[1] == PARTS[split]:
            names.append(fields[0])
    if not names:
        raise UserError(f"{partition}: lists no image of the {split} split; fetch the file again")
    return names


def _check_present(names: list[str], images: Path, partition: Path) -> None:
    """Refuse a folder that lacks some of the listed images."""
    present = set(list_files(images)[0])
    missing = [name for name in names if name not in present]
    if missing:
        raise UserError(
            f"celeba: {images} lacks {len(missing)} of the {len(names)} images that {partition} "
            f"lists, the first is {missing[0]}; unpack the archive again"
        )


CELEBA = DatasetSpec(
    summary="202,599 faces, RGB; the centred 148x148 square resized to 64x64",
    channels=3,
    native_size=64,
    needs=NEEDS,
    read=read_celeba,
    splits=("train", "valid", "test"),
    crop=148,  # the square of 178x218 that generative models on CelebA use
    horizontal_flip=True,
    licence="non-commercial research only",
)

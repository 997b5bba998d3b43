"""The contract of every row, and what load_images refuses."""

import numpy as np
import pytest
import torch
from torch.utils.data import DataLoader

from spikediff.data import DATASETS, ImageDataset, load_images
from spikediff.data.dataset import PictureShape, part_indices, pixel_array

WITH_FILES = [name for name in DATASETS if name != "digits"]


@pytest.mark.parametrize("name", DATASETS)
def test_row_is_complete(name):
    row = DATASETS[name]
    assert row.summary
    assert "\n" not in row.summary
    assert row.channels in (1, 3)
    assert row.native_size > 0
    assert {"train", "test"} <= set(row.splits)
    assert row.crop is None or row.crop > 0
    assert name == name.lower()


@pytest.mark.parametrize("name", WITH_FILES)
def test_without_a_data_folder_the_message_says_what_is_needed(name, refused):
    message = refused(load_images, name)
    assert message.startswith(f"{name}: no data folder given; give data_dir")
    assert DATASETS[name].needs in message


@pytest.mark.parametrize("name", WITH_FILES)
@pytest.mark.parametrize("split", ["train", "test"])
def test_an_empty_folder_gives_the_names_that_were_looked_for(name, split, tmp_path, refused):
    message = refused(load_images, name, split, data_dir=tmp_path)
    assert message.startswith(f"{name}: no {split} files in {tmp_path}")
    assert "looked for" in message


@pytest.mark.parametrize("name", WITH_FILES)
def test_a_folder_that_is_not_there_is_named(name, tmp_path, refused):
    assert "nowhere is not a folder" in refused(load_images, name, data_dir=tmp_path / "nowhere")


@pytest.mark.parametrize("name", DATASETS)
def test_an_unknown_split_lists_the_splits(name, refused):
    message = refused(load_images, name, "dev", data_dir="anywhere")
    assert f"unknown split 'dev'; choose from {', '.join(DATASETS[name].splits)}" in message


@pytest.mark.parametrize("name", DATASETS)
def test_options_are_refused_before_files_are_looked_for(name, refused):
    assert "image_size = 0" in refused(load_images, name, image_size=0)
    assert "channels is 4" in refused(load_images, name, channels=4)
    assert "'sinc'" in refused(load_images, name, resize_filter="sinc")


def test_an_unknown_name_suggests_the_nearest(refused):
    message = refused(load_images, "fashion_mnist")
    assert "unknown data set 'fashion_mnist'; did you mean 'fashion-mnist'?" in message
    assert "folder:PATH" in message
    assert "did you mean" not in refused(load_images, "qqqq")


def test_letters_and_digits_are_not_mirrored_but_photographs_are():
    flips = {name for name, row in DATASETS.items() if row.horizontal_flip}
    assert flips == {"cifar10", "cifar10-lossless-subset", "celeba", "lsun-bedroom"}


def test_digits_serve_a_data_loader():
    digits = load_images("digits", "train", image_size=16, channels=3)
    images, labels = next(iter(DataLoader(digits, batch_size=7)))
    assert images.shape == (7, 3, 16, 16)
    assert images.dtype == torch.uint8
    assert torch.equal(labels, digits.labels[:7])


def test_a_data_set_behaves_like_a_sequence():
    digits = load_images("digits", "test")
    assert isinstance(digits, ImageDataset)
    assert len(list(digits)) == len(digits)
    assert torch.equal(digits[-1][0], digits.images[len(digits) - 1])
    assert isinstance(digits[0][1], int)
    with pytest.raises(IndexError):
        digits[len(digits)]


@pytest.mark.parametrize("split", ["train", "test"])
def test_the_held_out_tenth_and_the_rest_are_the_split(split):
    everything = load_images("digits", split)
    chosen, rest = (load_images("digits", split, held_out=part) for part in (True, False))
    assert len(chosen) + len(rest) == len(everything)
    assert 0.05 < len(chosen) / len(everything) < 0.15
    assert chosen.labels.unique().numel() > 7  # no period of the digits' order is caught
    images = torch.cat([chosen.images, rest.images]).flatten(1)
    assert sorted(images.tolist()) == sorted(everything.images.flatten(1).tolist())


@pytest.mark.parametrize(("count", "held_out"), [(4, True), (0, False)])
def test_a_part_without_images_is_refused(count, held_out, refused):
    part = "held-out tenth" if held_out else "rest beside the held-out tenth"
    assert f"here: {count} images leave no {part}" in refused(part_indices, count, held_out, "here")


@pytest.mark.parametrize(("shape", "grey"), [((2, 5, 7), True), ((2, 5, 7, 3), False)])
def test_the_shape_of_a_picture_is_its_width_and_height(shape, grey):
    pictures = pixel_array(np.zeros(shape, np.uint8), "here")
    assert pictures.shape(1) == PictureShape(7, 5, grey)

"""Scikit-learn's digits and their split, which may never change."""

import hashlib

import torch
from sklearn.datasets import load_digits

from spikediff.data import load_images
from spikediff.data.digits import split_indices

TEST_SPLIT_SHA256 = "a1edce3423aa16ea6f40651e95d95909522cc53b8d9b58e1bdaf005ee35926dc"


def test_the_split_never_changes():
    indices = split_indices(load_digits().target.tolist(), "test")
    assert hashlib.sha256(repr(indices).encode()).hexdigest() == TEST_SPLIT_SHA256


def test_the_splits_part_all_digits_and_keep_the_classes_balanced():
    train, test = load_images("digits", "train"), load_images("digits", "test")
    assert (len(train), len(test)) == (1442, 355)
    shares = test.labels.bincount() / (test.labels.bincount() + train.labels.bincount())
    assert shares.min() > 0.19
    assert shares.max() <= 0.2
    targets = load_digits().target.tolist()
    assert sorted(split_indices(targets, "train") + split_indices(targets, "test")) == [
        *range(1797)
    ]


def test_ink_of_16_becomes_255():
    images = load_images("digits", "train").images
    assert images.shape == (1442, 1, 8, 8)
    assert images.max() == 255
    levels = [round(ink * 255 / 16) for ink in range(17)]
    assert images.unique().tolist() == levels


def test_images_and_labels_are_scikit_learns():
    bunch = load_digits()
    index = split_indices(bunch.target.tolist(), "test")[7]
    image, label = load_images("digits", "test")[7]
    assert label == bunch.target[index]
    assert torch.equal(image[0], torch.from_numpy((bunch.images[index] * 255 / 16).round()).byte())


def test_what_was_read_belongs_to_its_reader():
    first = load_images("digits", "test")
    first.images.zero_()
    first.labels.zero_()
    again = load_images("digits", "test")
    assert again.images.any()
    assert again.labels.any()

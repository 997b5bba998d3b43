"""MNIST and its family: real files where they are, damaged ones of our own making."""

import gzip
import struct
import time
import warnings

import numpy as np
import pytest
import torch

from spikediff.data import load_images

TRAIN_COUNT = {"mnist": 60_000, "fashion-mnist": 60_000, "kmnist": 7_011}


def real(name, split, folder):
    if not (folder / name).is_dir():
        pytest.skip(f"no {name} among the real data")
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the incomplete KMNIST says so
        return load_images(name, split, data_dir=folder)


def idx(array, ndim=None):
    header = bytes((0, 0, 8, ndim or array.ndim)) + struct.pack(f">{array.ndim}I", *array.shape)
    return header + array.tobytes()


@pytest.fixture
def small(tmp_path):
    """A tiny set in IDX files: four images, labels 0 to 3."""
    images = np.arange(4 * 28 * 28, dtype=np.uint32).astype(np.uint8).reshape(4, 28, 28)
    for split in ("train", "t10k"):
        (tmp_path / f"{split}-images-idx3-ubyte").write_bytes(idx(images))
        labels = np.arange(4, dtype=np.uint8)
        (tmp_path / f"{split}-labels-idx1-ubyte.gz").write_bytes(gzip.compress(idx(labels)))
    return tmp_path


# ---- real files


@pytest.mark.parametrize(
    ("name", "mean"), [("mnist", 33.7912), ("fashion-mnist", 73.1466), ("kmnist", 47.0620)]
)
def test_real_test_split(name, mean, real_data):
    dataset = real(name, "test", real_data)
    assert dataset.images.shape == (10_000, 1, 28, 28)
    assert dataset.images.dtype == torch.uint8
    assert dataset.images.double().mean().item() == pytest.approx(mean, abs=1e-3)
    assert dataset.labels.dtype == torch.int64
    assert dataset.num_classes == 10
    if name != "mnist":
        assert dataset.labels.bincount().tolist() == [1000] * 10


def test_real_mnist_train_is_read_within_two_seconds(real_data):
    start = time.process_time()  # other work on the machine does not count
    dataset = real("mnist", "train", real_data)
    assert time.process_time() - start < 2.0
    assert len(dataset) == 60_000
    assert dataset.images.double().mean().item() == pytest.approx(0.1307 * 255, abs=0.013)
    assert dataset.labels[:5].tolist() == [5, 0, 4, 1, 9]
    assert dataset.labels.bincount().tolist()[:3] == [5923, 6742, 5958]


def test_real_mnist_resized_to_32(real_data):
    native = real("mnist", "test", real_data)
    larger = load_images("mnist", "test", image_size=32, data_dir=real_data / "mnist")
    assert larger.images.shape == (10_000, 1, 32, 32)
    means = [images.images.double().mean().item() for images in (native, larger)]
    assert means[0] == pytest.approx(means[1], rel=0.01)


def test_real_partial_kmnist_says_that_it_is_partial(real_data):
    if not (real_data / "kmnist" / "kmnist-train-first7011.npz").is_file():
        pytest.skip("no partial KMNIST among the real data")
    with pytest.warns(UserWarning, match="only 7,011 of 60,000"):
        dataset = load_images("kmnist", "train", data_dir=real_data)
    assert len(dataset) == 7_011
    assert (dataset.labels.bincount().min(), dataset.labels.bincount().max()) == (672, 757)


def test_real_letters_are_upright_and_counted_from_zero(real_data):
    letters = real("emnist-letters", "test", real_data)
    assert letters.images.shape == (20_800, 1, 28, 28)
    assert letters.labels.bincount().tolist() == [800] * 26
    assert (letters.class_names[0], letters.class_names[25]) == ("A", "Z")

    def ink(letter, rows, columns):
        chosen = letters.images[letters.labels == letters.class_names.index(letter), 0]
        return chosen[:, rows, columns].float().mean().item()

    low, high = slice(0, 14), slice(14, 28)
    # An L has its corner at the lower left; transposed, the corner is at the upper right.
    assert ink("L", high, low) > 1.2 * ink("L", low, high)
    # A T has its bar on top, a U is open there.
    assert ink("T", low, slice(0, 28)) > 1.2 * ink("T", high, slice(0, 28))
    assert ink("U", slice(2, 8), slice(12, 16)) < 0.5 * ink("U", slice(18, 24), slice(12, 16))


# ---- layouts


def test_plain_and_gzipped_idx_with_labels(small):
    dataset = load_images("fashion-mnist", "test", data_dir=small)
    assert dataset.labels.tolist() == [0, 1, 2, 3]
    assert dataset.images[1, 0, 0, :3].tolist() == [784 % 256, 785 % 256, 786 % 256]


def test_the_sets_own_subfolder_comes_first_and_dots_are_known(small):
    own = small / "mnist"
    own.mkdir()
    (own / "t10k-images.idx3-ubyte").write_bytes(idx(np.full((2, 28, 28), 9, np.uint8)))
    (own / "t10k-labels.idx1-ubyte").write_bytes(idx(np.array([7, 8], np.uint8)))
    assert load_images("mnist", "test", data_dir=small).labels.tolist() == [7, 8]


def test_another_members_folder_is_not_mistaken_for_this_one(small, refused):
    other = small / "mnist"
    other.mkdir()
    message = refused(load_images, "fashion-mnist", data_dir=other)
    assert "named after another data set" in message


def test_letters_are_transposed_and_start_at_one(tmp_path, refused):
    images = np.arange(28 * 28, dtype=np.uint32).astype(np.uint8).reshape(1, 28, 28)
    (tmp_path / "emnist-letters-test-images-idx3-ubyte").write_bytes(idx(images))
    labels = tmp_path / "emnist-letters-test-labels-idx1-ubyte"
    labels.write_bytes(idx(np.array([26], np.uint8)))
    dataset = load_images("emnist-letters", "test", data_dir=tmp_path)
    assert dataset.labels.tolist() == [25]
    assert np.array_equal(dataset.images[0, 0].numpy(), images[0].T)
    labels.write_bytes(idx(np.array([0], np.uint8)))
    assert "outside the 26 classes" in refused(
        load_images, "emnist-letters", "test", data_dir=tmp_path
    )


def test_a_part_of_the_training_images_says_that_it_is_one(small):
    with pytest.warns(UserWarning, match="holds only 4 of 60,000 training images"):
        assert len(load_images("mnist", "train", data_dir=small)) == 4


def test_npz_layouts(tmp_path):
    images, labels = np.zeros((3, 28, 28), np.uint8), np.array([1, 2, 3], np.uint8)
    np.savez(tmp_path / "mnist.npz", x_test=images, y_test=labels)
    np.savez(tmp_path / "kmnist-test-imgs.npz", images)
    np.savez(tmp_path / "kmnist-test-labels.npz", labels)
    for name in ("mnist", "kmnist"):
        assert load_images(name, "test", data_dir=tmp_path).labels.tolist() == [1, 2, 3]


# ---- damage


def damage(path, change):
    path.write_bytes(change(path.read_bytes()))


@pytest.mark.parametrize(
    ("change", "word"),
    [
        (lambda content: content[:-5], "declares 3136 bytes [4, 28, 28] but 3131 are present"),
        (lambda content: content + b"x", "declares 3136 bytes [4, 28, 28] but 3137 are present"),
        (lambda content: content[:9], "ends inside its header"),
        (lambda content: b"", "starts with nothing"),
        (lambda content: b"\x00\x00\x08\x01" + content[4:], "images and labels may be swapped"),
        (lambda content: b"\x00\x00\x0d\x03" + content[4:], "not an IDX file"),
        (lambda content: gzip.compress(content)[:-40], "damaged gzip"),
        (lambda content: gzip.compress(content)[:5], "damaged gzip"),
        (lambda content: gzip.compress(content)[:60] + b"\xff" * 60, "damaged gzip"),
        (lambda content: gzip.compress(content)[:-8] + b"\x00" * 8, "damaged gzip"),
    ],
)
def test_damaged_images_are_named(small, change, word, refused):
    path = small / "train-images-idx3-ubyte"
    damage(path, change)
    message = refused(load_images, "mnist", data_dir=small)
    assert str(path) in message
    assert word in message


def test_missing_labels_and_differing_counts(small, refused):
    labels = small / "train-labels-idx1-ubyte.gz"
    labels.write_bytes(gzip.compress(idx(np.arange(3, dtype=np.uint8))))
    assert "4 images but 3 labels" in refused(load_images, "mnist", data_dir=small)
    labels.unlink()
    assert "has no labels beside it" in refused(load_images, "mnist", data_dir=small)


def test_a_folder_in_place_of_a_file(small, refused):
    path = small / "train-images-idx3-ubyte"
    path.unlink()
    path.mkdir()
    assert "cannot be read" in refused(load_images, "mnist", data_dir=small)


def test_a_set_without_images(small, refused):
    empty = np.zeros((0, 28, 28), np.uint8)
    (small / "train-images-idx3-ubyte").write_bytes(idx(empty))
    assert "expected uint8 [N, H, W]" in refused(load_images, "mnist", data_dir=small)

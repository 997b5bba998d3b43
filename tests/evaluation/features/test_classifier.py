"""The classifier that is trained here: its accuracy, its bits, and what is kept of it."""

import dataclasses
import warnings

import numpy as np
import pytest
import torch
from safetensors import safe_open

from spikediff.data import ImageDataset, Resize, load_images
from spikediff.data.dataset import pixel_array
from spikediff.errors import UserError
from spikediff.evaluation.features import load_classifier, load_features
from spikediff.evaluation.features.classifier import TrainingSettings, cache_key, shifted, split
from spikediff.evaluation.features.network import extract

QUICK = TrainingSettings(steps=4, batch_size=16)


@pytest.fixture(scope="module")
def digits():
    return load_images("digits", "train")


def made_up(count=60, side=8, colour=False, labelled=True, split="train"):
    """Bright images of class 1, dark ones of class 0."""
    rng = np.random.default_rng(0)
    labels = torch.arange(count) % 2
    shape = (count, side, side, 3) if colour else (count, side, side)
    pixels = rng.integers(0, 100, shape) + 150 * labels.numpy().reshape(-1, *[1] * (len(shape) - 1))
    classes = labels if labelled else None, ("dark", "bright")
    pictures = pixel_array(pixels.astype(np.uint8), "", *classes)
    return ImageDataset("made up/ü", split, pictures, Resize(side, 3 if colour else 1))


def train_classifier(dataset, settings=None):
    return load_classifier(dataset, settings=settings)


def load_or_train_classifier(dataset, folder, settings):
    return load_classifier(dataset, folder, settings=settings)


def state(network):
    return network._module.state_dict()


@pytest.fixture(scope="module")
def stored(digits, tmp_path_factory):
    """A trained classifier, and the file that was kept of it."""
    folder = tmp_path_factory.mktemp("classifiers")
    trained = load_or_train_classifier(digits, folder, QUICK)
    (file,) = folder.iterdir()
    return trained, file


def same(a, b):
    return all(torch.equal(x, y) for x, y in zip(state(a).values(), state(b).values(), strict=True))


@pytest.mark.slow
def test_it_learns_digits(digits):
    """In a tenth of the steps that it takes by default."""
    trained = train_classifier(digits, TrainingSettings(steps=100))
    assert trained.held_out_accuracy >= 0.97
    test = load_images("digits", "test")
    features, probabilities = extract(trained, test.stack())
    assert features.shape == (len(test), 128)
    assert (probabilities.argmax(1) == test.labels).float().mean() >= 0.97


def test_it_learns_from_the_part_that_is_not_held_out(digits):
    data = split(digits)
    for part, held_out in ((data.train, False), (data.held_out, True)):
        own = load_images("digits", "train", held_out=held_out)
        assert torch.equal(part.images, own.stack())
        assert torch.equal(part.labels, own.labels)


@pytest.mark.parametrize(("side", "colour"), [(8, False), (13, True), (32, True)])
def test_any_size_and_channels(side, colour):
    dataset = made_up(side=side, colour=colour)
    trained = train_classifier(dataset, dataclasses.replace(QUICK, steps=20))
    assert trained.held_out_accuracy == 1.0
    assert (trained.image_size, trained.channels) == (side, 3 if colour else 1)
    features, probabilities = extract(trained, dataset.stack())
    assert (features.shape, probabilities.shape) == ((60, 128), (60, 2))
    assert torch.equal(probabilities.argmax(1), dataset.labels)


def test_same_seed_same_bits_and_the_global_generator_has_no_say(digits):
    torch.manual_seed(1)
    first = train_classifier(digits, QUICK)
    torch.manual_seed(2)
    state_before = torch.random.get_rng_state()
    assert same(first, train_classifier(digits, QUICK))
    assert torch.equal(torch.random.get_rng_state(), state_before)
    assert not same(first, train_classifier(digits, dataclasses.replace(QUICK, seed=1)))


def test_fewer_images_than_a_batch():
    train_classifier(made_up(count=14), TrainingSettings(steps=3))


def test_data_that_nothing_can_be_learnt_from_are_refused():
    with pytest.raises(UserError, match="has no labels"):
        train_classifier(made_up(labelled=False))
    with pytest.raises(UserError, match="images of 7 pixels"):
        train_classifier(made_up(side=7))
    with pytest.raises(UserError, match="pass the split 'train'"):
        train_classifier(load_images("digits", "test"))


def test_shifts_move_whole_images_within_the_limit():
    images = torch.zeros(500, 2, 7, 7)
    images[:, :, 3, 3] = 1
    moved = shifted(images, 2, torch.Generator().manual_seed(0))
    assert (moved.sum((2, 3)) == 1).all()  # no copies, nothing lost
    place = moved[:, 0].flatten(1).argmax(1)
    assert torch.equal(place, moved[:, 1].flatten(1).argmax(1))  # channels move together
    seen = {(int(p) // 7 - 3, int(p) % 7 - 3) for p in place}
    assert seen == {(i, j) for i in range(-2, 3) for j in range(-2, 3)}


def test_cache_gives_back_the_same_bits(digits, stored):
    trained, file = stored
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        again = load_or_train_classifier(digits, file.parent, QUICK)
    assert list(file.parent.iterdir()) == [file]
    assert same(trained, again)
    assert same(trained, train_classifier(digits, QUICK))
    assert again.held_out_accuracy == trained.held_out_accuracy
    assert again.fingerprint == trained.fingerprint
    with safe_open(file, "pt") as stored:
        assert stored.get_tensor("held_out_accuracy").item() == trained.held_out_accuracy


def test_a_stored_classifier_is_read_and_not_trained(digits, stored, monkeypatch):
    monkeypatch.setattr("spikediff.evaluation.features.classifier.train", None)
    load_or_train_classifier(digits, stored[1].parent, QUICK)


def cut(data):
    return data[: len(data) // 2]


def one_bit(data):
    return data[:-5] + bytes([data[-5] ^ 1]) + data[-4:]


@pytest.mark.parametrize("damage", [cut, one_bit, lambda data: b"", lambda data: b"junk" * 100])
def test_a_damaged_file_is_trained_again_with_a_warning(damage, digits, stored, tmp_path, caplog):
    trained, whole = stored
    file = tmp_path / whole.name
    file.write_bytes(damage(whole.read_bytes()))
    again = load_or_train_classifier(digits, tmp_path, QUICK)
    assert "damaged" in caplog.text
    assert same(trained, again)
    assert list(tmp_path.iterdir()) == [file]  # mended, and no draft left behind


def test_a_folder_that_cannot_be_written_to_is_told_of(tmp_path, monkeypatch):
    blocked = tmp_path / "file"
    blocked.touch()
    with pytest.raises(UserError, match="give another cache_dir"):
        load_or_train_classifier(made_up(), blocked / "cache", QUICK)

    def full(source, target):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.replace", full)
    with pytest.raises(UserError, match="No space left on device; give another cache_dir"):
        load_or_train_classifier(made_up(), tmp_path / "cache", QUICK)
    assert not list((tmp_path / "cache").iterdir())  # no draft is left behind


def test_the_key_covers_data_and_settings(digits, monkeypatch):
    data = split(digits)
    pixels, labels = data.train.images.clone(), data.train.labels.clone()
    pixels[0, 0, 0, 0] ^= 1
    labels[0] = 9 - labels[0]
    replace = dataclasses.replace
    keys = [
        cache_key(data, QUICK),
        cache_key(data._replace(train=data.train._replace(images=pixels)), QUICK),
        cache_key(data._replace(train=data.train._replace(labels=labels)), QUICK),
        cache_key(data._replace(flip=True), QUICK),
        cache_key(data._replace(classes=11), QUICK),
        cache_key(data, replace(QUICK, seed=1)),
        cache_key(data, replace(QUICK, shift=0.2)),
    ]
    monkeypatch.setattr(torch, "__version__", "99.0")
    keys.append(cache_key(data, QUICK))
    assert len(set(keys)) == len(keys)
    monkeypatch.undo()
    assert cache_key(split(load_images("digits", "train")), QUICK) == keys[0]


def test_load_features_trains_and_keeps(tmp_path, monkeypatch):
    monkeypatch.setattr(TrainingSettings.__init__, "__defaults__", (0, 4, 16, 8e-3, 0.07))
    network = load_features("classifier", dataset=made_up(), cache_dir=tmp_path)
    assert network.name == "classifier"
    again = load_features("classifier", dataset=made_up(), cache_dir=tmp_path)
    assert again.fingerprint == network.fingerprint
    assert len(list(tmp_path.iterdir())) == 1
    alone = load_features("classifier", dataset=made_up())
    assert alone.fingerprint == network.fingerprint


@pytest.mark.slow
def test_it_learns_mnist(real_data):
    trained = train_classifier(load_images("mnist", "train", data_dir=real_data))
    assert trained.held_out_accuracy >= 0.985

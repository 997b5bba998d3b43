"""The Hugging Face reader, through a stand-in for the package `datasets`."""

import sys
from types import ModuleType, SimpleNamespace

import numpy as np
import pytest
from PIL import Image

from spikediff.data import load_images


class _ImageFeature:
    """Stands for `datasets.Image`."""


class _Table:
    def __init__(self, columns, features):
        self.columns, self.features = columns, features

    def __len__(self):
        return len(next(iter(self.columns.values())))

    def __getitem__(self, key):
        if isinstance(key, str):
            return self.columns[key]
        return {name: column[key] for name, column in self.columns.items()}

    def select(self, indices):
        chosen = {name: [column[i] for i in indices] for name, column in self.columns.items()}
        return _Table(chosen, self.features)

    def select_columns(self, names):
        return _Table({name: self.columns[name] for name in names}, self.features)


@pytest.fixture
def hub(monkeypatch):
    """The stand-in; its `tables` are what load_dataset finds."""
    rng = np.random.default_rng(0)
    pictures = [Image.fromarray(rng.integers(0, 256, (6, 6, 3), dtype=np.uint8)) for _ in range(30)]
    labels = SimpleNamespace(names=["cat", "dog"])
    table = _Table(
        {"label": [n % 2 for n in range(30)], "picture": pictures},
        {"label": labels, "picture": _ImageFeature()},
    )
    stand_in = ModuleType("datasets")
    stand_in.Image = _ImageFeature
    stand_in.tables = {"train": table}
    stand_in.calls = []

    def load_dataset(name, *, split, cache_dir):
        stand_in.calls.append((name, split, cache_dir))
        if split not in stand_in.tables:
            raise ValueError(f'Unknown split "{split}". Should be one of [train].\nmore')
        return stand_in.tables[split]

    stand_in.load_dataset = load_dataset
    monkeypatch.setitem(sys.modules, "datasets", stand_in)
    return stand_in


def test_the_column_of_images_and_the_labels_are_found(hub, tmp_path):
    pets = load_images("hf:someone/pets", data_dir=tmp_path)
    assert hub.calls == [("someone/pets", "train", str(tmp_path))]
    assert len(pets) == 30
    assert pets[1][0].shape == (3, 6, 6)
    assert pets[1][1] == 1
    assert pets.class_names == ("cat", "dog")
    assert pets.origin == "hf:someone/pets"
    picture = np.asarray(hub.tables["train"].columns["picture"][1])
    assert np.array_equal(pets[1][0].permute(1, 2, 0).numpy(), picture)


def test_resize_channels_and_held_out(hub):
    options = {"image_size": 4, "channels": 1}
    chosen, rest = (load_images("hf:x", held_out=part, **options) for part in (True, False))
    assert len(chosen) + len(rest) == 30
    assert rest.stack().shape[1:] == (1, 4, 4)


@pytest.mark.parametrize("column", ["image", "img"])
def test_a_column_known_by_name_without_labels(hub, column):
    pictures = [Image.new("L", (5, 5), n) for n in range(3)]
    hub.tables["train"] = _Table({column: pictures}, {column: object()})
    grey = load_images("hf:grey")
    assert (grey.channels, grey.labels, grey[2][1]) == (1, None, -1)


def test_labels_that_are_no_integers_are_left_out(hub):
    pictures = [Image.new("L", (5, 5))]
    features = {"image": _ImageFeature(), "label": object()}
    hub.tables["train"] = _Table({"image": pictures, "label": ["cat"]}, features)
    assert load_images("hf:text").labels is None
    hub.tables["train"] = _Table({"image": pictures, "label": [3]}, features)
    assert load_images("hf:numbers").class_names == ("0", "1", "2", "3")


def test_an_unknown_split_or_name_is_one_line(hub, refused):
    message = refused(load_images, "hf:someone/pets", "dev")
    assert "cannot load split 'dev' (Unknown split" in message


def test_sets_without_images(hub, refused):
    hub.tables["train"] = _Table({"text": ["a"]}, {"text": object()})
    assert "no column of images among text" in refused(load_images, "hf:words")
    hub.tables["train"] = _Table({"image": ["a"]}, {"image": object()})
    assert "holds str, not images" in refused(load_images, "hf:words")
    hub.tables["train"] = _Table({"image": []}, {"image": _ImageFeature()})
    assert "is empty" in refused(load_images, "hf:words")


def test_without_the_package(monkeypatch, refused):
    monkeypatch.setitem(sys.modules, "datasets", None)
    assert "pip install 'datasets>=3'" in refused(load_images, "hf:x")


def test_a_row_that_cannot_be_decoded_is_named(hub, refused):
    class Broken:
        def __getitem__(self, row):
            if row == 1:
                raise OSError("image file is truncated")
            return Image.new("RGB", (6, 6))

        def __len__(self):
            return 30

    hub.tables["train"].columns["picture"] = Broken()
    message = refused(lambda: load_images("hf:someone/pets")[1])
    assert "row 1: cannot be decoded (image file is truncated); remove the row" in message
